"""Volumes of a cache with a class each: of their participant, or of the scan itself."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from oct_io.cache.index import CacheEntry
from oct_io.cache.volumes import CachedVolumes
from oct_io.catalog.labels import (
    class_names,
    class_word,
    is_ordinal,
    load_class_names,
    load_labels,
)
from oct_io.catalog.participants import SITE
from oct_io.catalog.tables import Row
from oct_io.errors import TreeError

SCAN_COLUMNS = {
    "@device": "device",
    "@eye": "laterality",
    "@region": "region",
    "@protocol": "protocol",
}
"""Labels that a scan brings along. An encoder that tells them, and a class that goes with one of
them, is how a probe scores without having seen a disease."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledVolumes:
    """The volumes of a source that have a label, and which of them are held out.

    Attributes:
        volumes: (bscan, row, column) uint8 each.
        labels: class of each volume, from 0.
        participants: hashed participant of each volume.
        held_out: true for the volumes of test participants.
        classes: name of each class.
        split_rule: how the test participants were chosen.
        ordinal: the classes are steps of severity.
    """

    volumes: CachedVolumes
    labels: NDArray[np.int64]
    participants: NDArray[np.str_]
    held_out: NDArray[np.bool_]
    classes: tuple[str, ...]
    split_rule: str
    ordinal: bool = False

    @property
    def fingerprint(self) -> str:
        """Hash of the volumes in their order."""
        digest = hashlib.sha256("".join(one.sha256 for one in self.volumes.entries).encode())
        return digest.hexdigest()

    def describe(self) -> str:
        """One line for a log: how many volumes and participants on each side."""
        sides = []
        for name, side in (("train", ~self.held_out), ("test", self.held_out)):
            people = len(np.unique(self.participants[side]))
            sides.append(f"{name} {int(side.sum())} volumes of {people} participants")
        return f"{', '.join(sides)} ({self.split_rule})"


class VolumeLabels(NamedTuple):
    """Class of each volume of a cache, and what the classes are called."""

    numbers: list[int]  # volumes that have a label
    labels: list[int]  # their classes
    classes: tuple[str, ...]
    ordinal: bool


def label_volumes(
    entries: Sequence[CacheEntry], table: Mapping[str, Row], column: str
) -> VolumeLabels:
    """Find the class of each volume in `column`.

    Args:
        entries: of a cache.
        table: rows by hashed participant.
        column: of the table, a preset of `oct_io.catalog.labels`, @site, or one of `SCAN_COLUMNS`.

    Raises:
        TreeError: no table, no such column, or no classes in it.
    """
    if column in SCAN_COLUMNS:
        return _label_scans(entries, column)
    if column.startswith("@") and column != SITE:
        known = ", ".join((*SCAN_COLUMNS, SITE))
        raise TreeError(f"no label column '{column}'; of a scan there are {known}")
    if not table:
        raise TreeError(
            "no label table: give data.labels=FILE, a CSV or TSV with a column "
            "participant_id and one column a label"
        )
    found = load_labels(table, column)
    numbers = [i for i, entry in enumerate(entries) if entry.participant in found]
    labels = [found[entries[i].participant] for i in numbers]
    return VolumeLabels(numbers, labels, load_class_names(table, column), is_ordinal(table, column))


def _label_scans(entries: Sequence[CacheEntry], column: str) -> VolumeLabels:
    cells = {
        str(number): value
        for number, entry in enumerate(entries)
        if (value := getattr(entry, SCAN_COLUMNS[column])) != "unknown"
    }
    classes = class_names(cells, column)
    labels = [classes.index(class_word(value)) for value in cells.values()]
    return VolumeLabels([int(number) for number in cells], labels, classes, False)
