"""How well a score ranks positives above the rest: areas, and what is found at a specificity.

Everything takes R rows of weights at once, one for each bootstrap sample, and sorts once; equal
scores are one cell, so ties count half in the area. What needs a positive or a negative is NaN for
a row of weights that has none.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from oct_vjepa.measures.shares import Floats, share

ROUNDING = 1e-12  # a specificity of 0.9 is reached by 9 of 10, whatever the last digit


class Cells(NamedTuple):
    """Weight of positives and of negatives at each distinct score, from the lowest up."""

    thresholds_T: Floats
    above_RT: Floats
    below_RT: Floats


def count_cells(positive_N: NDArray[np.bool_], score_N: Floats, weights_RN: Floats) -> Cells:
    """Sort once and add up the weights of equal scores."""
    order = np.argsort(score_N, kind="stable")
    score, positive = score_N[order], positive_N[order]
    starts = np.flatnonzero(np.r_[len(score) > 0, np.diff(score) != 0])
    weights = weights_RN[:, order]
    above, below = weights * positive, weights * ~positive
    if len(starts) < len(score):
        above = np.add.reduceat(above, starts, axis=1)
        below = np.add.reduceat(below, starts, axis=1)
    return Cells(score[starts], above, below)


def area(cells: Cells) -> Floats:
    """Area under the ROC curve, (R,); ties count half."""
    above, below = cells.above_RT, cells.below_RT
    beaten = np.cumsum(below, axis=1) - 0.5 * below
    return share((above * beaten).sum(axis=1), above.sum(axis=1) * below.sum(axis=1))


def average_precision(cells: Cells) -> Floats:
    """Precision at each threshold, weighed by the recall that it adds, (R,).

    NaN without positives, where scikit-learn warns and says 0.
    """
    above, below = cells.above_RT[:, ::-1], cells.below_RT[:, ::-1]
    found = np.cumsum(above, axis=1)
    taken = found + np.cumsum(below, axis=1)
    precision = np.divide(found, taken, out=np.zeros(found.shape), where=taken > 0)
    return share((above * precision).sum(axis=1), above.sum(axis=1))


def sensitivity_at(cells: Cells, specificity: float) -> Floats:
    """The best sensitivity whose specificity is no less, read off each row's own ROC curve, (R,).

    It looks at the answers to choose its threshold, so it flatters; see `caught`.
    """
    positives, negatives = cells.above_RT.sum(axis=1), cells.below_RT.sum(axis=1)
    found = positives[:, None] - np.cumsum(cells.above_RT, axis=1) + cells.above_RT
    found = np.c_[found, np.zeros(len(found))]
    first = _first_threshold(cells, specificity)
    best = found[np.arange(len(found)), first]
    return np.where(negatives > 0, share(best, positives), np.nan)


def threshold_at(positive_N: NDArray[np.bool_], score_N: Floats, specificity: float) -> float:
    """The lowest score from which calling positive keeps the specificity; for validation rows.

    Infinity where no score does, NaN where there is no negative.
    """
    cells = count_cells(positive_N, score_N, np.ones((1, len(score_N))))
    if not cells.below_RT.sum():
        return float("nan")
    thresholds = np.r_[cells.thresholds_T, np.inf]
    return float(thresholds[_first_threshold(cells, specificity)[0]])


class Caught(NamedTuple):
    """What a threshold that was chosen elsewhere does, (R,) each."""

    sensitivity: Floats
    specificity: Floats


def caught(
    positive_N: NDArray[np.bool_], score_N: Floats, weights_RN: Floats, threshold: float
) -> Caught:
    """Sensitivity and specificity where scores from `threshold` up are called positive."""
    if np.isnan(threshold):
        unknown = np.full(len(weights_RN), np.nan)
        return Caught(unknown, unknown)
    called = score_N >= threshold
    sides = [
        share(weights_RN @ (right & side).astype(float), weights_RN @ side.astype(float))
        for right, side in ((called, positive_N), (~called, ~positive_N))
    ]
    return Caught(*sides)


def _first_threshold(cells: Cells, specificity: float) -> NDArray[np.int64]:
    """Index of the lowest threshold that keeps the specificity; one past the end for infinity."""
    beneath = np.cumsum(cells.below_RT, axis=1) - cells.below_RT
    goal = cells.below_RT.sum(axis=1, keepdims=True) * (specificity - ROUNDING)
    reached = np.c_[beneath >= goal, np.ones(len(beneath), dtype=bool)]
    return reached.argmax(axis=1)
