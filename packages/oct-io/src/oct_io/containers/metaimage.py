"""The text header of MetaImage (.mhd): sizes, type, millimetres, and the file of the pixels.

As ITK documents it (Documentation/MetaIO): lines of `Name = value`, axes from the fastest on.
"""

from typing import NamedTuple

from oct_io.errors import ScanError

TYPES = {"MET_UCHAR": "u1", "MET_CHAR": "i1", "MET_USHORT": "u2", "MET_SHORT": "i2"}
"""Types of pixels that a grey scan or a mask has, to NumPy's."""
MSB = ("ElementByteOrderMSB", "BinaryDataByteOrderMSB")


class MetaImage(NamedTuple):
    """What a header says."""

    shape: tuple[int, int, int]  # slowest axis first, as the array has it
    dtype: str  # of NumPy, with its byte order
    spacing_mm: tuple[float, float, float] | None  # likewise; None if it is not said
    pixels: str  # name of the file beside it


def read_metaimage(content: str, where: str) -> MetaImage:
    """Read a header of three axes whose pixels lie, uncompressed, in one file beside it.

    Raises:
        ScanError: stage `parse`.
    """
    pairs = (line.split("=", 1) for line in content.splitlines() if "=" in line)
    said = {name.strip(): value.strip() for name, value in pairs}
    try:
        sizes = [int(one) for one in said["DimSize"].split()]
        kind = TYPES.get(said["ElementType"])
        pixels = said["ElementDataFile"]
        steps = [float(one) for one in said.get("ElementSpacing", "").split()]
    except (KeyError, ValueError):
        reason = "its header lacks DimSize, ElementType or ElementDataFile"
        raise ScanError(where, "parse", reason) from None
    if len(sizes) != 3 or min(sizes) < 1 or len(steps) not in (0, 3):
        raise ScanError(where, "parse", "its header is not of three axes")
    if kind is None:
        raise ScanError(where, "parse", f"pixels of another type than {', '.join(TYPES)}")
    if said.get("CompressedData", "False").lower() == "true":
        raise ScanError(where, "parse", "its pixels are compressed; write it uncompressed")
    if pixels in ("LOCAL", "LIST") or "/" in pixels or "\\" in pixels or "%" in pixels:
        raise ScanError(where, "parse", "its pixels are not in one file beside it")
    big = any(said.get(name, "False").lower() == "true" for name in MSB)
    spacing = (steps[2], steps[1], steps[0]) if steps else None
    return MetaImage(
        (sizes[2], sizes[1], sizes[0]), f"{'>' if big else '<'}{kind}", spacing, pixels
    )
