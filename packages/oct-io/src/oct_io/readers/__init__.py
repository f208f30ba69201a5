"""Readers of scan files: `read_volume(url)` picks the one that fits.

A reader is a function from the bytes of a file and its name (for messages) to an `OctVolume`.
"""

from collections.abc import Callable
from pathlib import Path, PurePosixPath

from oct_io.errors import ScanError
from oct_io.readers.dicom import read_dicom
from oct_io.readers.header import ScanHeader, read_header
from oct_io.storage import read_bytes, redact
from oct_io.volume import OctVolume

READERS: dict[str, Callable[[bytes, str], OctVolume]] = {".dcm": read_dicom, ".dicom": read_dicom}
"""File name ending to reader. A file with the mark of DICOM is read as such whatever its name."""

FORMATS = "Ophthalmic Tomography DICOM (.dcm)"


def read_volume(url: str | Path) -> OctVolume:
    """Read the scan at `url`, a local path or an fsspec URL, in one request.

    Raises:
        ScanError: with the stage at which it failed; `geometry` for radial and circle scans.
    """
    where = redact(url)
    suffix = PurePosixPath(where).suffix.lower()
    content = read_bytes(url)
    if suffix in READERS:
        return READERS[suffix](content, where)
    if content[128:132] == b"DICM":
        return read_dicom(content, where)
    reason = f"unknown format '{suffix or 'no suffix'}'; this reads {FORMATS}"
    raise ScanError(where, "parse", reason)


__all__ = ["FORMATS", "READERS", "ScanHeader", "read_header", "read_volume"]
