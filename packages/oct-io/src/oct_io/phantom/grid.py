"""Where the voxels of a phantom lie, and smooth random fields on them."""

import zlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from oct_io.volume import Spacing

Array = NDArray[np.float32]


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """A generator of its own for each purpose, so that drawing one thing never moves another."""
    keys = [zlib.crc32(str(name).encode()) for name in names]
    return np.random.default_rng([seed, *keys])


@dataclass(frozen=True, slots=True)
class Grid:
    """Coordinates of a volume with the fovea near the middle.

    Attributes:
        bscan_mm: (bscans, 1), from superior to inferior, 0 in the middle.
        nasal_mm: (1, columns), growing towards the nose, 0 in the middle; in right eyes the nose
            is on the side of the last column, in left eyes on the side of the first.
        row_um: (rows,), depth of voxel centres below the upper edge.
        spacing: millimetres between voxel centres.
    """

    bscan_mm: Array
    nasal_mm: Array
    row_um: Array
    spacing: Spacing

    @classmethod
    def of(
        cls, shape: tuple[int, int, int], extent_mm: tuple[float, float, float], nasal_sign: int
    ) -> "Grid":
        """The grid of `shape` voxels that fill `extent_mm`, both (bscan, row, column)."""
        step = [extent / count for extent, count in zip(extent_mm, shape, strict=True)]
        centre = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, step, strict=True)]
        return cls(
            bscan_mm=centre[0].astype(np.float32)[:, None],
            nasal_mm=(nasal_sign * centre[2]).astype(np.float32)[None, :],
            row_um=((np.arange(shape[1]) + 0.5) * step[1] * 1000).astype(np.float32),
            spacing=Spacing(*step),
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of B-scans, rows and columns."""
        return self.bscan_mm.shape[0], self.row_um.shape[0], self.nasal_mm.shape[1]


@lru_cache(maxsize=64)  # scans of one device ask for the same few
def _bumps(count: int, correlation: float) -> Array:
    """A matrix (count, knots) that spreads white noise at knots into a smooth curve.

    Knots stand one correlation length apart, and each carries a Gaussian of that width; rows are
    scaled so that the curve has unit variance everywhere.
    """
    pitch = max(correlation, 1.0)
    knots = np.arange(-2, count / pitch + 2) * pitch
    weights = np.exp(-0.5 * ((np.arange(count)[:, None] - knots[None, :]) / pitch) ** 2)
    norm = np.linalg.norm(weights, axis=1, keepdims=True)
    bumps: Array = (weights / norm).astype(np.float32)
    bumps.setflags(write=False)
    return bumps


def smooth_noise(
    rng: np.random.Generator, shape: tuple[int, ...], correlation: tuple[float, ...]
) -> Array:
    """A Gaussian random field of unit variance.

    Args:
        rng: what to draw from.
        shape: shape of the field.
        correlation: width of its blobs along each axis, in voxels; 1 or less means white.
    """
    spread = [_bumps(n, c) if c > 1 else None for n, c in zip(shape, correlation, strict=True)]
    knots = [n if s is None else s.shape[1] for n, s in zip(shape, spread, strict=True)]
    field = rng.standard_normal(knots, dtype=np.float32)
    for axis, weights in enumerate(spread):
        if weights is not None:
            field = _spread(weights, field, axis)
    return field


def _spread(weights: Array, field: Array, axis: int) -> Array:
    """Multiply `field` by `weights` along one axis, without moving its axes about."""
    if axis == field.ndim - 1:
        return field @ weights.T
    before, after = field.shape[:axis], field.shape[axis + 1 :]
    flat = weights @ field.reshape(*before, field.shape[axis], -1)
    return flat.reshape(*before, len(weights), *after)
