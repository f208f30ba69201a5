"""Answers with a promise: sets of classes, or ranges, that hold the truth as often as asked.

Split conformal prediction: a threshold from some rows, applied to others. The promise is an average
over draws of both, and holds only if they are alike: one row per participant
(`measures.units.aggregate_units`), drawn from the same people, and not those who chose the model
(`probes.holdout`).
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from oct_vjepa.measures.shares import Floats, known_mean
from oct_vjepa.measures.target import UNKNOWN


def fit_threshold(scores_NC: Floats, labels_N: NDArray[np.int64], alpha: float) -> float:
    """How unlikely a class may be and still be in the set; of calibration rows.

    Sets of the classes that are likely enough (Sadinle et al. 2019) are the smallest that keep the
    promise, some of them empty.

    Args:
        scores_NC: probabilities of the classes.
        labels_N: true classes.
        alpha: share of sets that may miss the truth.

    Raises:
        ValueError: an alpha outside 0 to 1, or no rows.
    """
    return finite_quantile(1.0 - scores_NC[np.arange(len(labels_N)), labels_N], alpha)


def prediction_sets(scores_NC: Floats, threshold: float) -> NDArray[np.bool_]:
    """(N, C): the classes in the set of each row."""
    return 1.0 - scores_NC <= threshold


def luck_of_coverage(held: int, tested: int, calibrated: int, alpha: float) -> float:
    """Chance that sets hold the truth of so few test rows or fewer, if the promise is kept.

    Where rows of calibration and test are alike, all orders of both together are equally likely, so
    that the number that is held is negative hypergeometric: binomial, with the Beta distributed
    coverage that Vovk 2012 (arXiv 1209.2673) has for given calibration rows.

    Args:
        held: test rows whose set holds the truth.
        tested: test rows.
        calibrated: rows that set the threshold.
        alpha: share of sets that may miss the truth.
    """
    rank = _rank(calibrated, alpha)
    if rank > calibrated:  # sets of everything
        return float(held >= tested)
    ways = sum(
        math.comb(rank - 1 + one, one) * math.comb(calibrated - rank + tested - one, tested - one)
        for one in range(held + 1)
    )
    return ways / math.comb(calibrated + tested, tested)


class Coverage(NamedTuple):
    """What became of the promise."""

    covered: float
    """Share of sets that hold the truth."""
    size: float
    """Classes in a set, mean."""
    empty: float
    """Share of sets without a class."""
    single: float
    """Share of sets that name one class alone."""


def measure_sets(sets_NC: NDArray[np.bool_], labels_N: NDArray[np.int64]) -> Coverage:
    """Coverage and size of the sets of labelled rows."""
    held = sets_NC[np.arange(len(labels_N)), labels_N].astype(np.float64)
    sizes = sets_NC.sum(axis=1)
    return Coverage(
        covered=float(held.mean()),
        size=float(sizes.mean()),
        empty=float((sizes == 0).mean()),
        single=float((sizes == 1).mean()),
    )


def fit_label_thresholds(scores_NK: Floats, labels_NK: NDArray[np.int64], alpha: float) -> Floats:
    """The same of each of several labels by itself, whose two answers are that it is there or not.

    Args:
        scores_NK: probabilities that a label is there.
        labels_NK: 0, 1 or `UNKNOWN`.
        alpha: share of a label's sets that may miss the truth.

    Returns:
        (K,); infinity where too few rows know a label for the promise.

    Raises:
        ValueError: an alpha outside 0 to 1.
    """
    found = np.full(labels_NK.shape[1], np.inf)
    for label, (scores_N, labels_N) in enumerate(zip(scores_NK.T, labels_NK.T, strict=True)):
        known = labels_N != UNKNOWN
        if known.any():
            both = np.stack([1.0 - scores_N, scores_N], axis=1)
            found[label] = fit_threshold(both[known], labels_N[known], alpha)
    return found


def label_sets(scores_NK: Floats, thresholds_K: Floats) -> NDArray[np.bool_]:
    """(N, K, 2): whether a label may not be there, and whether it may."""
    both = np.stack([1.0 - scores_NK, scores_NK], axis=2)
    return 1.0 - both <= thresholds_K[:, None]


def measure_label_sets(
    sets_NK2: NDArray[np.bool_], labels_NK: NDArray[np.int64]
) -> list[Coverage | None]:
    """Coverage and size of the sets of each label; None where no row knows it."""
    found: list[Coverage | None] = []
    for label, labels_N in enumerate(labels_NK.T):
        known = labels_N != UNKNOWN
        sets_N2 = sets_NK2[known, label]
        found.append(measure_sets(sets_N2, labels_N[known]) if known.any() else None)
    return found


def fit_width(predicted_N: Floats, true_N: Floats, alpha: float) -> float:
    """Half the width of the range about a predicted quantity, in its unit; of calibration rows.

    Raises:
        ValueError: an alpha outside 0 to 1, or no rows.
    """
    return finite_quantile(np.abs(predicted_N - true_N), alpha)


def prediction_ranges(predicted_N: Floats, width: float) -> Floats:
    """(N, 2): the ends of the range of each row."""
    return np.stack([predicted_N - width, predicted_N + width], axis=1)


def measure_ranges(ranges_N2: Floats, true_N: Floats) -> float:
    """Share of ranges that hold the truth."""
    held = (ranges_N2[:, 0] <= true_N) & (true_N <= ranges_N2[:, 1])
    return float(known_mean(held.astype(np.float64), 0))


def finite_quantile(strange_N: Floats, alpha: float) -> float:
    """The quantile that a further value stays within with a chance of 1 - `alpha` or more.

    The ceil((N + 1) (1 - alpha))th smallest; infinity where N is too small for the promise.

    Raises:
        ValueError: an alpha outside 0 to 1, or no values.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha ({alpha}) must be between 0 and 1")
    if not len(strange_N):
        raise ValueError("a conformal threshold needs validation rows")
    rank = _rank(len(strange_N), alpha)
    return float(np.sort(strange_N)[rank - 1]) if rank <= len(strange_N) else float("inf")


def _rank(count: int, alpha: float) -> int:
    """Place of the quantile among so many values in their order, from 1."""
    return int(np.ceil(round((count + 1) * (1 - alpha), 9)))
