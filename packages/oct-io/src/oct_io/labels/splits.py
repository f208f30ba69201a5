"""Which participants are for training and which for testing: made once, kept as a table.

A participant is on one side with all scans of both eyes; nothing finer is a split.
"""

import csv
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from oct_io.catalog.participants import SITE, recommended_split
from oct_io.catalog.tables import Row, cell, read_table
from oct_io.errors import TreeError
from oct_io.labels.classes import load_class_names, load_labels
from oct_io.storage.files import redact

COLUMNS = ("participant", "part", "rule")
SPLIT_EXTRA = "scikit-learn is not installed; install oct-io[split]"


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Hashed participants in parts that share nobody.

    Attributes:
        parts: name of each part, such as "train", "test" or "fold-0", to its participants.
        rule: how it was made, in words for a report.
    """

    parts: Mapping[str, frozenset[str]]
    rule: str

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for name, people in self.parts.items():
            if both := seen & people:
                raise TreeError(
                    f"split: {len(both)} participants of part '{name}' are in another part as well"
                )
            seen |= people

    def participants(self, names: Iterable[str]) -> set[str]:
        """Everybody in the parts that have these names; an absent part has nobody."""
        return {one for name in names for one in self.parts.get(name, frozenset())}

    def describe(self) -> str:
        """One line for a log: how many participants each part has."""
        counts = ", ".join(f"{name} {len(people)}" for name, people in self.parts.items())
        return f"{counts} participants ({self.rule})"


def write_split(path: str | Path, split: Split) -> None:
    """Write a line a participant, sorted, tab-separated; the file appears whole or not at all."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    lines = [(one, name, split.rule) for name, people in split.parts.items() for one in people]
    building = target.with_name(f".{target.name}.{os.getpid()}")
    with building.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(sorted(lines))
    building.replace(target)


def read_split(path: str | Path) -> Split:
    """Read what `write_split` wrote.

    Raises:
        TreeError: not such a table, or a participant in two parts.
    """
    rows, where = read_table(path), redact(path)
    if not rows or any(not row.get(name) for row in rows for name in COLUMNS):
        named = ", ".join(COLUMNS)
        raise TreeError(f"{where}: not a split; it needs rows with the columns {named}")
    parts: dict[str, set[str]] = {}
    for row in rows:
        parts.setdefault(row["part"], set()).add(row["participant"])
    found = {name: frozenset(people) for name, people in sorted(parts.items())}
    if len(rows) != sum(map(len, found.values())):
        raise TreeError(f"{where}: names a participant twice")
    return Split(parts=found, rule=rows[0]["rule"])


def make_split(
    table: Mapping[str, Row],
    column: str,
    *,
    folds: int = 5,
    seed: int = 0,
    recommended: bool = True,
) -> Split:
    """Split the participants of a table: as it recommends, else into folds balanced by label.

    Args:
        table: rows by hashed participant, as from `hash_ids`.
        column: label to balance, or the name of a preset; folds hold those who have it.
        folds: number of parts where the table recommends none.
        seed: of the folds.
        recommended: False makes folds even where the table recommends a split.

    Raises:
        TreeError: no such column, or a class with fewer participants than folds.
    """
    if recommended and (split := recommended_parts(table)) is not None:
        return split
    labels = load_labels(table, column)
    names = load_class_names(table, column)
    sites = {one: table[one].get(SITE, "") for one in labels}
    made = stratified_folds(labels, sites, folds=folds, seed=seed, classes=names)
    rule = f"StratifiedGroupKFold of {folds} by {column} and site, seed {seed}"
    return Split(parts={f"fold-{number}": fold for number, fold in enumerate(made)}, rule=rule)


def recommended_parts(table: Mapping[str, Row]) -> Split | None:
    """Split that the table recommends; None if it recommends none.

    Raises:
        TreeError: it recommends parts other than train, val and test.
    """
    if not any(cell(row, "recommended_split") for row in table.values()):
        return None
    found = recommended_split(table)
    names = ("train", "val", "test")
    parts = {name: frozenset(one for one, part in found.items() if part == name) for name in names}
    return Split(parts=parts, rule="recommended_split")


def stratified_folds(
    labels: Mapping[str, int],
    sites: Mapping[str, str],
    *,
    folds: int,
    seed: int,
    classes: tuple[str, ...] = (),
) -> list[frozenset[str]]:
    """Participants in `folds` groups with about equal shares of each class and site.

    Strata of class and site with fewer members than folds are joined by class. The order of the
    mappings does not matter.

    Args:
        labels: participant to class.
        sites: participant to clinical site; "" where unknown.
        folds: number of groups.
        seed: of the shuffle within strata.
        classes: names of the classes, for messages.

    Raises:
        TreeError: a class with fewer participants than folds, or scikit-learn is missing.
    """
    if folds < 2:
        raise TreeError(f"folds ({folds}) must be 2 or more")
    for label, members in sorted(Counter(labels.values()).items()):
        if members < folds:
            name = classes[label] if label < len(classes) else str(label)
            raise TreeError(
                f"class '{name}' has {members} participants, fewer than the {folds} folds; take "
                "fewer folds"
            )
    people = sorted(labels)
    strata = _strata(people, labels, sites, folds)
    try:
        from sklearn.model_selection import StratifiedGroupKFold
    except ImportError as error:
        raise TreeError(SPLIT_EXTRA) from error
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    rounds = splitter.split(people, strata, groups=people)
    return [frozenset(people[i] for i in held_out) for _, held_out in rounds]


def _strata(
    people: list[str], labels: Mapping[str, int], sites: Mapping[str, str], folds: int
) -> list[str]:
    """Name of each participant's stratum; all have as many members as there are folds."""
    fine = {one: f"{labels[one]} {sites.get(one, '')}" for one in people}
    counts = Counter(fine.values())
    largest: dict[int, str] = {}
    for one in people:
        name, best = fine[one], largest.get(labels[one], "")
        if not best or (counts[name], name) > (counts[best], best):
            largest[labels[one]] = name
    small = Counter(labels[one] for one in people if counts[fine[one]] < folds)

    def stratum(one: str) -> str:
        if counts[fine[one]] >= folds:
            return fine[one]
        return f"{labels[one]} rest" if small[labels[one]] >= folds else largest[labels[one]]

    return [stratum(one) for one in people]
