"""Layer boundaries and masks drawn over a B-scan, so that a person can see where they lie."""

import numpy as np
from numpy.typing import NDArray

from oct_io.space.grey import white_level
from oct_io.volume import UNLABELLED, OctVolume

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
