"""Whether decoded voxels can be a scan: blank volumes, and blocks of lost bytes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from oct_io.errors import ScanError
from oct_io.scan.header import cure_of
from oct_io.volume import Kind, Voxels

_GAP = bytes(2048)  # half a page; a real scan has 271 zeros in a row in its dark vitreous

RAGGED = 16  # voxels by which a gap's end must miss a row's end, to be no masked area
BATCH_BYTES = 32 << 20  # copied at a time while gaps are looked for


def has_gap(voxels: Voxels) -> bool:
    """Whether a block of bytes seems to be lost and reads as zeros.

    Scanners blank whole rows, columns and frames, and margins that slant where B-scans were turned
    to match. A lost block follows the file instead: it begins or ends within a row where the row
    above or below shows something, and away from the first and last row of a B-scan.

    Args:
        voxels: (bscans, rows, columns); a gap is as long in them as in an uncompressed file.
    """
    frames = max(1, BATCH_BYTES // max(1, voxels[0].nbytes))
    batches = (voxels[first : first + frames] for first in range(0, len(voxels), frames))
    return any(map(_has_gap, batches))


def _has_gap(voxels: Voxels) -> bool:
    content, columns = voxels.tobytes(), voxels.shape[2]
    lines, frame = voxels.reshape(-1, columns), voxels[0].size
    at, end = 0, len(content)
    while (at := content.find(_GAP, at, end)) >= 0:
        stop = _end_of_zeros(content, at, end)
        first, last = at // voxels.itemsize, stop // voxels.itemsize
        at = stop
        if any(min(n % frame, -n % frame) <= columns for n in (first, last)):
            continue  # a margin
        (top, left), (bottom, right) = divmod(first, columns), divmod(last, columns)
        before = slice(left, right if top == bottom else columns)
        after = slice(left if top == bottom else 0, right)
        if (left and _is_lit(lines, top - 1, before)) or (
            right and _is_lit(lines, bottom + 1, after)
        ):
            return True
    return False


def _end_of_zeros(content: bytes, at: int, end: int) -> int:
    step = 1 << 16
    while at < end:
        part = content[at : min(at + step, end)]
        kept = part.lstrip(b"\0")
        if kept:
            return at + len(part) - len(kept)
        at += len(part)
    return end


def _is_lit(lines: NDArray[Any], row: int, part: slice) -> bool:
    """Whether that part of a row shows something; rows outside do not, nor do a few voxels."""
    if not 0 <= row < len(lines) or part.stop - part.start < RAGGED:
        return False
    return bool(np.count_nonzero(lines[row][part]) * 2 > part.stop - part.start)


def check_content(voxels: Voxels, where: str, kind: Kind | None = None) -> None:
    """Refuse voxels that show nothing.

    Single dark frames are blinks, and no reason to refuse a scan; a shape may leave most of them
    empty.

    Args:
        voxels: (bscans, rows, columns) from superior to inferior.
        where: for messages.
        kind: as a sidecar says it; None where the format holds retinas only.

    Raises:
        ScanError: stage `content`.
    """
    flat = np.array([_is_flat(frame) for frame in voxels])
    if flat.all():
        reason = f"every one of the {len(voxels)} frames is of one grey level: no image"
        raise ScanError(where, "content", reason)
    if flat.mean() > 0.5 and kind != "volume":
        reason = f"{flat.sum()} of {len(voxels)} frames are of one grey level: no volume"
        raise ScanError(where, "content", reason + cure_of(kind))


def _is_flat(frame: NDArray[Any]) -> bool:
    first = frame[0, 0]
    few = frame[:: max(1, len(frame) // 8)]  # tells nearly always, and takes a sixtieth of the time
    return bool((few == first).all() and (frame == first).all())
