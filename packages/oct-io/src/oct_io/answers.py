"""Answers to one question for all volumes of a cache, and what was found in no table."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from oct_io.cache.entries import Coded, Entries
from oct_io.catalog.participants import SITE
from oct_io.catalog.tables import Row, cell
from oct_io.errors import TreeError
from oct_io.labels.classes import MAX_CLASSES
from oct_io.labels.questions import CLASSES, LabelQuestion, answer, read_numbers, read_yes_no
from oct_io.labels.splits import stratified_folds
from oct_io.labels.tables import SAID_ELSEWHERE, LabelTable, LabelTables
from oct_io.records.record import NOBODY

SCAN_COLUMNS = {
    "@device": "device",
    "@eye": "laterality",
    "@region": "region",
    "@protocol": "protocol",
}
"""Labels that a scan brings along. An encoder that tells them, and a class that goes with one of
them, is how a probe scores without having seen a disease."""

TEST_FOLDS = 4  # the first of so many is held out where no split is given or recommended
NAMED = 3  # hashes that a line names


class Found(NamedTuple):
    """Where the cells of a column are: a key for each volume, and the row of each key."""

    keys: Coded
    rows: Mapping[str, Row]
    table: LabelTable | None  # None for what a scan brings along


def find_column(entries: Entries, tables: LabelTables, column: str) -> Found:
    """Rows that have `column`, and which of them each volume of a cache is of.

    Args:
        entries: of the cache.
        tables: as from `open_source`.
        column: of a table, a preset of `oct_io.labels.classes`, @site, or one of `SCAN_COLUMNS`.

    Raises:
        TreeError: no table, none of its rows is of any scan, or no such label of a scan.
    """
    if column in SCAN_COLUMNS:
        words = entries.coded(SCAN_COLUMNS[column])
        known = {word: {column: "" if word == "unknown" else word} for word in words.words}
        return Found(words, known, None)
    if column.startswith("@") and column != SITE:
        listed = ", ".join((*SCAN_COLUMNS, SITE))
        raise TreeError(f"no label column '{column}'; of a scan there are {listed}")
    table = tables.of(column)
    if not table.rows:
        raise TreeError(
            "no label table: give data.labels=FILE, a CSV or TSV with a column "
            "participant_id and one column a label"
        )
    keys = _keys(entries, table)
    if len(entries) and not any(word in table.rows for word in keys.words):
        raise table.refuse_strangers()
    return Found(keys, table.rows, table)


def _keys(entries: Entries, table: LabelTable) -> Coded:
    if table.level == "scan":
        return entries.coded("key")
    people = entries.coded("participant")
    if table.level == "participant":
        return people
    eyes = entries.coded("laterality")
    both = people.codes.astype(np.int64) * len(eyes.words) + eyes.codes
    pairs, codes = np.unique(both, return_inverse=True)
    words = [
        f"{people.words[pair // len(eyes.words)]} {eyes.words[pair % len(eyes.words)]}"
        for pair in pairs.tolist()
    ]
    return Coded(codes.reshape(-1).astype(np.int32), words)


def read_attributes(
    entries: Entries, tables: LabelTables, columns: Sequence[str]
) -> dict[str, NDArray[np.str_]]:
    """The cells of columns as they are, a text for each volume; "" where nothing is known.

    Raises:
        TreeError: as `find_column`, or no such column.
    """
    read = {}
    for column in columns:
        keys, rows, _ = find_column(entries, tables, column)
        if rows and not any(column in row for row in rows.values()):
            listed = ", ".join(name for name in next(iter(rows.values())) if name[:1] != "@")
            raise TreeError(f"no label column '{column}'; the table has: {listed[:300]}")
        words = [cell(rows.get(word, {}), column) for word in keys.words]
        read[column] = np.array(words, np.str_)[keys.codes]
    return read


class VolumeAnswers(NamedTuple):
    """Answers of all volumes of a cache, NaN where there is none."""

    values: NDArray[np.float64]  # (N,), or (N, labels), or (N, 2) of survival
    kind: str
    names: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def known(self) -> NDArray[np.bool_]:
        """(N,); volumes with an answer; of several labels one will do."""
        there = np.isfinite(self.values).reshape(len(self.values), -1)
        joined = np.logical_or if self.kind == "multilabel" else np.logical_and
        known: NDArray[np.bool_] = joined.reduce(there, axis=1)
        return known


def label_volumes(
    entries: Entries, tables: LabelTables, question: LabelQuestion | str
) -> VolumeAnswers:
    """Answers of all volumes of a cache.

    Args:
        entries: of the cache.
        tables: as from `open_source`.
        question: or a column that must hold classes.

    Raises:
        TreeError: no table, no such column, or cells that are no such answers.
    """
    asked = LabelQuestion(column=question) if isinstance(question, str) else question
    columns = asked.columns or [asked.column, *filter(None, [asked.event])]
    found = [find_column(entries, tables, column) for column in columns]
    outside, names, kind = 0, tuple(asked.columns) or (asked.column,), asked.settled
    if kind == "multilabel":
        read = [read_yes_no(one.rows, name) for one, name in zip(found, columns, strict=True)]
    elif kind == "survival":
        times = read_numbers(found[0].rows, columns[0])
        if min(times.values()) < 0:
            raise TreeError(f"label column '{columns[0]}' holds a time below 0")
        read = [times, read_yes_no(found[1].rows, columns[1])]
    else:
        answers = answer(asked, found[0].rows)
        read, kind, names, outside = [answers.values], answers.kind, answers.names, answers.outside
    if isinstance(question, str) and kind not in CLASSES:
        raise TreeError(
            f"label column '{question}' has more than {MAX_CLASSES} different numbers; "
            f"at most {MAX_CLASSES} classes are taken, and measurements must be cut into classes "
            "first"
        )
    spread = [_spread(one.keys, by_key) for one, by_key in zip(found, read, strict=True)]
    values = np.stack(spread, axis=1) if len(columns) > 1 or kind == "multilabel" else spread[0]
    answered = VolumeAnswers(values, kind, names, ())
    return answered._replace(notes=_notes(entries, found[0], answered.known, outside))


def _spread(keys: Coded, values: Mapping[str, float]) -> NDArray[np.float64]:
    return np.array([values.get(word, math.nan) for word in keys.words], np.float64)[keys.codes]


def _notes(
    entries: Entries, found: Found, known: NDArray[np.bool_], outside: int
) -> tuple[str, ...]:
    """What one answer is of, and what was left out."""
    level = "scan" if found.table is None else found.table.level
    notes = [f"one answer {'an' if level == 'eye' else 'a'} {level}"]
    met = found.keys.among(found.rows)
    absent = sorted(set(found.rows) - set(found.keys.words)) if found.table else []
    if absent:
        notes.append(f"{len(absent)} rows of the label table have no scan ({_some(absent)})")
    if not met.all():
        people = entries.take(np.flatnonzero(~met)).coded("participant").words
        notes.append(
            f"{int((~met).sum())} volumes of {len(people)} participants have no row in the label "
            f"table ({_some(sorted(people))})"
        )
    if (silent := int((met & ~known).sum())) > 0:
        notes.append(f"{silent} volumes have no answer")
    if outside:
        notes.append(f"{outside} rows are of none of the classes asked for")
    return tuple(notes)


def _some(hashes: Sequence[str]) -> str:
    return ", ".join(hashes[:NAMED]) + (", ..." if len(hashes) > NAMED else "")


def choose_test(
    answers: VolumeAnswers,
    people: Sequence[str],
    table: Mapping[str, Row],
    column: str,
) -> tuple[set[str], str]:
    """Test participants where no split says who they are, and the rule in words.

    Args:
        answers: of volumes that all have one.
        people: hashed participant of each of them.
        table: rows by hashed participant, for their sites.
        column: for messages.

    Raises:
        TreeError: too few participants of a class, or in all.
    """
    if set(people) == {NOBODY}:
        raise TreeError(
            f"label column '{column}': no scan with an answer says whose it is, so that all count "
            f"as of one participant; {SAID_ELSEWHERE}"
        )
    first = dict(sorted(zip(reversed(people), reversed(range(len(people))), strict=True)))
    labels = _strata(answers, first)
    fewest = min(Counter(labels.values()).values(), default=0)
    folds = min(TEST_FOLDS, fewest)
    if folds < 2:
        raise TreeError(
            f"label column '{column}': a class has {fewest} participants with scans; it takes "
            "two, one to train on and one to test on"
        )
    sites = {one: table.get(one, {}).get(SITE, "") for one in labels}
    names = answers.names if answers.kind in CLASSES else ()
    test = stratified_folds(labels, sites, folds=folds, seed=0, classes=names)[0]
    what = "class" if answers.kind in CLASSES else "answer"
    return set(test), f"first of {folds} folds balanced by {what} and site"


def _strata(answers: VolumeAnswers, first: Mapping[str, int]) -> dict[str, int]:
    """Participant to class, or to one of five parts of about equal size by what is answered."""
    rows = answers.values[list(first.values())]
    if answers.kind in CLASSES:
        return dict(zip(first, rows.astype(np.int64).tolist(), strict=True))
    if answers.kind == "multilabel":
        keys = [np.nansum(rows, axis=1)]
    else:
        keys = [rows] if answers.kind == "regression" else [rows[:, 0], rows[:, 1]]
    parts = max(1, min(5, len(rows) // TEST_FOLDS))
    strata = np.empty(len(rows), np.int64)
    strata[np.lexsort(keys)] = np.arange(len(rows)) * parts // max(1, len(rows))
    return dict(zip(first, strata.tolist(), strict=True))
