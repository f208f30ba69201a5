"""Look-ups in the functional groups of a multi-frame DICOM: per frame, shared, top level."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from oct_io.scan.geometry import FrameGeometry
from oct_io.scan.header import text
from oct_io.scan.protocols import PROTOCOLS, Protocol
from oct_io.volume import Laterality

REGIONS = {"5665001": "Retina", "81016008": "Optic Disc", "82859000": "Macula"}
"""SNOMED CT codes of AnatomicRegionSequence, as AI-READI's files use them."""

REGION_NAMES = frozenset(protocol.region for protocol in PROTOCOLS) | {"Macula, 20 x 20"}
"""Regions of AI-READI; a series description is free text, and believed only if it is one."""


class Groups:
    """Functional groups of one dataset; any attribute may stand per frame, shared or at top level.

    DICOM PS3.3 C.7.6.16 lets a writer put each group at either level, and writers of OPT files do
    both: Topcon and Cirrus share the pixel measures, Spectralis disc scans repeat them per frame.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        shared = dataset.get("SharedFunctionalGroupsSequence")
        self._shared: Dataset | None = shared[0] if shared else None
        self._frames: Sequence[Dataset] = dataset.get("PerFrameFunctionalGroupsSequence") or ()

    @property
    def described(self) -> int:
        """Number of frames that have a per-frame item."""
        return len(self._frames)

    def find(self, group: str, attribute: str, frame: int = 0) -> Any:
        """Value of `attribute` of `group` for one frame; None if it stands nowhere or is empty."""
        own = self._frames[frame] if frame < len(self._frames) else None
        for level in (own, self._shared):
            items = level.get(group) if level is not None else None
            value = items[0].get(attribute) if items else None
            if not _empty(value):
                return value
        value = self._dataset.get(attribute)
        return None if _empty(value) else value

    def numbers(self, group: str, attribute: str, frame: int, count: int) -> list[float] | None:
        """The `count` numbers of a multi-valued attribute; None unless all are there and finite."""
        value = self.find(group, attribute, frame)
        if value is None:
            return None
        many = [value] if isinstance(value, (int, float, str)) else list(value)
        if len(many) != count:
            return None
        row = [float(one) for one in many]
        return row if np.isfinite(row).all() else None

    def number(self, group: str, attribute: str) -> float | None:
        """One positive number, for all frames alike; None otherwise."""
        found = self.numbers(group, attribute, 0, 1)
        return found[0] if found and found[0] != 0 else None

    def rows(
        self, group: str, attribute: str, count: int, frames: int
    ) -> NDArray[np.float64] | None:
        """One row of numbers a frame, NaN where a frame lacks them; None if all do."""
        found = [self.numbers(group, attribute, frame, count) for frame in range(frames)]
        if not any(found):
            return None
        return np.array([row or [np.nan] * count for row in found], dtype=np.float64)


def _empty(value: object) -> bool:
    return value is None or (hasattr(value, "__len__") and len(value) == 0)


def frame_geometry(
    groups: Groups, frames: int, columns: int, column_mm: float, protocol: Protocol | None
) -> FrameGeometry:
    """Collect what the file says about where its frames lie."""
    place = "OphthalmicFrameLocationSequence"
    flags = [groups.find(place, "OphthalmicImageOrientation", i) for i in range(frames)]
    return FrameGeometry(
        frames=frames,
        columns=columns,
        column_mm=column_mm,
        positions_mm=groups.rows("PlanePositionSequence", "ImagePositionPatient", 3, frames),
        orientations=groups.rows("PlaneOrientationSequence", "ImageOrientationPatient", 6, frames),
        lines=groups.rows(place, "ReferenceCoordinates", 4, frames),
        curved=np.array([text(flag).upper() == "NONLINEAR" for flag in flags], dtype=np.bool_),
        spacing_between_slices=groups.number("PixelMeasuresSequence", "SpacingBetweenSlices"),
        slice_thickness=groups.number("PixelMeasuresSequence", "SliceThickness"),
        protocol=protocol,
    )


def laterality(groups: Groups) -> Laterality:
    """Right or left eye as the file says."""
    for group, attribute in (
        ("FrameAnatomySequence", "FrameLaterality"),
        ("FrameAnatomySequence", "ImageLaterality"),
        ("FrameAnatomySequence", "Laterality"),
    ):
        value = text(groups.find(group, attribute)).upper()
        if value == "R":
            return "R"
        if value == "L":
            return "L"
    return "unknown"


def region(groups: Groups, protocol: Protocol | None) -> str:
    """Anatomic region: the file's word, or the protocol's where that says no more than retina."""
    series = text(groups.find("", "SeriesDescription"))
    if series in REGION_NAMES:
        return series
    items = groups.find("FrameAnatomySequence", "AnatomicRegionSequence")
    item = items[0] if items else None
    named = "unknown"
    if item is not None:
        code = text(item.get("CodeValue"))
        named = REGIONS.get(code) or text(item.get("CodeMeaning")) or "unknown"
    if named in ("unknown", "Retina") and protocol is not None:
        return protocol.region
    return named
