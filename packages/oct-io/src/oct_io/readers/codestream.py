"""Sizes and ends of compressed frames, read from their own markers before any decoder sees them."""

import struct

SOF_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # F7 is JPEG-LS (ISO 14495-1)
ALONE = {0x01, *range(0xD0, 0xD9)}  # JPEG markers without a length
MAX_SEGMENTS = 1000


def frame_size(codestream: bytes) -> tuple[int, int] | None:
    """(rows, columns) that a JPEG 2000, JPEG or JPEG-LS frame declares; None if it is neither."""
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


def _size_of_jpeg2000(codestream: bytes, at: int) -> tuple[int, int]:
    # ISO 15444-1 A.5.1: Lsiz, Rsiz, Xsiz, Ysiz, XOsiz, YOsiz
    width, height, left, top = struct.unpack_from(">IIII", codestream, at + 4)
    return height - top, width - left


def _size_of_jpeg(codestream: bytes) -> tuple[int, int] | None:
    at = 2
    for _ in range(MAX_SEGMENTS):
        if codestream[at] != 0xFF:
            return None
        marker = codestream[at + 1]
        if marker == 0xFF or marker in ALONE:
            at += 1 if marker == 0xFF else 2
            continue
        if marker in SOF_MARKERS:
            height, width = struct.unpack_from(">HH", codestream, at + 5)
            return height, width
        at += 2 + int(struct.unpack_from(">H", codestream, at + 2)[0])
    return None


def is_whole(codestream: bytes) -> bool:
    """Whether the end mark (EOI, EOC) stands where it should, but for padding."""
    return codestream[-64:].rstrip(b"\0").endswith(b"\xff\xd9")
