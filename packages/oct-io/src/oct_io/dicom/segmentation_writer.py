"""Write the mask of a scan as a DICOM Segmentation that refers to the frames of its file."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from oct_io.boundaries import FLUIDS
from oct_io.dicom.header import describe_series
from oct_io.dicom.segmentation import SEGMENTATION
from oct_io.saving import appearing
from oct_io.volume import UNLABELLED

SUBSTANCE = ("91720002", "SCT", "Body Substance")
FLUID = ("32457005", "SCT", "Body fluid")
TISSUE = ("85756007", "SCT", "Tissue")
RETINA = ("5665001", "SCT", "Retina")
SEGMENTED = ("113076", "DCM", "Segmentation")
SOURCE = ("121322", "DCM", "Source image for image processing operation")

_COPIED = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID"),
    *("StudyDate", "StudyTime", "StudyID", "ReferringPhysicianName", "AccessionNumber"),
    *("FrameOfReferenceUID", "PositionReferenceIndicator", "SpecificCharacterSet"),
)
"""What makes it a series of the same eye in the same study."""

_PLACES = ("PixelMeasuresSequence", "PlaneOrientationSequence", "PlanePositionSequence")


def write_segmentation(
    path: str | Path,
    mask: NDArray[np.uint8],
    names: Sequence[str],
    source: Dataset | Sequence[Dataset],
    *,
    algorithm: str = "oct-io",
) -> None:
    """Write `mask` as a binary Segmentation Storage object, one segment a class.

    Frames without a voxel of a class are left out, so that they read back as background; so do
    voxels that are `UNLABELLED`, for which the standard has no word. The file appears whole or not
    at all, and equal arguments give equal bytes.

    Args:
        path: the file to write; its folder must exist.
        mask: (bscans, rows, columns), B-scans in the order of the loaded volume.
        names: of the classes 0, 1, ...; the first is the background, which gets no segment.
        source: header of the OPT file that the mask is of, or of all files of its series.
        algorithm: what made it; "" says that a person did.

    Raises:
        ScanError: `source` is not Ophthalmic Tomography.
        ValueError: a mask of another shape, or labels without names.
    """
    sources = [source] if isinstance(source, Dataset) else list(source)
    sources = sorted(sources, key=lambda one: int(one.get("InstanceNumber") or 0))
    header = describe_series(sources, "")
    if mask.shape != header.shape or mask.dtype != np.uint8:
        raise ValueError(f"mask must be uint8 {header.shape}, not {mask.dtype} {mask.shape}")
    highest = int(mask.max(where=mask != UNLABELLED, initial=0))
    if len(names) < 2 or highest >= len(names):
        raise ValueError(f"mask has labels up to {highest}; names {tuple(names)} must have them")
    stored = [(one, n) for one in sources for n in range(int(one.get("NumberOfFrames") or 1))]
    frames = [stored[place] for place in header.order]
    marked = [
        (label, bscan)
        for label in range(1, len(names))
        for bscan in np.flatnonzero((mask == label).any(axis=(1, 2))).tolist()
    ] or [(1, 0)]
    dataset = _dataset(mask, names, sources, algorithm)
    dataset.PerFrameFunctionalGroupsSequence = Items(
        _frame(label, bscan, *frames[bscan]) for label, bscan in marked
    )
    dataset.NumberOfFrames = len(marked)
    bits = np.concatenate([(mask[bscan] == label).ravel() for label, bscan in marked])
    packed = np.packbits(bits, bitorder="little").tobytes()
    dataset.PixelData = packed + b"\0" * (len(packed) % 2)
    dataset["PixelData"].VR = "OB"
    with appearing(Path(path)) as part:
        dataset.save_as(part, enforce_file_format=True)


def _uid(*parts: str) -> str:
    return str(generate_uid(entropy_srcs=["oct-io", "segmentation", *parts]))


def _code(code: tuple[str, str, str]) -> Items:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code
    return Items([item])


def _dataset(
    mask: NDArray[np.uint8], names: Sequence[str], sources: Sequence[Dataset], algorithm: str
) -> Dataset:
    """Everything but frames and pixels (PS3.3 A.51)."""
    first, dataset = sources[0], Dataset()
    key = hashlib.sha256(mask.tobytes() + "\0".join(names).encode()).hexdigest()
    uids = [str(one.SOPInstanceUID) for one in sources]
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, instance = SEGMENTATION, _uid("instance", key, algorithm, *uids)
    dataset.SOPInstanceUID = instance
    dataset.file_meta.MediaStorageSOPClassUID = UID(SEGMENTATION)
    dataset.file_meta.MediaStorageSOPInstanceUID = UID(instance)
    for name in _COPIED:
        setattr(dataset, name, first.get(name, ""))
    if not dataset.FrameOfReferenceUID:
        dataset.FrameOfReferenceUID = _uid("frame of reference", *uids)
    dataset.Modality = "SEG"
    dataset.SeriesInstanceUID = _uid("series", key, algorithm, *uids)
    dataset.SeriesNumber, dataset.InstanceNumber = 100, 1
    dataset.Manufacturer = dataset.ManufacturerModelName = dataset.SoftwareVersions = "oct-io"
    dataset.DeviceSerialNumber = "0"
    dataset.ContentDate = first.get("ContentDate") or dataset.StudyDate or "20000101"
    dataset.ContentTime = first.get("ContentTime") or dataset.StudyTime or "120000"
    dataset.SeriesDate, dataset.SeriesTime = dataset.ContentDate, dataset.ContentTime
    dataset.ContentLabel, dataset.ContentDescription = "SEGMENTATION", "classes of voxels"
    dataset.ContentCreatorName = ""
    _describe_image(dataset, mask)
    dataset.SegmentSequence = Items(
        _segment(number, name, algorithm) for number, name in enumerate(names) if number
    )
    _refer(dataset, sources)
    return dataset


def _describe_image(dataset: Dataset, mask: NDArray[np.uint8]) -> None:
    dataset.ImageType = ["DERIVED", "PRIMARY"]
    dataset.SegmentationType, dataset.SegmentsOverlap = "BINARY", "NO"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = mask.shape[1:]
    dataset.BitsAllocated = dataset.BitsStored = 1
    dataset.HighBit = dataset.PixelRepresentation = 0
    dataset.LossyImageCompression = "00"
    dataset.BurnedInAnnotation = "NO"
    organization = Dataset()
    organization.DimensionOrganizationUID = _uid("dimensions")
    dataset.DimensionOrganizationSequence = Items([organization])
    indices = []
    for group, pointer in ((0x0062000A, 0x0062000B), (0x00209111, 0x00209057)):
        index = Dataset()  # segment number, then place in the stack
        index.DimensionOrganizationUID = organization.DimensionOrganizationUID
        index.DimensionIndexPointer, index.FunctionalGroupPointer = pointer, group
        indices.append(index)
    dataset.DimensionIndexSequence = Items(indices)


def _segment(number: int, name: str, algorithm: str) -> Dataset:
    item = Dataset()
    item.SegmentNumber, item.SegmentLabel = number, name
    item.SegmentDescription = FLUIDS.get(name, name)[:64]
    item.SegmentAlgorithmType = "AUTOMATIC" if algorithm else "MANUAL"
    if algorithm:
        item.SegmentAlgorithmName = algorithm
    category, kind = (SUBSTANCE, FLUID) if name in FLUIDS else (TISSUE, RETINA)
    item.SegmentedPropertyCategoryCodeSequence = _code(category)
    item.SegmentedPropertyTypeCodeSequence = _code(kind)
    return item


def _refer(dataset: Dataset, sources: Sequence[Dataset]) -> None:
    """Name the files of the scan (PS3.3 C.12.2), and take over what all their frames share."""
    series, instances = Dataset(), []
    for source in sources:
        instance = Dataset()
        instance.ReferencedSOPClassUID = source.SOPClassUID
        instance.ReferencedSOPInstanceUID = source.SOPInstanceUID
        instances.append(instance)
    series.SeriesInstanceUID = sources[0].SeriesInstanceUID
    series.ReferencedInstanceSequence = Items(instances)
    dataset.ReferencedSeriesSequence = Items([series])
    shared, theirs = Dataset(), sources[0].get("SharedFunctionalGroupsSequence")
    for name in _PLACES if theirs and len(sources) == 1 else ():
        if theirs[0].get(name):
            setattr(shared, name, theirs[0].get(name))
    dataset.SharedFunctionalGroupsSequence = Items([shared])


def _frame(label: int, bscan: int, source: Dataset, stored: int) -> Dataset:
    """Functional groups of the frame of one class on one B-scan (PS3.3 A.51.5)."""
    item, content, segment = Dataset(), Dataset(), Dataset()
    content.StackID, content.InStackPositionNumber = "1", bscan + 1
    content.DimensionIndexValues = [label, bscan + 1]
    item.FrameContentSequence = Items([content])
    segment.ReferencedSegmentNumber = label
    item.SegmentIdentificationSequence = Items([segment])
    origin, image = Dataset(), Dataset()
    image.ReferencedSOPClassUID = source.SOPClassUID
    image.ReferencedSOPInstanceUID = source.SOPInstanceUID
    if "NumberOfFrames" in source:
        image.ReferencedFrameNumber = stored + 1
    image.PurposeOfReferenceCodeSequence = _code(SOURCE)
    origin.SourceImageSequence = Items([image])
    origin.DerivationCodeSequence = _code(SEGMENTED)
    item.DerivationImageSequence = Items([origin])
    theirs = source.get("PerFrameFunctionalGroupsSequence")
    for name in _PLACES if theirs else ():
        if theirs[stored].get(name):
            setattr(item, name, theirs[stored].get(name))
    return item
