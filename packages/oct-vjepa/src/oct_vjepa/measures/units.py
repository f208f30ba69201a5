"""Units that are scored, their AUROC, and intervals of bootstrap samples.

`measure` has every metric of every kind of question, `scores.resampling` draws the samples.

Not scipy.stats.bootstrap, which resamples rows, knows no participants, and takes 24 times the CPU
for the same interval where each has one volume (benchmarks/intervals.py).
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from oct_vjepa.measures import ranking
from oct_vjepa.measures.shares import Floats, all_rows, known_mean
from oct_vjepa.measures.target import Target

INTERVAL_PERCENTILES = (2.5, 97.5)


class Interval(NamedTuple):
    """A value with its 95 % percentile bootstrap interval."""

    value: float
    low: float
    high: float

    def text(self, sign: str = "") -> str:
        """`0.812 (0.751 to 0.866)`; `sign="+"` for differences; "-" where there is none.

        What rounds to nothing has no minus: 0.000.
        """
        if not np.isfinite(self.value):
            return "-"
        return f"{self.value:{sign}z.3f} ({self.low:{sign}z.3f} to {self.high:{sign}z.3f})"


class Units(NamedTuple):
    """What is scored: one row per participant and label, one score for all its volumes."""

    scores_NC: Floats
    labels_N: NDArray[Any]  # index of the class, or `Target.values` of another kind
    groups_N: NDArray[np.int64]  # index of the participant


HOWS = ("mean", "max")


def aggregate_units(
    scores_NK: Floats, target: Target, groups_N: NDArray[Any], *, how: str = "mean"
) -> Units:
    """One row per participant and answer, rows without an answer left out; for any kind.

    Participants keep their numbers, so that rounds, seeds and candidates can share them.

    Args:
        scores_NK: see `target.Target`.
        target: N answers.
        groups_N: whole numbers of participants, as `np.unique(ids, return_inverse=True)[1]`.
        how: "mean" averages the scores of a participant. "max" is for what one volume of several
            may show: of several labels, a quantity or a risk it takes the highest score; of two or
            of ordered classes the volume that is expected furthest up; of other classes the highest
            score of each, divided by their sum.

    Raises:
        ValueError: sizes differ, groups are no numbers, `how` is unknown, or nothing has an answer.
    """
    if how not in HOWS:
        raise ValueError(f"how ({how}) must be one of {', '.join(HOWS)}")
    sizes = [len(scores_NK), len(target), len(groups_N)]
    if len(set(sizes)) > 1:
        raise ValueError(f"scores, answers and participants differ in number: {sizes}")
    if not np.issubdtype(groups_N.dtype, np.integer):
        raise ValueError(
            f"participants must be whole numbers that all parts share: {groups_N.dtype}"
        )
    known = target.known
    if not known.any():
        raise ValueError(f"no row has an answer to {', '.join(target.names)}")
    scores = np.asarray(scores_NK, dtype=np.float64)[known]
    answers = target.values[known]
    keys = np.column_stack([groups_N[known], answers])
    _, first, row = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    merged = _merge(scores, row.reshape(-1), len(first), target, how)
    return Units(merged, answers[first], groups_N[known][first].astype(np.int64))


def _merge(scores: Floats, row_N: NDArray[np.int64], rows: int, target: Target, how: str) -> Floats:
    if how == "mean":
        sums = np.zeros((rows, scores.shape[1]))
        np.add.at(sums, row_N, scores)
        return sums / np.bincount(row_N)[:, None]
    if target.is_classes and (target.kind == "ordinal" or scores.shape[1] == 2):
        order = np.lexsort([scores @ np.arange(scores.shape[1]), row_N])
        last = np.flatnonzero(np.r_[np.diff(row_N[order]) != 0, True])
        return scores[order[last]]
    highest = np.full((rows, scores.shape[1]), -np.inf)
    np.maximum.at(highest, row_N, scores)
    return highest / highest.sum(axis=1, keepdims=True) if target.is_classes else highest


def auroc(units: Units, weights_RN: Floats | None = None) -> Floats:
    """Area under the ROC curve for each row of weights, (R,); one against the rest, macro average.

    Ties count half. With two classes the score of the second decides. A class without rows is
    left out of the average.
    """
    weights = all_rows(weights_RN, len(units.labels_N))
    classes = range(units.scores_NC.shape[1])
    areas = [
        ranking.area(ranking.count_cells(units.labels_N == one, units.scores_NC[:, one], weights))
        for one in (classes[1:] if len(classes) == 2 else classes)
    ]
    return known_mean(np.stack(areas, axis=1), 1)


def interval_of(value: float, samples_R: Floats) -> Interval:
    """`value` with the percentile interval of the bootstrap samples in which it is defined."""
    known = samples_R[~np.isnan(samples_R)]
    if not len(known):
        return Interval(float(value), float("nan"), float("nan"))
    low, high = np.percentile(known, INTERVAL_PERCENTILES)
    return Interval(float(value), float(low), float(high))


def centred_interval(value: float, samples_R: Floats) -> Interval:
    """As `interval_of`, the samples moved so that their mean is `value`, and never below 0.

    For distances such as the calibration error or a gap between groups: noise only adds to them,
    and a bootstrap sample has its own noise on top of the data's.
    """
    known = samples_R[~np.isnan(samples_R)]
    centre = known.mean() if len(known) else 0.0
    return interval_of(value, np.maximum(samples_R - centre + value, 0.0))
