"""Several models asked as one: their scores averaged, weighted, or counted as votes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

HOW = ("mean", "vote", "weighted")


def ensemble(
    scores: Sequence[NDArray[Any]], how: str = "mean", *, weights: Sequence[float] | None = None
) -> NDArray[np.float64]:
    """Scores of all models together, (N, K), like those of one.

    Args:
        scores: (N, K) of each model, for the same rows.
        how: mean; weighted, by `weights`; vote: the share of the models whose greatest score is of
            that class, of a single column the share that is above one half.
        weights: of each model, such as its headline on validation; not negative.

    Raises:
        ValueError: no models, models of different rows, no such way, or weights that do not fit.
    """
    if how not in HOW:
        raise ValueError(f"ensemble ({how!r}) must be one of {', '.join(HOW)}")
    shapes = {np.shape(one) for one in scores}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise ValueError(f"ensemble: scores must be (N, K), alike and one or more: {shapes}")
    if (how == "weighted") != (weights is not None):
        raise ValueError("ensemble: weighted takes weights, the others do not")
    stacked = np.stack([np.asarray(one, dtype=np.float64) for one in scores])
    if how == "vote":
        if stacked.shape[2] == 1:
            return (stacked > 0.5).mean(axis=0)
        return np.eye(stacked.shape[2])[stacked.argmax(axis=2)].mean(axis=0)
    share = np.ones(len(stacked)) if weights is None else np.asarray(weights, dtype=np.float64)
    if share.shape != (len(stacked),) or not (share >= 0).all() or not share.sum() > 0:
        raise ValueError(f"ensemble: weights ({weights}) must be {len(stacked)}, none negative")
    return np.tensordot(share / share.sum(), stacked, 1)
