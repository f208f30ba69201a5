"""Derivatives of Gaussians at several scales: what a classical filter bank sees, without learning.

The local jets of Koenderink and van Doorn (1987, Biological Cybernetics 55), of which programs for
labelling images pixel by pixel are built, ilastik among them (Berg and others 2019, Nature Methods
16). Filters run within the slices of a volume, which are often further apart than they are thick.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

SCALES = (1.0, 2.0, 4.0, 8.0)
"""Standard deviations of the Gaussians in voxels; fixed before any result was seen."""

MAPS = 5
"""Maps of a scale."""

REACH = 4.0
"""Standard deviations after which a Gaussian is cut off, as in SciPy."""


def filter_slices(slices_BYX: Tensor, scales: Sequence[float] = SCALES) -> Tensor:
    """Maps of the grey levels and of five filters a scale, (B, 1 + 5 * scales, Y, X), float32.

    They are the smoothed image, the length of its gradient, the derivative down the beam, and the
    larger and the smaller eigenvalue of its Hessian; derivatives are multiplied by the scale as
    often as they are taken, so that scales compare. Beyond the edge the edge is repeated.
    """
    image = slices_BYX.to(torch.float32)
    maps = [image]
    for scale in scales:
        down, across = (
            [_filter(length, scale, order, image.device) for order in range(3)]
            for length in image.shape[1:]
        )
        with _in_full(image.device.type):
            smooth, rise, bend = (one @ image for one in down)
            rise_y, rise_x = rise @ across[0].T, smooth @ across[1].T
            yy, xx, yx = bend @ across[0].T, smooth @ across[2].T, rise @ across[1].T
            smooth = smooth @ across[0].T
        middle, apart = (yy + xx) / 2, torch.hypot((yy - xx) / 2, yx)
        maps += [smooth, scale * torch.hypot(rise_y, rise_x), scale * rise_y]
        maps += [scale**2 * (middle + apart), scale**2 * (middle - apart)]
    return torch.stack(maps, dim=1)


def filter_patches(
    volume_BZYX: Tensor, patch: tuple[int, int, int], scales: Sequence[float] = SCALES
) -> Tensor:
    """Mean, lowest and highest of each map in each patch, (B, N, 3 * maps), float32.

    Patches in the order of an encoder's tokens; voxels beyond the last whole patch are left out.
    """
    batch, depth, *plane = volume_BZYX.shape
    maps = filter_slices(volume_BZYX.reshape(batch * depth, *plane), scales)
    maps = maps.reshape(batch, depth, -1, *plane).transpose(1, 2)
    side = (min(patch[0], depth), *patch[1:])
    mean = functional.avg_pool3d(maps, side)
    said = torch.cat([mean, _reduce(torch.amin, maps, side), _reduce(torch.amax, maps, side)], 1)
    return said.flatten(2).transpose(1, 2)


def _reduce(
    extreme: Callable[[Tensor, int], Tensor], maps_BMZYX: Tensor, side: tuple[int, ...]
) -> Tensor:
    """Lowest or highest of each patch, axis by axis: on a CPU a fifth of `max_pool3d`'s time."""
    for axis, voxels in ((3, side[1]), (2, side[0]), (4, side[2])):  # along whole rows first
        parts = maps_BMZYX.shape[axis] // voxels
        whole = maps_BMZYX.narrow(axis, 0, parts * voxels).unflatten(axis, (parts, voxels))
        maps_BMZYX = extreme(whole, axis + 1)
    return maps_BMZYX


def _in_full(kind: str) -> AbstractContextManager[object]:
    """Products in float32 whatever the precision: differences need their digits."""
    return nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False)


@lru_cache(maxsize=128)
def _filter(length: int, scale: float, order: int, device: torch.device) -> Tensor:
    """The derivative of a Gaussian along an axis of so many voxels, as a matrix, its edges too.

    Moved to its device once: a training step asks for two dozen of them.
    """
    with torch.device("cpu"):  # also where a network is built without storage
        return _matrix(length, scale, order).to(device)


def _matrix(length: int, scale: float, order: int) -> Tensor:
    reach = int(REACH * scale + 0.5)
    offset = torch.arange(-reach, reach + 1)
    place = offset / scale
    weight = torch.exp(-(place**2) / 2)
    weight = weight / weight.sum()
    if order:  # read as a correlation, so the first derivative rises with the offset
        weight = weight * (place if order == 1 else place**2 - 1) / scale**order
    seen = (torch.arange(length)[:, None] + offset).clamp(0, length - 1)
    return torch.zeros(length, length).scatter_add_(1, seen, weight.expand(length, -1))
