"""Whether decoded voxels can be a retina: blank volumes, blocks of lost bytes, frames apart."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from oct_io.errors import ScanError

Voxels = NDArray[np.uint8] | NDArray[np.uint16]

LEAST_GAP_BYTES = 512  # a disk sector
RAGGED = 16  # voxels by which a gap's end must miss a row's end, to be no masked area
THUMB = 24  # blocks along rows and columns of the small pictures that are compared


def check_gaps(voxels: NDArray[Any], where: str) -> None:
    """Refuse uncompressed voxels in which a block of bytes was lost and reads as zeros.

    Scanners blank whole rows and columns. A lost block follows the file instead: it runs over rows'
    ends, and begins or ends within a row where the rows above and below are not black.

    Args:
        voxels: (bscans, rows, columns) in file order.
        where: for messages.

    Raises:
        ScanError: stage `content`.
    """
    columns = voxels.shape[2]
    lines = voxels.reshape(-1, columns)
    least = max(-(-LEAST_GAP_BYTES // voxels.itemsize), columns + 1)
    blank = ~lines.any(axis=1)  # a gap of two rows or more holds a blank one
    edges = np.flatnonzero(np.diff(np.concatenate(([0], blank.view(np.int8), [0]))))
    for first, end in edges.reshape(-1, 2):
        before = _zeros_at_end(lines[first - 1]) if first else 0
        after = _zeros_at_end(lines[end][::-1]) if end < len(lines) else 0
        count = before + (end - first) * columns + after
        ragged = (
            before >= RAGGED and _is_lit(lines, first - 2, slice(columns - before, None))
        ) or (after >= RAGGED and _is_lit(lines, end + 1, slice(None, after)))
        if count >= least and ragged:
            size = int(count) * voxels.itemsize
            reason = f"{size:,} zero bytes begin or end within a row: a block of bytes was lost"
            raise ScanError(where, "content", reason)


def _zeros_at_end(line: NDArray[Any]) -> int:
    lit = np.flatnonzero(line)
    return len(line) - 1 - int(lit[-1]) if len(lit) else len(line)


def _is_lit(lines: NDArray[Any], row: int, part: slice) -> bool:
    """Whether that part of a row shows something; rows outside do not."""
    return 0 <= row < len(lines) and bool(
        np.count_nonzero(lines[row][part]) * 2 > lines[row][part].size
    )


def check_content(voxels: Voxels, where: str) -> None:
    """Refuse voxels that show nothing.

    Single dark frames are blinks, and no reason to refuse a scan.

    Args:
        voxels: (bscans, rows, columns) from superior to inferior.
        where: for messages.

    Raises:
        ScanError: stage `content`.
    """
    flat = np.array([bool((frame == frame.flat[0]).all()) for frame in voxels])
    if flat.all():
        reason = f"every one of the {len(voxels)} frames is of one grey level: no image"
        raise ScanError(where, "content", reason)
    if flat.mean() > 0.5:
        reason = f"{flat.sum()} of {len(voxels)} frames are of one grey level: no volume"
        raise ScanError(where, "content", reason)
