"""Participants dealt into parts that are alike in every label, by iterative stratification.

Sechidis, Tsoumakas, Vlahavas 2011: the rarest label is dealt first, to the part that still lacks
most of it. Unlike folds by combination of labels, this works where nearly every participant has a
combination of their own: two eyes, several devices, several labels.
"""

import numpy as np
from numpy.typing import NDArray

from oct_vjepa.scores.target import Target


def marks_of(
    target: Target, people: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """What each participant has among their rows, (P, marks), and who they are, (P,).

    Marks are classes; each label with and without; parts of a quantity; events and others by time.
    """
    if target.kind == "multilabel":
        marks = np.concatenate([target.values == 1, target.values == 0], axis=1)
    else:
        strata = target.values if target.is_classes else target.strata()
        marks = strata[:, None] == np.unique(strata)
    members, row = np.unique(people, return_inverse=True)
    has = np.zeros((len(members), marks.shape[1]), dtype=bool)
    np.logical_or.at(has, row.reshape(-1), marks)
    return has, members


def fold_participants(
    marks_PM: NDArray[np.bool_], folds: int, *, seed: tuple[int, ...]
) -> NDArray[np.int64]:
    """Part of each participant, (P,), from 0; parts are of about equal size."""
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(marks_PM))
    marks = marks_PM[order].astype(np.int64)
    lack = np.tile(marks.sum(axis=0) / folds, (folds, 1))  # of each mark, by part
    room = np.full(folds, len(marks) / folds)
    fold = np.full(len(marks), -1)
    left = marks.sum(axis=0)
    while left.any():
        rarest = int(np.argmin(np.where(left > 0, left, len(marks) + 1)))
        for one in np.flatnonzero((fold < 0) & (marks[:, rarest] > 0)):
            best = np.flatnonzero(lack[:, rarest] >= lack[:, rarest].max() - 1e-9)
            best = best[room[best] >= room[best].max() - 1e-9]
            fold[one] = part = int(draw.choice(best))
            lack[part] -= marks[one]
            room[part] -= 1
            left -= marks[one]
    given = np.empty_like(fold)
    given[order] = fold
    return given
