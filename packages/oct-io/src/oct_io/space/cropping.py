"""A part of each B-scan, stretched to the whole: the one augmentation of V-JEPA 2 but mirroring."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from oct_io.volume import Spacing


class Crop(NamedTuple):
    """The part that is shown: begin and length along rows and columns, as shares of their number.

    All B-scans of a volume show the same part.
    """

    rows: tuple[float, float]
    columns: tuple[float, float]

    def spacing(self, spacing: Spacing) -> Spacing:
        """Millimetres between the voxels of what is shown."""
        return Spacing(spacing.bscan, spacing.row * self.rows[1], spacing.column * self.columns[1])


def draw_crop(rng: np.random.Generator, smallest: float, aspect: float) -> Crop:
    """Draw a part of the plane.

    Args:
        rng: draws four numbers.
        smallest: share of the plane's area.
        aspect: largest ratio of the stretches along rows and columns.
    """
    area, ratio, down, across = rng.random(4)
    share = smallest + (1 - smallest) * area
    stretch = aspect ** (2 * ratio - 1)
    long, wide = min(1.0, math.sqrt(share * stretch)), min(1.0, math.sqrt(share / stretch))
    return Crop((float(down * (1 - long)), long), (float(across * (1 - wide)), wide))


def crop(voxels: NDArray[np.float32], part: Crop) -> NDArray[np.float32]:
    """Stretch a part of each B-scan to its size, by linear interpolation."""
    for axis, (begin, length) in zip((1, 2), part, strict=True):
        size = voxels.shape[axis]
        if size == 1 or length == 1:
            continue
        places = (begin + length * (np.arange(size) + 0.5) / size) * size - 0.5
        below = np.clip(np.floor(places).astype(np.int64), 0, size - 2)
        share = np.clip(places - below, 0, 1).astype(np.float32)
        shape = (1, size, 1) if axis == 1 else (1, 1, size)
        low = voxels.take(below, axis)
        voxels = low + (voxels.take(below + 1, axis) - low) * share.reshape(shape)
    return voxels
