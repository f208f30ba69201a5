"""What is cut out of a scan, and how finely it is sampled: boxes in millimetres, by name.

Scans whose millimetres nobody knows are taken whole, and brought to a number of voxels.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from oct_io.volume import OctVolume, Spacing

Triple = tuple[float, float, float]
Shape = tuple[int, int, int]

WHOLE_FIELD: Triple = (0.0, 0.0, 0.0)
"""As an extent: all of each scan, whatever its millimetres."""

WHOLE_IMAGE: Triple = (-1.0, -1.0, -1.0)
"""As an extent: likewise, with rows and columns sampled equally finely, so that B-scans keep their
proportions and 0 is padded where they do not reach."""

AS_SCANNED: Shape = (0, 0, 0)
"""As a shape: as many voxels as the scan has there."""

FLATTENED_DEPTH = 0.5
"""Share of a scan's depth that a window takes of a flattened scan, where it takes all of others."""


@dataclass(kw_only=True, slots=True)
class Window:
    """A box in millimetres and the number of voxels it is sampled with, (bscan, row, column)."""

    name: str
    """Stands in cache indexes and messages."""

    extent_mm: Triple = (6.0, 2.0, 6.0)
    """Size of the box, `WHOLE_FIELD` or `WHOLE_IMAGE`. 6 mm is the field that all macular protocols
    share; 2 mm of depth holds the retina and most of the choroid on every device."""

    shape: Shape = (64, 384, 384)
    """Voxels along each axis; `AS_SCANNED` with `WHOLE_FIELD` leaves the scan's voxels alone. One
    B-scan is the scan's only one, or its middle one, as it is."""

    antialiased: bool = True
    """Average where the window samples more coarsely than the scan. False picks single voxels, as
    the predecessor did; speckle then stays as strong, and fine detail aliases."""

    retina_centred: bool = True
    """Centre the box in depth on the retina, which lies anywhere in a scan; False takes the middle
    of the scan. Across, the box is always centred on the scan."""

    mirror_left: bool = False
    """Mirror the columns of left eyes, so that nasal is on one side for all. Depth stays."""

    flattened: bool = False
    """Move each A-scan along the beam so that the retina's inner surface lies in one row, an eighth
    of the window below its top (`flattening`). A window that takes all of each scan then takes half
    of its depth, as much as a retina needs."""

    def __post_init__(self) -> None:
        whole, as_scanned = tuple(self.extent_mm) == WHOLE_FIELD, tuple(self.shape) == AS_SCANNED
        if whole or tuple(self.extent_mm) == WHOLE_IMAGE:
            self.extent_mm = WHOLE_FIELD if whole else WHOLE_IMAGE
        else:
            self.extent_mm = _three("window.extent_mm", self.extent_mm, float)
        self.shape = AS_SCANNED if as_scanned else _three("window.shape", self.shape, int)
        if as_scanned and not whole:
            raise ValueError(
                f"window.shape {self.shape} takes the scan's own voxels, so window.extent_mm "
                f"({self.extent_mm}) must be the whole field, {WHOLE_FIELD}"
            )
        if as_scanned and self.flattened:
            raise ValueError(
                f"window {self.name} takes the scan's own voxels, and flattened moves them; choose "
                "another window"
            )

    @property
    def spacing(self) -> Spacing:
        """Millimetres between voxel centres of the result.

        Raises:
            ValueError: the window takes the whole field, so that it differs from scan to scan.
        """
        if self.takes_all:
            raise ValueError(
                f"window {self.name} has no spacing of its own: it takes the whole field of each "
                "scan; the result of resample and the entries of a cache have the spacing of each"
            )
        return Spacing(*(mm / n for mm, n in zip(self.extent_mm, self.shape, strict=True)))

    @property
    def takes_all(self) -> bool:
        """Whether it takes all of each scan, so that the scan's millimetres need not be known."""
        return self.extent_mm in (WHOLE_FIELD, WHOLE_IMAGE)

    def require_fixed_shape(self) -> Shape:
        """Return the one shape of all results.

        Raises:
            ValueError: every scan keeps its own shape.
        """
        if self.shape == AS_SCANNED:
            raise ValueError(
                f"window {self.name} keeps the shape of each scan, but the records of a cache have "
                "one shape; choose another window, or call resample on single volumes"
            )
        return self.shape

    def extent_on(self, volume: OctVolume) -> Triple:
        """Size of the box on this scan in millimetres; NaN where its spacing is."""
        extent, depth = self.extent_mm, FLATTENED_DEPTH if self.flattened else 1
        if self.extent_mm == WHOLE_FIELD:
            across, along_beam, along = volume.extent_mm
            extent = across, along_beam * depth, along
        elif self.extent_mm == WHOLE_IMAGE:
            (_, rows, columns), step = volume.voxels.shape, volume.spacing
            _, high, wide = self.shape
            rows = round(rows * depth)
            coarser = max(rows / high, columns / wide)
            extent = volume.extent_mm[0], high * coarser * step.row, wide * coarser * step.column
        return (volume.spacing.bscan, *extent[1:]) if self.shape[0] == 1 else extent

    def shape_on(self, volume: OctVolume) -> Shape:
        """Voxels of the result for this scan."""
        bscans, rows, columns = volume.voxels.shape
        return (bscans, rows, columns) if self.shape == AS_SCANNED else self.shape

    def mirrors(self, volume: OctVolume) -> bool:
        """Whether the columns of this scan are mirrored."""
        return self.mirror_left and volume.laterality == "L"


def _three(name: str, values: Sequence[float], kind: type) -> tuple:  # type: ignore[type-arg]
    found = tuple(kind(value) for value in values)
    if len(found) != 3 or not all(np.isfinite(value) and value > 0 for value in found):
        raise ValueError(f"{name} ({values}) must be three positive numbers")
    return found


WINDOWS: dict[str, Window] = {
    "macula6": Window(name="macula6"),
    # The same box more coarsely, 19 um across, for what does not fit the memory.
    "macula6_320": Window(name="macula6_320", shape=(64, 320, 320)),
    "wide12x9": Window(name="wide12x9", extent_mm=(9.0, 2.0, 12.0)),
    # For CPU runs. Rows of 8 um keep layers apart that 12.5 um blur; what that costs is field.
    "tiny": Window(name="tiny", extent_mm=(4.0, 0.512, 4.0), shape=(8, 64, 64)),
    # Every scan as a whole, whatever its field, for encoders that count positions in millimetres.
    # All rows that the scan has are kept: a retina is then in it as it was in the scan.
    "tiny_field": Window(
        name="tiny_field", extent_mm=WHOLE_FIELD, shape=(8, 64, 64), retina_centred=False
    ),
    # What the predecessor's training really saw: every scan stretched to one shape, so that 64
    # slices are 120 um apart on one device and 27 on another, single voxels picked.
    "predecessor_resize": Window(
        name="predecessor_resize",
        extent_mm=WHOLE_FIELD,
        antialiased=False,
        retina_centred=False,
    ),
    # What its configuration asked for: [0.05, 0.02, 0.02] mm, centre crop to 64 x 384 x 384. Lossy:
    # 3.2 mm keeps about half of a 6 mm scan, 20 um of depth shows 2 of 5 bands of the retina, and
    # 7.68 mm of depth for some 2 mm of scan leaves about 80 % of the result empty.
    "predecessor_spacing": Window(
        name="predecessor_spacing",
        extent_mm=(64 * 0.05, 384 * 0.02, 384 * 0.02),
        antialiased=False,
        retina_centred=False,
    ),
    # One B-scan of a macular scan whose millimetres are known, for CPU runs.
    "bscan": Window(name="bscan", extent_mm=(0.1, 2.0, 6.0), shape=(1, 96, 256)),
    "native": Window(name="native", extent_mm=WHOLE_FIELD, shape=AS_SCANNED, retina_centred=False),
}
"""The named windows; `macula6` is for training, the two of the predecessor for comparison."""

PADDED = "-padded"
_VOXELS = re.compile(rf"(?:([1-9]\d{{0,4}})x)?([1-9]\d{{0,4}})x([1-9]\d{{0,4}})({PADDED})?")


def find_window(name: str) -> Window:
    """The window of that name, or the one that takes all of each scan to as many voxels.

    `96x256` (rows and columns of one B-scan) and `8x64x64` (B-scans, rows, columns) stretch each
    scan to that shape, which needs no millimetres. `96x256-padded` keeps the proportions of its
    images instead, and leaves 0 where they do not reach.

    Raises:
        ValueError: neither a known name nor numbers of voxels.
    """
    if name in WINDOWS:
        return WINDOWS[name]
    found = _VOXELS.fullmatch(name)
    if found is None:
        known = ", ".join(WINDOWS)
        raise ValueError(
            f"({name}) must be one of {known}, or voxels such as 96x256, 8x64x64 or 96x256{PADDED}"
        )
    bscans, rows, columns = (int(one or 1) for one in found.groups()[:3])
    extent = WHOLE_IMAGE if found[4] else WHOLE_FIELD
    return Window(name=name, extent_mm=extent, shape=(bscans, rows, columns), retina_centred=False)
