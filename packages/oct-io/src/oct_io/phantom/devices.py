"""Made-up scanners: how each samples a retina and turns it into grey levels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(kw_only=True, slots=True)
class Device:
    """One scanner.

    The three of `phantom_a|b|c` differ in everything that a field here names, those of
    `phantom_narrow|medium|wide` in field and depth alone, hence in spacing.
    """

    name: str
    """As it stands in the file's ManufacturerModelName."""

    shape: tuple[int, int, int]
    """B-scans, rows and columns of its macular raster."""

    extent_mm: tuple[float, float, float]
    """Field of view in the same order."""

    axial_sigma_um: float
    """Width of the point spread function in depth (field, not intensity)."""

    lateral_sigma_um: float
    """Width of the point spread function along a B-scan."""

    looks: int
    """B-scans averaged into one; speckle contrast falls with the root."""

    noise_db: float
    """Noise floor relative to the pigment epithelium."""

    window_db: tuple[float, float]
    """Decibels shown as grey level 0 and 255, same reference."""

    roll_off_db_per_mm: float
    """Loss of sensitivity with depth in the window, as spectral-domain scanners have it."""

    gain_sd_db: float
    """Brightness differs from B-scan to B-scan by this much (focus, re-acquisition)."""

    texture_db: float = 1.0
    """Grain of the tissue itself, which averaging does not remove."""

    def __post_init__(self) -> None:
        self.shape = three_counts("device.shape", self.shape)
        self.extent_mm = three_sizes("device.extent_mm", self.extent_mm)
        self.window_db = (float(self.window_db[0]), float(self.window_db[1]))
        if self.looks < 1:
            raise ValueError(f"device.looks ({self.looks}) must be 1 or more")
        if not self.window_db[0] < self.window_db[1]:
            raise ValueError(f"device.window_db {self.window_db} must grow from black to white")
        for field in ("axial_sigma_um", "lateral_sigma_um", "gain_sd_db", "texture_db"):
            if getattr(self, field) < 0:
                raise ValueError(f"device.{field} ({getattr(self, field)}) must be zero or more")


def three_counts(name: str, values: Sequence[float]) -> tuple[int, int, int]:
    """Three positive whole numbers as a tuple; YAML brings lists."""
    bscans, rows, columns = three_sizes(name, values)
    return int(bscans), int(rows), int(columns)


def three_sizes(name: str, values: Sequence[float]) -> tuple[float, float, float]:
    """Three positive numbers as a tuple.

    Raises:
        ValueError: not three, or not positive; the text begins with `name`.
    """
    if len(values) != 3 or not all(np.isfinite(v) and v > 0 for v in values):
        raise ValueError(
            f"{name} {tuple(values)} must be three positive numbers, (bscan, row, column)"
        )
    bscan, row, column = values
    return bscan, row, column


def device_of(*row: Any) -> Device:
    """The device of a row of values: all fields of `Device`, in their order."""
    return Device(**dict(zip(Device.__dataclass_fields__, row, strict=True)))


# Axial and lateral sigma, looks, noise, window, roll-off, gain, texture.
SPECTRALIS = (5.6, 11.0, 9, -25.5, (-26.0, 6.0), 1.0, 1.6, 0.7)
"""Optics, the fields after a device's name, shape and extent; tuned against the real volume named
in tests/phantom/test_statistics.py."""

_A = (5.0, 14.0, 6, -27.0, (-27.0, 3.0), 1.5, 0.4, 1.0)
_B = (6.0, 18.0, 3, -23.0, (-30.0, 4.0), 3.0, 0.8, 1.0)
_C = (7.5, 20.0, 4, -25.0, (-24.0, 1.0), 0.5, 0.2, 1.0)

_ROWS = (
    ("phantom_a", (12, 160, 96), (6.0, 1.28, 6.0), *_A),
    ("phantom_b", (14, 180, 88), (6.0, 1.26, 6.0), *_B),
    ("phantom_c", (16, 144, 80), (6.0, 1.296, 6.0), *_C),
    # A narrow field needs less depth for the same tilt and curvature; each shows the retina.
    ("phantom_narrow", (10, 112, 80), (3.0, 0.9, 3.0), *_A),
    ("phantom_medium", (10, 112, 80), (4.5, 1.1, 4.5), *_A),
    ("phantom_wide", (10, 112, 80), (6.0, 1.3, 6.0), *_A),
    ("spectralis_like", (24, 496, 512), (0.72, 1.920512, 5.725184), *SPECTRALIS),
)

DEVICES: dict[str, Device] = {row[0]: device_of(*row) for row in _ROWS}
"""By name. The depth of the small ones is what a curved, tilted macula needs and no more: a volume
of 0.18 million voxels is drawn in well under a tenth of a second."""
