"""Small changes of a volume in training, as a pure function of a generator; shapes stay."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from oct_vjepa.heads.configuration import AugmentationConfig


def augment(
    volume_ZYX: NDArray[np.uint8],
    config: AugmentationConfig,
    generator: np.random.Generator,
    *,
    mask_ZYX: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.int64] | None]:
    """A changed copy of the volume, and of the mask, which moves and flips with it.

    As many numbers are drawn whatever the settings are, so that one of them can be turned off
    without another draw of the rest.
    """
    flip, gain, offset = generator.random(), generator.uniform(-1, 1), generator.uniform(-1, 1)
    shifts = [round(float(generator.uniform(-1, 1)) * most) for most in config.shift]
    if flip < config.flip:
        volume_ZYX = volume_ZYX[::-1]
        mask_ZYX = None if mask_ZYX is None else mask_ZYX[::-1]
    for axis, shift in enumerate(shifts):
        if shift:
            volume_ZYX = _moved(volume_ZYX, axis, shift)
            mask_ZYX = None if mask_ZYX is None else _moved(mask_ZYX, axis, shift)
    if config.gain or config.offset:
        voxels = volume_ZYX * np.float32(1 + gain * config.gain)
        voxels += np.float32(offset * config.offset)
        volume_ZYX = np.clip(np.rint(voxels), 0, 255).astype(np.uint8)
    mask = None if mask_ZYX is None else np.ascontiguousarray(mask_ZYX)
    return np.ascontiguousarray(volume_ZYX), mask


def _moved(voxels: NDArray[Any], axis: int, shift: int) -> NDArray[Any]:
    """Move along an axis; the border that comes in is a repetition of the outermost slice."""
    places = np.arange(voxels.shape[axis]) - shift
    return np.take(voxels, np.clip(places, 0, voxels.shape[axis] - 1), axis=axis)
