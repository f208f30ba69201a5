"""From a record to its scan, with all that manifest and sidecars say of it."""

import json
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

from oct_io.errors import ScanError
from oct_io.readers.lazy import LazyVolume, header_of
from oct_io.readers.registry import DICOM, READERS, open_volume, read_volume, suffix_of
from oct_io.readers.sidecar import sidecar_name
from oct_io.readers.stacks import page_of, read_bscan
from oct_io.records.annotations import add_annotations
from oct_io.records.drawings import read_drawing
from oct_io.records.record import ScanRecord
from oct_io.scan.file import ScanFile
from oct_io.scan.levels import ITS_MASK, LEVELS, mask_of_levels
from oct_io.storage.files import join
from oct_io.volume import OctVolume, Spacing


class _Said(TypedDict):
    spacing: Spacing | None
    member: str | None
    sidecar: dict[str, Any]


ANNOTATIONS = ("layers", "mask")
"""What may be read along with a scan, of the scan itself or of files that belong to it."""


def check_annotations(names: Collection[str], called: str) -> tuple[str, ...]:
    """The names, each once and in one order.

    Raises:
        ValueError: one that there is not; the text begins with `called`.
    """
    unknown = sorted(set(names) - set(ANNOTATIONS))
    if isinstance(names, str) or unknown:
        raise ValueError(f"{called} ({names}) must be some of {', '.join(ANNOTATIONS)}")
    return tuple(name for name in ANNOTATIONS if name in names)


def annotation_files(
    root: str | Path, record: ScanRecord, wanted: Collection[str] = ANNOTATIONS
) -> tuple[ScanFile | None, ScanFile | None]:
    """Mask and boundaries of a record, where it has them in files of their own."""
    mask, layers = (
        ScanFile(url=_address(root, path)) if path and name in wanted else None
        for name, path in (("mask", record.mask), ("layers", record.layers))
    )
    return mask, layers


def _address(root: str | Path, path: str) -> str:
    """Of a mask that lies elsewhere the path is the whole address, which none below a root is."""
    return path if path.startswith("/") or "://" in path else join(root, path)


def scan_file(root: str | Path, record: ScanRecord) -> ScanFile:
    """The scan of a record, and all that is said of it."""
    return ScanFile(url=join(root, record.path), **_said(record))


def read_scan(
    root: str | Path, record: ScanRecord, *, annotations: Collection[str] = ()
) -> OctVolume:
    """Read the scan of a record; the manifest's eye counts where the file names none.

    Args:
        root: what the path of the record is relative to.
        record: the scan.
        annotations: of `ANNOTATIONS`, what is read of files that belong to the scan; boundaries
            that it holds itself come always.

    Raises:
        ScanError: as `read_volume` and `add_annotations`.
    """
    if record.bscan:
        volume = read_bscan(_bscan_file(root, record))
    else:
        volume = read_volume(join(root, record.path), **_said(record))
    if volume.laterality == "unknown":
        volume = replace(volume, laterality=record.laterality)
    mask, layers = annotation_files(root, record, annotations)
    if mask is not None and record.bscan:
        volume, mask = _with_drawing(volume, record, mask), None
    if mask is None and layers is None:
        return volume
    return add_annotations(volume, scan_file(root, record), mask=mask, layers=layers)


def _with_drawing(volume: OctVolume, record: ScanRecord, mask: ScanFile) -> OctVolume:
    """The B-scan with the mask that an image is, page by page as its own.

    Raises:
        ScanError: as `read_drawing` and `mask_of_levels`; it begins with `ITS_MASK`.
    """
    levels = json.loads(record.sidecar).get(LEVELS, {}) if record.sidecar else {}
    bscans, rows, columns = volume.voxels.shape
    try:
        page = page_of(replace(mask, member=record.member)) if record.member else None
        drawn = read_drawing(mask, page=page)
        labels, names = mask_of_levels(drawn, levels, (bscans, rows, columns), mask.where)
    except ScanError as error:
        raise ScanError(error.path, error.stage, f"{ITS_MASK}: {error.reason}") from error
    return replace(volume, mask=labels, mask_names=names)


def open_scan(root: str | Path, record: ScanRecord) -> LazyVolume:
    """Learn what the scan of a record is, as `open_volume` does; a single B-scan is decoded.

    Raises:
        ScanError: as `open_volume`.
    """
    if record.bscan:
        file = _bscan_file(root, record)
        return LazyVolume(header_of(read_bscan(file)), file, lambda one, _: read_bscan(one))
    return open_volume(join(root, record.path), **_said(record))


def _bscan_file(root: str | Path, record: ScanRecord) -> ScanFile:
    said = _said(record)
    url = join(root, record.path)
    return ScanFile(url=url, patterns=("line",), spacing=said["spacing"], member=said["member"])


def _said(record: ScanRecord) -> _Said:
    return {
        "spacing": None if record.spacing_mm is None else Spacing(*record.spacing_mm),
        "member": record.member or None,
        "sidecar": json.loads(record.sidecar) if record.sidecar else {},
    }


def find_companion(record: ScanRecord) -> str | None:
    """Relative path of what changes a scan besides its file; None if that holds all of it.

    That is the folder of an export's images or of a header's pixels, "" for the root, else the
    sidecar that may lie beside the file.
    """
    if record.bscan:
        return None
    suffix, folder = suffix_of(record.path), record.path.rpartition("/")[0]
    if suffix in (".xml", ".mhd"):
        return folder
    if suffix in DICOM or suffix not in READERS:
        return None  # DICOM heeds no sidecar, and that of a folder lies in it
    return f"{folder}/{sidecar_name(ScanFile(url=record.path))}".lstrip("/")
