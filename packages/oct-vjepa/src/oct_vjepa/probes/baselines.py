"""Features that nobody learned: what an encoder must beat before it may boast.

Each is a function from volumes to features; `encoders.probe_encoders` puts them beside encoders.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray


def axial_profile(volumes: Iterable[NDArray[Any]]) -> NDArray[np.float32]:
    """Mean over Z and X of each volume, (N, Y): the trivial baseline beside any probe.

    Args:
        volumes: (Z, Y, X) each, or (C, Z, Y, X) for the profiles of all channels side by side,
            (N, C * Y).

    Raises:
        ValueError: a volume of other axes, or volumes whose profiles differ in length.
    """
    profiles = []
    for one in map(np.asarray, volumes):
        if one.ndim not in (3, 4):
            raise ValueError(f"a volume must be (Z, Y, X) or (C, Z, Y, X), not {one.shape}")
        profiles.append(one.mean(axis=(-3, -1), dtype=np.float64).ravel())
    if len(lengths := {len(one) for one in profiles}) > 1:
        raise ValueError(f"volumes of {sorted(lengths)} rows have no profile in common")
    return np.stack(profiles).astype(np.float32)
