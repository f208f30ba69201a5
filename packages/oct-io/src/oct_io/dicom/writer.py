"""Write a volume as an Ophthalmic Tomography Image, the DICOM object that OCT scanners export."""

from datetime import datetime
from pathlib import Path

import numpy as np

from oct_io.dicom.encoding import CODECS, check_codec, set_pixels
from oct_io.dicom.items import Item, Pixels
from oct_io.dicom.layout import FileStyle, code_item, functional_groups, region_item
from oct_io.saving import appearing
from oct_io.volume import OctVolume

OPHTHALMIC_TOMOGRAPHY = "1.2.840.10008.5.1.4.1.1.77.1.5.4"

DEFAULT_ACQUIRED = datetime(2000, 1, 1, 12, 0, 0)
"""A date that nobody takes for a visit; a fixed one, so that equal volumes give equal bytes."""

_MAKERS = {
    "heidelberg_spectralis": ("Heidelberg Engineering", "Spectralis"),
    "topcon_maestro2": ("Topcon", "Maestro2"),
    "topcon_triton": ("Topcon", "Triton"),
    "zeiss_cirrus": ("Zeiss", "Cirrus"),
}
"""Device name in oct_io -> what the scanner writes into Manufacturer and ManufacturerModelName."""

_OPTICS = {
    "heidelberg_spectralis": (7.0, 870.0),
    "topcon_maestro2": (6.0, 850.0),
    "topcon_triton": (8.0, 1050.0),
    "zeiss_cirrus": (5.0, 840.0),
}
"""Device -> resolution in depth, micrometres, and wavelength, nanometres. The resolutions of
Heidelberg and Topcon are those that AI-READI's files state; others get a common spectrometer's."""

_TOMOGRAPH = ("392012008", "SCT", "Optical Coherence Tomography Scanner")


def maker_of(device: str) -> tuple[str, str]:
    """Manufacturer and model name under which `device` stands in files and manifests."""
    return _MAKERS.get(device, ("oct-io", device))


def sop_instance_uid(uid_seed: str, part: tuple[int, int] = (1, 1)) -> str:
    """The SOP Instance UID that `write_dicom` gives to a file written with this seed."""
    return _uid("instance" if part == (1, 1) else f"instance {part[0]} of {part[1]}", uid_seed)


def localizer_uid(uid_seed: str) -> str:
    """The UID of the photograph that such a file refers to; no such file is written."""
    return _uid("localizer", uid_seed)


def write_dicom(
    volume: OctVolume,
    path: Path,
    *,
    uid_seed: str,
    shared_groups: bool = True,
    acquired: datetime | None = None,
    style: FileStyle | None = None,
) -> None:
    """Write `volume`; but for the lossy `jpeg` codec, it reads back voxel for voxel.

    The geometry is that of PS3.3 C.7.6.16: frames run from superior to inferior, rows into the
    eye. The file appears whole or not at all. Equal arguments give equal bytes.

    Args:
        volume: a raster, or the radial scan of a nerve head; its region becomes the series
            description and the anatomic region code.
        path: the file to write; its folder must exist.
        uid_seed: what all UIDs are derived from; one seed names one file.
        shared_groups: spacing and orientation once for all frames, as Topcon's files have them;
            otherwise per frame, as in Spectralis files of the optic nerve head.
        acquired: time stamp of the scan; `DEFAULT_ACQUIRED` if None.
        style: codec, order of frames, what is left out; a plain whole file if None.

    Raises:
        ValueError: neither raster nor radial, or a text that does not fit into its DICOM field.
        OctIoError: the codec's encoder is not installed.
    """
    style, acquired = style or FileStyle(), acquired or DEFAULT_ACQUIRED
    _check(volume, uid_seed)
    dataset = _dataset(volume, uid_seed, acquired, style.part)
    shared, frames = functional_groups(
        volume,
        style,
        shared_groups=shared_groups,
        localizer_uid=localizer_uid(uid_seed),
        acquired=acquired,
    )
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.PerFrameFunctionalGroupsSequence = frames
    _set_pixels(dataset, volume, style)
    with appearing(path) as part, part.open("wb") as file:
        file.write(_meta(dataset, style.codec))
        file.write(dataset.encode())


def _check(volume: OctVolume, uid_seed: str) -> None:
    if not uid_seed:
        raise ValueError("uid_seed ('') must name the file: files with equal seeds have equal UIDs")
    if volume.pattern not in ("raster", "radial"):
        raise ValueError(f"volume.pattern ({volume.pattern!r}) must be 'raster' or 'radial'")
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


def _uid(*sources: str) -> str:
    from pydicom.uid import generate_uid  # pydicom takes half of a second to import

    return str(generate_uid(entropy_srcs=["oct-io", *sources]))


def _meta(dataset: Item, codec: str) -> bytes:
    """Preamble and file meta information (PS3.10 7.1)."""
    meta = Item()
    meta.FileMetaInformationVersion = b"\0\1"
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = CODECS[codec].uid
    meta.ImplementationClassUID = _uid("implementation")
    meta.ImplementationVersionName = "OCT-IO"
    content = meta.encode()
    length = Item(FileMetaInformationGroupLength=len(content))
    return b"\0" * 128 + b"DICM" + length.encode() + content


def _dataset(volume: OctVolume, seed: str, acquired: datetime, part: tuple[int, int]) -> Item:
    dataset = Item()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = OPHTHALMIC_TOMOGRAPHY
    dataset.SOPInstanceUID = sop_instance_uid(seed, part)
    _set_identity(dataset, volume, seed, acquired)
    _set_equipment(dataset, volume)
    _set_image(dataset, volume, seed, acquired)
    dataset.InstanceNumber = part[0]
    return dataset


def _set_identity(dataset: Item, volume: OctVolume, seed: str, acquired: datetime) -> None:
    """Patient, study, series and frame of reference (PS3.3 C.7.1 to C.7.4)."""
    dataset.PatientName = ""
    dataset.PatientID = volume.participant_id
    dataset.PatientBirthDate = ""
    dataset.PatientSex = "O"
    dataset.StudyInstanceUID = _uid("study", seed)
    dataset.StudyDate = f"{acquired:%Y%m%d}"
    dataset.StudyTime = f"{acquired:%H%M%S}"
    dataset.StudyID = "1"
    dataset.ReferringPhysicianName = ""
    dataset.AccessionNumber = ""
    dataset.Modality = "OPT"
    dataset.SeriesInstanceUID = _uid("series", seed)
    dataset.SeriesNumber = 1
    dataset.SeriesDescription = volume.region
    dataset.ProtocolName = volume.protocol
    dataset.FrameOfReferenceUID = _uid("frame of reference", seed)
    dataset.PositionReferenceIndicator = ""
    dataset.SynchronizationFrameOfReferenceUID = _uid("clock", seed)
    dataset.SynchronizationTrigger = "NO TRIGGER"
    dataset.AcquisitionTimeSynchronized = "N"


def _set_equipment(dataset: Item, volume: OctVolume) -> None:
    """Equipment and acquisition parameters (PS3.3 C.8.17.8, C.8.17.9)."""
    dataset.Manufacturer, dataset.ManufacturerModelName = maker_of(volume.device)
    dataset.DeviceSerialNumber = "0"
    dataset.SoftwareVersions = "oct-io"
    dataset.AcquisitionDeviceTypeCodeSequence = [code_item(_TOMOGRAPH)]
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
    resolution, wavelength = _OPTICS.get(volume.device, (7.0, 870.0))
    dataset.DepthSpatialResolution = resolution
    dataset.MaximumDepthDistortion = 1.0
    dataset.AlongScanSpatialResolution = 14.0
    dataset.MaximumAlongScanDistortion = 1.0
    dataset.AcrossScanSpatialResolution = 14.0
    dataset.MaximumAcrossScanDistortion = 1.0
    dataset.IlluminationWaveLength = wavelength
    dataset.IlluminationPower = 1200.0
    dataset.IlluminationBandwidth = 50.0


def _set_image(dataset: Item, volume: OctVolume, seed: str, acquired: datetime) -> None:
    """Image, dimensions and anatomy (PS3.3 C.8.17.7, C.7.6.17, C.8.17.5)."""
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.ContentDate = dataset.StudyDate
    dataset.ContentTime = dataset.StudyTime
    dataset.AcquisitionNumber = 1
    dataset.AcquisitionDateTime = f"{acquired:%Y%m%d%H%M%S}"
    dataset.AcquisitionDuration = 1.0
    dataset.AcquisitionContextSequence = []
    raster = volume.pattern == "raster"
    dataset.OphthalmicVolumetricPropertiesFlag = "YES" if raster else "NO"
    dataset.ConcatenationFrameOffsetNumber = 0  # C.8.17.7 wants these three as 0, 1, 1
    dataset.InConcatenationNumber = 1
    dataset.InConcatenationTotalNumber = 1
    if volume.laterality != "unknown":
        dataset.ImageLaterality = volume.laterality
    dataset.AnatomicRegionSequence = [region_item(volume.region)]
    dataset.OphthalmicAnatomicReferencePointXCoordinate = None
    dataset.OphthalmicAnatomicReferencePointYCoordinate = None
    organization = Item()
    organization.DimensionOrganizationUID = _uid("dimensions", seed)
    dataset.DimensionOrganizationSequence = [organization]
    dataset.DimensionIndexSequence = []
    for pointer in (0x00209056, 0x00209057):  # StackID, InStackPositionNumber
        index = Item()
        index.DimensionOrganizationUID = organization.DimensionOrganizationUID
        index.DimensionIndexPointer = pointer
        index.FunctionalGroupPointer = 0x00209111  # FrameContentSequence
        dataset.DimensionIndexSequence.append(index)


def _set_pixels(dataset: Item, volume: OctVolume, style: FileStyle) -> None:
    voxels = volume.voxels[style.frames_of(len(volume.voxels))]
    bits = voxels.dtype.itemsize * 8
    check_codec(style.codec, bits)
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = voxels.shape
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit = bits - 1
    dataset.PixelRepresentation = 0
    dataset.BurnedInAnnotation = "NO"
    dataset.LossyImageCompression = "00"
    dataset.PresentationLUTShape = "IDENTITY"
    if style.codec != "native":
        set_pixels(dataset, voxels, style.codec, style.table)
        return
    pixels = np.ascontiguousarray(voxels, dtype=voxels.dtype.newbyteorder("<")).tobytes()
    dataset.PixelData = Pixels(pixels, "OB" if bits == 8 else "OW", encapsulated=False)
