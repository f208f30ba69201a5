"""Readers of scan files, a module a vendor or format; `read_volume(url)` picks the one that fits.

A reader is a function from a `ScanFile` to an `OctVolume`: a module here, and its ending in
`registry` (docs/adding-a-reader.md shows how). What arrays without metadata share is in `plain`,
what a JSON file says of a scan in `sidecar`, scans that are known and not yet decoded in `lazy`,
optional libraries in `extras`. The catalog and the cache read through this wing; it never knows
which data set a scan belongs to.
"""

from oct_io.readers.lazy import LazyVolume
from oct_io.readers.registry import (
    FORMATS,
    READERS,
    SUFFIXES,
    open_volume,
    read_header,
    read_volume,
)
from oct_io.scan.file import ScanFile
from oct_io.scan.header import ScanHeader

__all__ = [
    "FORMATS",
    "READERS",
    "SUFFIXES",
    "LazyVolume",
    "ScanFile",
    "ScanHeader",
    "open_volume",
    "read_header",
    "read_volume",
]
