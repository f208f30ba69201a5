"""Rows of OMOP's long clinical tables: visits, persons, and the events that concepts choose.

Each row is read or refused with its line; of a table with a million rows only those that a concept
chooses are kept. Dates and ids of visits stay in memory: what is hashed may be written down.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import NamedTuple

from oct_io.catalog.concepts import Concept, number
from oct_io.catalog.manifest import hash_participant
from oct_io.catalog.tables import MISSING, Table, normal_id, open_table
from oct_io.errors import TreeError
from oct_io.storage.files import exists, join, redact

SUFFIXES = (".csv", ".tsv")
PERSON, VISITS = "person", "visit_occurrence"
MARKS = (PERSON, "measurement")  # a folder with one of these tables is one of OMOP tables
BEYOND_LIMITS = {"4171756", "4172704", "4171754", "4171755"}  # operators <, >, <= and >=
YES_OR_NO = {"yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}


@dataclass(frozen=True, kw_only=True, slots=True)
class Visit:
    """One visit of a participant.

    Attributes:
        participant: hashed.
        visit: hashed `visit_occurrence_id`.
        start: its date; never in logs or reports.
    """

    participant: str
    visit: str
    start: date = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One row of a clinical table that a concept chose.

    Attributes:
        column: of the concept.
        participant: hashed.
        visit: hashed `visit_occurrence_id`; "" if the row has none.
        day: its date, None if it has none; never in logs or reports.
        value: the number; of a condition 1.
    """

    column: str
    participant: str
    visit: str
    day: date | None = field(repr=False)
    value: float = field(repr=False)


class Person(NamedTuple):
    """What is known of a participant besides events."""

    born: date | None = None  # 1 July of the year where only that is known
    last_visit: date | None = None


class Chosen(NamedTuple):
    """Rows of one concept: by participant id, and how many there were and were left out."""

    events: dict[str, list[Event]]
    counts: Counter[str]


def is_clinical(folder: str | Path) -> bool:
    """Whether a folder holds OMOP tables; a table file is no folder."""
    if str(folder).lower().endswith((*SUFFIXES, ".txt")):
        return False
    return any(_find_table(str(folder), name) for name in MARKS)


def _find_table(folder: str, name: str) -> str | None:
    urls = (join(folder, f"{name}{suffix}") for suffix in SUFFIXES)
    return next((url for url in urls if exists(url)), None)


def _open(folder: str, name: str) -> Table:
    url = _find_table(folder, name)
    if url is None:
        raise TreeError(f"{redact(folder)}: has no table {name}.csv or .tsv")
    table = open_table(url)
    return table._replace(names=[one.lower() for one in table.names])


def _place(table: Table, *names: str) -> int:
    """Number of the first of the named columns that the table has."""
    for name in names:
        if name in table.names:
            return table.names.index(name)
    raise TreeError(f"{table.where}: has no column {' or '.join(names)}")


def _day(text: str, where: str, line: int) -> date | None:
    """Date that a cell starts with, as 2024-05-31; None if it is empty."""
    if text.lower() in MISSING:
        return None
    try:
        return date.fromisoformat(text[:10])
    except ValueError:
        raise TreeError(f"{where}: line {line} has a date that is not like 2024-05-31") from None


def _owner(cells: list[str], column: int, where: str, line: int) -> str:
    name = normal_id(cells[column])
    if name.lower() in MISSING:
        raise TreeError(f"{where}: line {line} has no person_id")
    return name


def _hash_visit(text: str) -> str:
    name = normal_id(text)
    if name.lower() in MISSING or name == "0":  # 0 is OMOP's "no such thing"
        return ""
    return hashlib.sha256(b"oct-io-visit:" + name.encode()).hexdigest()[:12]


def read_visits(folder: str) -> Iterator[tuple[str, Visit]]:
    """(Participant id, visit) of each visit with a date; nothing where there is no such table.

    Raises:
        TreeError: a row that cannot be read.
    """
    if _find_table(folder, VISITS) is None:
        return
    table = _open(folder, VISITS)
    person, visit = _place(table, "person_id"), _place(table, "visit_occurrence_id")
    start = _place(table, "visit_start_date", "visit_start_datetime")
    for line, cells in table.rows:
        name = _owner(cells, person, table.where, line)
        day = _day(cells[start], table.where, line)
        if day is None:
            raise TreeError(f"{table.where}: line {line} has no date")
        yield (
            name,
            Visit(participant=hash_participant(name), visit=_hash_visit(cells[visit]), start=day),
        )


def read_persons(folder: str, visits: Sequence[tuple[str, Visit]]) -> dict[str, Person]:
    """Participant id to date of birth and last visit, as far as tables say so.

    Raises:
        TreeError: a row that cannot be read, or a participant twice.
    """
    last: dict[str, date] = {}
    for name, visit in visits:
        last[name] = max(visit.start, last.get(name, visit.start))
    found = {name: Person(None, day) for name, day in last.items()}
    if _find_table(folder, PERSON) is None:
        return found
    table, seen = _open(folder, PERSON), set[str]()
    person = _place(table, "person_id")
    parts = [
        table.names.index(name) if name in table.names else None
        for name in ("year_of_birth", "month_of_birth", "day_of_birth")
    ]
    for line, cells in table.rows:
        name = _owner(cells, person, table.where, line)
        if name in seen:
            raise TreeError(f"{table.where}: line {line} repeats the person_id of an earlier line")
        seen.add(name)
        born = _born(*("" if part is None else cells[part] for part in parts))
        found[name] = Person(born, last.get(name))
    return found


def _born(*cells: str) -> date | None:
    year, month, day = (number(text) for text in cells)
    if math.isnan(year):
        return None
    try:
        if math.isnan(month) or month == 0:
            return date(int(year), 7, 1)
        return date(int(year), int(month), 15 if math.isnan(day) or day == 0 else int(day))
    except ValueError:
        return None


def read_events(folder: str, name: str, concepts: Sequence[Concept]) -> dict[str, Chosen]:
    """Column of each of `concepts` to the rows of table `name` that it chooses.

    Raises:
        TreeError: no such table, or a row that is chosen and cannot be read.
    """
    table = _open(folder, name)
    columns = _Columns.of(table, name.removesuffix("_occurrence"))
    wanted = [(one, {str(number) for number in one.concept_ids}) for one in concepts]
    found = {one.column: Chosen({}, Counter()) for one in concepts}
    for line, cells in table.rows:
        concept_id = normal_id(cells[columns.concept])
        item = columns.read(cells, columns.source).split(",", 1)[0].strip()
        for concept, ids in wanted:
            if (ids and concept_id not in ids) or (concept.items and item not in concept.items):
                continue
            chosen = found[concept.column]
            value, why = _value(concept, columns, cells)
            chosen.counts[why or "rows"] += 1
            if not why:
                owner = _owner(cells, columns.person, table.where, line)
                event = Event(
                    column=concept.column,
                    participant=hash_participant(owner),
                    visit=_hash_visit(columns.read(cells, columns.visit)),
                    day=_day(cells[columns.day], table.where, line),
                    value=value,
                )
                chosen.events.setdefault(owner, []).append(event)
    return found


class _Columns(NamedTuple):
    """Where the columns of an event table are; -1 for those that need not be there."""

    condition: bool
    person: int
    concept: int
    day: int
    source: int
    value: int
    words: int
    operator: int
    visit: int

    @classmethod
    def of(cls, table: Table, domain: str) -> "_Columns":
        days = (f"{domain}_date", f"{domain}_start_date", f"{domain}_datetime")
        optional = [f"{domain}_source_value", "value_as_number", "value_as_string"]
        optional += ["operator_concept_id", "visit_occurrence_id"]
        return cls(
            domain == "condition",
            _place(table, "person_id"),
            _place(table, f"{domain}_concept_id"),
            _place(table, *days),
            *(table.names.index(one) if one in table.names else -1 for one in optional),
        )

    @staticmethod
    def read(cells: list[str], column: int) -> str:
        return cells[column] if column >= 0 else ""


def _value(concept: Concept, columns: _Columns, cells: list[str]) -> tuple[float, str]:
    """The number of a row, or why it has none; of a condition 1."""
    if columns.condition:
        return 1.0, ""
    taken, words = number(columns.read(cells, columns.value)), columns.read(cells, columns.words)
    if math.isnan(taken):
        taken = YES_OR_NO.get(words.lower(), number(words))
    if math.isnan(taken):
        return taken, "without a number"
    if taken in concept.missing:
        return taken, "coded as missing"
    if normal_id(columns.read(cells, columns.operator)) in BEYOND_LIMITS:
        return taken, "beyond a limit of detection"
    return taken, ""
