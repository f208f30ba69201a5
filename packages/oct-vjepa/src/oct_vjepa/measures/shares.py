"""Shares and means that leave out what is not defined, instead of warning of it."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def share(part: Floats, whole: Floats) -> Floats:
    """`part` over `whole`, NaN where `whole` is 0."""
    part, whole = np.broadcast_arrays(part, whole)
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole != 0)


def known_mean(values: Floats, axis: int, weights: Floats | None = None) -> Floats:
    """Mean along an axis of what is not NaN; NaN where nothing is left."""
    known = ~np.isnan(values)
    counts = known if weights is None else known * weights
    return share((np.where(known, values, 0.0) * counts).sum(axis=axis), counts.sum(axis=axis))


def all_rows(weights_RN: Floats | None, rows: int) -> Floats:
    """The weights, or one row in which everything counts once."""
    return np.ones((1, rows)) if weights_RN is None else weights_RN
