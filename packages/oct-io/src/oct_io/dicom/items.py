"""Data sets under construction and their bytes, in explicit little endian (PS3.5 7.1.2, 7.5).

pydicom's `Dataset` gives the same bytes, but checks and converts each of some 30 elements a frame:
a phantom's file took six to seven times as long (benchmarks/first_minute.py). Tags and value
representations come from pydicom's dictionary.
"""

import struct
from collections.abc import Callable
from functools import cache, partial
from types import SimpleNamespace
from typing import Any, NamedTuple

UNDEFINED = 0xFFFFFFFF
ITEM = struct.Struct("<HHI")
LONG = frozenset(("OB", "OV", "OW", "SQ"))
"""Value representations whose length takes four bytes (PS3.5 7.1.2)."""

PADDED_BY_ZERO = frozenset(("UI", "OB", "OV", "OW"))


class Pixels(NamedTuple):
    """What PixelData holds, for its dictionary entry leaves the representation open.

    Attributes:
        data: native voxels, or frames in fragments of even length (PS3.5 A.4).
        vr: OB or OW.
        encapsulated: whether it is fragments, whose end a delimiter marks.
    """

    data: bytes
    vr: str
    encapsulated: bool


class Item(SimpleNamespace):
    """A data set as attributes named by DICOM keywords.

    Values are None (the element is there and empty), text, numbers, bytes, `Pixels`, lists of these
    for several values, and lists of items for sequences.
    """

    def encode(self) -> bytes:
        """All elements in the order of their tags.

        Raises:
            ValueError: an attribute that is no DICOM keyword.
        """
        found = sorted((_entry(keyword), value) for keyword, value in vars(self).items())
        return b"".join([_element(*entry, value) for entry, value in found])


@cache
def _entry(keyword: str) -> tuple[int, str]:
    """Tag and value representation."""
    from pydicom.datadict import dictionary_VR, tag_for_keyword  # half of a second to import

    tag = tag_for_keyword(keyword)
    if tag is None:
        raise ValueError(f"{keyword} is no DICOM keyword")
    return tag, dictionary_VR(tag)


def _element(tag: int, vr: str, value: Any) -> bytes:
    if isinstance(value, Pixels):
        length = UNDEFINED if value.encapsulated else len(value.data) + len(value.data) % 2
        end = ITEM.pack(0xFFFE, 0xE0DD, 0) if value.encapsulated else b"\0" * (len(value.data) % 2)
        return b"".join([_start(tag, value.vr, length), value.data, end])  # copied once
    content = _content(vr, value)
    return _start(tag, vr, len(content)) + content


def _start(tag: int, vr: str, length: int) -> bytes:
    kind = vr.encode("ascii")
    if vr in LONG:
        return struct.pack("<HH2sxxI", tag >> 16, tag & 0xFFFF, kind, length)
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, kind, length)


def _content(vr: str, value: Any) -> bytes:
    if value is None:
        return b""
    if vr == "SQ":
        bodies = [item.encode() for item in value]
        return b"".join(ITEM.pack(0xFFFE, 0xE000, len(body)) + body for body in bodies)
    if isinstance(value, bytes):
        return _even(value, b"\0")
    many = value if isinstance(value, list) else [value]
    if vr in NUMBERS:
        return b"".join(map(NUMBERS[vr], many))
    text = "\\".join(map(str, many)).encode()
    return _even(text, b"\0" if vr in PADDED_BY_ZERO else b" ")


def _even(content: bytes, padding: bytes) -> bytes:
    return content + padding if len(content) % 2 else content


def _pack_tag(tag: int) -> bytes:
    return struct.pack("<HH", tag >> 16, tag & 0xFFFF)


NUMBERS: dict[str, Callable[[Any], bytes]] = {
    "AT": _pack_tag,
    "FD": partial(struct.pack, "<d"),
    "FL": partial(struct.pack, "<f"),
    "UL": partial(struct.pack, "<I"),
    "US": partial(struct.pack, "<H"),
}
"""How one value of a binary representation is packed; all others are text."""
