"""Which mask and which boundaries belong to a scan: by their name beside it, or by what they say.

`scan_mask.nii.gz` beside `scan.nii.gz` is its mask and `scan_layers.npz` its boundaries, and
neither is a scan. A DICOM segmentation may have any name and lie anywhere in the tree, because it
says itself which scan it is of.
"""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from oct_io.errors import ScanError
from oct_io.readers.registry import READERS, suffix_of
from oct_io.records.annotations import LAYER_ENDING, MASK_ENDINGS
from oct_io.records.record import ScanRecord
from oct_io.scan.file import ScanFile
from oct_io.scan.header import ScanHeader
from oct_io.storage.files import join

LOG = logging.getLogger("oct_io")
MASK, LAYERS = "_mask", "_layers"
OTHER_CLASS = ("holds Segmentation Storage,", "holds an unknown class,")
"""How the reader of scans refuses segmentations; pydicom has no name for label maps yet."""


class Companions(NamedTuple):
    """Paths of what belongs to a scan; "" where there is none."""

    mask: str = ""
    layers: str = ""


def find_companions(scan: str, present: Collection[str]) -> Companions:
    """What lies beside the scan at `scan`, among the files and folders `present`."""
    suffix = suffix_of(scan)
    stem = scan[: -len(suffix)] if suffix in READERS else scan.rstrip("/")
    masks = [f"{stem}{MASK}{ending}" for ending in (*MASK_ENDINGS, "")]
    mask = next((path for path in masks if path in present), "")
    layers = f"{stem}{LAYERS}{LAYER_ENDING}"
    return Companions(mask, layers if layers in present else "")


def look_beside(url: str) -> Companions:
    """Addresses of what lies beside the scan at `url`; its folder is listed.

    Raises:
        ScanError: stage `fetch`.
    """
    folder, mark, name = url.rstrip("/").rpartition("/")
    found = find_companions(name, ScanFile(url=folder or mark or ".").names())
    return Companions(*(f"{folder}{mark}{path}" if path else "" for path in found))


def set_aside(records: Sequence[ScanRecord], paths: Iterable[str]) -> list[ScanRecord]:
    """The scans without those that are mask or boundaries of another, which has their path.

    Args:
        records: files and folders that look like scans.
        paths: of all files below the root.
    """
    present = {*paths, *(record.path for record in records)}
    found = {record.path: find_companions(record.path, present) for record in records}
    taken = {path for pair in found.values() for path in pair if path}
    return [
        replace(record, mask=pair.mask, layers=pair.layers) if any(pair) else record
        for record in records
        if record.path not in taken
        for pair in [found[record.path]]
    ]


def join_segmentations(
    base: str, listed: Sequence[tuple[ScanRecord, ScanHeader | ScanError]]
) -> list[tuple[ScanRecord, ScanHeader | ScanError]]:
    """The scans without the DICOM segmentations among them, which become masks of those they name.

    Of a scan with several the first by path counts. One that names no scan of the tree, or only
    such as have a mask by name, is passed over; a line of the log counts these.
    """
    scans: list[tuple[ScanRecord, ScanHeader | ScanError]] = []
    named: dict[str, str] = {}
    lost = 0
    for record, header in listed:
        about = None
        if isinstance(header, ScanError) and header.reason.startswith(OTHER_CLASS):
            from oct_io.dicom.segmentation import peek_segmentation  # brings pydicom

            try:
                about = peek_segmentation(join(base, record.path))
            except ScanError:
                about = None  # it stays a refused file
        if about is None:
            scans.append((record, header))
            continue
        fresh = [uid for uid in about.scans if uid not in named]
        named |= dict.fromkeys(fresh, record.path)
        lost += not fresh
    joined = [(_with_mask(record, header, named), header) for record, header in scans]
    used = {record.mask for record, _ in joined}
    lost += len(set(named.values()) - used)
    if lost:
        LOG.warning("passed over, no mask of a scan: %d DICOM segmentations", lost)
    return joined


def _with_mask(
    record: ScanRecord, header: ScanHeader | ScanError, named: Mapping[str, str]
) -> ScanRecord:
    if record.mask or isinstance(header, ScanError) or header.sop_instance_uid not in named:
        return record
    return replace(record, mask=named[header.sop_instance_uid])
