"""Which scans a data set holds: an AI-READI manifest, or any folder of scans."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

from oct_io.catalog.header_index import forget_headers, keep_looks, known_looks, read_known_headers
from oct_io.catalog.tables import Row, cell, id_column, normal_id, number_rows
from oct_io.errors import ScanError, Stage, TreeError
from oct_io.readers.registry import DICOM, READERS, SUFFIXES, is_marked, lacks_suffix, suffix_of
from oct_io.readers.sidecar import FOLDER_SIDECAR
from oct_io.readers.stacks import IMAGES
from oct_io.records.companions import join_segmentations
from oct_io.records.discovery import LOG, Listed, describe_skipped, fill_in, find_scans, join_series
from oct_io.records.looks import Looks
from oct_io.records.photographs import without_photographs
from oct_io.records.record import ScanRecord as ScanRecord
from oct_io.records.record import hash_participant as hash_participant
from oct_io.records.sidecars import FolderSidecars
from oct_io.scan.file import ScanFile
from oct_io.scan.header import ScanHeader
from oct_io.scan.protocols import DEVICES, device_name, protocol_token, stated_device
from oct_io.storage.files import exists, is_folder, join, list_tokens, redact, safe_relative
from oct_io.storage.together import ask_together
from oct_io.volume import Kind, Laterality

MODALITY = "retinal_oct"
MANIFESTS = ("manifest.tsv", "manifest.csv")
PROBED_ROWS = 3
COMPANIONS = ("mask", "layers")  # columns with paths of what belongs to a scan
SIZES = ("number_of_frames", "height", "width")
LISTED = 5  # lines of a manifest that a reason names
MAX_DIGITS = 9  # of a number of frames, rows or columns; longer ones are no size of anything


class Listing(NamedTuple):
    """The scans of a data set."""

    records: list[ScanRecord]
    tokens: dict[str, str] | None
    """What changes when a file does, by path; None where a manifest was read and nothing listed."""


def read_manifest(
    root: str | Path,
    *,
    manifest: str | Path | None = None,
    cache: str | Path | None = None,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> list[ScanRecord]:
    """List the scans below `root`, a local folder or an fsspec URL, sorted by path.

    With `retinal_oct/manifest.tsv` (AI-READI 1, 2 and 3; also where the whole tree lies one folder
    deeper than it says) the manifest is read and no scan is opened. Otherwise `discovery` looks
    for files and folders below `root` that are scans, and their headers are read. Rows that cannot
    be used, such as paths that leave the root, are kept with `refused` set, so that whoever reads
    on can count them.

    A manifest may have the columns `spacing_mm` (three numbers of millimetres, which stand above
    what the scan says), `member` (which of several volumes in one file), `mask` and `layers` (files
    that belong to the scan, relative to the root), and its paths may be folders that are scans.
    `volume.json` in the root, or in any folder below it, speaks of the scans below it, the nearest
    first.

    Args:
        root: what the paths are relative to.
        manifest: another table of scans, such as `write_manifest` makes; it may lie anywhere.
        cache: folder of the cache that is, or will be, made of these scans. Headers are kept beside
            it, so that the next call reads new and changed files only.
        jobs: processes that read headers from a disk; 0 for one a CPU.
        progress: called while headers are read, with the number done and the number of all.

    Raises:
        TreeError: no such folder, or no scans in it.
    """
    return list_scans(root, manifest=manifest, cache=cache, jobs=jobs, progress=progress).records


def list_scans(
    root: str | Path,
    *,
    manifest: str | Path | None = None,
    cache: str | Path | None = None,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
    kind: Kind = "oct",
) -> Listing:
    """Scans as `read_manifest` lists them, with the state of the files where that is known.

    `build_cache(tokens=...)` takes it, and need not list them again. `kind` is what scans show of
    which no `volume.json` says it; DICOM and formats of scanners hold retinas.

    Raises:
        TreeError: no such folder, or no scans in it.
    """
    base, where = str(root).rstrip("/"), redact(root)
    if not is_folder(base):
        cure = "is a file; give the folder that holds the scans"
        raise TreeError(f"{where}: {cure if exists(base) else 'no such folder'}")
    if manifest is not None:
        records, found = _from_manifest(base, "", str(manifest), kind), "the manifest"
    else:
        found = find_manifest(base) or ""
        records = _from_manifest(base, found, join(base, found), kind) if found else []
    tokens = None
    if not found:
        tokens = list_tokens(base)
        kept = None if "://" in str(cache) else cache  # headers are kept on disks alone
        scans = list_folder(base, tokens, cache=kept, jobs=jobs, progress=progress, kind=kind)
        records = [record for record, _ in scans]
    if not records and found:
        raise TreeError(f"{where}: {found} lists no scans")
    if not records:
        raise no_scans(root, tokens or ())
    return Listing(sorted(records, key=lambda record: (record.path, record.member)), tokens)


def no_scans(root: str | Path, paths: Iterable[str]) -> TreeError:
    """What to say of a tree without scans: where they were looked for, and what its images may be.

    Args:
        root: the folder or URL.
        paths: of all files below it.
    """
    said = (
        f"no scans; looked for {MODALITY}/manifest.tsv and, below it, {', '.join(SUFFIXES)} files, "
        "DICOM files without an ending, TIFFs with several pages, HEYEX exports, and folders of "
        f"images that a {FOLDER_SIDECAR} in or above them speaks of"
    )
    if any(path.lower().endswith(IMAGES) for path in paths):
        said += "; images that are B-scans of their own are read with data=bscans"
    return TreeError(f"{redact(root)}: {said}")


def find_manifest(base: str) -> str | None:
    """Relative path of the manifest, looked for at the places where copies of AI-READI have it."""
    last = base.rsplit("/", 1)[-1]
    folders = [MODALITY, f"{last}/{MODALITY}", f"{MODALITY}/{MODALITY}"]
    if last == MODALITY:
        folders = ["", MODALITY]
    for folder in folders:
        for name in MANIFESTS:
            relative = f"{folder}/{name}".lstrip("/")
            if exists(join(base, relative)):
                return relative
    return None


def _from_manifest(base: str, manifest: str, url: str, kind: Kind) -> list[ScanRecord]:
    numbered = number_rows(url)
    if not numbered:
        return []
    rows = [row for _, row in numbered]
    if "filepath" not in rows[0]:
        raise TreeError(f"{redact(url)}: has no column filepath, so it names no scans")
    names = id_column(rows[0], redact(url))
    prefix, cut = _probe(base, manifest, rows)
    records = [_from_row(line, row, names, prefix, cut) for line, row in numbered]
    placed = _placed(records, base, kind)
    return _unique((line, record) for (line, _), record in zip(numbered, placed, strict=True))


def _probe(base: str, manifest: str, rows: list[Row]) -> tuple[str, str]:
    """(prefix to add, prefix to cut) that turn the manifest's paths into existing ones."""
    folder = manifest.rsplit("/", 1)[0] + "/" if "/" in manifest else ""
    outer = folder.removesuffix(f"{MODALITY}/")
    last = base.rsplit("/", 1)[-1]
    choices = [(outer, ""), ("", ""), (folder, ""), (f"{last}/", ""), ("", f"{MODALITY}/")]
    paths = [path for row in rows if (path := safe_relative(cell(row, "filepath")))]
    for path in paths[:PROBED_ROWS]:
        for prefix, cut in choices:
            if exists(join(base, prefix + path.removeprefix(cut))):
                return prefix, cut
    return choices[0]  # none of the first files is there; each will say so when it is read


def _from_row(line: int, row: Row, id_name: str, prefix: str, cut: str) -> ScanRecord:
    stated = cell(row, "filepath")
    relative = safe_relative(stated)
    path = stated if relative is None else prefix + relative.removeprefix(cut)
    model = cell(row, "manufacturers_model_name")
    device = device_name(cell(row, "manufacturer"), model)
    if device == "unknown":
        listed = next((part for part in path.split("/") if part in DEVICES), "")
        device = listed or stated_device(model)
    return ScanRecord(
        path=path,
        participant_id=normal_id(cell(row, id_name)),
        device=device,
        laterality=_laterality(cell(row, "laterality")),
        region=cell(row, "anatomic_region") or "unknown",
        protocol=protocol_token(cell(row, "protocol"), path.rsplit("/", 1)[-1]),
        shape=_shape(row),
        sop_instance_uid=cell(row, "sop_instance_uid"),
        refused=_refusal(line, row, id_name, relative),
        spacing_mm=_spacing(cell(row, "spacing_mm")) or None,
        member=cell(row, "member"),
        mask=_beside(row, "mask", prefix, cut),
        layers=_beside(row, "layers", prefix, cut),
        photograph=_beside(row, "reference_filepath", prefix, cut),
    )


def _beside(row: Row, name: str, prefix: str, cut: str) -> str:
    """Path of a companion, "" if it leaves the root; `_refusal` says so of masks and boundaries."""
    if not cell(row, name):
        return ""
    relative = safe_relative(cell(row, name))
    return "" if relative is None else prefix + relative.removeprefix(cut)


def _placed(records: Sequence[ScanRecord], base: str, kind: Kind) -> list[ScanRecord]:
    """Records with what the folders around their scans say; refused if their path is no scan's."""
    paths = {record.path for record in records if record.refused is None}
    asked = sorted(path for path in paths if not _is_known(path))
    read = ask_together(base, lambda path: _is_read(join(base, path)), asked)
    unread = {path for path, known in zip(asked, read, strict=True) if not known}
    sidecars = FolderSidecars(base, said=None if kind == "oct" else {"kind": kind})
    described = (path for path in paths - unread if suffix_of(path) not in DICOM)
    sidecars.fetch({path.rpartition("/")[0] for path in described})

    def place(record: ScanRecord) -> ScanRecord:
        if record.refused is not None:
            return record
        if record.path in unread:
            return replace(record, refused=("parse", "its name has no suffix that this reads"))
        return replace(record, sidecar=sidecars.said(record.path))

    return list(map(place, records))


def _is_known(path: str) -> bool:
    name = path.rpartition("/")[2]
    return lacks_suffix(name) or name.lower().endswith(tuple(READERS))


def _is_read(url: str) -> bool:
    """Whether what has an ending that names no format may be a scan: a folder, or DICOM."""
    try:
        return is_folder(url) or is_marked(ScanFile(url=url))
    except ScanError:
        return False  # it is not there


def _spacing(text: str) -> tuple[float, float, float] | tuple[()] | None:
    """Millimetres of "0.047 0.0026 0.0117" or of a JSON list; () if it is not three of them."""
    if not text:
        return None
    try:
        numbers = [float(one) for one in text.strip("[]").replace(",", " ").split()]
    except ValueError:
        return ()
    if len(numbers) != 3 or not all(0 < one < math.inf for one in numbers):
        return ()
    return numbers[0], numbers[1], numbers[2]


def _refusal(line: int, row: Row, id_name: str, relative: str | None) -> tuple[str, str] | None:
    """Stage and reason if a row of a manifest is known to be unusable."""
    if relative is None:
        stated = cell(row, "filepath")
        return ("fetch", "its path leaves the root" if stated else "the manifest gives no path")
    if any(cell(row, name) and safe_relative(cell(row, name)) is None for name in COMPANIONS):
        return ("fetch", "the path of its mask or its layers leaves the root")
    if _spacing(cell(row, "spacing_mm")) == ():
        return ("parse", f"line {line} of the manifest: spacing_mm is not three numbers above 0")
    if '"' in row[id_name]:
        return ("parse", f"line {line} of the manifest has a stray quote in its {id_name}")
    if any(len(text) > MAX_DIGITS for text in _sizes(row) if text.isdigit()):
        named = " or ".join(SIZES)
        return ("parse", f"line {line} of the manifest: {named} has over {MAX_DIGITS} digits")
    return None


def _laterality(text: str) -> Laterality:
    letter = text[:1].upper()
    return "R" if letter == "R" else "L" if letter == "L" else "unknown"


def _shape(row: Mapping[str, str]) -> tuple[int, int, int] | None:
    whole = _sizes(row)
    if not all(text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS for text in whole):
        return None
    return int(whole[0]), int(whole[1]), int(whole[2])


def _sizes(row: Mapping[str, str]) -> list[str]:
    return [row.get(name, "").removesuffix(".0") for name in SIZES]


def _unique(records: Iterable[tuple[int, ScanRecord]]) -> list[ScanRecord]:
    """One record a file, or a member of it, whatever the number of rows that name it."""
    listed: dict[tuple[str, str], list[tuple[int, ScanRecord]]] = {}
    for line, record in records:
        named = record.path or f"\0{line}", record.member
        listed.setdefault(named, []).append((line, record))
    return [same[0][1] if len(same) == 1 else _joined(same) for same in listed.values()]


def _joined(listed: list[tuple[int, ScanRecord]]) -> ScanRecord:
    """The record of a file with several rows: what they contradict each other in is left unknown.

    A file of two participants is refused, because one of them would get the other's label.
    """
    records = [record for _, record in listed]
    owners = {one.participant_id for one in records if one.participant_id}
    if len(owners) > 1:
        lines = ", ".join(str(line) for line, _ in listed[:LISTED])
        reason = f"the manifest lists it for {len(owners)} participants, in lines {lines}"
        return ScanRecord(path=records[0].path, refused=("content", reason))
    unknown: dict[str, Any] = {
        one.name: one.default
        for one in fields(ScanRecord)
        if len({getattr(record, one.name) for record in records}) > 1
    }
    unknown["participant_id"] = next(iter(owners), "")
    return replace(records[0], **unknown)


def list_folder(
    base: str,
    tokens: Mapping[str, str],
    *,
    cache: str | Path | None = None,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
    kind: Kind = "oct",
) -> list[Listed]:
    """Scans below `base`, by path, each with the header that its record was made from.

    What is passed over is counted by kind in one line of the log.

    Args:
        base: local folder or fsspec URL.
        tokens: of all files below it, as from `list_tokens`.
        cache: as in `read_manifest`.
        jobs: likewise.
        progress: likewise.
        kind: as in `list_scans`.

    Raises:
        TreeError: a `volume.json` that cannot be used.
    """
    found = _find(base, tokens, cache, kind)
    readable = [record for record in found if record.refused is None]
    headers = read_known_headers(base, readable, tokens, cache=cache, jobs=jobs, progress=progress)
    listed = [(fill_in(record, one), one) for record, one in zip(readable, headers, strict=True)]
    listed += [(record, refusal_of(record)) for record in found if record.refused is not None]
    folders: list[ScanRecord] = []

    def read(series: list[ScanRecord]) -> Iterable[ScanHeader | ScanError]:
        folders.extend(series)
        return read_known_headers(base, series, tokens, cache=cache, jobs=jobs) if series else ()

    whole = join_series(join_segmentations(base, without_photographs(listed)), read)
    joined = sorted(whole, key=lambda one: one[0].path)
    if cache is not None:
        forget_headers(cache, [*found, *folders], tokens)
    return [(_with_normal_id(record), header) for record, header in joined]


def _with_normal_id(record: ScanRecord) -> ScanRecord:
    owner = normal_id(record.participant_id)
    return record if owner == record.participant_id else replace(record, participant_id=owner)


def _find(
    base: str, tokens: Mapping[str, str], cache: str | Path | None, kind: Kind
) -> list[ScanRecord]:
    """Scans below `base`; what had to be looked into for that is remembered beside the cache."""
    looks = Looks(base) if cache is None else Looks(base, partial(known_looks, cache, tokens))
    found, skipped = find_scans(base, list(tokens), looks, kind)
    if cache is not None:
        keep_looks(cache, tokens, looks.fresh)
    if skipped:
        LOG.warning("%s", describe_skipped(skipped))
    return found


def refusal_of(record: ScanRecord) -> ScanError:
    """Why a record is refused that is so without a look at its scan."""
    stage, reason = record.refused or ("fetch", "")
    return ScanError("", cast(Stage, stage), reason)
