"""Write a volume as an Ophthalmic Tomography Image, the DICOM object that OCT scanners export."""

import os
from datetime import datetime
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import format_number_as_ds

from oct_io.volume import OctVolume

OPHTHALMIC_TOMOGRAPHY = UID("1.2.840.10008.5.1.4.1.1.77.1.5.4")
OPHTHALMIC_PHOTOGRAPHY = UID("1.2.840.10008.5.1.4.1.1.77.1.5.1")
IMPLEMENTATION_UID = generate_uid(entropy_srcs=["oct-io", "implementation"])

DEFAULT_ACQUIRED = datetime(2000, 1, 1, 12, 0, 0)
"""A date that nobody takes for a visit; a fixed one, so that equal volumes give equal bytes."""

LOCALIZER_PIXEL_MM = 0.0115
"""Pixel of the imagined localizer photograph: 30 degrees, about 8.8 mm, over 768 pixels."""

_MAKERS = {
    "heidelberg_spectralis": ("Heidelberg Engineering", "Spectralis"),
    "topcon_maestro2": ("Topcon", "Maestro2"),
    "topcon_triton": ("Topcon", "Triton"),
    "zeiss_cirrus": ("Zeiss", "Cirrus"),
}
"""Device name in oct_io -> what the scanner writes into Manufacturer and ManufacturerModelName."""

_RETINA = ("5665001", "SCT", "Retina")
_OPTIC_NERVE_HEAD = ("81016008", "SCT", "Optic nerve head")
_TOMOGRAPH = ("392012008", "SCT", "Optical Coherence Tomography Scanner")
_LOCALIZER = ("121311", "DCM", "Localizer")


def maker_of(device: str) -> tuple[str, str]:
    """Manufacturer and model name under which `device` stands in files and manifests."""
    return _MAKERS.get(device, ("oct-io", device))


def sop_instance_uid(uid_seed: str) -> str:
    """The SOP Instance UID that `write_dicom` gives to a file written with this seed."""
    return _uid(uid_seed, "instance")


def localizer_uid(uid_seed: str) -> str:
    """The UID of the photograph that such a file refers to; no such file is written."""
    return _uid(uid_seed, "localizer")


def write_dicom(
    volume: OctVolume,
    path: Path,
    *,
    uid_seed: str,
    shared_groups: bool = True,
    acquired: datetime | None = None,
) -> None:
    """Write `volume` without compression, so that it reads back voxel for voxel.

    The geometry is that of PS3.3 C.7.6.16: frames run from superior to inferior, rows into the
    eye. The file appears whole or not at all. Equal arguments give equal bytes.

    Args:
        volume: a raster; its region becomes the series description and the anatomic region code.
        path: the file to write; its folder must exist.
        uid_seed: what all UIDs are derived from; one seed names one file.
        shared_groups: spacing and orientation once for all frames, as Topcon's files have them;
            otherwise per frame, as in Spectralis files of the optic nerve head.
        acquired: time stamp of the scan; `DEFAULT_ACQUIRED` if None.

    Raises:
        ValueError: not a raster, or a text that does not fit into its DICOM field.
    """
    _check(volume, uid_seed)
    dataset = _dataset(volume, uid_seed, acquired or DEFAULT_ACQUIRED)
    shared, frames = _functional_groups(volume, uid_seed, acquired or DEFAULT_ACQUIRED)
    geometry = _geometry(volume)
    for group in [shared] if shared_groups else frames:
        group.update(geometry)
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.PerFrameFunctionalGroupsSequence = frames
    _set_pixels(dataset, volume)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        dataset.save_as(part, enforce_file_format=True)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _check(volume: OctVolume, uid_seed: str) -> None:
    if not uid_seed:
        raise ValueError("uid_seed ('') must name the file: files with equal seeds have equal UIDs")
    if volume.pattern != "raster":
        raise ValueError(f"volume.pattern ({volume.pattern!r}) must be 'raster'")
    if volume.voxels.size == 0:
        raise ValueError(
            f"volume.voxels has shape {volume.voxels.shape}, there is nothing to write"
        )
    # Value representation LO: 64 characters, no backslash, no control characters.
    for field in ("device", "protocol", "region", "participant_id"):
        text: str = getattr(volume, field)
        if len(text) > 64 or "\\" in text or not (text.isprintable() or text == ""):
            raise ValueError(
                f"volume.{field} must be at most 64 printable characters without a backslash; "
                f"it has {len(text)}"
            )


def _uid(seed: str, role: str) -> str:
    return str(generate_uid(entropy_srcs=["oct-io", role, seed]))


def _number(value: float) -> str:
    """A decimal string of at most 16 characters (PS3.5 6.2, DS), with all digits that fit."""
    return format_number_as_ds(float(value))


def _code(code: tuple[str, str, str]) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code
    return item


def _region_code(region: str) -> Dataset:
    return _code(_OPTIC_NERVE_HEAD if "optic" in region.lower() else _RETINA)


def _dataset(volume: OctVolume, seed: str, acquired: datetime) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = OPHTHALMIC_TOMOGRAPHY
    meta.MediaStorageSOPInstanceUID = UID(_uid(seed, "instance"))
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = IMPLEMENTATION_UID
    meta.ImplementationVersionName = "OCT-IO"  # or pydicom's own version would change the bytes
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = OPHTHALMIC_TOMOGRAPHY
    dataset.SOPInstanceUID = _uid(seed, "instance")
    _set_identity(dataset, volume, seed, acquired)
    _set_equipment(dataset, volume)
    _set_image(dataset, volume, seed, acquired)
    return dataset


def _set_identity(dataset: Dataset, volume: OctVolume, seed: str, acquired: datetime) -> None:
    """Patient, study, series and frame of reference (PS3.3 C.7.1 to C.7.4)."""
    dataset.PatientName = ""
    dataset.PatientID = volume.participant_id
    dataset.PatientBirthDate = ""
    dataset.PatientSex = "O"
    dataset.StudyInstanceUID = _uid(seed, "study")
    dataset.StudyDate = f"{acquired:%Y%m%d}"
    dataset.StudyTime = f"{acquired:%H%M%S}"
    dataset.StudyID = "1"
    dataset.ReferringPhysicianName = ""
    dataset.AccessionNumber = ""
    dataset.Modality = "OPT"
    dataset.SeriesInstanceUID = _uid(seed, "series")
    dataset.SeriesNumber = 1
    dataset.SeriesDescription = volume.region
    dataset.ProtocolName = volume.protocol
    dataset.FrameOfReferenceUID = _uid(seed, "frame of reference")
    dataset.PositionReferenceIndicator = ""
    dataset.SynchronizationFrameOfReferenceUID = _uid(seed, "clock")
    dataset.SynchronizationTrigger = "NO TRIGGER"
    dataset.AcquisitionTimeSynchronized = "N"


def _set_equipment(dataset: Dataset, volume: OctVolume) -> None:
    """Equipment and acquisition parameters (PS3.3 C.8.17.8, C.8.17.9)."""
    dataset.Manufacturer, dataset.ManufacturerModelName = maker_of(volume.device)
    dataset.DeviceSerialNumber = "0"
    dataset.SoftwareVersions = "oct-io"
    dataset.AcquisitionDeviceTypeCodeSequence = [_code(_TOMOGRAPH)]
    dataset.LightPathFilterTypeStackCodeSequence = []
    dataset.RefractiveStateSequence = []
    for unknown in (
        "EmmetropicMagnification",
        "IntraOcularPressure",
        "HorizontalFieldOfView",
        "AxialLengthOfTheEye",
    ):
        setattr(dataset, unknown, None)
    dataset.PupilDilated = "NO"
    dataset.DetectorType = "CCD"
    # Optics in micrometres and nanometres; of a common spectrometer, not of the file's scanner.
    dataset.DepthSpatialResolution = 7.0
    dataset.MaximumDepthDistortion = 1.0
    dataset.AlongScanSpatialResolution = 14.0
    dataset.MaximumAlongScanDistortion = 1.0
    dataset.AcrossScanSpatialResolution = 14.0
    dataset.MaximumAcrossScanDistortion = 1.0
    dataset.IlluminationWaveLength = 870.0
    dataset.IlluminationPower = 1200.0
    dataset.IlluminationBandwidth = 50.0


def _set_image(dataset: Dataset, volume: OctVolume, seed: str, acquired: datetime) -> None:
    """Image, dimensions and anatomy (PS3.3 C.8.17.7, C.7.6.17, C.8.17.5)."""
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.InstanceNumber = 1
    dataset.ContentDate = dataset.StudyDate
    dataset.ContentTime = dataset.StudyTime
    dataset.AcquisitionNumber = 1
    dataset.AcquisitionDateTime = f"{acquired:%Y%m%d%H%M%S}"
    dataset.AcquisitionDuration = 1.0
    dataset.AcquisitionContextSequence = []
    dataset.OphthalmicVolumetricPropertiesFlag = "YES"
    dataset.ConcatenationFrameOffsetNumber = 0  # C.8.17.7 wants these three as 0, 1, 1
    dataset.InConcatenationNumber = 1
    dataset.InConcatenationTotalNumber = 1
    if volume.laterality != "unknown":
        dataset.ImageLaterality = volume.laterality
    dataset.AnatomicRegionSequence = [_region_code(volume.region)]
    dataset.OphthalmicAnatomicReferencePointXCoordinate = None
    dataset.OphthalmicAnatomicReferencePointYCoordinate = None
    organization = Dataset()
    organization.DimensionOrganizationUID = _uid(seed, "dimensions")
    dataset.DimensionOrganizationSequence = [organization]
    dataset.DimensionIndexSequence = []
    for pointer in (0x00209056, 0x00209057):  # StackID, InStackPositionNumber
        index = Dataset()
        index.DimensionOrganizationUID = organization.DimensionOrganizationUID
        index.DimensionIndexPointer = pointer
        index.FunctionalGroupPointer = 0x00209111  # FrameContentSequence
        dataset.DimensionIndexSequence.append(index)


def _geometry(volume: OctVolume) -> Dataset:
    """PixelMeasures and PlaneOrientation: columns to the patient's left, rows posterior."""
    measures = Dataset()
    measures.PixelSpacing = [_number(volume.spacing.row), _number(volume.spacing.column)]
    measures.SliceThickness = _number(volume.spacing.bscan)  # the pitch, as in Topcon's files
    orientation = Dataset()
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    group = Dataset()
    group.PixelMeasuresSequence = [measures]
    group.PlaneOrientationSequence = [orientation]
    return group


def _functional_groups(
    volume: OctVolume, seed: str, acquired: datetime
) -> tuple[Dataset, list[Dataset]]:
    """The shared group and one per frame, both without spacing and orientation."""
    anatomy = Dataset()
    anatomy.AnatomicRegionSequence = [_region_code(volume.region)]
    anatomy.FrameLaterality = "U" if volume.laterality == "unknown" else volume.laterality
    shared = Dataset()
    shared.FrameAnatomySequence = [anatomy]
    shared.ReferencedImageSequence = [_localizer(seed)]
    shared.DerivationImageSequence = []
    frames = [_frame_group(volume, i, seed, acquired) for i in range(len(volume.voxels))]
    return shared, frames


def _frame_group(volume: OctVolume, i: int, seed: str, acquired: datetime) -> Dataset:
    content = Dataset()
    content.FrameAcquisitionDateTime = f"{acquired:%Y%m%d%H%M%S}"
    content.FrameReferenceDateTime = content.FrameAcquisitionDateTime
    content.FrameAcquisitionDuration = 20.0  # milliseconds
    content.StackID = "1"
    content.InStackPositionNumber = i + 1
    content.DimensionIndexValues = [1, i + 1]
    position = Dataset()  # z grows towards the head, and the first frame is the most superior
    position.ImagePositionPatient = ["0", "0", _number(-i * volume.spacing.bscan) if i else "0"]
    location = _localizer(seed)
    row = 1.0 + i * volume.spacing.bscan / LOCALIZER_PIXEL_MM
    width = volume.voxels.shape[2] * volume.spacing.column / LOCALIZER_PIXEL_MM
    location.ReferenceCoordinates = [row, 1.0, row, 1.0 + width]
    location.OphthalmicImageOrientation = "LINEAR"
    group = Dataset()
    group.FrameContentSequence = [content]
    group.PlanePositionSequence = [position]
    group.OphthalmicFrameLocationSequence = [location]
    return group


def _localizer(seed: str) -> Dataset:
    """A reference to the photograph that a scanner would have taken."""
    item = Dataset()
    item.ReferencedSOPClassUID = OPHTHALMIC_PHOTOGRAPHY
    item.ReferencedSOPInstanceUID = localizer_uid(seed)
    item.PurposeOfReferenceCodeSequence = [_code(_LOCALIZER)]
    return item


def _set_pixels(dataset: Dataset, volume: OctVolume) -> None:
    voxels = volume.voxels
    bits = voxels.dtype.itemsize * 8
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = voxels.shape
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit = bits - 1
    dataset.PixelRepresentation = 0
    dataset.BurnedInAnnotation = "NO"
    dataset.LossyImageCompression = "00"
    dataset.PresentationLUTShape = "IDENTITY"
    pixels = np.ascontiguousarray(voxels, dtype=voxels.dtype.newbyteorder("<")).tobytes()
    dataset.PixelData = pixels + b"\0" * (len(pixels) % 2)
    dataset["PixelData"].VR = "OB" if bits == 8 else "OW"
