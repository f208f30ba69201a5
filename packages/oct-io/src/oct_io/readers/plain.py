"""Arrays that carry no metadata of a scanner: their header, their axes, their grey levels."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oct_io.errors import ScanError
from oct_io.readers.sidecar import AXES, EXAMPLE, FOLDER_SIDECAR, Sidecar
from oct_io.scan.file import ScanFile
from oct_io.scan.geometry import Placement
from oct_io.scan.header import ScanHeader, cure_of
from oct_io.scan.outcome import complete
from oct_io.volume import CONFIDENCE, OctVolume, Pattern, Spacing, SpacingSource, Voxels

UNKNOWN = Spacing(np.nan, np.nan, np.nan)
BRIGHT = 99.5  # percentile that is white; above are vessels, metal and noise
SAMPLED = 1 << 20  # voxels settle a percentile


def sidecar_header(
    file: ScanFile, sidecar: Sidecar, name: str, shape: Sequence[int], itemsize: int
) -> ScanHeader:
    """Header of an array whose pattern and spacing only the caller or its sidecar knows.

    `name` is that of the sidecar, `shape` that of the array, its axes in any order. A caller who
    gives NaN says that nobody knows the spacing; of what is no OCT nobody needs to.

    Raises:
        ScanError: stage `geometry`, with the sidecar to write, if nobody says the spacing.
    """
    spacing = file.spacing or sidecar.spacing
    if spacing is None and sidecar.kind == "volume":
        spacing = UNKNOWN
    if spacing is None:
        reason = (
            f"nothing tells its spacing; write {name} like {EXAMPLE} with millimetres (between "
            f"B-scans, along depth, between A-scans), or {FOLDER_SIDECAR} for all scans of a "
            "folder, or give spacing=Spacing(...)"
            f"{cure_of(sidecar.kind)}"
        )
        raise ScanError(file.where, "geometry", reason)
    ordered = arranged_shape(shape, sidecar.axes)
    source: SpacingSource = "unknown" if math.isnan(spacing.row) else "given"
    placed = placement(spacing, source, sidecar.pattern, ordered[0])
    return plain_header(ordered, itemsize, placed, (spacing.row, spacing.column), sidecar)


def placement(spacing: Spacing, source: SpacingSource, pattern: Pattern, bscans: int) -> Placement:
    """B-scans that lie in order, `spacing.bscan` apart if they are a raster."""
    order = tuple(range(bscans))
    if bscans == 1 and pattern == "raster":
        return Placement("line", order, None, None, "one B-scan, not a volume")
    if pattern != "raster":
        return Placement(pattern, order, None, None, f"its sidecar calls it a {pattern} scan")
    return Placement("raster", order, spacing.bscan, source, "", CONFIDENCE[source])


def plain_header(
    shape: tuple[int, int, int],
    itemsize: int,
    placed: Placement,
    pitch: tuple[float, float],
    said: Sidecar | OctVolume,
) -> ScanHeader:
    """A `ScanHeader` of what has none of its own; `pitch` is millimetres (row, column)."""
    step = placed.bscan_mm
    return ScanHeader(
        shape=shape,
        bits=8 * min(itemsize, 2),
        allocated=8 * min(itemsize, 2),
        row_mm=pitch[0],
        column_mm=pitch[1],
        spacing=None if step is None else Spacing(step, *pitch),
        spacing_source=placed.source,
        spacing_confidence=placed.confidence,
        pattern=placed.pattern,
        pattern_note=placed.note,
        order=placed.order,
        laterality=said.laterality,
        device=said.device,
        protocol=said.protocol,
        region=said.region,
        transfer_syntax="",
        participant_id=said.participant_id,
        kind=said.kind,
    )


def arranged_shape(shape: Sequence[int], axes: Sequence[str] | None) -> tuple[int, int, int]:
    """(bscans, rows, columns) of an array whose axes are called `axes`."""
    names = [axis.removeprefix("-") for axis in axes or AXES]
    bscans, rows, columns = (int(shape[names.index(axis)]) for axis in AXES)
    return bscans, rows, columns


def arranged(array: NDArray[Any], axes: Sequence[str] | None) -> NDArray[Any]:
    """The array as (bscan, row, column), each axis forwards."""
    if axes is None:
        return array
    names = [axis.removeprefix("-") for axis in axes]
    array = array[tuple(slice(None, None, -1 if axis[0] == "-" else 1) for axis in axes)]
    return array.transpose([names.index(axis) for axis in AXES])


def plain_volume(
    file: ScanFile, array: NDArray[Any], sidecar: Sidecar, header: ScanHeader
) -> OctVolume:
    """The volume of an array, with the axes and grey levels that its sidecar says it has.

    Raises:
        ScanError: stage `content`, or `geometry` for what is no volume.
    """
    array = arranged(array, sidecar.axes)
    if sidecar.kind == "volume" and sidecar.value_range is None:
        voxels: Voxels = own_grey(array, file.where)
    else:
        voxels = grey(array, sidecar.value_range, file.where)
    return complete(voxels, header, file.where, patterns=file.patterns)


def own_grey(array: NDArray[Any], where: str) -> NDArray[np.uint8]:
    """Voxels from the least value, black, to the one that only a few surpass, white.

    Scales of MR images differ from one to the next, so that each has its own; who has values that
    mean something, such as those of CT, says a `value_range`. What is not finite becomes black.

    Raises:
        ScanError: stage `content`, for what are no numbers.
    """
    if array.dtype.kind not in "biuf":
        raise ScanError(where, "content", f"voxels of type {array.dtype}")
    values = array.astype(np.float32)
    finite = values[np.isfinite(values)]
    if not len(finite):
        raise ScanError(where, "content", "no voxel is finite")
    low, highest = float(finite.min()), float(finite.max())
    high = float(np.percentile(finite[:: finite.size // SAMPLED | 1], BRIGHT))
    if high <= low:
        high = highest if highest > low else low + 1  # a small shape, or one grey level
    return grey(np.nan_to_num(values, nan=low, neginf=low), (low, high), where).astype(np.uint8)


def grey(array: NDArray[Any], value_range: tuple[float, float] | None, where: str) -> Voxels:
    """Voxels as uint8 or uint16; nothing is scaled unless a `value_range` says how.

    Whole numbers that fit stay what they are. Other values need a range, because black and white
    guessed from one scan would differ from the next scan's.

    Raises:
        ScanError: stage `content`.
    """
    if value_range is not None:
        low, high = value_range
        with np.errstate(invalid="ignore"):
            scaled = (array.astype(np.float32) - low) * (255 / (high - low))
        return np.rint(np.clip(np.nan_to_num(scaled, posinf=255), 0, 255)).astype(np.uint8)
    if array.dtype in (np.uint8, np.uint16):
        kind = np.uint8 if array.dtype.itemsize == 1 else np.uint16
        return np.ascontiguousarray(array.astype(kind, copy=False))
    if array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        raise ScanError(where, "content", f"voxels of type {array.dtype}, or not finite")
    low, high = float(array.min()), float(array.max())
    if low < 0 or high > 65535 or (array.dtype.kind == "f" and (array % 1 != 0).any()):
        reason = (
            f"voxels of type {array.dtype} between {low:g} and {high:g} are no grey levels; "
            'say what is black and white in a sidecar: {"value_range": [0.0, 1.0], ...}'
        )
        raise ScanError(where, "content", reason)
    if high <= 255 and array.dtype.itemsize != 2:
        return array.astype(np.uint8)
    return array.astype(np.uint16)
