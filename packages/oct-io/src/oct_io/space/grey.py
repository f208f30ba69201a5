"""Which grey level of a scan is white: its bits say it, or where they do not, its voxels."""

from typing import Literal, NamedTuple

import numpy as np

from oct_io.volume import OctVolume

WHITE_8, WHITE_12, WHITE_16 = 255, 4095, 65535
STRAY_SHARE = 0.001
"""Voxels above 12 bits that a 12-bit scan may have: hot pixels and burnt-in marks, not tissue. In
real and made-up scans the brightest 0.1 % lie above half of white."""


class White(NamedTuple):
    """A grey level that is white, and what said so."""

    level: int
    rule: Literal["8 bits", "stated bits", "voxels"]


def white_level(volume: OctVolume) -> int:
    """Grey level that is drawn as white, and that resampling turns into 255; see `find_white`."""
    return find_white(volume).level


def find_white(volume: OctVolume) -> White:
    """Grey level that is drawn as white, and which rule found it.

    Files that store fewer bits than they allocate (BitsStored of DICOM) say it themselves. Of 16
    bits that may all be used, 12 are taken as the scanner's if at most `STRAY_SHARE` of the voxels
    lie above, so that no single voxel decides how bright a scan is.
    """
    voxels, bits = volume.voxels, volume.bits
    if voxels.dtype == np.uint8:
        return White(WHITE_8, "8 bits")
    if bits is not None and bits < 16:
        return White((1 << bits) - 1, "stated bits")
    above = np.count_nonzero(voxels > WHITE_12)
    return White(WHITE_12 if above <= STRAY_SHARE * voxels.size else WHITE_16, "voxels")
