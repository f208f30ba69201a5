"""Whether decoded voxels can be a retina: blank volumes, blocks of lost bytes, frames apart."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oct_io.errors import ScanError
from oct_io.volume import Voxels

_GAP = bytes(2048)  # half a page; a real scan has 271 zeros in a row in its dark vitreous

RAGGED = 16  # voxels by which a gap's end must miss a row's end, to be no masked area
THUMB = 24  # blocks along rows and columns of the small pictures that are compared
LEAST_COMPARED = 8  # frames; of fewer, nobody can say what is usual
FAR = 0.25  # one less the correlation with the better neighbour: 0.02 at most in a real scan
FARTHER_THAN_USUAL = 6.0  # times the volume's median; made-up scans with coarse steps reach 2.6
FAINT = 0.5  # of the usual contrast: a blink, which is like nothing else either


def check_gaps(content: bytes, start: int, voxels: NDArray[Any], where: str) -> None:
    """Refuse uncompressed voxels in which a block of bytes was lost and reads as zeros.

    Scanners blank whole rows, columns and frames. A lost block follows the file instead: it begins
    or ends within a row where the row above or below shows something.

    Args:
        content: the file.
        start: of its voxels.
        voxels: (bscans, rows, columns) in file order, a view of the same bytes.
        where: for messages.

    Raises:
        ScanError: stage `content`.
    """
    columns = voxels.shape[2]
    lines = voxels.reshape(-1, columns)
    at, end = start, start + voxels.nbytes
    while (at := content.find(_GAP, at, end)) >= 0:
        stop = _end_of_zeros(content, at, end)
        first, last = (at - start) // voxels.itemsize, (stop - start) // voxels.itemsize
        (top, left), (bottom, right) = divmod(first, columns), divmod(last, columns)
        before = slice(left, right if top == bottom else columns)
        after = slice(left if top == bottom else 0, right)
        if (left and _is_lit(lines, top - 1, before)) or (
            right and _is_lit(lines, bottom + 1, after)
        ):
            reason = f"{stop - at:,} zero bytes lie across rows of the image: a block was lost"
            raise ScanError(where, "content", reason)
        at = stop


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


def check_content(voxels: Voxels, where: str) -> None:
    """Refuse voxels that show nothing.

    Single dark frames are blinks, and no reason to refuse a scan.

    Args:
        voxels: (bscans, rows, columns) from superior to inferior.
        where: for messages.

    Raises:
        ScanError: stage `content`.
    """
    flat = np.array([_is_flat(frame) for frame in voxels])
    if flat.all():
        reason = f"every one of the {len(voxels)} frames is of one grey level: no image"
        raise ScanError(where, "content", reason)
    if flat.mean() > 0.5:
        reason = f"{flat.sum()} of {len(voxels)} frames are of one grey level: no volume"
        raise ScanError(where, "content", reason)


def _is_flat(frame: NDArray[Any]) -> bool:
    first = frame[0, 0]
    few = frame[:: max(1, len(frame) // 8)]  # tells nearly always, and takes a sixtieth of the time
    return bool((few == first).all() and (frame == first).all())


def check_outliers(voxels: Voxels, order: Sequence[int], where: str) -> None:
    """Refuse a volume in which a frame is unlike both of its neighbours: a damaged codestream.

    A decoder that lost its place goes on with shifted and wrong grey levels. Frames are compared as
    small pictures; dark ones may be blinks.

    Args:
        voxels: decoded frames, (bscans, rows, columns) in file order.
        order: frame indices from superior to inferior.
        where: for messages.

    Raises:
        ScanError: stage `content`.
    """
    if len(voxels) < LEAST_COMPARED:
        return
    small = np.stack([_thumb(voxels[i]) for i in order])
    small -= small.mean(axis=1, keepdims=True)
    contrast = np.linalg.norm(small, axis=1)
    small /= np.maximum(contrast, 1e-6)[:, None]
    likeness = (small[1:] * small[:-1]).sum(axis=1)
    away = 1 - np.maximum(np.append(likeness, -1), np.append(-1, likeness))
    limit = max(FAR, FARTHER_THAN_USUAL * float(np.median(away)))
    odd = np.flatnonzero((away > limit) & (contrast > FAINT * np.median(contrast)))
    if len(odd):
        seen = f"frame {order[odd[0]] + 1} is unlike its neighbours"
        if len(odd) > 1:
            seen = f"{len(odd)} frames are unlike their neighbours"
        raise ScanError(where, "content", f"{seen}: a damaged codestream")


def _thumb(frame: NDArray[Any]) -> NDArray[np.float32]:
    rows, columns = (max(1, size // THUMB) for size in frame.shape)
    cut = frame[: frame.shape[0] // rows * rows, : frame.shape[1] // columns * columns]
    blocks = cut.reshape(len(cut) // rows, rows, -1, columns)
    return blocks.mean(axis=(1, 3), dtype=np.float32).ravel()
