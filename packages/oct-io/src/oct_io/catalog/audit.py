"""What a data set holds, counted from its tables and the headers of its scans."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast

from oct_io.catalog.disagreement import find_disagreement
from oct_io.catalog.headers import read_headers
from oct_io.catalog.manifest import (
    ScanRecord,
    find_manifest,
    hash_participant,
    list_folder,
    read_manifest,
)
from oct_io.catalog.participants import read_participants
from oct_io.catalog.releases import compare_with_release
from oct_io.errors import ScanError, Stage, StoreError, TreeError
from oct_io.quarantine import without_name
from oct_io.scan.header import ScanHeader
from oct_io.scan.outcome import check_geometry, check_size
from oct_io.storage.files import change_tokens, exists

LISTED = 200  # contradictions named one by one; the counts have all


@dataclass(kw_only=True, slots=True)
class AuditReport:
    """Counts over a data set; participants and scans appear hashed only.

    Attributes:
        scans: scans listed.
        usable: those whose header promises a volume; damaged pixel data shows when decoded.
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
    examples: dict[tuple[str, str], ScanRecord] = field(default_factory=dict, repr=False)

    def to_tree(self) -> dict[str, Any]:
        """Everything but the paths of the examples, for JSON."""
        names = [one.name for one in fields(self) if one.name not in ("counts", "examples")]
        tree = {name: getattr(self, name) for name in names}
        return tree | {"counts": {name: dict(found) for name, found in self.counts.items()}}


def audit(
    root: str | Path,
    *,
    manifest: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> AuditReport:
    """Read the header of every scan below `root` and count what is there.

    Args:
        root: local folder or fsspec URL.
        manifest: table of scans, as in `read_manifest`.
        progress: called with the number of headers read and of all.

    Raises:
        TreeError: no such folder, or no scans in it.
    """
    scans = _scans(root, manifest, progress)
    records = [record for record, _ in scans]
    report = AuditReport(scans=len(scans))
    sizes = _sizes(root, records)
    first_size: dict[str, str] = {}
    for record, header in scans:
        if isinstance(header, ScanError):
            _refuse(report, header.stage, without_name(header.reason, record.path))
            continue
        if not _is_usable(header, report):
            continue
        _count(report, record, header)
        size = sizes.get(record.path, "")
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
    progress: Callable[[int, int], None] | None,
) -> list[tuple[ScanRecord, ScanHeader | ScanError]]:
    """Each scan with its header, which is read once."""
    base = str(root).rstrip("/")
    if manifest is None and exists(base) and find_manifest(base) is None:
        found = list_folder(base, progress)
        if found:
            return found
    records = read_manifest(root, manifest=manifest)
    readable = [record for record in records if record.refused is None]
    headers = read_headers(root, readable, progress=progress)
    return [
        (record, next(headers) if record.refused is None else _refused(record))
        for record in records
    ]


def _refused(record: ScanRecord) -> ScanError:
    stage, reason = record.refused or ("fetch", "")
    return ScanError("", cast(Stage, stage), reason)


def _sizes(root: str | Path, records: Sequence[ScanRecord]) -> dict[str, str]:
    tokens = change_tokens(root, [record.path for record in records if not record.refused])
    return {path: token.split(":", 1)[0] for path, token in tokens.items()}


def _refuse(report: AuditReport, stage: str, reason: str) -> None:
    report.refused[stage] += 1
    report.reasons.setdefault(stage, reason)


def _is_usable(header: ScanHeader, report: AuditReport) -> bool:
    """Whether the header promises a volume; counts the scan as refused otherwise."""
    try:
        check_size(header, "")
        check_geometry(header, "")
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
