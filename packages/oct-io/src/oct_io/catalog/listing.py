"""Writing a manifest of any tree of scans, which `read_manifest` reads back to the same records."""

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from oct_io.catalog.manifest import ScanRecord
from oct_io.catalog.tables import Row, cell, normal_id, number_rows
from oct_io.errors import TreeError
from oct_io.storage.files import redact, safe_relative

COLUMNS = (
    "participant_id",
    "manufacturer",
    "manufacturers_model_name",
    "anatomic_region",
    "imaging",
    "laterality",
    "height",
    "width",
    "number_of_frames",
    "sop_instance_uid",
    "filepath",
    "protocol",  # AI-READI has it in the name of the file only; other trees have it nowhere
)
RARE = ("spacing_mm", "member", "mask", "layers")  # written only where some scan has one

MAKERS = {
    "heidelberg_spectralis": ("Heidelberg", "Spectralis"),
    "topcon_maestro2": ("Topcon", "Maestro2"),
    "topcon_triton": ("Topcon", "Triton"),
    "zeiss_cirrus": ("Zeiss", "Cirrus"),
}
"""AI-READI's words for the maker and the model of each device."""


def write_manifest(path: str | Path, records: Sequence[ScanRecord]) -> None:
    """Write `records` as a tab-separated table in AI-READI's manner, participant ids in clear.

    Records that are refused for their path are left out, because a manifest cannot name them.
    """
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    columns = COLUMNS + tuple(name for name in RARE if any(getattr(r, name) for r in records))
    writer.writerow(columns)
    rows = [_row(record) for record in records if safe_relative(record.path)]
    writer.writerows([cells[name] for name in columns] for cells in rows)
    Path(path).write_text(text.getvalue(), encoding="utf-8")


def _row(record: ScanRecord) -> dict[str, str]:
    maker, model = MAKERS.get(record.device, ("", _known(record.device)))
    if record.device.startswith("phantom"):
        maker, model = "Phantom", record.device
    frames, rows, columns = map(str, record.shape) if record.shape else ("", "", "")
    return {
        "participant_id": record.participant_id,
        "manufacturer": maker,
        "manufacturers_model_name": model,
        "anatomic_region": _known(record.region),
        "imaging": "OCT",
        "laterality": _known(record.laterality),
        "height": rows,
        "width": columns,
        "number_of_frames": frames,
        "sop_instance_uid": record.sop_instance_uid,
        "filepath": f"/{record.path}",
        "protocol": _known(record.protocol),
        "spacing_mm": " ".join(map(str, record.spacing_mm or ())),
        "member": record.member,
        "mask": record.mask,
        "layers": record.layers,
    }


def _known(value: str) -> str:
    return "" if value == "unknown" else value


def participants_from_folders(records: Sequence[ScanRecord]) -> list[ScanRecord]:
    """Records whose participant, where the scan names none, is its parent folder's name.

    Raises:
        TreeError: a scan without a participant lies in no folder.
    """
    found = []
    for record in records:
        folder = PurePosixPath(record.path).parent.name
        if not record.participant_id and not folder:
            raise TreeError(
                f"scan {record.key} lies in no folder below the root, so that no folder names its "
                "participant; give a table of participants instead"
            )
        found.append(replace(record, participant_id=record.participant_id or normal_id(folder)))
    return found


def participants_from_table(
    records: Sequence[ScanRecord], table: str | Path, column: str
) -> list[ScanRecord]:
    """Records whose participant, where the scan names none, stands in `column` of a table.

    The table has a row a scan and a column `filepath`, relative to the root of the records.

    Raises:
        TreeError: no such column, a scan with two participants, or one that has none and that the
            table does not list.
    """
    where, rows = redact(table), number_rows(table)
    for name in ("filepath", column):
        if rows and name not in rows[0][1]:
            named = ", ".join(rows[0][1])
            raise TreeError(f"{where}: has no column '{name}'; it has: {named[:200]}")
    ids = _ids_by_path(rows, column, where)
    found = [
        replace(one, participant_id=one.participant_id or ids.get(one.path, "")) for one in records
    ]
    missing = [one for one in found if not one.participant_id and one.refused is None]
    if missing:
        raise TreeError(
            f"{where}: names no participant for {len(missing)} of {len(found)} scans, the first of "
            f"them scan {missing[0].key}"
        )
    return found


def _ids_by_path(rows: Sequence[tuple[int, Row]], column: str, where: str) -> dict[str, str]:
    found: dict[str, tuple[int, str]] = {}
    for line, row in rows:
        path, owner = safe_relative(cell(row, "filepath")), normal_id(cell(row, column))
        if not path:
            continue
        before, first = found.setdefault(path, (line, owner))
        if first != owner:
            raise TreeError(f"{where}: lines {before} and {line} give a scan to two participants")
    return {path: owner for path, (_, owner) in found.items()}
