"""Features that nobody learned: what an encoder must beat before it may boast."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray


def axial_profile(volumes: Iterable[NDArray[Any]]) -> NDArray[np.float32]:
    """Mean over Z and X of each (Z, Y, X) volume, (N, Y): the trivial baseline beside any probe."""
    return np.stack(
        [np.asarray(one).mean(axis=(0, 2), dtype=np.float64) for one in volumes]
    ).astype(np.float32)
