"""Which files and folders of a tree without a manifest are scans, and what was passed over."""

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import NamedTuple

from oct_io.errors import ScanError
from oct_io.readers.registry import DICOM, SUFFIXES, is_marked, lacks_suffix
from oct_io.readers.sidecar import FOLDER_SIDECAR, sidecar_name
from oct_io.readers.stacks import IMAGES, is_stack, natural_order
from oct_io.records.companions import set_aside
from oct_io.records.looks import Looks
from oct_io.records.record import ScanRecord
from oct_io.records.sidecars import FolderSidecars
from oct_io.scan.file import ScanFile
from oct_io.scan.header import ScanHeader
from oct_io.storage.disk import is_hidden
from oct_io.volume import Kind

LOG = logging.getLogger("oct_io")
TIFF = (".tif", ".tiff")
HEAD_BYTES = 4096  # in which a HEYEX export names its root element
NO_TEXT = re.compile("[\udc80-\udcff]")  # bytes of a name that are not UTF-8, as Python reads them
PLACED = ("frame_positions", "localizer")  # sources that tell one volume from two of one series

ANYTHING = {"kind": "volume", "participant_from": "file"}  # what is said of scans that are no OCT
TABLES = (FOLDER_SIDECAR, "participants.tsv", "participants.csv")  # are read, and are no scans

Listed = tuple[ScanRecord, ScanHeader | ScanError]


def describe_skipped(skipped: Counter[str]) -> str:
    """One line on what is no scan, the most frequent kind first."""
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in skipped.most_common())
    return f"passed over, no scans: {kinds}"


def find_scans(
    base: str, paths: Sequence[str], looks: Looks | None = None, kind: Kind = "oct"
) -> tuple[list[ScanRecord], Counter[str]]:
    """Files and folders below `base` that are scans, by path, and counts of the files that are not.

    A file is a scan by its ending, by the mark of DICOM where it has none, by its root element if
    it is an .xml, and by its pages if it is a TIFF. A folder is one if it holds images and no
    scans, and a `volume.json` in it or above it speaks of it: pictures of anything are common. What
    is called the mask or the layers of a scan is none; its path is in the record of that scan. A
    scan whose path is no text is refused, for neither a cache nor a manifest could name it.

    Args:
        base: local folder or fsspec URL.
        paths: of all files below it, relative, as from `list_tokens`.
        looks: what is in files that must be looked into; None looks into all of them.
        kind: what scans show of which no `volume.json` says it.

    Raises:
        TreeError: a `volume.json` that cannot be used.
    """
    folders: dict[str, list[str]] = {}
    skipped: Counter[str] = Counter()
    for path in paths:
        if is_hidden(path):
            skipped["hidden"] += 1
        else:
            folders.setdefault(path.rpartition("/")[0], []).append(path)
    sidecars = FolderSidecars(base, set(paths), None if kind == "oct" else ANYTHING)
    sidecars.fetch(folders)
    seen = _look_into(folders, looks or Looks(base))
    scans: list[str] = []
    for folder, inside in folders.items():
        described = bool(sidecars.of_folder(folder))
        scans += _scans_in(folder, inside, seen, described, skipped)
    found = [ScanRecord(path=one, sidecar=sidecars.said(one)) for one in sorted(scans)]
    return list(map(_named, set_aside(found, paths))), skipped


def _named(record: ScanRecord) -> ScanRecord:
    """The record, or one that is refused and can be written down where its path is no text."""
    path = as_text(record.path)
    if path == record.path:
        return record
    return ScanRecord(path=path, refused=("fetch", "its path is not UTF-8; rename it"))


def as_text(path: str) -> str:
    """A path with %FF in the place of a byte 255 that is not UTF-8, and so on."""
    return NO_TEXT.sub(lambda found: f"%{ord(found[0]) & 0xFF:02X}", path)


class _Seen(NamedTuple):
    """Paths of files that are scans by what is in them."""

    marked: set[str]
    exports: set[str]
    stacks: set[str]


def _look_into(folders: Mapping[str, Sequence[str]], looks: Looks) -> _Seen:
    """Look into the files whose names do not say it; of TIFFs into the first of a folder first."""
    every = [path for inside in folders.values() for path in inside]
    bare = [path for path in every if lacks_suffix(path.rpartition("/")[2])]
    marked = looks.among(bare, is_marked, unread=True)  # why not is said when headers are read
    exports = looks.among(_ending(every, (".xml",)), _is_heyex, unread=True)
    exporting = {path.rpartition("/")[0] for path in exports}
    tiffs = [
        natural_order(found)
        for folder, inside in folders.items()
        if folder not in exporting and (found := _ending(inside, TIFF))
    ]
    stacks = looks.among([one[0] for one in tiffs], is_stack, unread=False)
    rest = [path for one in tiffs if one[0] in stacks for path in one[1:]]
    return _Seen(marked, exports, stacks | looks.among(rest, is_stack, unread=True))


def _scans_in(
    folder: str, inside: Sequence[str], seen: _Seen, described: bool, skipped: Counter[str]
) -> list[str]:
    """Scans among the files `inside` of one folder, or the folder itself; counts all others."""
    images = _ending(inside, IMAGES)
    named = [path for path in inside if path.lower().endswith(SUFFIXES)]
    exports = [path for path in inside if path in seen.exports]
    stacks = [path for path in images if path in seen.stacks]
    scans = [*named, *(path for path in inside if path in seen.marked), *exports, *stacks]
    used = {*scans, *(images if exports else ())}
    if images and not exports:
        alone = sorted(set(images) - set(stacks))
        if scans:
            skipped["images beside scans"] += len(alone)
        elif not folder:
            skipped["images in the root itself (give the folder above it)"] += len(alone)
        elif described:
            scans = [folder]
        else:
            skipped[f"images of which no {FOLDER_SIDECAR} speaks"] += len(alone)
    own = {sidecar_name(ScanFile(url=path)) for path in scans}
    for path in set(inside) - used - set(images):
        name = path.rpartition("/")[2]
        if name not in TABLES and name not in own:
            skipped[_kind(as_text(name))] += 1
    return scans


def _kind(name: str) -> str:
    if lacks_suffix(name):
        return "without an ending"
    return PurePosixPath(name).suffix.lower() or name


def _ending(paths: Sequence[str], suffixes: tuple[str, ...]) -> list[str]:
    return [path for path in paths if path.lower().endswith(suffixes)]


def _is_heyex(file: ScanFile) -> bool:
    return b"HEDX" in file.head(HEAD_BYTES)


def fill_in(record: ScanRecord, header: ScanHeader | ScanError) -> ScanRecord:
    """The record with what the header of its scan says; refused if that could not be read."""
    if isinstance(header, ScanError):
        return replace(record, refused=(header.stage, header.reason))
    return replace(
        record,
        participant_id=header.participant_id,
        device=header.device,
        laterality=header.laterality,
        region=header.region,
        protocol=header.protocol,
        shape=header.shape,
        sop_instance_uid=header.sop_instance_uid,
    )


def join_series(
    listed: Sequence[Listed],
    read: Callable[[list[ScanRecord]], Iterable[ScanHeader | ScanError]],
) -> list[Listed]:
    """Scans, with one for each folder of DICOM files that are the instances of one series.

    Args:
        listed: files, each with its header.
        read: gives the headers of scans that are folders, all at once.
    """
    folders: dict[str, list[Listed]] = {}
    for one in listed:
        folder, _, name = one[0].path.rpartition("/")
        if lacks_suffix(name) or name.lower().endswith(DICOM):
            folders.setdefault(folder, []).append(one)
    series: dict[str, list[ScanHeader]] = {}
    for folder, files in folders.items():
        headers = [header for _, header in files if isinstance(header, ScanHeader)]
        if not _are_one_series(headers):
            continue
        if folder:
            series[folder] = headers
        else:
            LOG.warning(
                "the root itself is one scan in %d files; give the folder above", len(files)
            )
    records = [ScanRecord(path=folder) for folder in series]
    joined: dict[str, Listed] = {}
    for record, header in zip(records, read(records), strict=True):
        if _is_whole(header, series[record.path]):
            parts = [one for one, _ in folders[record.path]]
            mask = next((one.mask for one in parts if one.mask), "")
            whole = replace(fill_in(record, header), mask=mask), header
            joined |= {one.path: whole for one in parts}
    alone = [one for one in listed if one[0].path not in joined]
    return alone + list({one[0].path: one for one in joined.values()}.values())


def _are_one_series(headers: Sequence[ScanHeader]) -> bool:
    """Whether files of one folder say that they belong together: one series, no file twice."""
    series = {(one.series_instance_uid, one.participant_id) for one in headers}
    names = {one.sop_instance_uid for one in headers}
    if len(series) != 1 or not all(one.series_instance_uid for one in headers):
        return False
    return len(names) == len(headers) > 1


def _is_whole(header: ScanHeader | ScanError, headers: Sequence[ScanHeader]) -> bool:
    """Whether the DICOM files of a folder make the one scan that `header` is of.

    Files of one frame are parts. Files of several are so if their positions make one raster.
    """
    parts = all(one.shape[0] == 1 for one in headers)
    return parts or (isinstance(header, ScanHeader) and header.spacing_source in PLACED)
