"""The one type every reader returns and every later step takes."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Laterality = Literal["R", "L", "unknown"]
Pattern = Literal["raster", "radial", "circle", "line", "unknown"]
SpacingSource = Literal[
    "frame_positions",  # ImagePositionPatient of neighbouring frames, projected on the slice normal
    "localizer",  # frame locations on the localizer image, times its PixelSpacing
    "spacing_between_slices",
    "slice_thickness",  # the B-scan pitch in AI-READI's Topcon files
    "protocol",  # field of view of a known protocol over its number of frames
    "given",  # the caller said so
    "drawn",  # a phantom
]


class Spacing(NamedTuple):
    """Distance between voxel centres in millimetres, in array order."""

    bscan: float  # between neighbouring B-scans; the coarse axis, often 0.05 to 0.25
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
        participant_id: as in the file; "" if absent. Never logged; see `oct_io.manifest`.
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

    def __post_init__(self) -> None:
        if self.voxels.ndim != 3:
            raise ValueError(f"voxels must be (bscan, row, column), not {self.voxels.shape}")
        if self.voxels.dtype not in (np.uint8, np.uint16):
            raise ValueError(f"voxels must be uint8 or uint16, not {self.voxels.dtype}")
        if not all(np.isfinite(step) and step > 0 for step in self.spacing):
            raise ValueError(f"spacing must be positive millimetres, not {tuple(self.spacing)}")

    @property
    def extent_mm(self) -> tuple[float, float, float]:
        """Field of view in millimetres: number of voxels times spacing, in array order."""
        bscans, rows, columns = self.voxels.shape
        step = self.spacing
        return bscans * step.bscan, rows * step.row, columns * step.column
