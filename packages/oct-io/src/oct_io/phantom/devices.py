"""Made-up scanners: how each samples a retina and turns backscatter into grey levels.

Speckle, looks, noise floor, logarithm, window.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from oct_io.phantom.grid import Array, Grid

Array64 = NDArray[np.float64]


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


def decibels(values: ArrayLike) -> Array:
    """Intensity of a level given in decibels."""
    scale = np.float32(np.log(10) / 10)  # exp is several times faster than a power of ten
    level: Array = np.multiply(values, scale, dtype=np.float32)
    return np.exp(level, out=level) if level.ndim else np.exp(level)


def _kernel(sigma_px: float) -> Array:
    """Gaussian of unit energy, so that blurring white speckle keeps its mean intensity."""
    reach = int(np.ceil(2.5 * sigma_px)) if sigma_px > 0.3 else 0
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(sigma_px, 1e-6)) ** 2)
    return (taps / np.linalg.norm(taps)).astype(np.float32)


def _blur(field: Array, kernel: Array, axis: int) -> Array:
    """Convolve along one axis; what lies outside the volume is dark."""
    if len(kernel) == 1:
        return field
    reach = len(kernel) // 2
    out, weighted = kernel[reach] * field, np.empty_like(field)
    for shift in range(1, reach + 1):
        near = [slice(None)] * field.ndim
        far = [slice(None)] * field.ndim
        near[axis], far[axis] = slice(None, -shift), slice(shift, None)
        np.multiply(kernel[reach + shift], field, out=weighted)
        out[tuple(near)] += weighted[tuple(far)]
        out[tuple(far)] += weighted[tuple(near)]
    return out


LEVELS = 1 << 16
"""Random numbers are drawn from as many equally likely values, so that 16 random bits pick one:
five times as fast as numpy's samplers. Lost is what lies beyond the outermost, 1 in 65,000."""


def _equally_likely(density: Callable[[Array64], Array64], low: float, high: float) -> Array:
    """The `LEVELS` quantiles of the distribution that has this density from `low` to `high`."""
    edges = np.linspace(low, high, LEVELS + 1)
    share = np.cumsum(density((edges[1:] + edges[:-1]) / 2))
    middle = (np.arange(LEVELS) + 0.5) / LEVELS
    return np.interp(middle, share / share[-1], edges[1:]).astype(np.float32)


@lru_cache(maxsize=1)
def _normal() -> Array:
    """Zero mean, unit variance."""
    levels = _equally_likely(lambda x: np.exp(-0.5 * x**2), -6, 6)
    return levels / levels.std(dtype=np.float64).astype(np.float32)


@lru_cache(maxsize=16)
def _gamma(shape: int) -> Array:
    """Sum of `shape` exponential variables, each of unit mean."""
    high = shape + 15 * math.sqrt(shape) + 5
    mode = max(shape - 1, 1)
    log_top = (shape - 1) * math.log(mode) - mode  # kept out of exp, which would overflow
    return _equally_likely(lambda x: np.exp((shape - 1) * np.log(x) - x - log_top), 0, high)


def _draw(rng: np.random.Generator, levels: Array, shape: tuple[int, ...]) -> Array:
    """Independent draws from `levels`, each as likely as the others."""
    count = math.prod(shape)
    bits = rng.bit_generator.random_raw(-(-count // 4)).astype("<u8", copy=False)
    picks = bits.view("<u2")[:count].reshape(shape)
    return levels.take(picks, mode="wrap")  # 16 bits never leave the table


def form_image(
    backscatter: Array, grid: Grid, device: Device, rng: np.random.Generator, *, bits: int = 8
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """What `device` shows of `backscatter`, (bscans, rows, columns).

    Each look is the squared magnitude of a circular Gaussian field seen through the point spread
    function; looks are averaged, the noise floor is added, and decibels are cut to the window.

    Args:
        backscatter: mean intensity relative to the pigment epithelium, same shape.
        grid: where its voxels lie.
        device: optics, noise and window.
        rng: draws speckle and noise.
        bits: 8 or 16 a voxel; the same picture, in finer steps of grey.
    """
    rows = _kernel(device.axial_sigma_um / (grid.spacing.row * 1000))
    columns = _kernel(device.lateral_sigma_um / (grid.spacing.column * 1000))
    loss = decibels(-device.roll_off_db_per_mm * grid.row_um / 1000)[:, None]
    gain = decibels(device.gain_sd_db * rng.standard_normal((len(backscatter), 1, 1)))
    floor = decibels(device.noise_db)
    black, white = device.window_db
    top = (1 << bits) - 1
    grey: NDArray[np.uint8] | NDArray[np.uint16]
    grey = np.empty(backscatter.shape, np.uint8 if bits == 8 else np.uint16)
    scale = top / (white - black)
    for bscan, mean in enumerate(backscatter):  # one at a time fits into a processor's cache
        intensity = floor * _draw(rng, _gamma(device.looks), mean.shape)
        amplitude = np.sqrt(mean * (loss * gain[bscan]) / 2)
        # Real and imaginary parts of all looks, which nothing else tells apart.
        field = amplitude * _draw(rng, _normal(), (2 * device.looks, *mean.shape))
        field = _blur(_blur(field, rows, 1), columns, 2)
        intensity += np.einsum("lrc,lrc->rc", field, field)
        level_db = 10 * np.log10(intensity / device.looks)
        grey[bscan] = np.clip(np.rint((level_db - black) * scale), 0, top)
    return grey
