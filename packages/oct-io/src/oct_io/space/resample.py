"""Cut a window in millimetres out of a volume and resample it to a fixed shape."""

from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from oct_io.errors import ScanError
from oct_io.space.flattening import SURFACE_SHARE, flatten
from oct_io.space.grey import find_white
from oct_io.space.windows import WINDOWS as WINDOWS
from oct_io.space.windows import Triple
from oct_io.space.windows import Window as Window
from oct_io.volume import OctVolume, Spacing

Floats = NDArray[np.float32]


class Resampled(NamedTuple):
    """Voxels of a window, and where in the scan it lies."""

    voxels: NDArray[np.uint8]  # window.shape; 0 where the scan does not reach
    spacing: Spacing  # millimetres between voxel centres
    # From the scan's outer corner to the window's, negative where padded; of a flattened scan.
    origin_mm: Triple
    mirrored: bool = False  # columns run from the scan's last to its first; origin_mm alike
    white: int = 255  # grey level of the scan that became 255
    white_rule: str = "8 bits"  # what said so, as in `grey.White`


class Placement(NamedTuple):
    """Where a window lies on one scan, and the matrices that sample its axes."""

    spacing: Spacing
    origin_mm: Triple
    matrices: list[Floats]  # (window's voxels, scan's voxels) of each axis


def resample(volume: OctVolume, window: Window) -> Resampled:
    """Cut `window` out of `volume`, centred laterally on the scan and in depth on the retina.

    Each axis is resampled by one weight matrix: linear interpolation where the window samples more
    finely than the scan, a triangle as wide as the window's step where more coarsely, so that fine
    detail is averaged and does not alias. Where the scan ends, 0 is padded; border voxels are not
    darkened, because weights are normalised over the voxels that exist. 16-bit voxels are scaled so
    that `white_level` of the scan becomes 255. What a window says otherwise (`antialiased`,
    `retina_centred`, `mirror_left`, `flattened`) is done. Of a scan whose millimetres nobody knows,
    a window that takes all of it is cut in voxels, and spacing and origin are NaN.
    """
    volume = flatten(volume) if window.flattened else volume
    spacing, origin, matrices = place(volume, window)
    white, white_rule = find_white(volume)
    result = _apply(volume.voxels, matrices)
    if white != 255:
        result *= np.float32(255 / white)
    np.rint(result, out=result)
    np.clip(result, 0, 255, out=result)
    mirrored = window.mirrors(volume)
    if mirrored:
        result = result[:, :, ::-1]
    cut = result.astype(np.uint8, order="C")
    return Resampled(cut, spacing, origin, mirrored, white, white_rule)


def place(volume: OctVolume, window: Window) -> Placement:
    """Find where `window` lies on `volume`; mirroring and flattening are left to the caller.

    A flattened window lies about the row to which `flatten` brings the surface.

    Raises:
        ScanError: millimetres that the window needs are not known.
    """
    sized = replace(volume, spacing=_known_spacing(volume, window))
    counts, known = volume.voxels.shape, sized.spacing
    scan, extent, shape = sized.extent_mm, window.extent_on(sized), window.shape_on(volume)
    steps = [mm / n for mm, n in zip(extent, shape, strict=True)]
    origin = [(have - want) / 2 for have, want in zip(scan, extent, strict=True)]
    if window.flattened:
        origin[1] = round(counts[1] * SURFACE_SHARE) * known[1] - extent[1] * SURFACE_SHARE
    elif window.retina_centred:
        origin[1] = find_retina(volume.voxels) * known[1] - extent[1] / 2
    matrices = [
        _weights(
            counts[axis],
            known[axis],
            shape[axis],
            steps[axis],
            round(origin[axis], 9),
            antialiased=window.antialiased,
        )
        for axis in range(3)
    ]
    if shape[0] == 1:
        origin[0] = counts[0] // 2 * known.bscan
        matrices[0] = _one_of(counts[0])
    open_axes = [not np.isfinite(step) for step in volume.spacing]
    spacing = Spacing(*np.where(open_axes, np.nan, steps).tolist())
    place_mm = np.where(open_axes, np.nan, origin).tolist()
    return Placement(spacing, (place_mm[0], place_mm[1], place_mm[2]), matrices)


def _known_spacing(volume: OctVolume, window: Window) -> Spacing:
    """The scan's spacing, with 1, a voxel, along axes where it is not known and not needed.

    Raises:
        ScanError: it is needed.
    """
    bscan, *plane = (bool(np.isfinite(step)) for step in volume.spacing)
    wanted, bscans = window.shape_on(volume)[0], len(volume.voxels)
    abreast = volume.spacing_source == "unknown" and bscans > 1  # at a distance that nobody knows
    if not bscan and wanted > 1 and not (abreast and window.takes_all):
        reason = "the distance between its B-scans is not known"
        if bscans == 1:
            reason = f"one B-scan, and window {window.name} takes {wanted}"
        raise ScanError("", "geometry", reason)
    if not all(plane) and not window.takes_all:
        reason = (
            f"nothing tells its millimetres, by which window {window.name} is cut; one such as "
            "96x256 is not"
        )
        raise ScanError("", "geometry", reason)
    return Spacing(*(step if np.isfinite(step) else 1.0 for step in volume.spacing))


@lru_cache(maxsize=64)
def _one_of(n_in: int) -> Floats:
    """Matrix (1, n_in) that takes the middle sample of an axis as it is."""
    matrix = np.zeros((1, n_in), np.float32)
    matrix[0, n_in // 2] = 1
    matrix.setflags(write=False)
    return matrix


def find_retina(voxels: NDArray[np.uint8] | NDArray[np.uint16]) -> float:
    """Row, counted from the volume's outer edge, about which the bright tissue of the scan lies.

    The mean A-scan less its median (vitreous, noise floor) is squared, so that the bright layers
    outweigh the choroid's long tail; the centre of that mass, refined once within 0.3 of the depth
    around it, is the estimate. A scan without contrast is taken at the middle of its depth.
    """
    bscans, rows, columns = voxels.shape
    thin = voxels[:: max(1, bscans // 32), :, :: max(1, columns // 64)]
    profile = thin.mean(axis=(0, 2), dtype=np.float64)
    mass = np.clip(profile - np.median(profile), 0, None) ** 2
    at = np.arange(rows) + 0.5
    if mass.sum() <= 0:
        return rows / 2
    centre = float((mass * at).sum() / mass.sum())
    near = np.where(np.abs(at - centre) <= 0.3 * rows, mass, 0)
    return float((near * at).sum() / near.sum()) if near.sum() > 0 else centre


@lru_cache(maxsize=64)
def _weights(
    n_in: int,
    step_in: float,
    n_out: int,
    step_out: float,
    origin: float,
    *,
    antialiased: bool = True,
) -> Floats:
    """Matrix (n_out, n_in) that takes samples of one axis to those of the window.

    Both axes are counted in input voxels from the outer edge; centres lie at +0.5. An output voxel
    is filled if half of it lies in the scan, or half of the scan in it; the others are 0. Without
    antialiasing each output voxel is interpolated between its two nearest input voxels.
    """
    centres = (origin + (np.arange(n_out) + 0.5) * step_out) / step_in
    reach = max(1.0, step_out / step_in) if antialiased else 1.0
    distance = np.abs(centres[:, None] - (np.arange(n_in) + 0.5)[None, :])
    weights = np.clip(1 - distance / reach, 0, None)
    half = step_out / step_in / 2
    overlap = np.minimum(centres + half, n_in) - np.maximum(centres - half, 0)
    inside = overlap >= min(half, n_in / 2) - 1e-6
    total = weights.sum(axis=1, keepdims=True)
    weights = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
    weights[~inside] = 0
    matrix: Floats = weights.astype(np.float32)
    matrix.setflags(write=False)
    return matrix


def _apply(voxels: NDArray[np.uint8] | NDArray[np.uint16], matrices: list[Floats]) -> Floats:
    """Multiply along rows and columns one B-scan at a time, then across B-scans."""
    across, down, along = matrices
    used = np.flatnonzero(across.any(axis=0))
    rows = _used_range(down)
    columns = _used_range(along)
    down, along = down[:, rows], np.ascontiguousarray(along[:, columns].T)
    planes = np.zeros((len(used), down.shape[0], along.shape[1]), dtype=np.float32)
    for at, bscan in enumerate(used):
        plane = voxels[bscan, rows, columns].astype(np.float32)
        planes[at] = (down @ plane) @ along
    size = planes.shape[1] * planes.shape[2]
    flat = across[:, used] @ planes.reshape(len(used), size)
    return flat.reshape(across.shape[0], *planes.shape[1:])


def _used_range(matrix: Floats) -> slice:
    used = np.flatnonzero(matrix.any(axis=0))
    return slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 0)
