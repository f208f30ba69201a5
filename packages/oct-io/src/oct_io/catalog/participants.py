"""The table of participants: one row each, with study group, recommended split and labels."""

import re
from collections.abc import Mapping
from pathlib import Path

from oct_io.catalog.manifest import hash_participant
from oct_io.catalog.tables import Row, cell, id_column, normal_id, number_rows
from oct_io.errors import TreeError
from oct_io.storage.files import exists, join, redact

Participants = dict[str, Row]

STUDY_GROUPS = (
    "healthy",
    "pre_diabetes_lifestyle_controlled",
    "oral_medication_and_or_non_insulin_injectable_medication_controlled",
    "insulin_dependent",
)
"""AI-READI's study groups by severity. The second mixes pre-diabetes with diabetes controlled by
lifestyle; that is how the data set defines it."""

GROUP_ALIASES = {"insulin_controlled": "insulin_dependent"}
"""Spellings that public code for AI-READI's third release meets besides those above."""

SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}

TABLES = ("participants.tsv", "participants.csv")

SITES = {"1": "UW", "4": "UCSD", "7": "UAB"}
"""First digit of a participant's four-digit id to the clinical site, in AI-READI."""

SITE = "@site"
"""Column that `hash_ids` adds."""

LINE = "@line"
"""Column that `read_participants` adds: the number of the row's line, for messages."""

NAMED = 5  # unknown words that a message names


def read_participants(root_or_file: str | Path) -> Participants:
    """Rows of the participants table by participant id; a file, or a folder that holds one.

    Any table will do whose columns include `participant_id` or `person_id`.

    Raises:
        TreeError: no table, no id column, a row without an id, or two rows of one participant.
    """
    url = find_participants(root_or_file)
    if url is None:
        where = redact(root_or_file)
        if Path(root_or_file).is_file():
            raise TreeError(f"{where}: no table of text; save it as .csv, .tsv or .txt")
        raise TreeError(f"{where}: no participants table; looked for {' and '.join(TABLES)}")
    where = redact(url)
    rows = number_rows(url)
    if not rows:
        raise TreeError(f"{where}: names its columns, but has no rows")
    column = id_column(rows[0][1], where)
    found: Participants = {}
    for line, row in rows:
        name = normal_id(cell(row, column))
        if not name:
            raise TreeError(f"{where}: line {line} has no {column}")
        if '"' in name:
            raise TreeError(f"{where}: line {line} has a stray quote in its {column}")
        if name in found:
            raise TreeError(
                f"{where}: line {line} repeats the {column} of an earlier line; labels of eyes "
                "need a column laterality, those of scans a column filepath"
            )
        found[name] = row | {LINE: str(line)}
    return found


def find_participants(root: str | Path) -> str | None:
    """Where the participants table of a data set lies; None if it has none."""
    text = str(root).rstrip("/")
    if text.lower().endswith((".tsv", ".csv", ".txt")):
        return text
    last = text.rsplit("/", 1)[-1]
    candidates = [join(text, name) for name in TABLES]
    candidates += [join(text, f"{last}/{name}") for name in TABLES]
    if last == "retinal_oct":  # the folder of one modality: the table lies beside it
        candidates += [join(text.removesuffix(f"/{last}"), name) for name in TABLES]
    for url in candidates:
        if exists(url):
            return url
    return None


def hash_ids(participants: Mapping[str, Row]) -> Participants:
    """Rows by hashed participant, each with its clinical site in a column `@site`.

    The site is what `clinical_site` says or, in AI-READI, the first digit of the id, which the hash
    hides; "" if neither says it. A table is taken for AI-READI's if it has `study_group`, or if all
    its ids are such and of two sites at least: other data sets count from 1001, too.
    """
    coded = [_site_by_id(name) for name in participants]
    theirs = all(coded) and len(set(coded)) > 1
    found = {}
    for (name, row), by_id in zip(participants.items(), coded, strict=True):
        site = cell(row, "clinical_site")
        if not site and (theirs or "study_group" in row):
            site = by_id
        found[hash_participant(name)] = row | {SITE: site}
    return found


def _site_by_id(name: str) -> str:
    """Site that an id of AI-READI tells; "" if it is no such id."""
    return SITES.get(name[0], "") if len(name) == 4 and name.isdigit() else ""


def study_group(text: str) -> int:
    """Ordinal class 0 to 3 of a study group; case, spaces and hyphens do not matter.

    Raises:
        TreeError: an unknown group, with its name.
    """
    name = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    name = GROUP_ALIASES.get(name, name)
    if name not in STUDY_GROUPS:
        known = ", ".join((*STUDY_GROUPS, *GROUP_ALIASES))
        raise TreeError(f"unknown study_group '{text[:80]}'; known are {known}")
    return STUDY_GROUPS.index(name)


def study_groups(participants: Mapping[str, Row]) -> dict[str, int]:
    """Participant id to ordinal class 0 to 3, of participants that all have a study group.

    Raises:
        TreeError: unknown groups, each with the line where it comes first.
    """
    found, unknown = {}, dict[str, str]()
    for name, row in participants.items():
        try:
            found[name] = study_group(row["study_group"])
        except TreeError:
            unknown.setdefault(row["study_group"], _line(row))
    if unknown:
        listed = [f"'{word[:80]}'{line}" for word, line in unknown.items()][:NAMED]
        more = f" and {len(unknown) - NAMED} more" if len(unknown) > NAMED else ""
        known = ", ".join((*STUDY_GROUPS, *GROUP_ALIASES))
        raise TreeError(f"unknown study_group {', '.join(listed)}{more}; known are {known}")
    return found


def _line(row: Row) -> str:
    return f" in line {row[LINE]}" if LINE in row else ""


def recommended_split(participants: Mapping[str, Row]) -> dict[str, str]:
    """Participant id to "train", "val" or "test"; participants without a split are left out.

    Raises:
        TreeError: no such column, or an unknown split, with its name and line.
    """
    if participants and not any("recommended_split" in row for row in participants.values()):
        raise TreeError("the participants table has no column recommended_split")
    found = {}
    for name, row in participants.items():
        value = cell(row, "recommended_split")
        if not value:
            continue
        if value.lower() not in SPLITS:
            raise TreeError(
                f"unknown recommended_split '{value[:40]}'{_line(row)}; known are train, val, test"
            )
        found[name] = SPLITS[value.lower()]
    return found
