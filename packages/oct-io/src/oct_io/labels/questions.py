"""What is asked of a label table, and how its cells become answers: classes, numbers, yes or no."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from oct_io.catalog.participants import study_group
from oct_io.catalog.tables import Row, cell
from oct_io.errors import TreeError
from oct_io.labels.classes import (
    MAX_CLASSES,
    WHOLE,
    YES,
    class_word,
    find_preset,
    is_ordinal,
    label_cells,
    load_class_names,
    load_labels,
)
from oct_io.labels.concepts import number

KINDS = ("auto", "nominal", "ordinal", "multilabel", "regression", "survival")
CLASSES = ("nominal", "ordinal")


@dataclass(kw_only=True, slots=True)
class LabelQuestion:
    """The question."""

    column: str = "study_group"
    """Column of the label table; or a preset over the study groups (diabetes4, healthy_vs_rest,
    healthy_prediabetes_vs_treated, insulin_vs_rest); or what a shortcut could rest on: @device,
    @site, @eye, @region, @protocol. With survival, the column of the time."""

    columns: list[str] = field(default_factory=list)
    """Several labels at once, a column of yes and no each; `column` is then not asked."""

    kind: str = "auto"
    """nominal, ordinal, multilabel, regression or survival. auto: multilabel with columns, survival
    with an event, regression for numbers of more than 20 different values, else classes, ordinal
    where the column has an order of severity."""

    classes: list[str] = field(default_factory=list)
    """The classes to tell apart, in their order; cells of any other are left out. Empty takes all
    that there are. With bins, their names."""

    event: str = ""
    """Survival: the column that says whether the event came (yes) or observation ended (no)."""

    unit: str = ""
    """Of the quantity or the time, for reports, such as years."""

    bins: list[float] = field(default_factory=list)
    """Cuts a quantity into ordered classes; a value that reaches a cut is above it."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"task.kind ({self.kind}) must be one of {', '.join(KINDS)}")
        self._require(bool(self.columns), "columns", self.columns, "multilabel")
        self._require(bool(self.event), "event", self.event, "survival")
        if self.bins and (self.settled or self.kind) not in ("auto", *CLASSES):
            raise ValueError(f"task.bins ({self.bins}) do not go with task.kind={self.kind}")
        if self.classes and (self.settled or self.kind) not in ("auto", *CLASSES):
            raise ValueError(f"task.classes ({self.classes}) do not go with task.kind={self.kind}")
        if list(self.bins) != sorted(set(self.bins)) or not all(map(math.isfinite, self.bins)):
            raise ValueError(f"task.bins ({self.bins}) must be numbers that rise")
        for name, listed in (("columns", self.columns), ("classes", self.classes)):
            if len(set(listed)) != len(listed):
                raise ValueError(f"task.{name} ({listed}) names one twice")
        if self.classes and self.bins and len(self.classes) != len(self.bins) + 1:
            wanted = len(self.bins) + 1
            raise ValueError(f"task.classes ({self.classes}) must be {wanted} for these task.bins")
        if len(self.classes) == 1:
            raise ValueError(f"task.classes ({self.classes}) must be two or more")

    def _require(self, given: bool, name: str, value: object, kind: str) -> None:
        if given and self.kind not in ("auto", kind):
            raise ValueError(f"task.{name} ({value}) goes with task.kind={kind}, not {self.kind}")
        if self.kind == kind and not given:
            raise ValueError(f"task.kind={kind} needs task.{name}")

    @property
    def settled(self) -> str:
        """The kind as far as the question itself says it; "" where the column decides."""
        if self.kind != "auto":
            return self.kind
        if self.columns:
            return "multilabel"
        return "survival" if self.event else "ordinal" if self.bins else ""

    @property
    def name(self) -> str:
        """What to call the question in a report."""
        return ", ".join(self.columns) if self.columns else self.column


class Answers(NamedTuple):
    """Answers of one column, by the key of its rows; rows without an answer are left out."""

    values: dict[str, float]  # a class from 0, or the quantity
    kind: str
    names: tuple[str, ...]  # of the classes; of the quantity alone
    outside: int = 0  # cells of a class that is not asked for


def answer(question: LabelQuestion, rows: Mapping[str, Row]) -> Answers:
    """Answers to a question about one column: classes or a quantity.

    Args:
        question: its `columns` and `event` are not looked at.
        rows: of a table, by any key.

    Raises:
        TreeError: no such column, or cells that are no such answers.
    """
    column, kind = question.column, question.settled
    if kind == "regression" or (not kind and not question.classes and is_measured(rows, column)):
        return Answers(read_numbers(rows, column), "regression", (column,))
    if question.bins:
        numbers = read_numbers(rows, column)
        cut = {key: int(np.searchsorted(question.bins, v, "right")) for key, v in numbers.items()}
        return Answers(dict(cut), kind, tuple(question.classes) or _bin_names(question.bins))
    if question.classes:
        return _listed(question, rows)
    found = load_labels(rows, column)
    names = load_class_names(rows, column)
    ordered = is_ordinal(rows, column)
    counted = len(names) == 2 or all(WHOLE.fullmatch(name) for name in names)
    if kind == "ordinal" and not ordered and not counted:
        raise TreeError(
            f"label column '{column}': its classes are words ({', '.join(names)[:100]}); "
            "task.classes=[...] says in which order they are steps"
        )
    return Answers(dict(found), kind or ("ordinal" if ordered else "nominal"), names)


def is_measured(rows: Mapping[str, Row], column: str) -> bool:
    """Whether a column holds numbers of more different values than classes may be."""
    if find_preset(rows, column) is not None:
        return False
    values = {cell(row, column) for row in rows.values()} - {""}
    return len(values) > MAX_CLASSES and not any(math.isnan(number(one)) for one in values)


def read_numbers(rows: Mapping[str, Row], column: str) -> dict[str, float]:
    """Key to the number in a column; rows without one are left out.

    Raises:
        TreeError: no such column, no number at all, or a cell that is none.
    """
    cells = {key: cell({column: text}, column) for key, text in label_cells(rows, column).items()}
    found = {key: number(text) for key, text in cells.items() if text}
    wrong = [cells[key] for key, value in found.items() if math.isnan(value)]
    if wrong:
        raise TreeError(
            f"label column '{column}' is asked for as a quantity, but {len(wrong)} of "
            f"{len(found)} cells are no numbers, such as '{wrong[0][:40]}'"
        )
    if not found:
        raise TreeError(f"label column '{column}' holds no number")
    return found


def read_yes_no(rows: Mapping[str, Row], column: str) -> dict[str, float]:
    """Key to 1 for yes, true or 1, and 0 for no, false or 0; rows without either are left out.

    Raises:
        TreeError: no such column, no answer at all, or a cell that is none.
    """
    cells = {key: cell({column: text}, column) for key, text in label_cells(rows, column).items()}
    words = {key: class_word(text) for key, text in cells.items() if text}
    wrong = [word for word in words.values() if word not in YES]
    if wrong:
        raise TreeError(f"label column '{column}' must say yes or no, not '{wrong[0][:40]}'")
    if not words:
        raise TreeError(f"label column '{column}' says neither yes nor no anywhere")
    return {key: float(YES[word]) for key, word in words.items()}


def _bin_names(bins: list[float]) -> tuple[str, ...]:
    between = [f"{low:g} to {high:g}" for low, high in pairwise(bins)]
    return (f"below {bins[0]:g}", *between, f"{bins[-1]:g} and more")


def _listed(question: LabelQuestion, rows: Mapping[str, Row]) -> Answers:
    """Classes in the order of the question; cells of others are counted and left out.

    Raises:
        TreeError: no such column, or a class that no cell has.
    """
    column = question.column
    preset = find_preset(rows, column)
    if preset is not None:
        words = {key: preset.classes[n] for key, n in load_labels(rows, column).items()}
    else:
        words = {key: class_word(text) for key, text in label_cells(rows, column).items()}
        if column == "study_group":
            words = {key: str(study_group(text)) for key, text in words.items()}
    order: dict[str, int] = {}
    for place, name in enumerate(question.classes):
        word = class_word(name)
        if column == "study_group" and preset is None:
            word = str(study_group(name))
        if word not in words.values():
            known = sorted(set(words.values()))[:MAX_CLASSES]
            raise TreeError(
                f"label column '{column}': no cell is '{name[:40]}' of task.classes; "
                f"there are {', '.join(known)[:300]}"
            )
        order[word] = place
    found = {key: float(order[word]) for key, word in words.items() if word in order}
    kind = question.settled or ("ordinal" if is_ordinal(rows, column) else "nominal")
    return Answers(found, kind, tuple(question.classes), outside=len(words) - len(found))
