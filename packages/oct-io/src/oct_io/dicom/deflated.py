"""Deflated DICOM (PS3.5 A.5), unpacked to the syntax it stands for and never beyond a limit."""

import zlib

from oct_io.errors import ScanError

DEFLATED = b"1.2.840.10008.1.2.1.99"
EXPLICIT = b"1.2.840.10008.1.2.1\0\0\0"  # of the same length, so that nothing else moves
META_START = 132  # preamble and mark
LONG = (b"OB", b"OW", b"UN", b"UT", b"SQ", b"OF", b"OD", b"OL", b"UC", b"UR")  # 4 bytes of length


def is_deflated(content: bytes) -> bool:
    """Whether the file meta information names the deflated transfer syntax."""
    end = meta_end(content)
    return end is not None and DEFLATED in content[META_START:end]


def unfold(content: bytes, where: str, limit: int) -> tuple[bytes, bool]:
    """The same file in explicit little endian, at most `limit` bytes of it; also whether it is all.

    Raises:
        ScanError: stage `parse`, if the packed bytes are damaged.
    """
    end = meta_end(content)
    assert end is not None  # `is_deflated` was asked first
    unpacker = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
    try:
        body = unpacker.decompress(content[end:], limit)
    except zlib.error:
        raise ScanError(where, "parse", "the deflated bytes are damaged") from None
    whole = unpacker.eof
    return content[:end].replace(DEFLATED, EXPLICIT) + body, whole


def meta_end(content: bytes) -> int | None:
    """Where the file meta information ends; it is never deflated. None if that is not in here.

    Element by element, as readers do, and not by the length that its first element states.
    """
    at = META_START
    while content[at : at + 2] == b"\x02\x00":
        if content[at + 4 : at + 6] in LONG:
            at += 12 + int.from_bytes(content[at + 8 : at + 12], "little")
        else:
            at += 8 + int.from_bytes(content[at + 6 : at + 8], "little")
    return at if META_START < at <= len(content) else None
