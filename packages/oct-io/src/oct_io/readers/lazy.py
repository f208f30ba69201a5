"""A scan that is known and not yet decoded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from oct_io.readers.plain import plain_header
from oct_io.scan.file import ScanFile
from oct_io.scan.geometry import Placement
from oct_io.scan.header import ScanHeader
from oct_io.scan.outcome import check_frames, check_geometry, complete, narrowed
from oct_io.volume import Confidence, Laterality, OctVolume, Pattern, Spacing, SpacingSource


@dataclass(frozen=True, slots=True)
class LazyVolume:
    """What a scan says about itself, and how to get its voxels.

    Attributes:
        header: everything that is known before decoding.
        file: where the scan lies.
    """

    header: ScanHeader
    file: ScanFile = field(repr=False)
    _read: Callable[[ScanFile, tuple[int, ...] | None], OctVolume] = field(repr=False)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(bscans, rows, columns)."""
        return self.header.shape

    @property
    def spacing(self) -> Spacing | None:
        """Millimetres in array order; None where the distance between B-scans is unknown."""
        return self.header.spacing

    @property
    def spacing_source(self) -> SpacingSource | None:
        """What the distance between B-scans was derived from."""
        return self.header.spacing_source

    @property
    def spacing_confidence(self) -> Confidence:
        """How far that distance can be relied on."""
        return self.header.spacing_confidence

    @property
    def laterality(self) -> Laterality:
        """Right eye "R", left eye "L"."""
        return self.header.laterality

    @property
    def device(self) -> str:
        """Normalised name of the scanner."""
        return self.header.device

    @property
    def protocol(self) -> str:
        """Normalised protocol token."""
        return self.header.protocol

    @property
    def region(self) -> str:
        """Anatomic region."""
        return self.header.region

    @property
    def pattern(self) -> Pattern:
        """How the B-scans lie."""
        return self.header.pattern

    def load(self, frames: Sequence[int] | None = None) -> OctVolume:
        """Decode the scan, or only the B-scans that `frames` lists.

        Args:
            frames: increasing numbers of B-scans, counted from superior to inferior as in the
                loaded volume. An even step keeps the pattern, and its spacing grows with the step;
                otherwise the result has pattern "unknown" (one B-scan alone: "line").

        Raises:
            ScanError: as `read_volume`.
            ValueError: `frames` do not increase or lie outside of the scan.
        """
        check_geometry(self.header, self.file.where, self.file.patterns)
        chosen = None if frames is None else check_frames(frames, self.shape[0])
        return self._read(self.file, chosen)


def picked(volume: OctVolume, header: ScanHeader, frames: Sequence[int], where: str) -> OctVolume:
    """Some B-scans of a volume that was decoded whole."""
    part = narrowed(header, frames)
    at = np.asarray(frames)
    return complete(
        volume.voxels[at],
        part,
        where,
        patterns=(part.pattern,),
        layers={name: surface[at] for name, surface in volume.layers.items()},
        localizer=volume.localizer,
        localizer_lines=None if volume.localizer_lines is None else volume.localizer_lines[at],
        lost_bytes=volume.lost_bytes,
    )


def header_of(volume: OctVolume) -> ScanHeader:
    """The header of a volume that had to be decoded to be known."""
    bscans, rows, columns = volume.voxels.shape
    raster = volume.spacing_source != "none"
    placed = Placement(
        volume.pattern,
        tuple(range(bscans)),
        volume.spacing.bscan if raster else None,
        volume.spacing_source if raster else None,
        "",
        volume.spacing_confidence or "none",
    )
    pitch = (volume.spacing.row, volume.spacing.column)
    itemsize = volume.voxels.dtype.itemsize
    header = plain_header((bscans, rows, columns), itemsize, placed, pitch, volume)
    known = {name: float(np.isfinite(rows).mean()) for name, rows in volume.layers.items()}
    return replace(header, bits=volume.bits or header.bits, layers=known)
