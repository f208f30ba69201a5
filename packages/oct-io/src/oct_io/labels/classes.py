"""Integer class labels by participant, from any column of any participants table."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from oct_io.catalog.participants import STUDY_GROUPS, read_participants, study_groups
from oct_io.catalog.tables import MISSING, Row
from oct_io.errors import TreeError

MAX_CLASSES = 20  # more different values than this are a measurement, not a class

WHOLE = re.compile(r"([+-]?)0*([0-9]{1,15})(\.0*)?")  # longer ones are codes, not quantities

YES = {"true": 1, "yes": 1, "1": 1, "false": 0, "no": 0, "0": 0}


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelPreset:
    """A question about the study groups, asked by its name wherever a label column is.

    Attributes:
        groups: class of each of the four study groups, in the order of `STUDY_GROUPS`.
        classes: name of each class.
        ordinal: the classes are steps of severity, so that a miss by two is worse than by one.
    """

    groups: tuple[int, int, int, int]
    classes: tuple[str, ...]
    ordinal: bool = False


PRESETS: dict[str, LabelPreset] = {
    "diabetes4": LabelPreset(groups=(0, 1, 2, 3), classes=STUDY_GROUPS, ordinal=True),
    "healthy_vs_rest": LabelPreset(groups=(0, 1, 1, 1), classes=("healthy", "rest")),
    "healthy_prediabetes_vs_treated": LabelPreset(
        groups=(0, 0, 1, 1), classes=("healthy_or_pre_diabetes", "treated")
    ),
    "insulin_vs_rest": LabelPreset(groups=(0, 0, 0, 1), classes=("rest", "insulin_dependent")),
}
"""Questions about the column `study_group`. A column of the table with such a name goes first."""


def load_labels(participants: Mapping[str, Row] | str | Path, column: str) -> dict[str, int]:
    """Participant id to class; participants whose cell is empty are left out.

    `study_group` becomes 0 to 3 by severity; a name in `PRESETS` asks its question about that
    column; TRUE/FALSE and yes/no become 1 and 0, beside 1 and 0 too; whole numbers keep their order
    and start at 0; other words are sorted and numbered.

    Args:
        participants: rows as from `read_participants`, or a table file to read.
        column: name of the label column.

    Raises:
        TreeError: no such column, one class only, or more than 20 of them.
    """
    if isinstance(participants, (str, Path)):
        participants = read_participants(participants)
    preset = find_preset(participants, column)
    if preset is not None:
        severity = load_labels(participants, "study_group")
        return {name: preset.groups[group] for name, group in severity.items()}
    values = label_cells(participants, column)
    if column == "study_group":
        return study_groups({name: participants[name] for name in values})
    names = class_names(values, column)
    if set(names) == {"false", "true"}:
        return {name: YES[class_word(value)] for name, value in values.items()}
    known = {class_word(one): index for index, one in enumerate(names)}
    return {name: known[class_word(value)] for name, value in values.items()}


def find_preset(participants: Mapping[str, Row], column: str) -> LabelPreset | None:
    """Preset that `column` names, unless the table has a column of that name."""
    if column in PRESETS and not any(column in row for row in participants.values()):
        return PRESETS[column]
    return None


def load_class_names(participants: Mapping[str, Row], column: str) -> tuple[str, ...]:
    """Names of the classes, by index, that `load_labels` gives for this column.

    Raises:
        TreeError: as `load_labels`.
    """
    preset = find_preset(participants, column)
    return preset.classes if preset else class_names(label_cells(participants, column), column)


def is_ordinal(participants: Mapping[str, Row], column: str) -> bool:
    """Whether the classes of this column are steps of severity."""
    preset = find_preset(participants, column)
    return preset.ordinal if preset else column == "study_group"


def ordinal_targets(labels: ArrayLike, classes: int) -> NDArray[np.float32]:
    """Class k of `classes` as the answers to "more than 0?", "more than 1?", ...

    One output each, (labels, classes - 1), lets a linear head keep the order of the classes.

    Raises:
        ValueError: a label that is no class.
    """
    numbers = _whole(labels, classes)
    return (numbers[:, None] > np.arange(classes - 1)[None, :]).astype(np.float32)


def class_weights(labels: ArrayLike, classes: int | None = None) -> NDArray[np.float64]:
    """Weight of each class so that all weigh alike: labels / (classes * labels of the class).

    Args:
        labels: class of each example, from 0.
        classes: how many there are; by default as many as the labels name.

    Raises:
        ValueError: no labels, a label that is no class, or a class without an example.
    """
    numbers = np.asarray(labels)
    if numbers.size == 0:
        raise ValueError("class_weights: no labels")
    count = int(numbers.max()) + 1 if classes is None else classes
    counts = np.bincount(_whole(numbers, count), minlength=count)
    if not counts.all():
        raise ValueError(f"class_weights: class {int(counts.argmin())} has no example")
    return numbers.size / (count * counts)


def _whole(labels: ArrayLike, classes: int) -> NDArray[np.int64]:
    numbers = np.asarray(labels, dtype=np.int64).reshape(-1)
    if numbers.size and not (numbers.min() >= 0 and numbers.max() < classes):
        raise ValueError(f"labels must be 0 to {classes - 1}, not {numbers.min()}..{numbers.max()}")
    return numbers


def label_cells(participants: Mapping[str, Row], column: str) -> dict[str, str]:
    """Participant id, or any other key of the rows, to the cell of a column that is not empty.

    Raises:
        TreeError: no such column, with those there are.
    """
    if not any(column in row for row in participants.values()):
        columns = next(iter(participants.values()), {})
        listed = ", ".join(name for name in columns if not name.startswith("@"))
        raise TreeError(f"no label column '{column}'; the table has: {listed[:300]}")
    return {name: value for name, row in participants.items() if (value := _label(row, column))}


def _label(row: Row, column: str) -> str:
    """Label in a cell; here "none" and "unknown" may be names of classes, unlike in manifests."""
    value = row.get(column) or ""
    return "" if value.lower() in MISSING - {"none", "unknown"} else value


def class_names(values: Mapping[str, str], column: str) -> tuple[str, ...]:
    """Names of the classes, by index, that these cells of `column` hold.

    Raises:
        TreeError: as `load_labels`.
    """
    if column == "study_group":
        return STUDY_GROUPS
    found = {class_word(value) for value in values.values()}
    if found <= set(YES) and not all(map(str.isdigit, found)):
        return ("false", "true")
    if len(found) > MAX_CLASSES:
        raise TreeError(
            f"label column '{column}' has {len(found)} different values; at most {MAX_CLASSES} "
            "classes are taken, and measurements must be cut into classes first"
        )
    if len(found) < 2:
        raise TreeError(f"label column '{column}' has {len(found)} class; it takes two to compare")
    if all(WHOLE.fullmatch(one) for one in found):
        return tuple(sorted(found, key=int))
    return tuple(sorted(found))


def class_word(value: str) -> str:
    """A cell as the name of its class: in lower case, and "1", "01" and "1.0" are one number."""
    whole = WHOLE.fullmatch(value)
    if whole is None:
        return value.lower()
    sign = "-" if whole[1] == "-" and int(whole[2]) else ""
    return f"{sign}{int(whole[2])}"
