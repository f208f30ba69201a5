"""Which release of a data set tables come from.

AI-READI's third release drew new splits: who was for training in the second may be for testing in
the third. So tables of two releases are not mixed.
"""

from collections import Counter
from pathlib import Path

from oct_io.catalog.manifest import find_manifest
from oct_io.catalog.participants import (
    SITE,
    STUDY_GROUPS,
    Participants,
    find_participants,
    hash_ids,
    study_group,
)
from oct_io.catalog.tables import ID_COLUMNS, Row, cell, id_column, split_line
from oct_io.errors import ScanError, TreeError
from oct_io.storage.files import join, read_head, redact

FIRST_LINE_BYTES = 1 << 16  # the names of the columns; a manifest has megabytes below them
ID_RELEASE = dict(zip(ID_COLUMNS, (2, 3), strict=True))

THIRD_RELEASE = {
    "participants": 2280,
    "scans": 56477,
    **dict(zip(("train", "val", "test"), (1576, 352, 352), strict=True)),
    **dict(zip(STUDY_GROUPS, (776, 560, 686, 258), strict=True)),
    **dict(zip(("UW", "UCSD", "UAB"), (798, 682, 800), strict=True)),
}
"""What AI-READI 3.0.0 holds, as those count who have it: rows of its tables of participants and of
OCT scans, then participants by recommended split, study group and site."""


def dataset_version(root: str | Path, *, mixed: bool = False) -> int | None:
    """Release that the tables under `root` follow; None if there are no tables.

    3 where they name people `person_id`; 2 where `participant_id`, as the first two releases do,
    which cannot be told apart by their columns. The manifest has the last word where `mixed` lets
    the tables differ.

    Raises:
        TreeError: the manifest is of one release and the participants table of another.
    """
    manifest, table = find_manifest(str(root).rstrip("/")), find_participants(root)
    version = table_version(join(root, manifest)) if manifest else None
    if table is None or mixed:
        return version
    if version is None:
        return table_version(table)
    refuse_other_release(table, version)
    return version


def table_version(place: str | Path) -> int:
    """Release that a table follows, by the name of its column of participants: 2 or 3.

    Raises:
        TreeError: not a table of participants.
    """
    where = redact(place)
    try:
        head = read_head(place, FIRST_LINE_BYTES).decode("utf-8-sig", "replace")
        first = head.split("\n", 1)[0].rstrip("\r")
        names = split_line(first, "\t" if "\t" in first else ",")
    except ScanError as error:
        raise TreeError(f"{where}: {error.reason}") from error
    except ValueError as error:
        raise TreeError(f"{where}: line 1 {error}") from None
    column = id_column(dict.fromkeys(names, ""), where)
    return ID_RELEASE[column.lower().replace(" ", "_")]


def compare_with_release(participants: Participants, scans: int) -> str:
    """How a data set differs from AI-READI's third release, in one line; "" if it does not.

    Only tables that name people `person_id`, as that release does, are compared. A part of it, or a
    later edition, differs by right: this is for who believes to have all of it.

    Args:
        participants: rows of its table.
        scans: rows of its manifest.
    """
    first = next(iter(participants.values()), {})
    if ID_COLUMNS[1] not in (name.lower() for name in first):
        return ""
    rows = hash_ids(participants).values()
    counts = Counter(participants=len(rows), scans=scans)
    for row in rows:
        counts.update((cell(row, "recommended_split").lower(), _group(row), row[SITE]))
    other = [
        f"{name} {number:,} (here {counts[name]:,})"
        for name, number in THIRD_RELEASE.items()
        if counts[name] != number
    ]
    return f"AI-READI's third release counts otherwise: {', '.join(other)}" if other else ""


def _group(row: Row) -> str:
    try:
        return STUDY_GROUPS[study_group(cell(row, "study_group"))]
    except TreeError:
        return "unknown group"


def refuse_other_release(table: str | Path, version: int | None) -> None:
    """Refuse a table of participants of another release than `version`.

    Raises:
        TreeError: the releases differ.
    """
    found = table_version(table)
    if version is not None and found != version:
        names = {number: name for name, number in ID_RELEASE.items()}
        raise TreeError(
            f"{redact(table)}: is of release {found} ({names[found]}), but the manifest of the "
            f"scans of release {version} ({names[version]}); who is in the test split differs, so "
            "use tables of one release, or set data.mixed_releases=true"
        )
