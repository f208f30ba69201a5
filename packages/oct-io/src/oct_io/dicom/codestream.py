"""Sizes, ends and gaps of compressed frames, read from their bytes before any decoder sees them."""

import struct
from typing import NamedTuple

SOF_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # F7 is JPEG-LS (ISO 14495-1)
ALONE = {0x01, *range(0xD0, 0xD9)}  # JPEG markers without a length
MAX_SEGMENTS = 1000
MAX_TILES = 65535  # ISO 15444-1 A.4.2: their number has 16 bits
RLE_HEADER = 64

LONG_ZEROS = 48
"""Zero bytes in a row that no arithmetic coder and no Golomb code writes: the longest seen in clean
frames of real and made-up scans is 10, blank frames included."""

_ZEROS = bytes(LONG_ZEROS)


class FrameSize(NamedTuple):
    """What a frame says of itself; a decoder allocates as much, so that it is compared first."""

    rows: int
    columns: int
    components: int
    bits: int


def frame_size(codestream: bytes) -> FrameSize | None:
    """Size that a JPEG 2000, JPEG or JPEG-LS frame declares; None if it is neither."""
    try:
        if codestream[:4] == b"\xff\x4f\xff\x51":
            return _size_of_jpeg2000(codestream, 4)
        if codestream[4:8] == b"jP  ":
            start = codestream.find(b"\xff\x4f\xff\x51", 0, 4096)
            return _size_of_jpeg2000(codestream, start + 4) if start > 0 else None
        if codestream[:2] == b"\xff\xd8":
            return _size_of_jpeg(codestream)
    except (struct.error, IndexError):
        return None
    return None


def _size_of_jpeg2000(codestream: bytes, at: int) -> FrameSize | None:
    # ISO 15444-1 A.5.1: Lsiz, Rsiz, Xsiz, Ysiz, XOsiz, YOsiz, four of tiles, Csiz, then Ssiz,
    # XRsiz, YRsiz of each component. A decoder may loop for ever over tiles without a height.
    width, height, left, top = struct.unpack_from(">IIII", codestream, at + 4)
    across, down, x, y = struct.unpack_from(">IIII", codestream, at + 20)
    components, depth, *step = struct.unpack_from(">HBBB", codestream, at + 36)
    if not (x <= left < x + across and y <= top < y + down and step == [1, 1]):
        return None
    if -(-(width - x) // across) * -(-(height - y) // down) > MAX_TILES:
        return None
    return FrameSize(height - top, width - left, components, (depth & 0x7F) + 1)


def _size_of_jpeg(codestream: bytes) -> FrameSize | None:
    at = 2
    for _ in range(MAX_SEGMENTS):
        if codestream[at] != 0xFF:
            return None
        marker = codestream[at + 1]
        if marker == 0xFF or marker in ALONE:
            at += 1 if marker == 0xFF else 2
            continue
        if marker in SOF_MARKERS:
            bits, height, width, components = struct.unpack_from(">BHHB", codestream, at + 4)
            return FrameSize(height, width, components, bits)
        at += 2 + int(struct.unpack_from(">H", codestream, at + 2)[0])
    return None


def is_whole(codestream: bytes) -> bool:
    """Whether the end mark (EOI, EOC) stands where it should, but for padding."""
    return codestream[-64:].rstrip(b"\0").endswith(b"\xff\xd9")


def zero_run(codestream: bytes) -> int:
    """Length of the longest row of zero bytes before the frame's end; 0 if under `LONG_ZEROS`.

    Where bytes of a file were lost, zeros stand in their place: a page of 4096 or a disk block.
    """
    end = len(codestream.rstrip(b"\0"))  # behind it lies padding
    longest, at = 0, 0
    while (at := codestream.find(_ZEROS, at, end)) >= 0:
        stop = end - len(codestream[at:end].lstrip(b"\0"))
        longest, at = max(longest, stop - at), stop
    return longest
