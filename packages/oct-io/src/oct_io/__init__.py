"""Read, audit, resample and cache retinal OCT scans, in millimetres."""

from oct_io.errors import OctIoError, ScanError, TreeError
from oct_io.volume import OctVolume, Spacing

__all__ = ["OctIoError", "OctVolume", "ScanError", "Spacing", "TreeError"]
