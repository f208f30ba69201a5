"""From backscatter to grey levels: speckle, looks, noise floor, logarithm, window."""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from oct_io.phantom.devices import Device
from oct_io.phantom.grid import Array, Grid

Array64 = NDArray[np.float64]


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
