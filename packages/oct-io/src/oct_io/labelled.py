"""Volumes of a cache with the answers to one question: of participants, of eyes, or of scans."""

import hashlib
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from oct_io.answers import VolumeAnswers, choose_test, label_volumes, read_attributes
from oct_io.cache.entries import Coded
from oct_io.cache.volumes import CachedVolumes
from oct_io.errors import TreeError
from oct_io.labels.questions import CLASSES, LabelQuestion
from oct_io.labels.splits import Split
from oct_io.labels.tables import LabelTables

UNLABELLED = -1
"""Class of a volume that has no label in a column."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledVolumes:
    """The volumes of a source that have an answer, and which of them are held out.

    Attributes:
        volumes: (bscan, row, column) uint8 each.
        kind: nominal, ordinal, multilabel, regression or survival.
        values: of nominal and ordinal (N,) int64, a class from 0; of multilabel (N, labels) int64,
            0, 1 or `UNLABELLED`; of regression (N,) float64; of survival (N, 2) float64, the time
            and 1 for an event or 0 for the end of observation.
        names: of the classes or labels; of the quantity or time alone.
        participants: hashed participant of each volume.
        held_out: true for the volumes of test participants.
        split_rule: how the test participants were chosen.
        unit: of the quantity or the time.
        parts: part of the split that each participant is in; "" if in none, or there is none.
        eyes: "R", "L" or "" of each volume.
        columns: what else was asked for, such as "@device" or "sex": (N,) texts, "" if unknown.
        notes: what one answer is of, and what was left out for which reason, with hashes.
    """

    volumes: CachedVolumes
    kind: str
    values: NDArray[Any]
    names: tuple[str, ...]
    participants: NDArray[np.str_]
    held_out: NDArray[np.bool_]
    split_rule: str
    unit: str = ""
    parts: NDArray[np.str_] = field(default_factory=lambda: np.empty(0, np.str_))
    eyes: NDArray[np.str_] = field(default_factory=lambda: np.empty(0, np.str_))
    columns: Mapping[str, NDArray[np.str_]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class of each volume, from 0.

        Raises:
            TreeError: the answers are no classes.
        """
        if self.kind not in CLASSES:
            raise TreeError(f"'{self.names[0]}' has {self.kind} answers, and no classes")
        return self.values

    @property
    def classes(self) -> tuple[str, ...]:
        """Name of each class."""
        return self.names

    @property
    def ordinal(self) -> bool:
        """The classes are steps of severity."""
        return self.kind == "ordinal"

    @property
    def fingerprint(self) -> str:
        """Hash of the volumes in their order."""
        return hashlib.sha256(self.volumes.entries.hashes().tobytes().hex().encode()).hexdigest()

    def describe(self) -> str:
        """One line for a log: volumes and participants on each side, and who was left out."""
        sides = []
        for name, side in (("train", ~self.held_out), ("test", self.held_out)):
            people = len(np.unique(self.participants[side]))
            sides.append(f"{name} {int(side.sum())} volumes of {people} participants")
        return "; ".join((f"{', '.join(sides)} ({self.split_rule})", *self.notes))


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


def make_labelled(
    volumes: CachedVolumes,
    tables: LabelTables,
    question: LabelQuestion | str,
    *,
    split: Split | None,
    test_split: str,
    attributes: Sequence[str] = (),
) -> LabelledVolumes:
    """Volumes with an answer to `question`; all volumes of a participant are on one side.

    Args:
        volumes: of one cache.
        tables: as from `open_source`.
        question: or a column that must hold classes.
        split: who is for what; None holds out the first of four folds.
        test_split: the part to hold out; "" holds nobody out.
        attributes: further columns to have beside.

    Raises:
        TreeError: as `label_volumes`, no part `test_split`, or no volume with an answer on one of
            the sides.
    """
    entries = volumes.entries
    answers = label_volumes(entries, tables, question)
    numbers = np.flatnonzero(answers.known)
    answers = answers._replace(values=answers.values[numbers])
    taken = entries.take(numbers)
    named, name = taken.coded("participant"), str(getattr(question, "name", question))
    parts, rule = _divide(answers, named, tables, name, split=split, test_split=test_split)
    held_out = (parts == test_split) & (test_split != "")
    if not len(numbers) or (test_split and (held_out.all() or not held_out.any())):
        raise TreeError(
            f"label column '{name}': {len(numbers)} labelled volumes, {int(held_out.sum())} "
            f"of them in the test split '{test_split}'; both sides need some"
        )
    eyes = taken.coded("laterality").texts()
    further = read_attributes(entries, tables, attributes)
    return LabelledVolumes(
        volumes=volumes.select(numbers),
        kind=answers.kind,
        values=_typed(answers),
        names=answers.names,
        participants=named.texts(),
        held_out=held_out,
        split_rule=rule,
        unit=getattr(question, "unit", ""),
        parts=parts,
        eyes=np.where(eyes == "unknown", "", eyes),
        columns={column: cells[numbers] for column, cells in further.items()},
        notes=answers.notes,
    )


def _divide(
    answers: VolumeAnswers,
    named: Coded,
    tables: LabelTables,
    name: str,
    *,
    split: Split | None,
    test_split: str,
) -> tuple[NDArray[np.str_], str]:
    """Part of each volume's participant, and by which rule."""
    if split is not None:
        if test_split and test_split not in split.parts:
            raise TreeError(
                f"label column '{name}': nobody to test, since the split has no part '{test_split}'"
                f", only {', '.join(split.parts)}; say test_split=PART, or probe.columns=[] in "
                "pretraining"
            )
        part_of = {one: part for part, people in split.parts.items() for one in people}
        rule = f"{split.rule} {test_split}".strip()
    elif test_split:
        test, rule = choose_test(answers, named.texts().tolist(), tables.people.rows, name)
        part_of = {one: test_split if one in test else "train" for one in named.words}
    else:
        part_of, rule = {}, "nobody held out"
    return np.array([part_of.get(one, "") for one in named.words], np.str_)[named.codes], rule


def _typed(answers: VolumeAnswers) -> NDArray[Any]:
    if answers.kind in ("regression", "survival"):
        return answers.values
    return np.where(np.isfinite(answers.values), answers.values, UNLABELLED).astype(np.int64)
