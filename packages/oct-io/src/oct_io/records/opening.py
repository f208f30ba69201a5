"""From a record to its scan, with all that manifest and sidecars say of it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

from oct_io.readers.lazy import LazyVolume
from oct_io.readers.registry import DICOM, READERS, open_volume, read_volume, suffix_of
from oct_io.readers.sidecar import sidecar_name
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
    volume = read_volume(join(root, record.path), **_said(record))
    if volume.laterality == "unknown":
        volume = replace(volume, laterality=record.laterality)
    return volume


def open_scan(root: str | Path, record: ScanRecord) -> LazyVolume:
    """Learn what the scan of a record is, as `open_volume` does.

    Raises:
        ScanError: as `open_volume`.
    """
    return open_volume(join(root, record.path), **_said(record))


def _said(record: ScanRecord) -> _Said:
    return {
        "spacing": None if record.spacing_mm is None else Spacing(*record.spacing_mm),
        "member": record.member or None,
        "sidecar": json.loads(record.sidecar) if record.sidecar else {},
    }


def find_companion(record: ScanRecord) -> str | None:
    """Relative path of what changes a scan besides its file; None if that holds all of it.

    That is the folder of an export's images, "" for the root, else the sidecar that may lie beside
    the file.
    """
    suffix, folder = suffix_of(record.path), record.path.rpartition("/")[0]
    if suffix == ".xml":
        return folder
    if suffix in DICOM or suffix not in READERS:
        return None  # DICOM heeds no sidecar, and that of a folder lies in it
    return f"{folder}/{sidecar_name(ScanFile(url=record.path))}".lstrip("/")
