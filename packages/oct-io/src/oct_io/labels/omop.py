"""Clinical tables in OMOP's long form, joined to one row a participant by declared concepts.

Each column of the result has its rule and how many rows went into it; visits are kept beside it.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import NamedTuple

from oct_io.catalog.manifest import hash_participant
from oct_io.catalog.participants import Participants, read_participants
from oct_io.errors import TreeError
from oct_io.labels.concepts import (
    AI_READI,
    MARKS,
    PERSON,
    Chosen,
    Concept,
    Event,
    check_columns,
    find_column,
    find_table,
    hash_visit,
    is_clinical,
    number,
    open_clinical,
    owner_of,
    parse_day,
    read_events,
)
from oct_io.storage.files import redact

VISITS = "visit_occurrence"
DAYS_A_YEAR = 365.25


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


class Person(NamedTuple):
    """What is known of a participant besides events."""

    born: date | None = None  # 1 July of the year where only that is known
    last_visit: date | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class OmopTable:
    """Clinical tables as one row a participant, and what went into it.

    Attributes:
        rows: participant id to columns; a participant without a value has an empty cell.
        rules: column to its provenance: rule, table, concepts, and rows used and left out.
        visits: all visits, by participant and date.
        events: the rows that went into the columns, before any rule.
    """

    rows: Participants = field(repr=False)
    rules: Mapping[str, str]
    visits: tuple[Visit, ...] = field(repr=False)
    events: tuple[Event, ...] = field(repr=False)


def read_omop(folder: str | Path, concepts: Sequence[Concept] = AI_READI) -> OmopTable:
    """Join `person`, `measurement`, `observation` and `condition_occurrence` by participant.

    Values that are codes for "missing", and limits of detection instead of values, are left out and
    counted in `rules`. Of each table only the rows that a concept chooses are kept in memory.

    Args:
        folder: local folder or fsspec URL with the tables as .csv or .tsv; those that no concept
            asks for may be absent. Rules that count years need `visit_occurrence`.
        concepts: the columns to make.

    Raises:
        TreeError: no such folder or table, a table without a column that is needed, or a row that
            cannot be read, with its line.
    """
    check_columns(concepts)
    place = str(folder).rstrip("/")
    if not is_clinical(place):
        named = " or ".join(f"{name}.csv" for name in MARKS)
        raise TreeError(f"{redact(folder)}: no OMOP tables; looked for {named} right in it")
    visits = sorted(_read_visits(place), key=lambda one: (one[0], one[1].start))
    persons = _read_persons(place, visits)
    chosen: dict[str, Chosen] = {}
    for table in sorted({one.table for one in concepts} - {PERSON}):
        chosen |= read_events(place, table, [one for one in concepts if one.table == table])
    people = sorted({*persons, *(name for one in chosen.values() for name in one.events)})
    rows: Participants = {name: {} for name in people}
    for concept in concepts:
        events = chosen[concept.column].events if concept.column in chosen else {}
        for name, row in rows.items():
            person = persons.get(name, Person())
            row[concept.column] = _cell(concept, events.get(name, []), person)
    return OmopTable(
        rows=rows,
        rules={one.column: _describe(one, rows, chosen.get(one.column)) for one in concepts},
        visits=tuple(visit for _, visit in visits),
        events=tuple(e for one in chosen.values() for found in one.events.values() for e in found),
    )


def join_participants(table: OmopTable, participants: str | Path | None) -> Participants:
    """Rows of a table of participants, each with the columns that are made of clinical data.

    Args:
        table: as from `read_omop`.
        participants: as for `read_participants`; None for the clinical data alone.

    Raises:
        TreeError: a column that both have.
    """
    people = {} if participants is None else read_participants(participants)
    both = set(table.rules) & {name for row in people.values() for name in row}
    if both:
        raise TreeError(f"{redact(participants or '')}: has a column '{min(both)}' of the concepts")
    blank = dict.fromkeys(table.rules, "")
    everybody = dict.fromkeys((*people, *table.rows))
    return {name: people.get(name, {}) | (table.rows.get(name) or blank) for name in everybody}


def _cell(concept: Concept, events: Sequence[Event], person: Person) -> str:
    """What stands in the column of a participant; "" if nothing does."""
    if concept.rule == "any":
        if not events and concept.table != "condition_occurrence":
            return ""
        return "TRUE" if any(event.value for event in events) else "FALSE"
    value = _settle(concept, events, person)
    if value is None:
        return ""
    if concept.cuts:
        return str(sum(value >= cut for cut in concept.cuts))
    return f"{value:.6g}"


def _settle(concept: Concept, events: Sequence[Event], person: Person) -> float | None:
    """One number of a participant by the rule of its concept; None if it takes more than is known.

    Rows of one day count in their order in the table, and rows without a date before all others.
    """
    if concept.rule == "age":
        return _age(person)
    if not events:
        return None
    if concept.rule == "mean":
        return math.fsum(event.value for event in events) / len(events)
    ordered = sorted(events, key=lambda event: event.day or date.min)
    if concept.rule == "years_since_first":
        days = [event.day for event in ordered if event.day is not None]
        if not days or person.last_visit is None:
            return None
        return (person.last_visit - days[0]).days / DAYS_A_YEAR
    if concept.rule == "years_since_age":
        age = _age(person)
        return None if age is None else age - ordered[-1].value
    return ordered[0 if concept.rule == "first" else -1].value


def _age(person: Person) -> float | None:
    if person.born is None or person.last_visit is None:
        return None
    return (person.last_visit - person.born).days / DAYS_A_YEAR


def _describe(concept: Concept, rows: Participants, chosen: Chosen | None) -> str:
    """Provenance of a column: its rule, where from, and how much went in and was left out."""
    parts = [f"{sum(bool(row[concept.column]) for row in rows.values()):,} participants"]
    if chosen is not None:
        counts = dict(chosen.counts)
        parts.append(f"{counts.pop('rows', 0):,} rows")
        parts += [f"left out {number:,} {why}" for why, number in sorted(counts.items())]
    return f"{concept.describe()}; {', '.join(parts)}"


def _read_visits(folder: str) -> Iterator[tuple[str, Visit]]:
    """(Participant id, visit) of each visit with a date; nothing where there is no such table.

    Raises:
        TreeError: a row that cannot be read.
    """
    if find_table(folder, VISITS) is None:
        return
    table = open_clinical(folder, VISITS)
    person, visit = find_column(table, "person_id"), find_column(table, "visit_occurrence_id")
    start = find_column(table, "visit_start_date", "visit_start_datetime")
    for line, cells in table.rows:
        name = owner_of(cells, person, table.where, line)
        day = parse_day(cells[start], table.where, line)
        if day is None:
            raise TreeError(f"{table.where}: line {line} has no date")
        yield (
            name,
            Visit(participant=hash_participant(name), visit=hash_visit(cells[visit]), start=day),
        )


def _read_persons(folder: str, visits: Sequence[tuple[str, Visit]]) -> dict[str, Person]:
    """Participant id to date of birth and last visit, as far as tables say so.

    Raises:
        TreeError: a row that cannot be read, or a participant twice.
    """
    last: dict[str, date] = {}
    for name, visit in visits:
        last[name] = max(visit.start, last.get(name, visit.start))
    found = {name: Person(None, day) for name, day in last.items()}
    if find_table(folder, PERSON) is None:
        return found
    table, seen = open_clinical(folder, PERSON), set[str]()
    person = find_column(table, "person_id")
    parts = [
        table.names.index(name) if name in table.names else None
        for name in ("year_of_birth", "month_of_birth", "day_of_birth")
    ]
    for line, cells in table.rows:
        name = owner_of(cells, person, table.where, line)
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
    except (ValueError, OverflowError):  # no date, or one of the year 4294967296
        return None
