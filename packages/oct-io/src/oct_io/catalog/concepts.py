"""Which clinical facts of OMOP tables become columns of a label table, and by which rule."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from oct_io.catalog.tables import Row, number_rows
from oct_io.errors import TreeError
from oct_io.storage.files import redact

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
