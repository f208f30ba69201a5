"""B-scans as PNG files, so that a person can look at what was read and where layers were drawn."""

import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from oct_io.space.grey import white_level
from oct_io.volume import OctVolume

PNG_MARK = b"\x89PNG\r\n\x1a\n"


def write_png(image: NDArray[np.uint8], path: str | Path) -> None:
    """Write an image as `encode_png` makes it.

    Raises:
        ValueError: likewise.
    """
    Path(path).write_bytes(encode_png(image))


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """Content of an 8-bit PNG with the image: grey (rows, columns), or colour (rows, columns, 3).

    Raises:
        ValueError: not a uint8 array of such a shape, or an empty one.
    """
    colour = image.ndim == 3 and image.shape[-1] == 3
    if not (image.ndim == 2 or colour) or image.dtype != np.uint8 or not image.size:
        raise ValueError(f"image must be uint8 (rows, columns), not {image.dtype} {image.shape}")
    rows, columns = image.shape[:2]
    lines = np.zeros((rows, image[0].size + 1), dtype=np.uint8)  # each opens with filter 0, none
    lines[:, 1:] = image.reshape(rows, -1)
    header = struct.pack(">IIBBBBB", columns, rows, 8, 2 if colour else 0, 0, 0, 0)
    chunks = (
        (b"IHDR", header),
        (b"IDAT", zlib.compress(lines.tobytes(), 6)),
        (b"IEND", b""),
    )
    return PNG_MARK + b"".join(_chunk(name, data) for name, data in chunks)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def draw_montage(
    volume: OctVolume, *, tiles: int = 9, across: int = 3, tile_columns: int = 384
) -> NDArray[np.uint8]:
    """Evenly chosen B-scans side by side, each drawn in true proportions, (rows, columns)."""
    bscans, rows, columns = volume.voxels.shape
    chosen = np.unique(np.linspace(0, bscans - 1, min(tiles, bscans)).round().astype(int))
    width = min(tile_columns, columns * 4)
    height = max(1, round(width * rows * volume.spacing.row / (columns * volume.spacing.column)))
    down = np.minimum(np.arange(height) * rows // height, rows - 1)
    along = np.minimum(np.arange(width) * columns // width, columns - 1)
    across = min(across, len(chosen))
    lines = -(-len(chosen) // across)
    white = white_level(volume)
    sheet = np.zeros((lines * (height + 2) - 2, across * (width + 2) - 2), dtype=np.uint8)
    for number, bscan in enumerate(chosen):
        top, left = (number // across) * (height + 2), (number % across) * (width + 2)
        tile = _to_bytes(volume.voxels[bscan][np.ix_(down, along)], white)
        sheet[top : top + height, left : left + width] = tile
    return sheet


def _to_bytes(tile: NDArray[np.uint8] | NDArray[np.uint16], white: int) -> NDArray[np.uint8]:
    if tile.dtype == np.uint8:
        return tile.astype(np.uint8)
    return np.clip(tile.astype(np.float32) * (255 / white), 0, 255).astype(np.uint8)


def draw_enface(
    volume: OctVolume, *, depth_mm: tuple[float, float] | None = None, columns: int = 512
) -> NDArray[np.uint8]:
    """The eye seen from the front: mean over depth, in true proportions, contrast stretched.

    Rows are B-scans from superior to inferior. The darkest and brightest percent saturate.

    Args:
        volume: what to look at.
        depth_mm: only the slab between these depths, from the scan's outer edge; None for all.
        columns: width of the picture; A-scans are picked or repeated, not blurred.

    Raises:
        ValueError: the slab holds no row of the scan.
    """
    bscans, rows, width = volume.voxels.shape
    slab = slice(0, rows)
    if depth_mm is not None:
        top, bottom = (round(depth / volume.spacing.row) for depth in depth_mm)
        slab = slice(max(0, top), min(rows, bottom))
        if slab.start >= slab.stop:
            deep = rows * volume.spacing.row
            raise ValueError(f"depth_mm {depth_mm} must lie in the scan, 0 to {deep:.3g} mm")
    grey = volume.voxels[:, slab].mean(axis=1, dtype=np.float32)
    low, high = np.percentile(grey, (1, 99))
    grey = np.clip((grey - low) / max(float(high - low), 1e-6), 0, 1) * 255
    height = max(
        1, round(columns * bscans * volume.spacing.bscan / (width * volume.spacing.column))
    )
    down = np.minimum(np.arange(height) * bscans // height, bscans - 1)
    along = np.minimum(np.arange(columns) * width // columns, width - 1)
    picked: NDArray[np.uint8] = grey[np.ix_(down, along)].round().astype(np.uint8)
    return picked
