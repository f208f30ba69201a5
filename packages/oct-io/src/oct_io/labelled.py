"""Volumes of a cache with a class each: of their participant, or of the scan itself."""

import hashlib
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from oct_io.cache.entries import Entries
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

UNLABELLED = -1
"""Class of a volume that has no label in a column."""


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
        return hashlib.sha256(self.volumes.entries.hashes().tobytes().hex().encode()).hexdigest()

    def describe(self) -> str:
        """One line for a log: how many volumes and participants on each side."""
        sides = []
        for name, side in (("train", ~self.held_out), ("test", self.held_out)):
            people = len(np.unique(self.participants[side]))
            sides.append(f"{name} {int(side.sum())} volumes of {people} participants")
        return f"{', '.join(sides)} ({self.split_rule})"


class ChosenVolumes(NamedTuple):
    """Some volumes with their class in each of several columns."""

    volumes: CachedVolumes
    labels: dict[str, NDArray[np.int64]]  # column to a class for each volume, or `UNLABELLED`
    participants: NDArray[np.str_]  # hashed participant of each volume


def choose_labelled(
    volumes: CachedVolumes, questions: Mapping[str, LabelledVolumes], count: int, *, seed: int
) -> ChosenVolumes:
    """Choose labelled volumes, none of a participant that any column tests with.

    The classes of all columns take turns in choosing them, so that rare ones are there, too.

    Args:
        volumes: to choose from.
        questions: column to those of `volumes` that have a label in it.
        count: volumes at the most.
        seed: of the choice.
    """
    classes: dict[str, dict[str, int]] = {}
    tested: set[str] = set()
    for column, found in questions.items():
        classes[column] = dict(zip(found.volumes.ids, found.labels.tolist(), strict=True))
        tested |= set(found.participants[found.held_out].tolist())
    keys = volumes.ids
    allowed = np.flatnonzero(~volumes.entries.coded("participant").among(tested))
    queues: dict[tuple[str, int], deque[int]] = {}
    for number in np.random.default_rng(seed).permutation(allowed).tolist():
        for column, known in classes.items():
            if keys[number] in known:
                queues.setdefault((column, known[keys[number]]), deque()).append(number)
    chosen = volumes.select(_take_turns(queues, count))
    return ChosenVolumes(
        chosen,
        {
            column: np.array([known.get(key, UNLABELLED) for key in chosen.ids], np.int64)
            for column, known in classes.items()
        },
        chosen.entries.coded("participant").texts(),
    )


def _take_turns(queues: Mapping[tuple[str, int], deque[int]], count: int) -> list[int]:
    """At most `count` numbers, ascending, of which each queue gave one after the other."""
    chosen: set[int] = set()
    while len(chosen) < count and any(queues.values()):
        for _, queue in sorted(queues.items()):
            while queue and queue[0] in chosen:
                queue.popleft()
            if queue and len(chosen) < count:
                chosen.add(queue.popleft())
    return sorted(chosen)


class VolumeLabels(NamedTuple):
    """Class of each volume of a cache, and what the classes are called."""

    numbers: list[int]  # volumes that have a label
    labels: list[int]  # their classes
    classes: tuple[str, ...]
    ordinal: bool


def label_volumes(entries: Entries, table: Mapping[str, Row], column: str) -> VolumeLabels:
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
    people = entries.coded("participant")
    numbers: list[int] = np.flatnonzero(people.among(found)).tolist()
    labels = [found[people.words[code]] for code in people.codes[numbers].tolist()]
    return VolumeLabels(numbers, labels, load_class_names(table, column), is_ordinal(table, column))


def _label_scans(entries: Entries, column: str) -> VolumeLabels:
    found = entries.coded(SCAN_COLUMNS[column])
    classes = class_names({word: word for word in found.words if word != "unknown"}, column)
    of_word = [UNLABELLED if w == "unknown" else classes.index(class_word(w)) for w in found.words]
    every = np.array(of_word, np.int64)[found.codes]
    numbers = np.flatnonzero(every != UNLABELLED)
    return VolumeLabels(numbers.tolist(), every[numbers].tolist(), classes, False)
