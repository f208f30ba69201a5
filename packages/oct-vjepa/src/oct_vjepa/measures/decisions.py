"""What follows from counts of true against called classes, for R rows of weights at once.

All take a confusion (R, C, C): true classes down, called classes across. A class that a part lacks
has no sensitivity (NaN) and is left out of balanced accuracy, as scikit-learn leaves it out. Its F1
is 0 and counts in the macro mean, as scikit-learn's does with all `labels` and `zero_division=0`.
"""

import numpy as np
from numpy.typing import NDArray

from oct_vjepa.measures.shares import Floats, known_mean, share


def confusion(
    labels_N: NDArray[np.int64], called_N: NDArray[np.int64], classes: int, weights_RN: Floats
) -> Floats:
    """Weight of each pair of true and called class, (R, C, C)."""
    pairs = np.zeros((len(labels_N), classes * classes))
    pairs[np.arange(len(labels_N)), labels_N * classes + called_N] = 1.0
    return (weights_RN @ pairs).reshape(-1, classes, classes)


def sensitivity(counts_RCC: Floats) -> Floats:
    """Share of each class that is called so, (R, C)."""
    return share(_right(counts_RCC), counts_RCC.sum(axis=2))


def specificity(counts_RCC: Floats) -> Floats:
    """Share of the other classes' rows that are not called this one, (R, C)."""
    total = counts_RCC.sum(axis=(1, 2))[:, None]
    others = total - counts_RCC.sum(axis=2)
    wrongly = counts_RCC.sum(axis=1) - _right(counts_RCC)
    return share(others - wrongly, others)


def f1(counts_RCC: Floats) -> Floats:
    """Harmonic mean of precision and sensitivity, (R, C); 0 for a class neither had nor called."""
    both = counts_RCC.sum(axis=1) + counts_RCC.sum(axis=2)
    return np.nan_to_num(share(2 * _right(counts_RCC), both))


def weighted_f1(counts_RCC: Floats) -> Floats:
    """F1 of the classes, each weighed by how much of it there is, (R,)."""
    return known_mean(f1(counts_RCC), 1, counts_RCC.sum(axis=2))


def balanced_accuracy_of(counts_RCC: Floats) -> Floats:
    """Mean sensitivity of the classes that are there, (R,)."""
    return known_mean(sensitivity(counts_RCC), 1)


def accuracy(counts_RCC: Floats) -> Floats:
    """Share that is called right, (R,)."""
    return share(_right(counts_RCC).sum(axis=1), counts_RCC.sum(axis=(1, 2)))


def quadratic_kappa(counts_RCC: Floats) -> Floats:
    """Agreement beyond chance where a miss costs the square of its steps, (R,).

    NaN where all that is true and called is one class.
    """
    steps = np.arange(counts_RCC.shape[1])
    cost_CC = (steps[:, None] - steps).astype(float) ** 2
    seen = (counts_RCC * cost_CC).sum(axis=(1, 2))
    by_chance = counts_RCC.sum(axis=2)[:, :, None] * counts_RCC.sum(axis=1)[:, None, :]
    expected = share((by_chance * cost_CC).sum(axis=(1, 2)), counts_RCC.sum(axis=(1, 2)))
    return 1.0 - share(seen, expected)


def _right(counts_RCC: Floats) -> Floats:
    return np.diagonal(counts_RCC, axis1=1, axis2=2)
