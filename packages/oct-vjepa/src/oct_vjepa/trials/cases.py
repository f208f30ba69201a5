"""Cases to look at: those that a model was surest of, where it was right and where it was wrong."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from oct_vjepa.measures.shares import Floats
from oct_vjepa.measures.target import Target


class Case(NamedTuple):
    """One row to look at."""

    row: int
    output: int  # column of the scores that the answer is read from
    right: bool


def choose_cases(
    scores_NK: Floats, target: Target, groups_N: NDArray[np.int64], count: int
) -> list[Case]:
    """Half right and half wrong answers, each of another participant, the surest first.

    Of classes the surest are those called with the highest score; of several labels those furthest
    from even; of a quantity those nearest to the truth and furthest from it; of a time, events that
    came with the highest and with the lowest risk. Where one side has too few, there are fewer.

    Args:
        scores_NK: see `target.Target`; classes are called where they are greatest.
        target: N answers; rows without one are not chosen.
        groups_N: participant of each row.
        count: cases at the most.
    """
    sure, output, right = _sureness(scores_NK, target)
    chosen: list[Case] = []
    taken: set[int] = set()
    for side, wanted in ((True, count - count // 2), (False, count // 2)):
        found: list[Case] = []
        rows = np.flatnonzero((right == side) & np.isfinite(sure))
        for row in rows[np.argsort(-sure[rows], kind="stable")].tolist():
            if len(found) < wanted and int(groups_N[row]) not in taken:
                taken.add(int(groups_N[row]))
                found.append(Case(row, int(output[row]), side))
        chosen += found
    return chosen


def _sureness(
    scores: Floats, target: Target
) -> tuple[Floats, NDArray[np.int64], NDArray[np.bool_]]:
    """How sure each row is (NaN without an answer), read from which output, and whether right."""
    rows = np.arange(len(scores))
    if target.is_classes:
        output = scores.argmax(axis=1)
        sure = np.where(target.known, scores[rows, output], np.nan)
        return sure, output, output == target.values
    if target.kind == "multilabel":
        known = target.values >= 0
        distance = np.where(known, np.abs(scores - 0.5), -1.0)
        right = (scores >= 0.5) == (target.values == 1)
        wrong = np.where(right, -1.0, distance)
        has_wrong = wrong.max(axis=1) >= 0
        output = np.where(has_wrong, wrong.argmax(axis=1), distance.argmax(axis=1))
        sure = distance[rows, output]
        return np.where(sure < 0, np.nan, sure), output, ~has_wrong
    output = np.zeros(len(scores), dtype=np.int64)
    score = scores[:, 0]
    if target.kind == "regression":
        error = np.abs(score - target.values)
        right = error <= np.nanmedian(error)
        return np.where(right, -error, error), output, right
    event = target.known & (target.values[:, 1] == 1)
    middle = np.median(score[event]) if event.any() else 0.0
    right = score >= middle
    return np.where(event, np.where(right, score, -score), np.nan), output, right
