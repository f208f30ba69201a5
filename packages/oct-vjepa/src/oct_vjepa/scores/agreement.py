"""Two measurements of one quantity: how far they differ, as Bland & Altman 1986 show it."""

from typing import NamedTuple

import numpy as np

from oct_vjepa.measures.shares import Floats

WITHIN = 1.96  # standard deviations that hold 95 % of normal differences


class Agreement(NamedTuple):
    """Mean and difference of each pair, and where 95 % of normal differences would lie."""

    mean_N: Floats
    difference_N: Floats  # predicted less true
    bias: float
    low: float
    high: float


def agreement(predicted_N: Floats, true_N: Floats) -> Agreement:
    """Compare predictions with the truth.

    Raises:
        ValueError: sizes differ, or there are fewer than two pairs.
    """
    predicted, true = np.asarray(predicted_N, np.float64), np.asarray(true_N, np.float64)
    if predicted.shape != true.shape or predicted.ndim != 1 or len(true) < 2:
        raise ValueError(f"{predicted.shape} predictions of {true.shape} quantities; two or more")
    difference = predicted - true
    bias, spread = float(difference.mean()), float(difference.std(ddof=1))
    return Agreement(
        (predicted + true) / 2, difference, bias, bias - WITHIN * spread, bias + WITHIN * spread
    )
