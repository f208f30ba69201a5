"""What a scan says about itself, read without its pixels and from few bytes of the file."""

import warnings
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag

from oct_io.dicom.deflated import is_deflated, meta_end, unfold
from oct_io.dicom.groups import Groups, frame_geometry, laterality, region
from oct_io.errors import ScanError, refusing
from oct_io.scan.geometry import STEP_TOLERANCE, join_frames, place_frames
from oct_io.scan.header import ScanHeader, text
from oct_io.scan.protocols import device_name, find_protocol, laterality_in_name, protocol_token
from oct_io.storage.files import read_range, redact
from oct_io.volume import Spacing

OPT = "1.2.840.10008.5.1.4.1.1.77.1.5.4"  # Ophthalmic Tomography Image Storage
FIRST_PIXEL_TAG = 0x7FE00001
HEAD_BYTES = 256 << 10  # the header of 512 frames takes 208 kB
MAX_HEAD_BYTES = 16 << 20
MAX_FRAMES = 8192
MAX_ELEMENTS = 20_000  # at top level; an OPT file has about 100

NO_PIXELS = "no PixelData: the file is cut off or was written without it; copy it again"


def read_dicom_header(
    url: str | Path,
    *,
    spacing: Spacing | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> ScanHeader:
    """Read what the DICOM file at `url` says about itself: geometry, device, eye; no pixels.

    Fetches 256 kB, and as much again only while the header has not ended, never above 16 MB.

    Raises:
        ScanError: stage `fetch`, `parse`, or `decode` where no pixel data follows. Radial and
            circle scans are described, not refused.
    """
    where = redact(url)
    dataset, ended = read_dataset(url, storage_options=storage_options)
    header = describe(dataset, where, spacing=spacing)
    if not ended:
        raise ScanError(where, "decode", NO_PIXELS)
    return header


def read_dataset(
    url: str | Path, *, storage_options: Mapping[str, Any] | None = None
) -> tuple[FileDataset, bool]:
    """Fetch and parse what comes before the pixel data; also whether pixel data follows.

    Raises:
        ScanError: stage `fetch` or `parse`.
    """
    where, head, size = redact(url), b"", HEAD_BYTES
    while True:
        head += read_range(url, len(head), size, storage_options=storage_options)
        whole = len(head) < size
        dataset, ended = parse_dataset(head, where, patient=not whole)
        if dataset is not None and (ended or whole):
            return dataset, ended
        if size >= MAX_HEAD_BYTES:
            raise ScanError(where, "parse", f"the header does not end within {size:,} bytes")
        size *= 2


def parse_dataset(
    content: bytes, where: str, *, patient: bool = False
) -> tuple[FileDataset | None, bool]:
    """Parse all elements before the pixel data; also whether pixel data follows.

    With `patient`, None stands for a parse that failed and may do better with more bytes.

    Raises:
        ScanError: stage `parse`.
    """
    check_magic(content, where)
    if is_deflated(content):
        content, _ = unfold(content, where, MAX_HEAD_BYTES)
        check_magic(content, where)
    met, elements = False, 0

    def at_pixels(tag: BaseTag, _vr: str | None, _length: int) -> bool:
        nonlocal met, elements
        elements += 1
        if elements > MAX_ELEMENTS:  # zeros parse as elements of no length, at 1 MB/s
            raise ValueError("too many elements")
        met = met or tag >= FIRST_PIXEL_TAG
        return met

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = read_partial(BytesIO(content), stop_when=at_pixels)
    except Exception as error:  # pydicom promises no set of errors for damaged bytes
        if patient:
            return None, False
        reason = f"the DICOM header is damaged or cut off ({type(error).__name__})"
        raise ScanError(where, "parse", reason) from None
    return dataset, met


def check_magic(content: bytes, where: str) -> None:
    """Refuse what is not DICOM.

    Raises:
        ScanError: stage `parse`.
    """
    if not content:
        raise ScanError(where, "parse", "the file is empty (0 bytes); copy it again")
    if content[128:132] != b"DICM":
        raise ScanError(where, "parse", "not a DICOM file: no DICM mark at byte 128")
    end = meta_end(content)
    if end is not None and content[end : end + 2] == b"\0\0":  # parsed at 1 MB/s otherwise
        raise ScanError(where, "parse", "zeros stand where the header should go on")


def describe(dataset: Dataset, where: str, *, spacing: Spacing | None = None) -> ScanHeader:
    """Turn a parsed dataset into a `ScanHeader`; `spacing` stands above what the file says.

    Raises:
        ScanError: stage `parse`: not an Ophthalmic Tomography image, or a damaged header;
            stage `geometry`: no PixelSpacing, or several in a raster.
    """
    return describe_series([dataset], where, spacing=spacing)


def describe_series(
    datasets: Sequence[Dataset], where: str, *, spacing: Spacing | None = None
) -> ScanHeader:
    """Turn the datasets of one volume, in order of InstanceNumber, into one `ScanHeader`.

    Raises:
        ScanError: as `describe`; also stage `parse` for B-scans of different sizes, and `geometry`
            for those of a raster that are of different scales.
    """
    with refusing(where, "parse", "a header value is damaged"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for dataset in datasets:
            _check_class(dataset, where)
        return _describe(datasets, where, spacing)


def _check_class(dataset: Dataset, where: str) -> None:
    uid = dataset.get("SOPClassUID")
    if uid is None:
        raise ScanError(where, "parse", "the DICOM header has no SOPClassUID; it may be cut off")
    if str(uid) != OPT:
        name = getattr(uid, "name", "")
        named = text(name if name != str(uid) else "an unknown class")
        reason = f"holds {named}, not Ophthalmic Tomography Image Storage"
        raise ScanError(where, "parse", reason)


def _sizes(dataset: Dataset, where: str) -> tuple[int, int, int]:
    rows, columns = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
    frames = int(dataset.get("NumberOfFrames") or 1)
    if min(rows, columns, frames) < 1:
        reason = f"frames x rows x columns is {frames} x {rows} x {columns}"
        raise ScanError(where, "parse", reason)
    if frames > MAX_FRAMES:
        reason = f"NumberOfFrames is {frames:,}, above {MAX_FRAMES:,}: the header is wrong"
        raise ScanError(where, "decode", reason)
    return frames, rows, columns


def _pitch(groups: Groups, where: str, spacing: Spacing | None) -> tuple[float, float]:
    """Millimetres between rows and between columns."""
    if spacing is not None:
        return spacing.row, spacing.column
    pitch = groups.numbers("PixelMeasuresSequence", "PixelSpacing", 0, 2)
    if pitch is None or min(pitch) <= 0:
        raise ScanError(where, "geometry", "no PixelSpacing, shared or per frame")
    return pitch[0], pitch[1]


def _check_pitches(pitches: NDArray[np.float64], where: str) -> None:
    """Refuse B-scans of several scales, which are no one volume; `pitches` has a row for each.

    Raises:
        ScanError: stage `geometry`.
    """
    least, most = np.nanmin(pitches, axis=0), np.nanmax(pitches, axis=0)
    if (most - least > STEP_TOLERANCE * most).any():
        sizes = " and ".join(f"{row:g} x {column:g}" for row, column in (least, most))
        reason = f"PixelSpacing differs from B-scan to B-scan, between {sizes} mm"
        raise ScanError(where, "geometry", f"{reason}; spacing=Spacing(...) gives one for all")


def _describe(datasets: Sequence[Dataset], where: str, spacing: Spacing | None) -> ScanHeader:
    sizes = [_sizes(dataset, where) for dataset in datasets]
    if len({size[1:] for size in sizes}) > 1:
        raise ScanError(where, "parse", "its instances have B-scans of different sizes")
    _, rows, columns = sizes[0]
    first = datasets[0]
    names = (where, text(first.get("ProtocolName")))
    protocol = next((found for name in names if (found := find_protocol(name))), None)
    parts, pitches = [], []
    for dataset, (frames, _, _) in zip(datasets, sizes, strict=True):
        groups = Groups(dataset)
        if groups.described not in (0, frames):
            reason = f"NumberOfFrames is {frames}, but {groups.described} frames are described"
            raise ScanError(where, "parse", reason)
        row_mm, column_mm = _pitch(groups, where, spacing)
        parts.append(frame_geometry(groups, frames, columns, column_mm, protocol))
        pitches.append(groups.rows("PixelMeasuresSequence", "PixelSpacing", 2, frames))
    groups = Groups(first)
    placed = place_frames(join_frames(parts))
    if placed.pattern == "raster" and spacing is None:
        _check_pitches(np.concatenate([one for one in pitches if one is not None]), where)
    elif placed.pattern == "raster" and spacing is not None:
        placed = placed._replace(bscan_mm=spacing.bscan, source="given", confidence="high")
    step, side = placed.bscan_mm, laterality(groups)
    return ScanHeader(
        shape=(sum(frames for frames, _, _ in sizes), rows, columns),
        bits=int(first.get("BitsStored") or first.get("BitsAllocated") or 0),
        allocated=int(first.get("BitsAllocated") or 0),
        row_mm=row_mm,
        column_mm=column_mm,
        spacing=None if step is None else Spacing(step, row_mm, column_mm),
        spacing_source=placed.source,
        spacing_confidence=placed.confidence,
        pattern=placed.pattern,
        pattern_note=placed.note,
        order=placed.order,
        laterality=side if side != "unknown" else laterality_in_name(where),
        device=device_name(
            text(first.get("Manufacturer")), text(first.get("ManufacturerModelName"))
        ),
        protocol=protocol_token(*(name.rsplit("/", 1)[-1] for name in names)),
        region=region(groups, protocol),
        transfer_syntax=text(first.file_meta.get("TransferSyntaxUID")),
        participant_id=text(first.get("PatientID")),
        sop_instance_uid=text(first.get("SOPInstanceUID")),
        series_instance_uid=text(first.get("SeriesInstanceUID")),
        instance_number=int(first.get("InstanceNumber") or 0),
    )
