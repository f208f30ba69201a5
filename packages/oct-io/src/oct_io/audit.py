"""What a data set holds, counted from its tables and the headers of its scans."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from oct_io.errors import ScanError, TreeError
from oct_io.manifest import ScanRecord, hash_participant, read_manifest
from oct_io.participants import read_participants
from oct_io.readers import ScanHeader, read_header
from oct_io.readers.dicom import check_geometry
from oct_io.readers.pixels import check_size
from oct_io.storage import join
from oct_io.tables import normal_id


@dataclass(kw_only=True, slots=True)
class AuditReport:
    """Counts over a data set; participants appear hashed only.

    Attributes:
        scans: scans listed.
        usable: those whose header promises a volume; damaged pixel data shows when decoded.
        participants: participants with a scan.
        without_scans: hashed participants of the table that have no scan; None without a table.
        not_in_table: hashed participants with scans that the table lacks; None without a table.
        counts: for each property (device, region, ...) how many usable scans have each value.
        refused: how many scans fall out at each stage.
        reasons: first reason met at each stage.
        duplicates: scans whose SOP Instance UID an earlier scan has.
        mismatches: what manifest and header contradict each other in, and how often.
    """

    scans: int = 0
    usable: int = 0
    participants: int = 0
    without_scans: list[str] | None = None
    not_in_table: list[str] | None = None
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, str] = field(default_factory=dict)
    duplicates: int = 0
    mismatches: Counter[str] = field(default_factory=Counter)


def audit(root: str | Path, *, progress: Callable[[int, int], None] | None = None) -> AuditReport:
    """Read the header of every scan below `root` and count what is there.

    Raises:
        TreeError: no such folder, or no scans in it.
    """
    records = read_manifest(root)
    report = AuditReport(scans=len(records))
    uids: set[str] = set()
    for done, record in enumerate(records, start=1):
        header = _header(record, root, report)
        if header is not None:
            report.duplicates += header.sop_instance_uid in uids
            uids.add(header.sop_instance_uid)
            _count(report, record, header)
        if progress is not None:
            progress(done, len(records))
    _compare_participants(report, records, root)
    return report


def _header(record: ScanRecord, root: str | Path, report: AuditReport) -> ScanHeader | None:
    """Header of a scan that could become a volume; None, and counted, otherwise."""
    try:
        if record.refused is not None:
            stage, reason = record.refused
        else:
            header = read_header(join(root, record.path))
            check_size(header, "")
            check_geometry(header, "")
            return header
    except ScanError as error:
        stage, reason = error.stage, error.reason
    report.refused[stage] += 1
    report.reasons.setdefault(stage, reason)
    return None


def _count(report: AuditReport, record: ScanRecord, header: ScanHeader) -> None:
    report.usable += 1
    properties = {
        "device": header.device,
        "region": record.region if record.region != "unknown" else header.region,
        "protocol": header.protocol,
        "laterality": header.laterality,
        "shape": " x ".join(map(str, header.shape)),
        "spacing_source": str(header.spacing_source),
        "pattern": header.pattern,
    }
    for name, value in properties.items():
        report.counts.setdefault(name, Counter())[value] += 1
    stated = {
        "shape": record.shape not in (None, header.shape),
        "laterality": "unknown" not in (record.laterality, header.laterality)
        and record.laterality != header.laterality,
        "participant": bool(record.participant_id and header.participant_id)
        and record.participant_id != normal_id(header.participant_id),
    }
    for name, wrong in stated.items():
        if wrong:
            report.mismatches[name] += 1


def _compare_participants(report: AuditReport, records: list[ScanRecord], root: str | Path) -> None:
    seen = {record.participant_id for record in records if record.participant_id}
    report.participants = len(seen)
    try:
        table = set(read_participants(root))
    except TreeError:
        return  # a folder of scans needs no table; who needs one reads it and is told
    report.without_scans = sorted(map(hash_participant, table - seen))
    report.not_in_table = sorted(map(hash_participant, seen - table))
