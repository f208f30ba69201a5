"""DICOM Segmentation (PS3.3 A.51) and Label Map Segmentation (A.88) to the mask of a scan.

Frames of a segmentation name the frames that they lie on, by SOP Instance UID and number; that, and
not the order of either file, is what puts them in place.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from oct_io.boundaries import BACKGROUND
from oct_io.dicom.deflated import is_deflated, unfold
from oct_io.dicom.groups import Groups
from oct_io.dicom.header import MAX_HEAD_BYTES, parse_dataset, read_dataset
from oct_io.errors import ScanError, refusing
from oct_io.scan.header import text
from oct_io.scan.masks import Mask, Shape
from oct_io.scan.outcome import check_bytes
from oct_io.storage.files import redact
from oct_io.volume import UNLABELLED

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"

FrameName = tuple[str, int]
"""SOP Instance UID, and number of the frame in it, counted from 1."""


class SegmentationHeader(NamedTuple):
    """What a segmentation says of itself before its pixels."""

    names: tuple[str, ...]  # of the classes; the first one is the background
    scans: frozenset[str]  # SOP Instance UIDs that it refers to


def is_segmentation(dataset: Dataset) -> bool:
    """Whether a data set is of one of the two classes that are read here."""
    return str(dataset.get("SOPClassUID")) in (SEGMENTATION, LABEL_MAP)


def peek_segmentation(
    url: str | Path, *, storage_options: Mapping[str, Any] | None = None
) -> SegmentationHeader | None:
    """Classes and scans of the segmentation at `url`, from its first bytes; None if it is none.

    Raises:
        ScanError: stage `fetch` or `parse`.
    """
    where = redact(url)
    dataset, _ = read_dataset(url, storage_options=storage_options)
    with _damage_in(where):
        if not is_segmentation(dataset):
            return None
        uids = {name for name, _ in _referenced(dataset, _frame_count(dataset)) if name}
        return SegmentationHeader(_classes(dataset)[1], frozenset(uids))


def read_segmentation(
    content: bytes, frames: Sequence[FrameName], shape: Shape, where: str
) -> Mask:
    """Put the frames of a segmentation where they lie in a volume.

    Frames that the file leaves out are background, as the standard has it. Where segments overlap,
    the higher number wins. Fractional segments count from one half on.

    Args:
        content: the whole file.
        frames: of the scan, in the order of its volume.
        shape: of the volume.
        where: for messages.

    Raises:
        ScanError: stage `parse`: not a segmentation, of other scans, or of another size; stage
            `decode`: damaged pixel data.
    """
    dataset, _ = parse_dataset(content, where)
    assert dataset is not None  # only a patient parse gives None
    with _damage_in(where):
        if not is_segmentation(dataset):
            raise ScanError(where, "parse", "holds no Segmentation Storage")
        count = _frame_count(dataset)
        size = count, int(dataset.Rows), int(dataset.Columns)
        numbers, names = _classes(dataset)
        on = _referenced(dataset, count)
        segments = _segments(dataset, count)
        if not set(segments) <= {None, *numbers}:
            raise ValueError("segments")
    check_bytes(size, 1, where)
    if size[1:] != shape[1:]:
        reason = f"its frames are {size[1]} x {size[2]}, those of its scan {shape[1]} x {shape[2]}"
        raise ScanError(where, "parse", reason)
    places = {frame: place for place, frame in enumerate(frames)}
    strangers = sum(frame not in places for frame in on)
    if strangers:
        reason = f"{strangers} of its {count} frames lie on none of this scan"
        raise ScanError(where, "parse", reason)
    pixels = _pixels(content, dataset, size, where)
    return Mask(_placed(pixels, [places[one] for one in on], segments, numbers, shape), names)


def _placed(
    pixels: NDArray[Any],
    places: Sequence[int],
    segments: Sequence[int | None],
    numbers: Mapping[int, int],
    shape: Shape,
) -> NDArray[np.uint8]:
    labels = np.zeros(shape, np.uint8)
    for frame, place, segment in zip(pixels, places, segments, strict=True):
        if segment is None:  # a label map: its pixels are numbers of segments
            table = np.full(65536, UNLABELLED, np.uint8)
            table[0] = 0
            table[list(numbers)] = list(numbers.values())
            labels[place] = table[frame]
        else:
            np.maximum(labels[place], np.uint8(numbers[segment]), out=labels[place], where=frame)
    return labels


def _frame_count(dataset: Dataset) -> int:
    return int(dataset.get("NumberOfFrames") or 1)


def _classes(dataset: Dataset) -> tuple[dict[int, int], tuple[str, ...]]:
    """Label of each segment by its number, and the names of labels."""
    found = {
        int(item.SegmentNumber): text(item.get("SegmentLabel")) or f"class {item.SegmentNumber}"
        for item in dataset.SegmentSequence
    }
    background = found.pop(0, BACKGROUND)  # label maps may describe it
    if len(found) >= UNLABELLED or not all(0 < number < 65536 for number in found):
        raise ValueError("segments")
    order = sorted(found)
    return {n: i for i, n in enumerate(order, start=1)}, (background, *(found[n] for n in order))


def _referenced(dataset: Dataset, count: int) -> list[FrameName]:
    """The frame that each frame lies on; ("", 0) where it names none."""
    groups, found = Groups(dataset), []
    for frame in range(count):
        sources = groups.find("DerivationImageSequence", "SourceImageSequence", frame)
        number = sources[0].get("ReferencedFrameNumber") if sources else None
        first = number[0] if number is not None and hasattr(number, "__len__") else number
        uid = text(sources[0].get("ReferencedSOPInstanceUID")) if sources else ""
        found.append((uid, int(first or 1) if uid else 0))
    return found


def _segments(dataset: Dataset, count: int) -> list[int | None]:
    """The segment of each frame; None in a label map."""
    if str(dataset.SOPClassUID) == LABEL_MAP:
        return [None] * count
    groups = Groups(dataset)
    group, attribute = "SegmentIdentificationSequence", "ReferencedSegmentNumber"
    return [int(groups.find(group, attribute, frame)) for frame in range(count)]


def _pixels(content: bytes, dataset: Dataset, size: Shape, where: str) -> NDArray[Any]:
    """Frames as booleans, or as numbers in a label map."""
    if is_deflated(content):
        content, whole = unfold(content, where, int(np.prod(size)) + MAX_HEAD_BYTES)
        if not whole:
            raise ScanError(where, "decode", "it unpacks to more than its header promises")
    with (
        refusing(where, "decode", "the pixels of the segmentation cannot be read"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        array: NDArray[Any] = dcmread(BytesIO(content)).pixel_array.reshape(size)
        limit = float(dataset.get("MaximumFractionalValue") or 1) / 2
    if str(dataset.SOPClassUID) == LABEL_MAP:
        return array
    return array >= limit if text(dataset.get("SegmentationType")) == "FRACTIONAL" else array > 0


@contextmanager
def _damage_in(where: str) -> Iterator[None]:
    """Turn whatever damaged values of a header lead to into one line."""
    with (
        refusing(where, "parse", "the header of the segmentation is damaged"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield
