"""Numeric arrays of MATLAB's .mat files of level 5 (saved with -v6 or -v7), by name.

The layout is that of "MAT-File Format" (MathWorks), chapter 1: a header of 128 bytes, then elements
of (type, number of bytes, content), each padded to eight bytes and, with -v7, deflated. Cells,
structures, texts, sparse and complex arrays are passed over: no scan lies in one. Files of -v7.3
are HDF5, and are refused by name.
"""

import math
import zlib
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from oct_io.errors import ScanError

HEADER_BYTES, TAG_BYTES = 128, 8
MAX_UNPACKED = 2 << 30
"""Bytes of one array and its name; the largest that is known, of Duke's volumes, has 410 MB."""
MAX_DIMENSIONS = 8
MATRIX, COMPRESSED = 14, 15
STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8"}
"""Number of a type to NumPy's: what the content of an element is stored as, often narrower."""
CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4"}
"""Number of a class of arrays to NumPy's type; the other classes hold no grey levels."""
COMPLEX_BIT = 0x08
"""Of the flags of an array, in the second byte."""


class _Element(NamedTuple):
    kind: int
    content: memoryview


def read_mat(content: bytes, where: str, only: Collection[str] = ()) -> dict[str, NDArray[Any]]:
    """Numeric arrays by name, with the type that MATLAB calls them; all, or those in `only`.

    Axes are in MATLAB's order: an array of `size` 496 x 768 x 61 has the shape (496, 768, 61).

    Args:
        content: of the file.
        where: for messages.
        only: names that are wanted; others are not made into arrays.

    Raises:
        ScanError: stage `parse`, or `decode` for what is cut off or damaged.
    """
    order = _byte_order(content, where)
    found: dict[str, NDArray[Any]] = {}
    try:
        for element in _elements(memoryview(content)[HEADER_BYTES:], order):
            if element.kind == COMPRESSED:
                element = next(_elements(_inflated(element.content, where), order))
            if element.kind == MATRIX:
                named = _array(element.content, order, only)
                found |= {} if named is None else dict([named])
    except (ValueError, KeyError, StopIteration, OverflowError, zlib.error) as error:
        reason = f"the .mat file is cut off or damaged ({type(error).__name__})"
        raise ScanError(where, "decode", reason) from None
    return found


def _byte_order(content: bytes, where: str) -> str:
    """Byte order of NumPy by the mark at the end of the header.

    Raises:
        ScanError: stage `parse`.
    """
    if content[:10] == b"MATLAB 7.3" or content[1:4] == b"HDF":
        raise ScanError(where, "parse", "a .mat file of -v7.3, which is HDF5; save it with -v7")
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if order is None:
        raise ScanError(where, "parse", "no .mat file of level 5")
    return order


def _elements(content: memoryview, order: str) -> Iterator[_Element]:
    """What stands one after the other; small elements hold up to four bytes in their tag.

    Raises:
        ValueError: an element reaches beyond the content.
    """
    at = 0
    while at + TAG_BYTES <= len(content):
        first, size = np.frombuffer(content[at : at + TAG_BYTES], f"{order}u4").tolist()
        start = at + TAG_BYTES
        if first >> 16:  # the small form: number of bytes and type share the first word
            first, size, start = first & 0xFFFF, first >> 16, at + 4
        if start + size > len(content):
            raise ValueError("an element is cut off")
        yield _Element(first, content[start : start + size])
        padding = 0 if first == COMPRESSED or start == at + 4 else -size % 8
        at = at + TAG_BYTES if start == at + 4 else start + size + padding


def _inflated(content: memoryview, where: str) -> memoryview:
    """The one element that was deflated.

    Raises:
        ScanError: stage `decode`, for more than any array of a scan has.
    """
    unpacking = zlib.decompressobj()
    whole = unpacking.decompress(content, MAX_UNPACKED)
    if unpacking.unconsumed_tail:
        raise ScanError(where, "decode", f"an array of more than {MAX_UNPACKED:,} bytes")
    return memoryview(whole)


def _array(
    content: memoryview, order: str, only: Collection[str]
) -> tuple[str, NDArray[Any]] | None:
    """Name and values of a matrix; None for one that is not wanted, or holds no plain numbers."""
    parts = _elements(content, order)
    flags, sizes, name = next(parts), next(parts), next(parts)
    word = int(np.frombuffer(flags.content[:4], f"{order}u4")[0])
    called = bytes(name.content).decode("ascii", "replace")
    kind = CLASSES.get(word & 0xFF)
    if kind is None or (word >> 8) & COMPLEX_BIT or (only and called not in only):
        return None
    shape = np.frombuffer(sizes.content, f"{order}i4").tolist()
    if not 2 <= len(shape) <= MAX_DIMENSIONS or min(shape) < 0:
        raise ValueError("sizes of no array")
    values = next(parts)
    stored = np.frombuffer(values.content, f"{order}{STORED[values.kind]}")
    if stored.size != math.prod(shape):
        raise ValueError("more or fewer values than its sizes say")
    return called, stored.reshape(shape, order="F").astype(kind, copy=False)
