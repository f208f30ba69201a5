"""How unlike the training rows a row of features is: a warning before its answer is believed.

Features are scaled, and turned to their principal components. There, Mahalanobis' distance says how
far a row is from the middle, counted in the spread along each direction. Whose features they are
does not matter.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oct_vjepa.measures.shares import Floats

COMPONENTS = 64  # at most so many are kept
QUANTILE = 0.95


@dataclass(frozen=True, kw_only=True, slots=True)
class Novelty:
    """What is kept of the training rows; made by `fit_novelty`."""

    middle_D: Floats
    scale_D: Floats
    axes_KD: Floats
    """Directions of the principal components."""
    variance_K: Floats
    """Along them, shrunk towards their mean."""
    shrinkage: float
    """From 0, none, to 1, all directions alike."""

    def score(self, features_MD: NDArray[np.floating]) -> Floats:
        """(M,): the higher the stranger.

        Raises:
            ValueError: features of another width.
        """
        if features_MD.shape[1:] != self.middle_D.shape:
            raise ValueError(
                f"features have shape {features_MD.shape}, trained on {len(self.middle_D)} columns"
            )
        placed = ((features_MD - self.middle_D) / self.scale_D) @ self.axes_KD.T
        return np.sqrt((placed**2 / self.variance_K).sum(axis=1))


def fit_novelty(features_ND: NDArray[np.floating]) -> Novelty:
    """Learn what training rows look like.

    Args:
        features_ND: of the training rows, of validation and test participants none.

    Raises:
        ValueError: fewer than three rows, or features that do not vary.
    """
    features = np.asarray(features_ND, dtype=np.float64)
    if len(features) < 3:
        raise ValueError(f"novelty needs three training rows or more, not {len(features)}")
    middle = features.mean(axis=0)
    spread = features.std(axis=0)
    if not spread.any():
        raise ValueError("novelty needs features that vary")
    scale = np.where(spread > 0, spread, 1.0)
    _, singular, axes = np.linalg.svd((features - middle) / scale, full_matrices=False)
    kept = min(COMPONENTS, int((singular > singular[0] * 1e-6).sum()))
    placed = ((features - middle) / scale) @ axes[:kept].T
    variance, shrinkage = _shrink(placed)
    return Novelty(
        middle_D=middle,
        scale_D=scale,
        axes_KD=axes[:kept],
        variance_K=variance,
        shrinkage=shrinkage,
    )


def find_threshold(validation_M: Floats, *, quantile: float = QUANTILE) -> float:
    """The score above which a row is called strange; this share of validation rows is not."""
    return float(np.quantile(validation_M, quantile))


def _shrink(placed_NK: Floats) -> tuple[Floats, float]:
    """Variances along the components, shrunk towards their mean as by Ledoit & Wolf 2004.

    Along principal components the covariance is diagonal and stays so.
    """
    rows, width = placed_NK.shape
    variance = (placed_NK**2).mean(axis=0)
    mean = variance.mean()
    distance = ((variance - mean) ** 2).sum() / width
    lengths = (placed_NK**2).sum(axis=1)
    noise = ((lengths**2).mean() - (variance**2).sum()) / (rows * width)
    shrinkage = float(min(1.0, noise / distance)) if distance > 0 else 1.0
    return (1.0 - shrinkage) * variance + shrinkage * mean, shrinkage
