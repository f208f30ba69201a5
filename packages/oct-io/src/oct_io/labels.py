"""Integer class labels by participant, from any column of any participants table."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from oct_io.errors import TreeError
from oct_io.participants import STUDY_GROUPS, read_participants, study_group
from oct_io.tables import MISSING, Row

MAX_CLASSES = 20  # more different values than this are a measurement, not a class

_YES = {"true": 1, "yes": 1, "false": 0, "no": 0}


def load_labels(
    participants: Mapping[str, Row] | str | Path,
    column: str,
    *,
    classes: Sequence[str] | None = None,
) -> dict[str, int]:
    """Participant id to class; participants whose cell is empty are left out.

    `study_group` becomes 0 to 3 by severity; TRUE/FALSE and yes/no become 1 and 0; whole numbers
    keep their order and start at 0; other words are numbered in the order of `classes`, or sorted.

    Args:
        participants: rows as from `read_participants`, or a table file to read.
        column: name of the label column.
        classes: names of the classes in order; other values are then errors.

    Raises:
        TreeError: no such column, an unknown class, one class only, or more than 20 of them.
    """
    values = _values(participants, column)
    if column == "study_group" and classes is None:
        return {name: study_group(value) for name, value in values.items()}
    names = class_names(values, column, classes)
    known = {one.lower(): index for index, one in enumerate(names)}
    if classes is None and set(names) == {"false", "true"}:
        return {name: _YES[value.lower()] for name, value in values.items()}
    for value in values.values():
        if value.lower() not in known:
            listed = ", ".join(names)
            raise TreeError(f"label column '{column}': '{value[:40]}' is none of {listed}")
    return {name: known[value.lower()] for name, value in values.items()}


def _values(participants: Mapping[str, Row] | str | Path, column: str) -> dict[str, str]:
    if isinstance(participants, (str, Path)):
        participants = read_participants(participants)
    if not any(column in row for row in participants.values()):
        listed = ", ".join(next(iter(participants.values()), {}))
        raise TreeError(f"no label column '{column}'; the table has: {listed[:300]}")
    return {name: value for name, row in participants.items() if (value := _label(row, column))}


def _label(row: Row, column: str) -> str:
    """Label in a cell; here "none" and "unknown" may be names of classes, unlike in manifests."""
    value = row.get(column) or ""
    return "" if value.lower() in MISSING - {"none", "unknown"} else value


def class_names(
    values: Mapping[str, str], column: str, classes: Sequence[str] | None = None
) -> tuple[str, ...]:
    """Names of the classes, by index, that these cells of `column` hold.

    Raises:
        TreeError: as `load_labels`.
    """
    if classes is not None:
        return tuple(classes)
    if column == "study_group":
        return STUDY_GROUPS
    found = {value.lower() for value in values.values()}
    if found and found <= set(_YES):
        return ("false", "true")
    if len(found) > MAX_CLASSES:
        raise TreeError(
            f"label column '{column}' has {len(found)} different values; at most {MAX_CLASSES} "
            "classes are taken, and measurements must be cut into classes first"
        )
    if len(found) < 2:
        raise TreeError(f"label column '{column}' has {len(found)} class; it takes two to compare")
    if all(one.lstrip("-").isdigit() for one in found):
        return tuple(sorted(found, key=int))
    return tuple(sorted(found))
