"""Whether two candidates differ by more than luck: DeLong's test, the bootstrap's sign, Holm."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from oct_vjepa.measures.shares import Floats


class Areas(NamedTuple):
    """AUROCs of K scores of the same rows, and the covariance of their errors."""

    areas_K: Floats
    covariance_KK: Floats


def delong(scores_KN: Floats, positive_N: NDArray[np.bool_]) -> Areas:
    """AUROCs and their covariance by DeLong et al. 1988, from midranks as in Sun & Xu 2014.

    It sorts, so it takes N log N steps where the definition compares every positive with every
    negative.

    Raises:
        ValueError: fewer than two positives or two negatives.
    """
    positives, negatives = int(positive_N.sum()), int((~positive_N).sum())
    if min(positives, negatives) < 2:
        raise ValueError(f"DeLong needs two of each, not {positives} and {negatives}")
    above, below = scores_KN[:, positive_N], scores_KN[:, ~positive_N]
    everywhere = _midranks(np.concatenate([above, below], axis=1))
    # share of negatives that each positive beats, and of positives that beat each negative
    beats = (everywhere[:, :positives] - _midranks(above)) / negatives
    beaten = 1.0 - (everywhere[:, positives:] - _midranks(below)) / positives
    covariance = np.cov(beats) / positives + np.cov(beaten) / negatives
    return Areas(beats.mean(axis=1), np.atleast_2d(covariance))


class Pair(NamedTuple):
    """Two scores of the same rows, and which of these are positive, (N,) each."""

    one_N: Floats
    other_N: Floats
    positive_N: NDArray[np.bool_]


def delong_p(one_N: Floats, other_N: Floats, positive_N: NDArray[np.bool_]) -> float | None:
    """Two-sided p of no difference between the AUROCs of two scores of the same rows.

    1 where the two rank alike; None with fewer than two of either class.
    """
    return delong_p_of([Pair(one_N, other_N, positive_N)])


def delong_p_of(strata: Sequence[Pair]) -> float | None:
    """The same of the mean AUROC over folds of which each has its own rows, and models.

    Rows of two folds are other people, so that the folds' differences err independently, given the
    models: their mean has the sum of their variances over the square of their number.

    Args:
        strata: a pair a fold; no row is in two.

    Returns:
        None if a fold has fewer than two of either class.
    """
    difference = variance = 0.0
    for one in strata:
        if min(one.positive_N.sum(), (~one.positive_N).sum()) < 2:
            return None
        found = delong(np.stack([one.one_N, one.other_N]), one.positive_N)
        contrast = np.array([1.0, -1.0]) / len(strata)
        difference += float(contrast @ found.areas_K)
        variance += float(contrast @ found.covariance_KK @ contrast)
    if variance <= 0.0:
        return 1.0 if difference == 0.0 else 0.0
    return math.erfc(abs(difference) / math.sqrt(2.0 * variance))


def sign_p(samples_R: Floats) -> float:
    """Two-sided p of no difference: twice the share of samples on the rarer side of 0.

    One sample is counted on either side more than there is, so that p is never 0. NaN if no sample
    is defined.
    """
    known = samples_R[~np.isnan(samples_R)]
    if not len(known):
        return float("nan")
    rarer = min((known <= 0).sum(), (known >= 0).sum())
    return min(1.0, 2.0 * (1 + int(rarer)) / (1 + len(known)))


def holm(values: Sequence[float]) -> list[float]:
    """Each p corrected for all of them by Holm's step-down method; NaN is left out and stays."""
    corrected = [float("nan")] * len(values)
    tested = sorted((p, number) for number, p in enumerate(values) if not math.isnan(p))
    highest = 0.0
    for rank, (p, number) in enumerate(tested):
        highest = max(highest, min(1.0, (len(tested) - rank) * p))
        corrected[number] = highest
    return corrected


def _midranks(values_KN: Floats) -> Floats:
    """Ranks from 1 within each row; equal values share their mean rank."""
    ranks = np.empty(values_KN.shape)
    for row, values in enumerate(values_KN):
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        last = np.cumsum(counts)
        ranks[row] = (last - (counts - 1) / 2)[inverse]
    return ranks
