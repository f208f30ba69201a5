"""Deflated DICOM (PS3.5 A.5), unpacked to the syntax it stands for and never beyond a limit."""

import struct
import zlib

from oct_io.errors import ScanError

DEFLATED = b"1.2.840.10008.1.2.1.99"
EXPLICIT = b"1.2.840.10008.1.2.1\0\0\0"  # of the same length, so that nothing else moves
META_START = 132  # preamble and mark
GROUP_LENGTH = b"\x02\x00\x00\x00UL\x04\x00"


def is_deflated(content: bytes) -> bool:
    """Whether the file meta information names the deflated transfer syntax."""
    end = _meta_end(content)
    return end is not None and DEFLATED in content[META_START:end]


def unfold(content: bytes, where: str, limit: int) -> tuple[bytes, bool]:
    """The same file in explicit little endian, at most `limit` bytes of it; also whether it is all.

    Raises:
        ScanError: stage `parse`, if the packed bytes are damaged.
    """
    end = _meta_end(content)
    assert end is not None  # `is_deflated` was asked first
    unpacker = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
    try:
        body = unpacker.decompress(content[end:], limit)
    except zlib.error:
        raise ScanError(where, "parse", "the deflated bytes are damaged") from None
    whole = unpacker.eof
    return content[:end].replace(DEFLATED, EXPLICIT) + body, whole


def _meta_end(content: bytes) -> int | None:
    """Where the file meta information ends; it is never deflated."""
    if content[META_START : META_START + 8] != GROUP_LENGTH or len(content) < META_START + 12:
        return None
    end = META_START + 12 + int(struct.unpack_from("<I", content, META_START + 8)[0])
    return end if end <= len(content) else None
