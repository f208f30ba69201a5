"""Layer boundaries and masks of a scan, carried along when its voxels are resampled."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from oct_io.space.flattening import flatten
from oct_io.space.resample import place
from oct_io.space.windows import Window
from oct_io.volume import UNLABELLED, OctVolume, Spacing

Rows = NDArray[np.float32]
Labels = NDArray[np.uint8]


def resample_layers(volume: OctVolume, window: Window) -> dict[str, Rows]:
    """Rows of the layers of `volume` in what `resample(volume, window)` cuts out.

    A boundary is a row position for each A-scan, (bscans, columns); whole numbers are centres of
    voxels. Across, it is sampled with the weights of the voxels, over the A-scans that have it.

    Returns:
        For each layer (bscans, columns) of the window, float32. NaN where fewer than half of the
        contributing A-scans, by weight, have the boundary, and where it lies outside of the window.
    """
    volume = flatten(volume) if window.flattened else volume
    spacing, origin_mm, (across, _, along) = place(volume, window)
    rows = window.shape_on(volume)[1]
    found: dict[str, Rows] = {}
    layers: Mapping[str, Rows] = volume.layers
    for name, layer in layers.items():
        known = np.isfinite(layer)
        height = np.where(known, layer, 0).astype(np.float64)
        weight = across @ known.astype(np.float64) @ along.T
        total = across @ height @ along.T
        mean = np.divide(total, weight, out=np.full(total.shape, np.nan), where=weight >= 0.5)
        placed = ((mean + 0.5) * volume.spacing.row - origin_mm[1]) / spacing.row - 0.5
        placed[(placed < -0.5) | (placed > rows - 0.5)] = np.nan
        result = placed.astype(np.float32)
        found[name] = result[:, ::-1].copy() if window.mirrors(volume) else result
    return found


def resample_mask(volume: OctVolume, window: Window) -> Labels | None:
    """Labels of the mask of `volume` in what `resample(volume, window)` cuts out.

    Each voxel takes the label of the scan's nearest voxel, because labels have no mean, and
    `UNLABELLED` where the scan does not reach. None if the volume has no mask.
    """
    if volume.mask is None:
        return None
    volume = flatten(volume) if window.flattened else volume
    assert volume.mask is not None
    matrices = place(volume, window).matrices
    nearest = [weights.argmax(axis=1) for weights in matrices]  # the largest weight is the nearest
    found: Labels = volume.mask[np.ix_(*nearest)]
    for axis, weights in enumerate(matrices):
        outside = np.flatnonzero(~weights.any(axis=1))
        found[(slice(None),) * axis + (outside,)] = UNLABELLED
    return found[:, :, ::-1].copy() if window.mirrors(volume) else found


def layers_to_mask(
    layers: Mapping[str, Rows], shape: tuple[int, int, int], names: Sequence[str]
) -> Labels:
    """Turn boundaries into labels of voxels, (bscans, rows, columns) uint8.

    Label i is what lies between boundary i - 1 and boundary i of `names`: 0 is all above the first,
    `len(names)` all below the last; `layer_classes(names)` are their names. A voxel lies below a
    boundary if its centre does. Boundaries that cross are taken to touch: the upper one wins.

    Args:
        layers: (bscans, columns) rows by name, as in `OctVolume.layers`.
        shape: of the voxels that the rows count.
        names: boundaries from the vitreous outwards.

    Returns:
        `UNLABELLED` where one of the two boundaries around is NaN or is not there at all.

    Raises:
        ValueError: no names, or more than labels.
    """
    if not 0 < len(names) < UNLABELLED:
        raise ValueError(f"names must be 1 to {UNLABELLED - 1} boundaries, not {len(names)}")
    bscans, rows, columns = shape
    absent = np.full((bscans, columns), np.nan, np.float32)
    heights = np.stack([layers.get(name, absent) for name in names])
    known = np.isfinite(heights)
    lowest = np.maximum.accumulate(np.where(known, heights, -np.inf), axis=0)
    ends = np.full((len(names) + 2, bscans, columns), np.inf, np.float32)
    ends[0] = -np.inf
    ends[1:-1] = np.where(known, lowest, np.nan)
    at = np.arange(rows, dtype=np.float32)[None, :, None]
    mask = np.full(shape, UNLABELLED, np.uint8)
    for label, (upper, lower) in enumerate(pairwise(ends)):
        mask[(at >= upper[:, None, :]) & (at < lower[:, None, :])] = label  # false for NaN
    return mask


def layer_classes(names: Sequence[str]) -> tuple[str, ...]:
    """Names of the labels of `layers_to_mask(..., names)`."""
    between = [f"{upper} to {lower}" for upper, lower in pairwise(names)]
    return (f"above {names[0]}", *between, f"below {names[-1]}")


class Thickness(NamedTuple):
    """What lies between two neighbouring boundaries of a scan."""

    upper: str
    lower: str
    mean_um: float  # over the A-scans that have both; NaN if none has


def measure_thickness(volume: OctVolume) -> list[Thickness]:
    """Mean distance of each boundary to the next one below, in the order of the volume."""
    found = []
    for (upper, above), (lower, below) in pairwise(volume.layers.items()):
        rows = (below - above)[np.isfinite(below) & np.isfinite(above)]
        mean = float(rows.mean(dtype=np.float64)) if rows.size else np.nan
        found.append(Thickness(upper, lower, mean * volume.spacing.row * 1000))
    return found


def measure_classes(volume: OctVolume) -> dict[str, float]:
    """Cubic millimetres of each class of the mask but the background.

    NaN where the distance between the B-scans is not known.
    """
    if volume.mask is None:
        return {}
    counts = [int((volume.mask == label).sum()) for label in range(len(volume.mask_names))]
    voxel_mm3 = float(np.prod(volume.spacing))
    return {
        name: count * voxel_mm3
        for name, count in zip(volume.mask_names[1:], counts[1:], strict=True)
    }


def mask_to_layers(mask: Labels, boundaries: int) -> Rows:
    """Rows at which boundaries lie in what `layers_to_mask` draws, (boundaries, bscans, columns).

    Boundary i is put in the middle of the voxels between which it must lie: where as many voxels of
    the A-scan as have a label up to i end. A predicted mask in which labels do not follow each
    other in depth so has one boundary for each all the same. NaN in an A-scan without any label,
    and where nothing or everything lies above: such a boundary is not in the window.
    """
    known = mask != UNLABELLED
    found = np.empty((boundaries, mask.shape[0], mask.shape[2]), np.float32)
    total = known.sum(axis=1)
    for number in range(boundaries):
        above = ((mask <= number) & known).sum(axis=1)
        rows = above.astype(np.float32) - 0.5
        found[number] = np.where((above > 0) & (above < total), rows, np.nan)
    return found


def put_back(
    mask: Labels,
    shape: tuple[int, int, int],
    *,
    spacing: Spacing,
    window_spacing: Spacing,
    origin_mm: tuple[float, float, float],
    mirrored: bool = False,
) -> Labels:
    """Labels of a window as labels of its scan, each voxel taking the nearest one.

    Args:
        mask: of the window.
        shape: of the scan.
        spacing: of the scan.
        window_spacing: of the window.
        origin_mm: from the scan's outer corner to the window's.
        mirrored: whether the window's columns run from the scan's last to its first.

    Returns:
        `UNLABELLED` where the window does not reach.
    """
    found: Labels = mask[:, :, ::-1] if mirrored else mask
    numbers, outside = [], []
    for axis in range(3):
        at = (np.arange(shape[axis]) + 0.5) * spacing[axis] - origin_mm[axis]
        place_in = np.floor(at / window_spacing[axis] + 1e-9).astype(np.int64)
        outside.append((place_in < 0) | (place_in >= mask.shape[axis]))
        numbers.append(np.clip(place_in, 0, mask.shape[axis] - 1))
    found = found[np.ix_(*numbers)]
    for axis, beyond in enumerate(outside):
        found[(slice(None),) * axis + (np.flatnonzero(beyond),)] = UNLABELLED
    return found
