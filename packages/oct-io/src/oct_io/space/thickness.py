"""How thick the retina is between two boundaries: as a map, in the sectors of ETDRS, as a volume.

The grid is that of the Early Treatment Diabetic Retinopathy Study (report number 10, Ophthalmology
98: 786-806, 1991), whose circles of 1/3, 1 and 2 disc diameters of 1.5 mm around the fovea are
drawn in OCT with diameters of 1, 3 and 6 mm.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from oct_io.volume import Laterality, Spacing

Map = NDArray[np.float64]

RADII_MM = (0.5, 1.5, 3.0)
QUADRANTS = ("superior", "nasal", "inferior", "temporal")
SECTORS = (
    "central",
    *(f"inner_{side}" for side in QUADRANTS),
    *(f"outer_{side}" for side in QUADRANTS),
)
RINGS = ("central", "inner", "outer")


def _area(sector: str) -> float:
    ring = RINGS.index(sector.partition("_")[0])
    if ring == 0:
        return math.pi * RADII_MM[0] ** 2
    return math.pi * (RADII_MM[ring] ** 2 - RADII_MM[ring - 1] ** 2) / len(QUADRANTS)


AREAS_MM2: dict[str, float] = {name: _area(name) for name in SECTORS}
"""Sector to its size."""

FINEST_MM = 0.02  # an A-scan's share of a sector is counted at points no further apart


@dataclass(frozen=True, kw_only=True, slots=True)
class EtdrsTable:
    """Thickness in the nine sectors of one eye.

    Attributes:
        thickness_um: sector, one of `SECTORS`, to its mean, NaN where nothing is known of it. Of an
            eye that may be either, nasal and temporal are not known.
        covered: sector to the share of its area where the thickness is known.
        volume_mm3: within 6 mm: the mean of each sector times its whole area; NaN where a sector
            has none.
        centre: whether the grid stands on a fovea that was given, or on the middle of the scan.
        centre_mm: where it stands, from the outer edges of the first B-scan and column.
    """

    thickness_um: Mapping[str, float]
    covered: Mapping[str, float]
    volume_mm3: float
    centre: Literal["fovea", "scan"]
    centre_mm: tuple[float, float]


def map_thickness(inner_mm: ArrayLike, outer_mm: ArrayLike) -> Map:
    """Micrometres between two boundaries, (bscans, columns); NaN where unknown or where they cross.

    Args:
        inner_mm: depth of the boundary nearer to the vitreous, (bscans, columns), millimetres; a
            row of `OctVolume.layers` times `spacing.row`. NaN where unknown.
        outer_mm: the same of the boundary nearer to the sclera.

    Raises:
        ValueError: two maps of different shapes, or of other than two axes.
    """
    inner, outer = np.asarray(inner_mm, np.float64), np.asarray(outer_mm, np.float64)
    if inner.shape != outer.shape or inner.ndim != 2:
        raise ValueError(
            f"boundaries must be two maps (bscan, column), not {inner.shape} and {outer.shape}"
        )
    apart = (outer - inner) * 1000
    return np.where(apart >= 0, apart, np.nan)


def measure_etdrs(
    thickness_um: ArrayLike,
    spacing: Spacing,
    laterality: Laterality,
    *,
    fovea_mm: tuple[float, float] | None = None,
    superior_first: bool = True,
) -> EtdrsTable:
    """Mean thickness in the nine sectors around the fovea, by laterality.

    A sector's mean weighs each A-scan by the share of its cell, one spacing wide and high, that
    lies in the sector.

    Args:
        thickness_um: (bscans, columns), as from `map_thickness`.
        spacing: between A-scans.
        laterality: of right eyes the nose is on the side of the last column, of left eyes on that
            of the first; a left eye that was mirrored counts as "R".
        fovea_mm: from the outer edges of the first B-scan and column, so that A-scan (i, j) is at
            (i + 0.5, j + 0.5) spacings; None takes the middle of the scan.
        superior_first: whether B-scans run from the upper end of the eye to the lower one.

    Raises:
        ValueError: no map, or a fovea outside of the scan.
    """
    thickness = np.asarray(thickness_um, np.float64)
    if thickness.ndim != 2 or not thickness.size:
        raise ValueError(f"thickness_um must be a map (bscan, column), not {thickness.shape}")
    steps = (spacing.bscan, spacing.column)
    middle = (thickness.shape[0] * steps[0] / 2, thickness.shape[1] * steps[1] / 2)
    centre = middle if fovea_mm is None else (float(fovea_mm[0]), float(fovea_mm[1]))
    if not (0 <= centre[0] <= 2 * middle[0] and 0 <= centre[1] <= 2 * middle[1]):
        raise ValueError(f"fovea_mm ({fovea_mm}) must lie in the scan, in millimetres")
    padded, (down, along) = _spread(thickness, steps, centre)
    known = np.isfinite(padded)
    filled = np.where(known, padded, 0)
    found, covered = dict[str, float](), dict[str, float]()
    for name in SECTORS:
        share = _share(_inside(name, down, along, laterality, superior_first), padded.shape)
        weight = float((share * known).sum())
        covered[name] = weight / float(share.sum())
        found[name] = float((share * filled).sum()) / weight if weight else math.nan
    volume = sum(found[name] * AREAS_MM2[name] for name in SECTORS) / 1000
    if laterality == "unknown":
        sides = [name for name in SECTORS if name.endswith(("nasal", "temporal"))]
        found |= dict.fromkeys(sides, math.nan)
    return EtdrsTable(
        thickness_um=found,
        covered=covered,
        volume_mm3=volume,
        centre="scan" if fovea_mm is None else "fovea",
        centre_mm=centre,
    )


def _spread(
    thickness: Map, steps: tuple[float, float], centre: tuple[float, float]
) -> tuple[Map, tuple[Map, Map]]:
    """The map with unknown cells around it up to the outermost circle, and points in all cells.

    Points are millimetres from the centre, as a column and as a row.
    """
    pads, points = [], []
    for count, step, middle in zip(thickness.shape, steps, centre, strict=True):
        first = min(0, math.floor((middle - RADII_MM[-1]) / step))
        end = max(count, math.ceil((middle + RADII_MM[-1]) / step))
        pads.append((-first, end - count))
        parts = max(1, math.ceil(step / FINEST_MM))
        offsets = (np.arange((end - first) * parts) + 0.5) / parts + first
        points.append(offsets * step - middle)
    padded = np.pad(thickness, pads, constant_values=np.nan)
    return padded, (points[0][:, None], points[1][None, :])


def _share(inside: NDArray[np.bool_], shape: tuple[int, ...]) -> Map:
    """Share of the points of each cell that are inside."""
    bscans, columns = shape
    parts = inside.reshape(bscans, inside.shape[0] // bscans, columns, -1)
    share: Map = parts.mean(axis=(1, 3))
    return share


def _inside(
    sector: str, down: Map, along: Map, laterality: Laterality, superior_first: bool
) -> NDArray[np.bool_]:
    """Which points are in a sector; quadrants meet on the diagonals."""
    radius = np.hypot(down, along)
    ring, _, side = sector.partition("_")
    if ring == "central":
        return radius < RADII_MM[0]
    place = RINGS.index(ring)
    between = (radius >= RADII_MM[place - 1]) & (radius < RADII_MM[place])
    if side in ("superior", "inferior"):
        first = (side == "superior") == superior_first
        return between & (np.abs(down) > np.abs(along)) & ((down < 0) == first)
    last = (side == "nasal") == (laterality != "L")
    return between & (np.abs(down) <= np.abs(along)) & ((along >= 0) == last)
