"""From a record to its scan, with all that manifest and sidecars say of it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

from oct_io.readers.lazy import LazyVolume, header_of
from oct_io.readers.registry import DICOM, READERS, open_volume, read_volume, suffix_of
from oct_io.readers.sidecar import sidecar_name
from oct_io.readers.stacks import read_bscan
from oct_io.records.record import ScanRecord
from oct_io.scan.file import ScanFile
from oct_io.storage.files import join
from oct_io.volume import OctVolume, Spacing


class _Said(TypedDict):
    spacing: Spacing | None
    member: str | None
    sidecar: dict[str, Any]


def read_scan(root: str | Path, record: ScanRecord) -> OctVolume:
    """Read the scan of a record; the manifest's eye counts where the file names none.

    Raises:
        ScanError: as `read_volume`.
    """
    if record.bscan:
        volume = read_bscan(_bscan_file(root, record))
    else:
        volume = read_volume(join(root, record.path), **_said(record))
    if volume.laterality == "unknown":
        volume = replace(volume, laterality=record.laterality)
    return volume


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

    That is the folder of an export's images, else the sidecar that may lie beside the file.
    """
    if record.bscan:
        return None
    suffix, folder = suffix_of(record.path), record.path.rpartition("/")[0]
    if suffix == ".xml":
        return folder or None
    if suffix in DICOM or suffix not in READERS:
        return None  # DICOM heeds no sidecar, and that of a folder lies in it
    return f"{folder}/{sidecar_name(ScanFile(url=record.path))}".lstrip("/")
