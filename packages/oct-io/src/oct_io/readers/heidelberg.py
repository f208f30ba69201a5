"""Heidelberg Spectralis exports, .vol, parsed by eyepy; and what all HEYEX exports share."""

import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oct_io.errors import ScanError, refusing
from oct_io.readers.extras import needed
from oct_io.readers.plain import plain_header
from oct_io.readers.sidecar import SIDES, Sidecar
from oct_io.scan.file import ScanFile
from oct_io.scan.geometry import FrameGeometry, Placement, place_frames
from oct_io.scan.header import ScanHeader
from oct_io.scan.outcome import check_bytes, complete
from oct_io.scan.protocols import find_protocol
from oct_io.volume import OctVolume, Pattern

DEVICE = "heidelberg_spectralis"
VOL_HEAD_BYTES = 2048
INVALID = 3.0e38  # HEYEX writes the largest float where it has no value
GREY_LEVELS_ABOVE = 1.99  # no reflectivity is; eyepy's own threshold
PATTERNS: dict[int, Pattern] = {1: "line", 2: "circle", 3: "raster", 4: "raster", 5: "radial"}
"""ScanPattern of the file's header; 0 is a pattern that HEYEX did not name."""


def vol_sizes(head: bytes, where: str) -> tuple[int, int, int]:
    """(bscans, rows, columns) from the first bytes of a .vol file, checked against the limits.

    Raises:
        ScanError: stage `parse` or `decode`.
    """
    if len(head) < VOL_HEAD_BYTES or not head[:8].startswith((b"HSF-OCT-", b"ep-v")):
        raise ScanError(where, "parse", "not a HEYEX .vol file: no HSF-OCT mark at its start")
    columns, bscans, rows = struct.unpack_from("<III", head, 12)
    check_bytes((bscans, rows, columns), 4, where)  # stored as float32
    return bscans, rows, columns


def display_levels(reflectivity: NDArray[np.float32], where: str) -> NDArray[np.uint8]:
    """Raw reflectivity, 0 to 1, as grey levels: eyepy's logarithm, which follows HEYEX's display.

    0 where the scanner has no value. Files that eyepy itself wrote may hold grey levels already;
    those stay as they are.
    """
    utils = needed("eyepy.core.utils", "vendors", where)
    valid = np.nan_to_num(reflectivity, nan=0.0, posinf=0.0, neginf=0.0)
    valid[valid >= INVALID] = 0
    np.clip(valid, 0, None, out=valid)
    if float(valid.max(initial=0.0)) > GREY_LEVELS_ABOVE:
        return np.rint(np.clip(valid, 0, 255)).astype(np.uint8)
    levels: NDArray[np.uint8] = utils.from_vol_intensity(valid)
    return levels


def read_vol(file: ScanFile) -> OctVolume:
    """Read a .vol file with its layers and its localizer.

    Raises:
        ScanError: with its stage; `geometry` for line, circle and radial scans.
    """
    content, where = file.content(), file.where
    sizes = vol_sizes(content[:VOL_HEAD_BYTES], where)
    reader = needed("eyepy.io.he.vol_reader", "vendors", where)
    if len(content) < VOL_HEAD_BYTES + 4 * math.prod(sizes):
        reason = f"cut off: {len(content):,} bytes are too few for {sizes[0]} B-scans"
        raise ScanError(where, "decode", reason)
    with refusing(where, "decode", "the .vol file is cut off or damaged"):
        parsed = reader.vol_format.parse(content)
        header = _describe_vol(file, parsed, sizes)
        layers = _vol_layers(parsed, reader.SEG_MAPPING)
        raw = [np.array(bscan.data) for bscan in parsed.bscans]
        voxels = np.stack([display_levels(one, where) for one in raw])
    localizer = np.array(parsed.localizer, dtype=np.uint8)
    pixel_mm = (parsed.scale_y_slo, parsed.scale_x_slo)
    return complete(
        voxels,
        header,
        where,
        patterns=file.patterns,
        layers=layers,
        localizer=localizer,
        localizer_lines=lines_on(_vol_lines(parsed), pixel_mm) if min(pixel_mm) > 0 else None,
    )


def _vol_lines(parsed: Any) -> list[tuple[float, float, float, float]]:
    return [(bscan.start_x, bscan.start_y, bscan.end_x, bscan.end_y) for bscan in parsed.bscans]


def lines_on(
    lines_mm: Sequence[tuple[float, float, float, float]], pixel_mm: tuple[float, float]
) -> NDArray[np.float32]:
    """`OctVolume.localizer_lines` of lines in millimetres, (x, y) of start and of end.

    Args:
        lines_mm: in any order.
        pixel_mm: size of a pixel of the localizer, (row, column).
    """
    xy = np.asarray(lines_mm, dtype=np.float64).reshape(-1, 4)
    return (xy[:, [1, 0, 3, 2]] / np.tile(pixel_mm, 2)).astype(np.float32)


def _describe_vol(file: ScanFile, parsed: Any, sizes: tuple[int, int, int]) -> ScanHeader:
    return spectralis_header(
        file,
        sizes,
        pitch=(parsed.scale_y, parsed.scale_x),
        lines_mm=_vol_lines(parsed),
        pattern=PATTERNS.get(parsed.scan_pattern),
        distance_mm=parsed.distance,
        side=str(parsed.scan_position),
        participant=str(parsed.patient_id).strip("\0 "),
    )


def spectralis_header(
    file: ScanFile,
    sizes: tuple[int, int, int],
    *,
    pitch: tuple[float, float],
    lines_mm: Sequence[tuple[float, float, float, float]],
    pattern: Pattern | None,
    distance_mm: float | None,
    side: str,
    participant: str,
) -> ScanHeader:
    """Header of a HEYEX export.

    Args:
        file: the scan.
        sizes: (bscans, rows, columns).
        pitch: millimetres (row, column).
        lines_mm: (x, y) of start and of end of each B-scan on the localizer; y grows downwards.
        pattern: what the file calls its pattern, if it does.
        distance_mm: distance between B-scans as the file states it; 0 or None if it does not.
        side: "OD" or "OS", "R" or "L".
        participant: as in the file.
    """
    if file.spacing is not None:
        pitch = (file.spacing.row, file.spacing.column)
    xy = np.asarray(lines_mm, dtype=np.float64).reshape(-1, 4)
    curved = np.full(sizes[0], pattern == "circle")
    protocol = find_protocol(file.name)
    frames = FrameGeometry(
        frames=sizes[0],
        columns=sizes[2],
        column_mm=pitch[1],
        lines=xy[:, [1, 0, 3, 2]],
        localizer_mm=(1.0, 1.0),  # in HEYEX exports the lines are in millimetres already
        curved=curved,
        spacing_between_slices=distance_mm or None,
        protocol=protocol,
    )
    placed = place_frames(frames)
    if pattern == "radial" and placed.pattern == "raster":
        note = "the file calls it a radial scan, not a volume"
        placed = Placement("radial", placed.order, None, None, note)
    if file.spacing is not None and placed.pattern == "raster":
        placed = placed._replace(bscan_mm=file.spacing.bscan, source="given", confidence="high")
    said = Sidecar(
        laterality=SIDES.get(side.strip("\0 "), "unknown"),
        device=DEVICE,
        protocol=protocol.token if protocol else "unknown",
        region=protocol.region if protocol else "unknown",
        participant_id=participant if participant != "unknown" else "",
    )
    return plain_header(sizes, 1, placed, pitch, said)


def _vol_layers(parsed: Any, names: dict[str, int]) -> dict[str, NDArray[np.float32]]:
    """Surfaces that have a value anywhere, by HEYEX's names."""
    stacks = [np.array(bscan.layer_segmentations) for bscan in parsed.bscans]
    layers = {}
    for name, number in names.items():
        rows = [s[number] if number < len(s) else np.full(parsed.size_x, np.nan) for s in stacks]
        surface = np.stack(rows).astype(np.float32)
        surface[~(np.abs(surface) < INVALID)] = np.nan
        if np.isfinite(surface).any() and float(np.nanmax(surface)) > 0:
            layers[name] = surface
    return layers
