"""How an Ophthalmic Tomography file is laid out: its frames' places, order and encoding."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from oct_io.dicom.encoding import OFFSET_TABLES, check_codec
from oct_io.dicom.items import Item
from oct_io.volume import OctVolume

OPHTHALMIC_PHOTOGRAPHY = "1.2.840.10008.5.1.4.1.1.77.1.5.1"
LOCALIZER_PIXEL_MM = 0.0115
"""Pixel of the imagined localizer photograph: 30 degrees, about 8.8 mm, over 768 pixels."""

CIRCLE_RADIUS_MM = 1.7
"""The innermost of the three circles that Spectralis scans around a nerve head."""

_RETINA = ("5665001", "SCT", "Retina")
_OPTIC_NERVE_HEAD = ("81016008", "SCT", "Optic nerve head")
_LOCALIZER = ("121311", "DCM", "Localizer")


@dataclass(kw_only=True, slots=True)
class FileStyle:
    """What scanners and converters do differently with one and the same volume."""

    codec: str = "native"
    """One of `oct_io.dicom.encoding.CODECS`; all but native and rle need imagecodecs to write."""

    table: str = "basic"
    """Where compressed frames begin: the `basic` or `extended` offset table, or an `empty` one."""

    positions: bool = True
    """Whether frames have an ImagePositionPatient; AI-READI's may be without."""

    locations: bool = True
    """Whether frames say where they lie on the localizer."""

    thickness: bool = True
    """Whether SliceThickness, the distance between B-scans, is there."""

    frame_order: tuple[int, ...] = ()
    """B-scan that is stored first, second, ...; empty for their natural order."""

    part: tuple[int, int] = (1, 1)
    """Number of this file among how many that together hold the volume (PS3.3 C.8.17.16.3)."""

    circles: int = 3
    """How many of the last frames of a radial scan are circles, as Spectralis has them."""

    def __post_init__(self) -> None:
        check_codec(self.codec)
        self.frame_order = tuple(map(int, self.frame_order))
        number, total = self.part
        self.part = (int(number), int(total))
        if self.table not in OFFSET_TABLES:
            allowed = ", ".join(OFFSET_TABLES)
            raise ValueError(f"file_style.table ({self.table!r}) must be one of {allowed}")
        if not 1 <= number <= total:
            raise ValueError(f"file_style.part {self.part} must be (number, total), 1 to total")
        if self.circles < 0:
            raise ValueError(f"file_style.circles ({self.circles}) must be zero or more")

    def frames_of(self, bscans: int) -> list[int]:
        """Which of `bscans` B-scans the file holds, in its order.

        Raises:
            ValueError: `frame_order` is no order of them, or fewer B-scans than parts.
        """
        order = list(self.frame_order) or list(range(bscans))
        if sorted(order) != list(range(bscans)):
            raise ValueError(f"file_style.frame_order must name each of {bscans} B-scans once")
        number, total = self.part
        if total > bscans:
            raise ValueError(f"file_style.part {self.part}: only {bscans} B-scans to share out")
        return [int(i) for i in np.array_split(order, total)[number - 1]]


def code_item(code: tuple[str, str, str]) -> Item:
    """An item of a code sequence (PS3.3 8.8)."""
    item = Item()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code
    return item


def region_item(region: str) -> Item:
    """Code of the anatomic region, as AI-READI's files have it."""
    return code_item(_OPTIC_NERVE_HEAD if "optic" in region.lower() else _RETINA)


def _number(value: float) -> str:
    """A decimal string of at most 16 characters (PS3.5 6.2, DS), with all digits that fit."""
    from pydicom.valuerep import format_number_as_ds

    return format_number_as_ds(float(value))


def functional_groups(
    volume: OctVolume,
    style: FileStyle,
    *,
    shared_groups: bool,
    localizer_uid: str,
    acquired: datetime,
) -> tuple[Item, list[Item]]:
    """The shared group, and one group for each frame of the file.

    Spacing and orientation stand in the shared group or in each frame's. In radial scans they must
    stand in the frames', because each frame has its own.
    """
    anatomy = Item()
    anatomy.AnatomicRegionSequence = [region_item(volume.region)]
    anatomy.FrameLaterality = "U" if volume.laterality == "unknown" else volume.laterality
    shared = Item()
    shared.FrameAnatomySequence = [anatomy]
    shared.ReferencedImageSequence = [_localizer(localizer_uid)]
    shared.DerivationImageSequence = []
    place = _place_radial if volume.pattern == "radial" else _place_raster
    frames = []
    for stored, i in enumerate(style.frames_of(len(volume.voxels))):
        group = Item()
        group.FrameContentSequence = [_content(stored, acquired)]
        place(group, volume, style, i, lambda: _localizer(localizer_uid))
        frames.append(group)
    if volume.pattern != "radial":
        for group in [shared] if shared_groups else frames:
            _add_geometry(group, volume, style, (1.0, 0.0))
    return shared, frames


def _add_geometry(
    group: Item, volume: OctVolume, style: FileStyle, along: tuple[float, float] | None
) -> None:
    """PixelMeasures and PlaneOrientation: columns run towards (left, head), rows into the eye."""
    measures = Item()
    measures.PixelSpacing = [_number(volume.spacing.row), _number(volume.spacing.column)]
    if style.thickness:
        measures.SliceThickness = _number(volume.spacing.bscan)  # the pitch, as in Topcon's files
    group.PixelMeasuresSequence = [measures]
    if along is not None:
        orientation = Item()
        cosines = (along[0], 0, along[1], 0, 1, 0)
        orientation.ImageOrientationPatient = [_number(cosine) for cosine in cosines]
        group.PlaneOrientationSequence = [orientation]


def _content(stored: int, acquired: datetime) -> Item:
    content = Item()
    content.FrameAcquisitionDateTime = f"{acquired:%Y%m%d%H%M%S}"
    content.FrameReferenceDateTime = content.FrameAcquisitionDateTime
    content.FrameAcquisitionDuration = 20.0  # milliseconds
    content.StackID = "1"
    content.InStackPositionNumber = stored + 1
    content.DimensionIndexValues = [1, stored + 1]
    return content


def _place_raster(
    group: Item, volume: OctVolume, style: FileStyle, i: int, localizer: Callable[[], Item]
) -> None:
    position = Item()  # z grows towards the head, and the first frame is the most superior
    position.ImagePositionPatient = ["0", "0", _number(-i * volume.spacing.bscan) if i else "0"]
    if not style.positions:
        position.ImagePositionPatient = None
    group.PlanePositionSequence = [position]
    if style.locations:
        location = localizer()
        row = 1.0 + i * volume.spacing.bscan / LOCALIZER_PIXEL_MM
        width = volume.voxels.shape[2] * volume.spacing.column / LOCALIZER_PIXEL_MM
        location.ReferenceCoordinates = [row, 1.0, row, 1.0 + width]
        location.OphthalmicImageOrientation = "LINEAR"
        group.OphthalmicFrameLocationSequence = [location]


def _place_radial(
    group: Item, volume: OctVolume, style: FileStyle, i: int, localizer: Callable[[], Item]
) -> None:
    """Lines through one centre, then circles around it; circles have no plane (PS3.3 C.8.17.10)."""
    lines = max(1, len(volume.voxels) - style.circles)
    half_mm = volume.voxels.shape[2] * volume.spacing.column / 2
    centre = half_mm / LOCALIZER_PIXEL_MM + 1
    location = localizer()
    if i >= lines:
        radius = CIRCLE_RADIUS_MM * (1 + 0.2 * (i - lines)) / LOCALIZER_PIXEL_MM
        location.ReferenceCoordinates = [centre, centre + radius, centre, centre + radius]
        location.OphthalmicImageOrientation = "NONLINEAR"
        _add_geometry(group, volume, style, None)
    else:
        angle = np.pi * i / lines
        left, head = float(np.cos(angle)), float(np.sin(angle))
        position = Item()
        position.ImagePositionPatient = [_number(-half_mm * left), "0", _number(-half_mm * head)]
        group.PlanePositionSequence = [position]
        _add_geometry(group, volume, style, (left, head))
        reach = half_mm / LOCALIZER_PIXEL_MM
        start, end = (centre + sign * np.array([-head, left]) * reach for sign in (-1, 1))
        location.ReferenceCoordinates = [*map(float, start), *map(float, end)]
        location.OphthalmicImageOrientation = "LINEAR"
    group.OphthalmicFrameLocationSequence = [location]


def _localizer(uid: str) -> Item:
    """A reference to the photograph that a scanner would have taken."""
    item = Item()
    item.ReferencedSOPClassUID = OPHTHALMIC_PHOTOGRAPHY
    item.ReferencedSOPInstanceUID = uid
    item.PurposeOfReferenceCodeSequence = [code_item(_LOCALIZER)]
    return item
