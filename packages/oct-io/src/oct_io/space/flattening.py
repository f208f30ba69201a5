"""Bring the retina's surface to one row: tilt, curvature and the eye's place in the scan are gone.

What is left of an A-scan is tissue by its depth below the surface, which is what thickness, oedema
and atrophy are about. Flattening before anything is learned is as old as the classification of OCT:
Srinivasan et al. (Biomed. Opt. Express 5, 2014) flatten to the pigment epithelium. Here it is the
inner surface, so that the distance to the epithelium, the thickness, stays in the picture.
"""

from dataclasses import replace
from typing import Any, cast

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from oct_io.volume import UNLABELLED, OctVolume, Voxels

SURFACE_SHARE = 1 / 8
"""Where the surface lies in a flattened scan, and in a window of one: this far below the top."""

ALONG = 64
"""A-scans of a B-scan by which its surface is found."""

WHITE = 0.96
"""Share of the greatest grey level from which on padding is white: JPEG does not keep it."""

RIM = 8
"""Rows beside white padding that go with it: JPEG works on blocks of eight, and rings in them."""

PADDED_SHARE = 0.001
"""Of a B-scan that is white at the ends of A-scans: more is no tissue. A wedge of one row in a
hundred along half of the width is 0.0025."""

UNDER_NOTHING = 0.8
"""How far the brightest tissue stands out where nothing lies above; a surface under vitreous that
is black stands out by 1 / 1.15 at most."""

Surface = NDArray[np.int64]
Floats = NDArray[np.float64]
Truths = NDArray[np.bool_]


def flatten(volume: OctVolume) -> OctVolume:
    """The scan with each A-scan moved along the beam, by whole voxels: its surface in one row.

    That row is an eighth of the scan below its top. Layers and mask move along. Where an A-scan
    does not reach, voxels are 0 and labels `UNLABELLED`, and white padding is 0 too; what leaves
    the scan is lost.
    """
    rows, blackened = volume.voxels.shape[1], _blackened(volume.voxels)
    shift = _surface_of(blackened) - round(rows * SURFACE_SHARE)  # (bscans, columns)
    voxels = cast(Voxels, _moved(blackened, shift, fill=0))
    mask = None if volume.mask is None else _moved(volume.mask, shift, fill=UNLABELLED)
    layers = {name: (layer - shift).astype(np.float32) for name, layer in volume.layers.items()}
    return replace(volume, voxels=voxels, mask=mask, layers=layers)


def _moved(volume: NDArray[Any], shift: Surface, *, fill: int) -> NDArray[Any]:
    """Each A-scan moved up by its own number of rows, one B-scan at a time to spare memory."""
    rows = np.arange(volume.shape[1])[:, None]
    moved = np.full_like(volume, fill)
    for number, bscan in enumerate(volume):
        taken = rows + shift[number]  # (rows, columns)
        inside = (taken >= 0) & (taken < len(rows))
        found = np.take_along_axis(bscan, taken.clip(0, len(rows) - 1), axis=0)
        np.copyto(moved[number], found, where=inside)
    return moved


def find_surface(voxels: NDArray[np.uint8] | NDArray[np.uint16]) -> Surface:
    """Row of the retina's inner surface in each A-scan, (bscans, columns).

    The line from one side of a B-scan to the other along which what lies below stands out most from
    what lies above, found by dynamic programming as layer boundaries are (Chiu et al., Opt. Express
    18, 2010). What stands out is a ratio, so that gain does not matter, of means over a twelfth of
    the rows below and an eighth above: thicker than the vitreous membrane, and dark above the
    retina where it is half bright above the epithelium. The line is found on 64 A-scans a B-scan,
    each the mean of its neighbours, and rises by at most a 48th of the rows from one to the next. A
    scan without contrast has its surface in row 0.

    White or black ends of A-scans, with which exports of turned and moved B-scans are padded, are
    not there: to take them for dark would make the noise of the vitreous beside them stand out.
    What lies below nothing stands out by how bright it is.
    """
    return _surface_of(_blackened(voxels))


def _surface_of(voxels: Voxels) -> Surface:
    """`find_surface` of a volume whose padding is black."""
    rows, columns = voxels.shape[1:]
    count = min(ALONG, columns)
    edges = np.linspace(0, columns, count + 1).astype(np.int64)
    centres = (edges[:-1] + edges[1:] - 1) / 2
    lines = _best_lines(np.stack([_contrast(one, edges) for one in voxels]), max(1, rows // 48))
    at = np.arange(columns)
    return np.stack([np.rint(np.interp(at, centres, line)) for line in lines]).astype(np.int64)


def _blackened(voxels: Voxels) -> Voxels:
    """The volume with white padding as 0; itself where there is none."""
    blackened = voxels
    for number, bscan in enumerate(voxels):
        white = _white_padding(bscan)
        if white.any():
            blackened = voxels.copy() if blackened is voxels else blackened
            blackened[number][white] = 0
    return blackened


def _white_padding(bscan: NDArray[Any]) -> Truths:
    """White that reaches in from the ends of A-scans, with what JPEG makes of its rim."""
    white = _ends(bscan >= WHITE * np.iinfo(bscan.dtype).max)
    if not PADDED_SHARE < white.mean() < 1:
        return np.zeros_like(white)
    padded = np.pad(white, ((RIM, RIM), (0, 0)))
    return np.asarray(sliding_window_view(padded, 2 * RIM + 1, axis=0).any(axis=-1))


def _ends(marked: Truths) -> Truths:
    """Of the marked voxels those from which to an end of the A-scan all are marked."""
    ends: Truths = np.logical_and.accumulate(marked)
    return ends | np.logical_and.accumulate(marked[::-1])[::-1]


def _contrast(bscan: NDArray[np.uint8] | NDArray[np.uint16], edges: NDArray[np.int64]) -> Floats:
    """How far each row of some A-scans stands out as the first of the retina, (rows, A-scans)."""
    rows, widths = len(bscan), np.diff(edges)
    there = ~_ends(bscan == 0)
    sums = np.add.reduceat(np.where(there, bscan, 0), edges[:-1], axis=1, dtype=np.float64)
    counts = np.add.reduceat(there, edges[:-1], axis=1, dtype=np.int64)
    seen = 2 * counts > widths
    if not seen.any():
        return np.zeros(seen.shape)
    grey = np.sqrt(sums / counts.clip(1))  # speckle's spread then hardly grows with its mean
    grey = np.where(seen, grey - np.quantile(grey[seen], 0.1), 0)  # less the noise floor
    bright = max(np.quantile(grey[seen], 0.95), 1e-6)
    total, known = (np.pad(np.cumsum(one, axis=0), ((1, 0), (0, 0))) for one in (grey, seen))
    row = np.arange(rows)
    first, last = (row - rows // 8).clip(0), (row + max(2, rows // 12)).clip(max=rows)
    over, under = known[row] - known[first], known[last] - known[row]
    above = ((total[row] - total[first]) / over.clip(1)).clip(0)
    below = ((total[last] - total[row]) / under.clip(1)).clip(0)
    least = max(1, rows // 48)  # fewer rows are too little to tell
    found = (below - above) / (below + above + 0.15 * bright)
    found = np.where(over < least, UNDER_NOTHING * (below / bright).clip(max=1), found)
    found[:least] = 0
    found[under < least] = 0
    return found


def _best_lines(gain: Floats, step: int) -> NDArray[np.int64]:
    """Row in each column of the line with the greatest sum, (lines, columns); the first if equal.

    Args:
        gain: (lines, rows, columns).
        step: rows by which a line may rise or fall from one column to the next.
    """
    lines, rows, columns = gain.shape
    best, came = gain[:, :, 0], np.zeros((columns, lines, rows), np.int64)
    for column in range(1, columns):
        beside = np.pad(best, ((0, 0), (step, step)), constant_values=-np.inf)
        near = sliding_window_view(beside, 2 * step + 1, axis=1)  # (lines, rows, 2 * step + 1)
        chosen = near.argmax(axis=2)
        came[column] = np.arange(rows) + chosen - step
        best = np.take_along_axis(near, chosen[..., None], 2)[..., 0] + gain[:, :, column]
    found = np.zeros((lines, columns), np.int64)
    found[:, -1] = best.argmax(axis=1)
    for column in range(columns - 1, 0, -1):
        found[:, column - 1] = came[column][np.arange(lines), found[:, column]]
    return found
