"""Errors of a predicted quantity, and the order of predicted risks, (R,) each."""

import numpy as np

from oct_vjepa.measures.shares import Floats, share

BLOCK = 512  # rows whose pairs with all others are held at once
ROUNDING = 1e-12  # of the variance of all rows; less is a constant


def absolute_error(predicted_N: Floats, true_N: Floats, weights_RN: Floats) -> Floats:
    """Mean absolute error, in the unit of the quantity."""
    return share(weights_RN @ np.abs(predicted_N - true_N), weights_RN.sum(axis=1))


def root_error(predicted_N: Floats, true_N: Floats, weights_RN: Floats) -> Floats:
    """Root of the mean squared error, in the unit of the quantity."""
    return np.sqrt(share(weights_RN @ (predicted_N - true_N) ** 2, weights_RN.sum(axis=1)))


def explained(predicted_N: Floats, true_N: Floats, weights_RN: Floats) -> Floats:
    """R2: share of the variance that is explained; below 0 if worse than the mean.

    NaN where the quantity is the same in all rows.
    """
    left = weights_RN @ (predicted_N - true_N) ** 2
    total = weights_RN.sum(axis=1)
    return 1.0 - share(left, _variance(true_N, weights_RN) * total)


def pearson(predicted_N: Floats, true_N: Floats, weights_RN: Floats) -> Floats:
    """Linear correlation; NaN where either side is constant."""
    spread = np.sqrt(_variance(predicted_N, weights_RN) * _variance(true_N, weights_RN))
    return share(_covariance(predicted_N, true_N, weights_RN), spread)


def concordance(risk_N: Floats, outcome_N2: Floats, weights_RN: Floats) -> Floats:
    """Harrell's: of the pairs that can be ordered, the share where the higher risk came first.

    A pair can be ordered if the earlier time is an event; at equal times an event comes before an
    end of observation. Equal risks count half. NaN without such a pair.
    """
    time, event = outcome_N2[:, 0], outcome_N2[:, 1] > 0
    right, pairs = np.zeros(len(weights_RN)), np.zeros(len(weights_RN))
    rows = np.flatnonzero(event)
    for start in range(0, len(rows), BLOCK):
        one = rows[start : start + BLOCK, None]
        later = ((time[one] < time) | ((time[one] == time) & ~event)).astype(float)
        won = later * ((risk_N[one] > risk_N) + 0.5 * (risk_N[one] == risk_N))
        weight = weights_RN[:, one[:, 0]]
        right += ((weights_RN @ won.T) * weight).sum(axis=1)
        pairs += ((weights_RN @ later.T) * weight).sum(axis=1)
    return share(right, pairs)


def _variance(values_N: Floats, weights_RN: Floats) -> Floats:
    """0 where all that has weight is equal, but for the last digits."""
    found = _covariance(values_N, values_N, weights_RN)
    return np.where(found > ROUNDING * values_N.var(), found, 0.0) if len(values_N) else found


def _covariance(one_N: Floats, other_N: Floats, weights_RN: Floats) -> Floats:
    """Weighed, about the weighed means; NaN where the weights sum to 0."""
    if not len(one_N):
        return np.full(len(weights_RN), np.nan)
    one, other = one_N - one_N.mean(), other_N - other_N.mean()  # keeps large offsets exact
    total = weights_RN.sum(axis=1)
    means = share(weights_RN @ one, total) * share(weights_RN @ other, total)
    return share(weights_RN @ (one * other), total) - means
