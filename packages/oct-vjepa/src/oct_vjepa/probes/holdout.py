"""Validation participants set apart for calibration, so that who chooses makes no promise.

A model is chosen because it did well on those who choose: its scores of them are too sure, and a
threshold set on them promises too much (measured: benchmarks/null_phantom.py).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oct_vjepa.measures.target import Target
from oct_vjepa.probes.protocol import Round, check_part, fold_participants, marks_of

LEAST = 20
"""Participants on either side: fewer choose by luck, and a set that holds the truth of 9 of 10
needs 9 at the least."""


def hold_out(
    rounds: Sequence[Round], target: Target, groups: NDArray[Any], share: float, *, seed: int
) -> list[Round]:
    """The rounds with a share of the validation participants set apart for calibration.

    Parts are alike in answers. A round whose validation is too small to be parted, or has one class
    only on a side, stays as it is: there validation does both.

    Args:
        rounds: of a protocol.
        target: the question.
        groups: (N,) participant of each row.
        share: of the validation participants; 0 leaves the rounds as they are.
        seed: of the draw.

    Raises:
        ValueError: a share that is not from 0 to below 1.
    """
    if not 0 <= share < 1:
        raise ValueError(f"calibration ({share}) must be from 0 to below 1")
    if not share:
        return list(rounds)
    people = np.unique(groups, return_inverse=True)[1].reshape(-1)
    return [_part(one, target, people, share, (seed, number)) for number, one in enumerate(rounds)]


def _part(
    one: Round, target: Target, people: NDArray[np.int64], share: float, seed: tuple[int, int]
) -> Round:
    marks, members = marks_of(target.take(one.validation), people[one.validation])
    side = fold_participants(marks, (1 - share, share), seed=(*seed, 2))
    apart = one.validation & np.isin(people, members[side == 1])
    both = one.validation & ~apart, apart
    if min(len(np.unique(people[rows])) for rows in both) < LEAST:
        return one
    try:
        for rows in both:
            check_part(target.take(rows), people[rows], one.name, all_of=False)
    except ValueError:  # a class that one side lacks; the round itself was checked
        return one
    return one._replace(validation=both[0], calibration=both[1])
