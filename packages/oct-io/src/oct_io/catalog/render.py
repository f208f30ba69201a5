"""B-scans as PNG files, so that a person can look at what was read and where layers were drawn."""

import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from oct_io.space.grey import white_level
from oct_io.volume import UNLABELLED, OctVolume

PNG_MARK = b"\x89PNG\r\n\x1a\n"

COLOURS: dict[str, tuple[int, int, int]] = {
    "yellow": (255, 221, 51),
    "cyan": (51, 221, 255),
    "magenta": (255, 85, 204),
    "green": (102, 238, 102),
    "orange": (255, 153, 51),
    "blue": (102, 153, 255),
    "red": (255, 85, 85),
    "white": (255, 255, 255),
}
"""Boundaries, and classes of a mask, take turns; neighbours differ in hue and in brightness."""

TINT = 0.45  # share of a class's colour in its voxels
LEAST_COLUMNS = 512  # of the picture; smaller scans are drawn larger, or lines would hide them


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


def colour_names(count: int) -> list[str]:
    """Names of the colours in which that many boundaries or classes are drawn."""
    return [list(COLOURS)[number % len(COLOURS)] for number in range(count)]


def draw_overlay(volume: OctVolume, bscan: int | None = None) -> NDArray[np.uint8]:
    """One B-scan with its boundaries and its mask over it, (rows, columns, 3).

    Voxels are squares, so that depth is stretched: in true proportions a layer has a few pixels.
    Boundaries are lines, one pixel high and closed where they step, and left out where they are not
    known. Classes of the mask, but for its background, are tinted.

    Args:
        volume: what to draw.
        bscan: which of its B-scans; None takes the middle one.
    """
    bscans, rows, columns = volume.voxels.shape
    number = bscans // 2 if bscan is None else bscan
    each = max(1, -(-LEAST_COLUMNS // columns))  # pixels a voxel
    down, along = np.arange(rows * each) // each, np.arange(columns * each) // each
    picked = np.ix_(down, along)
    grey = volume.voxels[number][picked].astype(np.float32) * (255 / white_level(volume))
    picture = np.repeat(np.clip(grey, 0, 255)[..., None], 3, axis=2)
    palette = np.array(list(COLOURS.values()), np.float32)
    if volume.mask is not None:
        labels = volume.mask[number][picked]
        marked = (labels > 0) & (labels != UNLABELLED)
        hue = palette[(labels[marked].astype(int) - 1) % len(palette)]
        picture[marked] = (1 - TINT) * picture[marked] + TINT * hue
    for place, surface in enumerate(volume.layers.values()):
        at = (surface[number][along] + 0.5) * each
        _draw_line(picture, at, palette[place % len(palette)])
    return picture.round().astype(np.uint8)


def _draw_line(
    picture: NDArray[np.float32], at: NDArray[np.float32], colour: NDArray[np.float32]
) -> None:
    """A line through the height `at` of each column, NaN where there is none; in place."""
    before = np.concatenate([at[:1], at[:-1]])
    before = np.where(np.isfinite(before), before, at)
    rows = np.arange(len(picture), dtype=np.float32)[:, None]
    with np.errstate(invalid="ignore"):
        top, bottom = np.floor(np.minimum(at, before)), np.floor(np.maximum(at, before))
        picture[(rows >= top) & (rows <= bottom)] = colour  # false for NaN
