"""Rows of features on a plane, to look at what lies beside what."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from oct_vjepa.measures.shares import Floats


class Projection(NamedTuple):
    """Rows on the two directions in which they differ most."""

    places_N2: Floats
    shares_2: Floats  # of the variance of the standardised features


FITTED_ROWS = 2000
"""Rows, evenly spread, that directions are found in; more make no other picture, and take long."""


def project_rows(features_ND: NDArray[np.floating[Any]]) -> Projection:
    """The first two principal components of features that are brought to one scale each.

    Features that do not vary are left out. The side on which most of a component's weight lies is
    the positive one, so that equal features give equal pictures.

    Raises:
        ValueError: fewer than two rows, or no feature that varies.
    """
    rows = np.asarray(features_ND, dtype=np.float64)
    spread = rows.std(axis=0) if len(rows) else np.zeros(0)
    varying = spread > 0
    if len(rows) < 2 or not varying.any():
        raise ValueError(f"features {rows.shape} do not vary; there is nothing to project")
    scaled = (rows[:, varying] - rows[:, varying].mean(axis=0)) / spread[varying]
    fitted = scaled[:: -(-len(scaled) // FITTED_ROWS)]
    _, strength, right = np.linalg.svd(fitted, full_matrices=False)
    two = min(2, len(strength))
    signs = np.where(right[:two].sum(axis=1) < 0, -1.0, 1.0)
    places, shares = np.zeros((len(rows), 2)), np.zeros(2)
    places[:, :two] = scaled @ right[:two].T * signs
    shares[:two] = strength[:two] ** 2 / (strength**2).sum()
    return Projection(places, shares)
