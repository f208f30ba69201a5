"""From backscatter to grey levels: speckle, looks, noise floor, logarithm, window."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from oct_io.phantom.devices import Device
from oct_io.phantom.grid import Array, Grid


def decibels(values: ArrayLike) -> Array:
    """Intensity of a level given in decibels."""
    scale = np.float32(np.log(10) / 10)  # exp is several times faster than a power of ten
    return np.exp(np.asarray(values, dtype=np.float32) * scale)


def _kernel(sigma_px: float) -> Array:
    """Gaussian of unit energy, so that blurring white speckle keeps its mean intensity."""
    reach = int(np.ceil(2.5 * sigma_px)) if sigma_px > 0.3 else 0
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(sigma_px, 1e-6)) ** 2)
    return (taps / np.linalg.norm(taps)).astype(np.float32)


def _blur(field: NDArray[np.complex64], kernel: Array, axis: int) -> NDArray[np.complex64]:
    """Convolve along one axis; what lies outside the volume is dark."""
    if len(kernel) == 1:
        return field
    reach = len(kernel) // 2
    out = kernel[reach] * field
    for shift in range(1, reach + 1):
        near = [slice(None)] * field.ndim
        far = [slice(None)] * field.ndim
        near[axis], far[axis] = slice(None, -shift), slice(shift, None)
        weight = kernel[reach + shift]
        out[tuple(near)] += weight * field[tuple(far)]
        out[tuple(far)] += weight * field[tuple(near)]
    return out


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
    amplitude = np.sqrt(backscatter * (loss * gain) / 2)
    intensity = np.zeros(backscatter.shape, np.float32)
    for _ in range(device.looks):
        pairs = rng.standard_normal((*backscatter.shape, 2), dtype=np.float32)
        field = amplitude * pairs.view(np.complex64)[..., 0]
        field = _blur(_blur(field, rows, 1), columns, 2)
        intensity += field.real**2 + field.imag**2
    intensity += decibels(device.noise_db) * rng.standard_gamma(
        device.looks, backscatter.shape, dtype=np.float32
    )
    level_db = 10 * np.log10(intensity / device.looks)
    black, white = device.window_db
    top = (1 << bits) - 1
    grey = np.clip(np.rint((level_db - black) * (top / (white - black))), 0, top)
    return grey.astype(np.uint8) if bits == 8 else grey.astype(np.uint16)
