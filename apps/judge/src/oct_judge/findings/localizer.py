"""Where a window lies on the en-face image of its scan, so that maps can be laid on it.

A cache no longer knows the image, so that the scan is read again. It has to come with its localizer
and say where its B-scans lie on it: HEYEX exports do, DICOM names a photograph in a file of its own
(`oct_io.records.photographs`).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import oct_io
from numpy.typing import NDArray
from oct_io.cache.entries import CacheEntry
from oct_io.catalog.manifest import list_scans
from oct_io.errors import ScanError
from oct_io.records.opening import read_scan
from oct_io.records.photographs import add_photograph, photographs_in

Floats = NDArray[np.float64]


class OnLocalizer(NamedTuple):
    """A window on the en-face image; places are (row, column) in pixels from the outer corner."""

    image: NDArray[np.uint8]
    corners_ZX2: Floats  # of the parts of a map from above, one more than parts along each axis
    line_22: Floats  # of the B-scan that is shown: its first column in the window, and its last


def read_localizers(
    config: oct_io.SourceConfig, entries: Mapping[int, CacheEntry]
) -> dict[int, oct_io.OctVolume]:
    """Scans that have a localizer and lines on it, by the number of the row.

    Args:
        config: where the scans lie.
        entries: row to what the cache knows of it.
    """
    if config.bscans is not None or config.kind == "volume" or not entries:
        return {}
    listing = list_scans(
        config.root, manifest=config.manifest or None, cache=config.cache, jobs=config.jobs
    )
    records = {one.key: one for one in listing.records}
    photographs = photographs_in(listing.tokens or (), listing.records)
    found = {}
    for row, entry in entries.items():
        if (record := records.get(entry.key)) is None:
            continue  # the folder is another one since the cache was made
        try:
            scan = read_scan(config.root, record)
            scan = add_photograph(config.root, record, scan, photographs)
        except ScanError:
            continue  # it could be read when the cache was made; the report does without
        if scan.localizer is not None and scan.localizer_lines is not None:
            found[row] = scan
    return found


def place_window(
    scan: oct_io.OctVolume,
    entry: CacheEntry,
    shape: Sequence[int],
    parts: tuple[int, int],
    bscan: int,
) -> OnLocalizer:
    """Lay a window on the localizer of its scan.

    Args:
        scan: with localizer and lines.
        entry: how the window was cut.
        shape: of the window, (Z, Y, X).
        parts: of the map from above, along (Z, X).
        bscan: of the window, to draw the line of.
    """
    assert scan.localizer is not None
    edges_z, edges_x = (
        np.linspace(0, shape[axis], count + 1) * entry.spacing[axis] + entry.origin_mm[axis]
        for axis, count in zip((0, 2), parts, strict=True)
    )
    middle = (bscan + 0.5) * entry.spacing[0] + entry.origin_mm[0]
    if entry.mirrored:
        edges_x = edges_x[::-1]
    corners = np.stack([_along(scan, entry, z, edges_x) for z in edges_z])
    return OnLocalizer(
        scan.localizer, corners, _along(scan, entry, middle, np.array([edges_x[0], edges_x[-1]]))
    )


def _along(scan: oct_io.OctVolume, entry: CacheEntry, z_mm: float, x_mm: Floats) -> Floats:
    """Places (row, column) at a distance from the first B-scan's outer edge, at columns, (X, 2)."""
    lines = np.asarray(scan.localizer_lines, np.float64)
    at = z_mm / entry.source_spacing[0] - 0.5
    low = int(np.clip(np.floor(at), 0, max(0, len(lines) - 2)))
    high = min(low + 1, len(lines) - 1)
    line = lines[low] + (at - low) * (lines[high] - lines[low])  # straight on beyond the ends
    share = np.asarray(x_mm) / (entry.source_spacing[2] * entry.source_shape[2])
    found: Floats = line[None, :2] + share[:, None] * (line[2:] - line[:2])
    return found


def as_arrays(number: int, place: OnLocalizer) -> dict[str, NDArray[Any]]:
    """What cases.npz has of a case."""
    return {
        f"localizer {number}": place.image,
        f"localizer corners {number}": place.corners_ZX2.astype(np.float32),
        f"localizer line {number}": place.line_22.astype(np.float32),
    }
