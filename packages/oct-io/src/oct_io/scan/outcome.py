"""What every reader ends with: checks of geometry and content, frames in order, one volume."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from oct_io.boundaries import with_standard_names
from oct_io.errors import ScanError
from oct_io.scan.content import check_content
from oct_io.scan.file import RASTER
from oct_io.scan.geometry import implausible
from oct_io.scan.header import ScanHeader
from oct_io.volume import OctVolume, Pattern, Spacing, Voxels

MAX_VOXEL_BYTES = 1 << 30  # the largest known OCT volumes take 260 MB

Layers = Mapping[str, NDArray[np.float32]]


def check_geometry(header: ScanHeader, where: str, patterns: Sequence[Pattern] = RASTER) -> None:
    """Refuse a scan pattern that nobody admitted, or a distance that nobody can believe.

    Raises:
        ScanError: stage `geometry`.
    """
    if header.pattern not in patterns:
        named = "" if header.pattern == "unknown" else f"{header.pattern} scan: "
        how = f"; patterns=('{header.pattern}',) admits it"
        raise ScanError(where, "geometry", f"{named}{header.pattern_note}{how}")
    spacing = header.spacing
    if spacing is None and header.pattern == "raster":
        reason = (
            "nothing tells the distance between B-scans: no frame positions, localizer lines, "
            "SpacingBetweenSlices or SliceThickness, and no known protocol; "
            "spacing=Spacing(...) gives it"
        )
        raise ScanError(where, "geometry", reason)
    if header.spacing_source == "unknown":
        return  # the caller says that nobody knows it, and takes it in voxels
    known = spacing or Spacing(np.nan, header.row_mm, header.column_mm)
    if wrong := implausible(*known, header.kind):
        raise ScanError(where, "geometry", wrong)


def check_size(header: ScanHeader, where: str) -> None:
    """Refuse a volume that claims more memory than any scan takes, or a voxel type that none has.

    Raises:
        ScanError: stage `decode` or `parse`.
    """
    if header.allocated not in (8, 16) or not 0 < header.bits <= header.allocated:
        reason = f"{header.bits} of {header.allocated} bits per voxel; 8 or 16 are read"
        raise ScanError(where, "parse", reason)
    frames, rows, columns = header.shape
    size = frames * rows * columns * header.allocated // 8
    if size > MAX_VOXEL_BYTES:
        reason = (
            f"header claims {frames} x {rows} x {columns} voxels, {size:,} bytes, "
            f"more than {MAX_VOXEL_BYTES:,}"
        )
        raise ScanError(where, "decode", reason)


def check_length(header: ScanHeader, size: int, where: str) -> None:
    """Refuse a file that is shorter than its own voxels, which stand in it as they are.

    Raises:
        ScanError: stage `decode`.
    """
    frames, rows, columns = header.shape
    needed = frames * rows * columns * header.allocated // 8
    if size < needed:
        reason = f"header promises {needed:,} bytes of voxels, the file has {size:,} in all"
        raise ScanError(where, "decode", reason)


def check_bytes(shape: Sequence[int], itemsize: int, where: str) -> None:
    """Refuse more memory than any scan takes, before it is asked for.

    Raises:
        ScanError: stage `decode`.
    """
    size = itemsize
    for count in shape:
        size *= int(count)
    if size > MAX_VOXEL_BYTES or min(shape, default=0) < 1:
        claimed = " x ".join(str(count) for count in shape)
        reason = f"header claims {claimed} voxels, {size:,} bytes, not 1 to {MAX_VOXEL_BYTES:,}"
        raise ScanError(where, "decode", reason)


def complete(
    voxels: Voxels,
    header: ScanHeader,
    where: str,
    *,
    patterns: Sequence[Pattern] = RASTER,
    layers: Layers | None = None,
    localizer: NDArray[np.uint8] | None = None,
    localizer_lines: NDArray[np.float32] | None = None,
    lost_bytes: str = "",
) -> OctVolume:
    """Make a volume of the frames of a file, sorted from superior to inferior.

    Args:
        voxels: (bscans, rows, columns) in the order of the file.
        header: what was read of the file.
        where: for messages.
        patterns: scan patterns that the caller admits.
        layers: surfaces, (bscans, columns) in the order of the file, by the file's words.
        localizer: en-face image.
        localizer_lines: where the B-scans lie on it, (bscans, 4) in the order of the file; see
            `OctVolume`.
        lost_bytes: what suggests that bytes of the file are missing.

    Raises:
        ScanError: stage `geometry` or `content`.
    """
    check_geometry(header, where, patterns)
    check_content(voxels, where, header.kind)
    order = np.asarray(header.order)
    if (np.diff(order) != 1).any():
        voxels = voxels[order]
        layers = {name: surface[order] for name, surface in (layers or {}).items()}
        localizer_lines = None if localizer_lines is None else localizer_lines[order]
    return OctVolume(
        voxels=voxels,
        spacing=header.spacing or Spacing(np.nan, header.row_mm, header.column_mm),
        spacing_source=header.spacing_source or "none",
        spacing_confidence=header.spacing_confidence,
        laterality=header.laterality,
        device=header.device,
        protocol=header.protocol,
        region=header.region,
        pattern=header.pattern,
        participant_id=header.participant_id,
        layers=with_standard_names(layers or {}),
        localizer=localizer,
        localizer_lines=localizer_lines,
        bits=min(header.bits, 8 * voxels.itemsize),
        lost_bytes=lost_bytes,
        direction=header.pattern_note if header.pattern == "raster" else "",
        kind=header.kind or "oct",
    )


def check_frames(frames: Sequence[int], bscans: int) -> tuple[int, ...]:
    """The chosen B-scans as plain numbers.

    Raises:
        ValueError: none, not increasing, or outside of the scan.
    """
    chosen = tuple(int(frame) for frame in frames)
    rising = all(one < other for one, other in pairwise(chosen))
    if not chosen or not rising or chosen[0] < 0 or chosen[-1] >= bscans:
        raise ValueError(f"frames must increase within 0 to {bscans - 1}, not {chosen[:20]}")
    return chosen


def narrowed(header: ScanHeader, frames: Sequence[int]) -> ScanHeader:
    """Header of some B-scans of a scan, numbered from superior to inferior.

    The distance between them grows with an even step. One B-scan alone is a line, and what is left
    by uneven steps has pattern "unknown": neither has a distance.
    """
    steps = np.diff(frames)
    changes: dict[str, object] = {
        "shape": (len(frames), *header.shape[1:]),
        "order": tuple(range(len(frames))),
    }
    if header.pattern == "raster" and header.spacing is not None:
        if len(steps) and (steps == steps[0]).all():
            wide = header.spacing.bscan * int(steps[0])
            changes["spacing"] = header.spacing._replace(bscan=wide)
        else:
            pattern = "unknown" if len(steps) else "line"
            changes |= {"pattern": pattern, "spacing": None, "spacing_source": None}
            changes |= {"pattern_note": "chosen B-scans", "spacing_confidence": "none"}
    return replace(header, **changes)  # type: ignore[arg-type]
