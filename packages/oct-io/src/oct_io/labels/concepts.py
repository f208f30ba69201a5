"""Which facts of OMOP's long clinical tables become columns of a label table, and by which rule.

Each row that a concept chooses is read, counted, or refused with its line; of a table with a
million rows no others are kept. Dates and ids of visits stay in memory.
"""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Literal, NamedTuple, cast, get_args

from oct_io.catalog.manifest import hash_participant
from oct_io.catalog.tables import MISSING, Row, Table, normal_id, number_rows, open_table
from oct_io.errors import TreeError
from oct_io.storage.files import exists, join, redact

Rule = Literal["first", "last", "mean", "any", "years_since_first", "years_since_age", "age"]

RULES: dict[str, str] = {
    "first": "first value by date",
    "last": "last value by date",
    "mean": "mean of all values",
    "any": "whether any value is not 0; of conditions, whether there is one",
    "years_since_first": "years from the earliest date to the last visit",
    "years_since_age": "age at the last visit less the last value, which is an age in years",
    "age": "age at the last visit, from the date of birth; where only its year is known, to a year",
}
"""Rule to what it says in a report."""

TABLES = ("measurement", "observation", "condition_occurrence", "person")
COLUMNS = ("column", "table", "rule", "concept_ids", "items", "missing", "cuts")
NUMBER = re.compile(r"[+-]?[0-9]{1,15}(\.[0-9]{0,15})?([eE][+-]?[0-9]{1,2})?")
SUFFIXES = (".csv", ".tsv")
PERSON = "person"
MARKS = (PERSON, "measurement")  # a folder with one of these tables is one of OMOP tables
BEYOND_LIMITS = {"4171756", "4172704", "4171754", "4171755"}  # operators <, >, <= and >=
YES_OR_NO = {"yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}
REFUSED_TO_SAY = (555.0, 777.0, 888.0, 999.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Concept:
    """One column of the label table.

    Attributes:
        column: its name.
        table: where its values stand, one of `TABLES`.
        rule: how many values of a participant become one, one of `RULES`.
        concept_ids: standard concepts that count; none leaves the choice to `items`.
        items: what stands before the first comma of the source value, such as "import_hba1c"; with
            `concept_ids` they narrow those, because one concept may stand for several questions.
        missing: values that are codes, such as 777 for "refused", and no values.
        cuts: thresholds; with them the column holds a class, the number of cuts that are reached.
    """

    column: str
    table: str
    rule: Rule
    concept_ids: tuple[int, ...] = ()
    items: tuple[str, ...] = ()
    missing: tuple[float, ...] = REFUSED_TO_SAY
    cuts: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.column or self.column.startswith("@"):
            raise TreeError(f"concept column '{self.column[:40]}' must be a name, without @ first")
        if self.table not in TABLES or self.rule not in get_args(Rule):
            raise TreeError(
                f"concept '{self.column}': table ({self.table[:40]}) must be one of "
                f"{', '.join(TABLES)}, and rule ({self.rule[:40]}) one of {', '.join(RULES)}"
            )
        if (self.rule == "age") != (self.table == "person"):
            raise TreeError(
                f"concept '{self.column}': rule age goes with table person, and only so"
            )
        if self.table != "person" and not self.concept_ids and not self.items:
            raise TreeError(f"concept '{self.column}': needs concept_ids or items")
        if list(self.cuts) != sorted(set(self.cuts)) or (self.cuts and self.rule == "any"):
            raise TreeError(f"concept '{self.column}': cuts must rise, and do not go with rule any")

    def describe(self) -> str:
        """Where the column comes from, in words for a report."""
        ids = ", ".join(map(str, self.concept_ids))
        which = [f"concept {ids}"] if ids else []
        which += [f"item {', '.join(self.items)}"] if self.items else []
        cut = f", cut at {', '.join(f'{one:g}' for one in self.cuts)}" if self.cuts else ""
        return f"{RULES[self.rule]}{cut}; {' '.join((self.table, *which))}"


AI_READI: tuple[Concept, ...] = (
    # 3004410 and 4245997 as AI-READI's documentation has them
    Concept(column="hba1c", table="measurement", rule="last", concept_ids=(3004410,)),
    Concept(
        column="hba1c_class", table="measurement", rule="last", concept_ids=(3004410,),
        cuts=(5.7, 6.5),  # per cent: prediabetes and diabetes of the American Diabetes Association
    ),
    Concept(column="bmi", table="measurement", rule="last", concept_ids=(4245997,)),
    Concept(column="age_at_visit", table="person", rule="age"),
    # names of its questionnaires; which table they reach is taken from public code, not from data
    Concept(
        column="diabetes_years", table="observation", rule="years_since_age", items=("mh_dm_age",),
        missing=(99.0, *REFUSED_TO_SAY),
    ),
    Concept(
        column="type_2_diabetes", table="condition_occurrence", rule="any", items=("mhterm_dm2",)
    ),
)  # fmt: skip
"""Columns that are made of AI-READI's clinical data where nobody says which."""


def read_concepts(url: str | Path) -> tuple[Concept, ...]:
    """Concepts of a table with the columns `COLUMNS`, the last four of which may be left out.

    Several numbers or items in a cell are separated by spaces.

    Raises:
        TreeError: no such table, a column twice, or a row that is no concept, with its line.
    """
    where, found = redact(url), list[Concept]()
    for line, row in number_rows(url):
        try:
            found.append(_concept(row))
        except TreeError as error:
            raise TreeError(f"{where}: line {line}: {error}") from None
    check_columns(found)
    return tuple(found)


def check_columns(concepts: Sequence[Concept]) -> None:
    """Refuse concepts that would write one column twice.

    Raises:
        TreeError: with the name of the column; or there are no concepts.
    """
    names = [one.column for one in concepts]
    if not names:
        raise TreeError("no concepts: a table of clinical facts needs at least one column")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise TreeError(f"concepts: the column '{twice}' is made twice")


def _concept(row: Row) -> Concept:
    unknown = sorted(set(row) - set(COLUMNS))
    if unknown:
        raise TreeError(f"unknown column '{unknown[0][:40]}'; there are {', '.join(COLUMNS)}")
    ids = row.get("concept_ids", "").split()
    if not all(one.isascii() and one.isdigit() and len(one) < 16 for one in ids):
        raise TreeError("concept_ids must be whole numbers")
    missing = _numbers(row.get("missing", ""), "missing")
    return Concept(
        column=row.get("column", ""),
        table=row.get("table", ""),
        rule=cast(Rule, row.get("rule", "")),
        concept_ids=tuple(map(int, ids)),
        items=tuple(row.get("items", "").split()),
        missing=missing or REFUSED_TO_SAY,
        cuts=_numbers(row.get("cuts", ""), "cuts"),
    )


def _numbers(text: str, what: str) -> tuple[float, ...]:
    found = tuple(number(one) for one in text.split())
    if any(math.isnan(one) for one in found):
        raise TreeError(f"{what} must be numbers")
    return found


def number(text: str) -> float:
    """The number that a cell is; NaN if it is none."""
    return float(text) if NUMBER.fullmatch(text) else math.nan


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


class Chosen(NamedTuple):
    """Rows of one concept: by participant id, and how many there were and were left out."""

    events: dict[str, list[Event]]
    counts: Counter[str]


def is_clinical(folder: str | Path) -> bool:
    """Whether a folder holds OMOP tables; a table file is no folder."""
    if str(folder).lower().endswith((*SUFFIXES, ".txt")):
        return False
    return any(find_table(str(folder), name) for name in MARKS)


def find_table(folder: str, name: str) -> str | None:
    """Address of the table of that name; None if there is none."""
    urls = (join(folder, f"{name}{suffix}") for suffix in SUFFIXES)
    return next((url for url in urls if exists(url)), None)


def open_clinical(folder: str, name: str) -> Table:
    """The table of that name, its columns in small letters.

    Raises:
        TreeError: there is none.
    """
    url = find_table(folder, name)
    if url is None:
        raise TreeError(f"{redact(folder)}: has no table {name}.csv or .tsv")
    table = open_table(url)
    return table._replace(names=[one.lower() for one in table.names])


def find_column(table: Table, *names: str) -> int:
    """Number of the first of the named columns that the table has.

    Raises:
        TreeError: it has none of them.
    """
    for name in names:
        if name in table.names:
            return table.names.index(name)
    raise TreeError(f"{table.where}: has no column {' or '.join(names)}")


def parse_day(text: str, where: str, line: int) -> date | None:
    """Date that a cell starts with, as 2024-05-31; None if it is empty.

    Raises:
        TreeError: it starts otherwise.
    """
    if text.lower() in MISSING:
        return None
    try:
        return date.fromisoformat(text[:10])
    except ValueError:
        raise TreeError(f"{where}: line {line} has a date that is not like 2024-05-31") from None


def owner_of(cells: list[str], column: int, where: str, line: int) -> str:
    """Participant id in a row.

    Raises:
        TreeError: it is empty.
    """
    name = normal_id(cells[column])
    if name.lower() in MISSING:
        raise TreeError(f"{where}: line {line} has no person_id")
    return name


def hash_visit(text: str) -> str:
    """12 hex characters that stand for a visit; "" if a row has none."""
    name = normal_id(text)
    if name.lower() in MISSING or name == "0":  # 0 is OMOP's "no such thing"
        return ""
    return hashlib.sha256(b"oct-io-visit:" + name.encode()).hexdigest()[:12]


def read_events(folder: str, name: str, concepts: Sequence[Concept]) -> dict[str, Chosen]:
    """Column of each of `concepts` to the rows of table `name` that it chooses.

    Raises:
        TreeError: no such table, or a row that is chosen and cannot be read.
    """
    table = open_clinical(folder, name)
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
                owner = owner_of(cells, columns.person, table.where, line)
                event = Event(
                    column=concept.column,
                    participant=hash_participant(owner),
                    visit=hash_visit(columns.read(cells, columns.visit)),
                    day=parse_day(cells[columns.day], table.where, line),
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
            find_column(table, "person_id"),
            find_column(table, f"{domain}_concept_id"),
            find_column(table, *days),
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
