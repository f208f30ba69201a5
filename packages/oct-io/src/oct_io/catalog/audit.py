"""What a data set holds, counted from its tables and the headers of its scans."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any

from oct_io.catalog.header_index import read_known_headers
from oct_io.catalog.manifest import (
    ScanRecord,
    find_manifest,
    hash_participant,
    list_folder,
    no_scans,
    read_manifest,
    refusal_of,
)
from oct_io.catalog.participants import read_participants
from oct_io.catalog.releases import compare_with_release
from oct_io.catalog.tables import normal_id
from oct_io.errors import ScanError, StoreError, TreeError
from oct_io.quarantine import without_name
from oct_io.readers.registry import DICOM, suffix_of
from oct_io.records.annotated import AnnotationCounts
from oct_io.scan.header import ScanHeader
from oct_io.scan.outcome import check_geometry, check_length, check_size
from oct_io.scan.protocols import DEVICES, find_protocol
from oct_io.storage.files import change_tokens, exists, list_tokens

NATIVE = frozenset({"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"})
"""Transfer syntaxes in which voxels stand as they are (PS3.5 A.1 to A.3)."""
LISTED = 200  # contradictions named one by one; the counts have all
EYE = re.compile(r"_([lr])_(?=[0-9])", re.IGNORECASE)  # AI-READI: ..._oct_l_1.3.6.1....dcm
NUMBERED = re.compile(r"^[0-9]{3,}(?=_)")  # AI-READI: 1001_spectralis_...; a lone 3_ is a counter


Scans = list[tuple[ScanRecord, ScanHeader | ScanError]]


@dataclass(kw_only=True, slots=True)
class AuditReport:
    """Counts over a data set; participants and scans appear hashed only.

    Attributes:
        scans: scans listed.
        usable: those whose header promises a volume that the file is long enough for; damaged pixel
            data shows when decoded.
        participants: participants with a scan.
        without_scans: hashed participants of the table that have no scan; None without a table.
        not_in_table: hashed participants with scans that the table lacks; None without a table.
        release: how a tree that looks like AI-READI's third release differs from it; "" if not.
        counts: for each property (device, region, ...) how many usable scans have each value.
        refused: how many scans fall out at each stage.
        reasons: first reason met at each stage.
        duplicates: scans whose SOP Instance UID an earlier scan has.
        copies: those of them whose file is also as long as the earlier one: the same content twice.
        mismatches: what contradicts the header of a scan, and how often: the manifest, where no
            more is said, or the folder or file name.
        contradictions: (key of the scan, what contradicts), the first 200.
        flags: how many decoded scans have each flag of `oct_io.scan.flags`: those of a cache whose
            index was looked at, or else the examples that were drawn.
        annotations: how many usable scans have layer boundaries and masks, and of what.
        examples: the first usable scan of each device and protocol; for who looks at them.
    """

    scans: int = 0
    usable: int = 0
    participants: int = 0
    without_scans: list[str] | None = None
    not_in_table: list[str] | None = None
    release: str = ""
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, str] = field(default_factory=dict)
    duplicates: int = 0
    copies: int = 0
    mismatches: Counter[str] = field(default_factory=Counter)
    contradictions: list[tuple[str, str]] = field(default_factory=list)
    flags: dict[str, int] = field(default_factory=dict)
    annotations: AnnotationCounts = field(default_factory=AnnotationCounts)
    examples: dict[tuple[str, str], ScanRecord] = field(default_factory=dict, repr=False)

    def to_tree(self) -> dict[str, Any]:
        """Everything but the paths of the examples, for JSON."""
        special = ("counts", "examples", "annotations")
        names = [one.name for one in fields(self) if one.name not in special]
        tree = {name: getattr(self, name) for name in names}
        tree["annotations"] = self.annotations.to_tree()
        return tree | {"counts": {name: dict(found) for name, found in self.counts.items()}}


def audit(
    root: str | Path,
    *,
    manifest: str | Path | None = None,
    cache: str | Path | None = None,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> AuditReport:
    """Read the header of every scan below `root` and count what is there.

    Args:
        root: local folder or fsspec URL.
        manifest: table of scans, as in `read_manifest`.
        cache: folder of the cache that is, or will be, made of these scans; headers that are kept
            beside it are not read again.
        jobs: processes that read headers from a disk; 0 for one a CPU.
        progress: called with the number of headers read and of all.

    Raises:
        TreeError: no such folder, or no scans in it.
    """
    scans, tokens = _scans(root, manifest, cache=cache, jobs=jobs, progress=progress)
    records = [record for record, _ in scans]
    report = AuditReport(scans=len(scans))
    first_size: dict[str, str] = {}
    for record, header in scans:
        if isinstance(header, ScanError):
            _refuse(report, header.stage, without_name(header.reason, record.path))
            continue
        size = tokens.get(record.path, "").split(":", 1)[0]
        if not _is_usable(header, size, report):
            continue
        _count(report, record, header)
        report.annotations.see(root, record, header)
        uid = header.sop_instance_uid
        if uid and uid in first_size:
            report.duplicates += 1
            report.copies += first_size[uid] == size
        first_size.setdefault(uid, size)
    _compare_participants(report, records, root)
    return report


def _scans(
    root: str | Path,
    manifest: str | Path | None,
    *,
    cache: str | Path | None,
    jobs: int,
    progress: Callable[[int, int], None] | None,
) -> tuple[Scans, dict[str, str]]:
    """Each scan with its header, and what changes when a file does, by path."""
    base = str(root).rstrip("/")
    if manifest is None and exists(base) and find_manifest(base) is None:
        tokens = list_tokens(base)
        found = list_folder(base, tokens, cache=cache, jobs=jobs, progress=progress)
        if not found:
            raise no_scans(root, tokens)
        return found, tokens
    records = read_manifest(root, manifest=manifest)
    readable = [record for record in records if record.refused is None]
    paths = [record.path for record in readable]
    described = any(suffix_of(path) not in DICOM for path in paths)  # by what lies beside it, too
    tokens = list_tokens(base) if described else change_tokens(base, paths)
    headers = read_known_headers(base, readable, tokens, cache=cache, jobs=jobs, progress=progress)
    return [(one, refusal_of(one) if one.refused else next(headers)) for one in records], tokens


def _refuse(report: AuditReport, stage: str, reason: str) -> None:
    report.refused[stage] += 1
    report.reasons.setdefault(stage, reason)


def _is_usable(header: ScanHeader, size: str, report: AuditReport) -> bool:
    """Whether the header promises a volume; counts the scan as refused otherwise.

    Args:
        header: of the scan.
        size: bytes of its file, or another text where nobody knows or it has several.
        report: counts.
    """
    try:
        check_size(header, "")
        check_geometry(header, "")
        if header.transfer_syntax in NATIVE and size.isdigit():
            check_length(header, int(size), "")
    except ScanError as error:
        _refuse(report, error.stage, error.reason)
        return False
    return True


def _count(report: AuditReport, record: ScanRecord, header: ScanHeader) -> None:
    report.usable += 1
    properties = {
        "device": header.device,
        "region": record.region if record.region != "unknown" else header.region,
        "protocol": header.protocol,
        "laterality": header.laterality if header.laterality != "unknown" else record.laterality,
        "shape": " x ".join(map(str, header.shape)),
        "spacing_source": str(header.spacing_source),
        "spacing_confidence": header.spacing_confidence,
        "pattern": header.pattern,
    }
    for name, value in properties.items():
        report.counts.setdefault(name, Counter())[value] += 1
    report.examples.setdefault((header.device, header.protocol), record)
    for what in find_disagreement(record, header):
        report.mismatches[what] += 1
        if len(report.contradictions) < LISTED:
            report.contradictions.append((record.key, what))


def _compare_participants(report: AuditReport, records: list[ScanRecord], root: str | Path) -> None:
    seen = {record.participant_id for record in records if record.participant_id}
    report.participants = len(seen)
    try:
        people = read_participants(root)
    except StoreError:
        raise
    except TreeError:
        return  # a folder of scans needs no table; who needs one reads it and is told
    table = set(people)
    report.release = compare_with_release(people, len(records))
    report.without_scans = sorted(map(hash_participant, table - seen))
    report.not_in_table = sorted(map(hash_participant, seen - table))


def find_disagreement(record: ScanRecord, header: ScanHeader) -> list[str]:
    """What is contradicted, such as "laterality" (of the manifest) or "device of the folder".

    Only what both sides state is compared, always with the header.
    """
    path = PurePosixPath(record.path)
    eye = EYE.search(path.name)
    number = NUMBERED.search(path.name)
    parent = normal_id(path.parent.name)
    owner = normal_id(header.participant_id)
    token = find_protocol(path.name)
    folder = next((part for part in path.parts if part in DEVICES), "unknown")
    pairs = {
        "shape": (_text(record.shape), _text(header.shape)),
        "laterality": (record.laterality, header.laterality),
        "participant": (record.participant_id, owner),
        "device": (record.device, header.device),
        "participant of the folder": (parent if parent.isdigit() else "", owner),
        "device of the folder": (folder, header.device),
        "participant of the file name": (normal_id(number[0]) if number else "", owner),
        "laterality of the file name": (eye[1].upper() if eye else "", header.laterality),
        "device of the file name": (token.device if token else "", header.device),
    }
    return [name for name, both in pairs.items() if both[0] != both[1] and all(map(_stated, both))]


def _text(shape: tuple[int, int, int] | None) -> str:
    return "" if shape is None else " x ".join(map(str, shape))


def _stated(value: str) -> bool:
    return value not in ("", "unknown")
