"""`OctVolume`, the one type that every reader returns and every later step takes.

Its `Spacing` is in millimetres; `scan.geometry` finds it, and `SpacingSource` says from what.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Laterality = Literal["R", "L", "unknown"]
Pattern = Literal["raster", "radial", "circle", "line", "unknown"]
Kind = Literal["oct", "volume"]
"""What scans show: a retina, or anything else in three dimensions."""
KINDS: tuple[Kind, ...] = ("oct", "volume")
SpacingSource = Literal[
    "frame_positions",  # ImagePositionPatient of neighbouring frames, projected on the slice normal
    "localizer",  # frame locations on the localizer image, times its PixelSpacing
    "spacing_between_slices",
    "slice_thickness",  # the B-scan pitch in AI-READI's Topcon files
    "field_of_view",  # width that the file states for the whole scan, over its number of frames
    "affine",  # of a NIfTI file
    "protocol",  # field of view of a known protocol over its number of frames
    "given",  # the caller or a sidecar said so
    "drawn",  # a phantom
    "none",  # a line, circle or radial scan: its B-scans have no one distance
    "unknown",  # a single image: nobody knows how large its voxels are
]
Confidence = Literal["high", "medium", "low", "none"]
Voxels = NDArray[np.uint8] | NDArray[np.uint16]
"""(bscans, rows, columns), grey levels as the scanner stored them."""

UNLABELLED = 255
"""Label of voxels of which nobody said what they are; no class has it, and no loss counts it."""

CONFIDENCE: Mapping[SpacingSource, Confidence] = {
    "frame_positions": "high",  # one value a frame, and the frames agree with each other
    "localizer": "high",  # likewise; the scale is that of the B-scan itself
    "spacing_between_slices": "medium",  # one number that no frame confirms
    "field_of_view": "medium",  # likewise
    "affine": "medium",  # whoever converted the file wrote it
    "slice_thickness": "low",  # the standard lets it differ from the pitch; some files round it
    "protocol": "low",  # nominal width for an average eye; nothing in the file said it
    "given": "high",  # who said it answers for it
    "drawn": "high",
    "none": "none",
    "unknown": "none",
}
"""How far the distance between B-scans can be relied on, by where it came from."""


class Spacing(NamedTuple):
    """Distance between voxel centres in millimetres, in array order; NaN where nobody knows it."""

    bscan: float  # between neighbouring B-scans, often 0.05 to 0.25; NaN if they lie not abreast
    row: float  # along the beam, into the eye; often 0.002 to 0.004
    column: float  # between A-scans of one B-scan; often 0.005 to 0.012


@dataclass(frozen=True, slots=True)
class OctVolume:
    """A retinal OCT volume with its geometry; only `participant_id` says whose eye it is.

    Axes are `(bscan, row, column)`: rows run into the eye and are never flipped.

    Attributes:
        voxels: (bscans, rows, columns), uint8 or uint16.
        spacing: millimetres between voxel centres, same order.
        spacing_source: what the distance between B-scans was derived from.
        laterality: right eye "R" (OD), left eye "L" (OS).
        device: normalised name, such as "heidelberg_spectralis"; "unknown" if not recognised.
        protocol: normalised protocol token, such as "maestro2_3d_macula_oct"; "unknown" likewise.
        region: anatomic region as the file or manifest gives it.
        pattern: how the B-scans lie; only rasters are volumes.
        participant_id: as in the file; "" if absent. Never logged; see `oct_io.catalog.manifest`.
        spacing_confidence: "high", "medium" or "low"; from `CONFIDENCE` where not given.
        layers: surfaces by standard name (`oct_io.boundaries`), each (bscans, columns) float32: the
            row at which it lies, counted from the centre of row 0; NaN where the file has none.
        bits: that the file says a voxel uses; None if nothing said so.
        lost_bytes: what suggests that bytes of the file are missing; "" if nothing does. What shows
            in the voxels is found by `oct_io.scan.flags.find_flags`.
        direction: which axes of its B-scans the file says to run another way than in other scans;
            "" if none. They lie as they are stored.
        localizer: en-face image that the scanner took along, (height, width) uint8, if it is there.
        localizer_lines: where each B-scan lies on it, (bscans, 4) float32: row and column of its
            first A-scan, then of its last, in pixels from the image's outer corner; None where the
            file does not say.
        mask: class of each voxel, in the shape of `voxels`, as a place in `mask_names`, or
            `UNLABELLED`; None if nobody marked any.
        mask_names: names of the classes; the first is the background.
        kind: "volume" if it is no OCT, so that nothing is expected of it but three axes.
    """

    voxels: NDArray[np.uint8] | NDArray[np.uint16]
    spacing: Spacing
    spacing_source: SpacingSource
    laterality: Laterality = "unknown"
    device: str = "unknown"
    protocol: str = "unknown"
    region: str = "unknown"
    pattern: Pattern = "raster"
    participant_id: str = field(default="", repr=False)
    spacing_confidence: Confidence | None = None
    layers: Mapping[str, NDArray[np.float32]] = field(default_factory=dict, repr=False)
    localizer: NDArray[np.uint8] | None = field(default=None, repr=False)
    localizer_lines: NDArray[np.float32] | None = field(default=None, repr=False)
    bits: int | None = None
    lost_bytes: str = ""
    direction: str = ""
    mask: NDArray[np.uint8] | None = field(default=None, repr=False)
    mask_names: tuple[str, ...] = ()
    kind: Kind = "oct"

    def __post_init__(self) -> None:
        if self.voxels.ndim != 3:
            raise ValueError(f"voxels must be (bscan, row, column), not {self.voxels.shape}")
        if self.voxels.dtype not in (np.uint8, np.uint16):
            raise ValueError(f"voxels must be uint8 or uint16, not {self.voxels.dtype}")
        if self.spacing_source not in CONFIDENCE:
            known = ", ".join(CONFIDENCE)
            raise ValueError(f"spacing_source ({self.spacing_source!r}) must be one of {known}")
        open_axes = {"none": 1, "unknown": 3}.get(self.spacing_source, 0)  # may be NaN
        if not all(np.isfinite(step) and step > 0 for step in self.spacing[open_axes:]):
            raise ValueError(f"spacing must be positive millimetres, not {tuple(self.spacing)}")
        plane = (self.voxels.shape[0], self.voxels.shape[2])
        for name, surface in self.layers.items():
            if surface.shape != plane:
                raise ValueError(f"layer {name} must be {plane}, not {surface.shape}")
        lines = self.localizer_lines
        if lines is not None and lines.shape != (plane[0], 4):
            raise ValueError(f"localizer_lines must be ({plane[0]}, 4), not {lines.shape}")
        self._check_mask()
        if self.spacing_confidence is None:
            object.__setattr__(self, "spacing_confidence", CONFIDENCE[self.spacing_source])

    def _check_mask(self) -> None:
        if self.mask is None:
            return
        if self.mask.shape != self.voxels.shape or self.mask.dtype != np.uint8:
            raise ValueError(
                f"mask must be uint8 {self.voxels.shape}, not {self.mask.dtype} {self.mask.shape}"
            )
        highest = int(self.mask.max(where=self.mask != UNLABELLED, initial=0))
        if highest >= len(self.mask_names):
            raise ValueError(f"mask has label {highest}, and mask_names {len(self.mask_names)}")

    @property
    def extent_mm(self) -> tuple[float, float, float]:
        """Field of view in millimetres: number of voxels times spacing, in array order."""
        bscans, rows, columns = self.voxels.shape
        step = self.spacing
        return bscans * step.bscan, rows * step.row, columns * step.column
