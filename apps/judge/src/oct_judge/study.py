"""What an evaluation is about: who has which answer, and who fits, chooses and is tested."""

import hashlib
import json
import re
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol

import numpy as np
import oct_io
from numpy.typing import NDArray
from oct_io.catalog.seen import BEFORE, TRAINED, read_origin, refuse_seen, seen_before
from oct_launch import Mistake, mistakes
from oct_vjepa.measures.target import Target
from oct_vjepa.probes.holdout import hold_out
from oct_vjepa.probes.protocol import Round, make_rounds
from oct_vjepa.trials.verdict import Panel

from oct_judge.candidates import Rows
from oct_judge.family import Family
from oct_judge.question import SPLIT, ComparisonConfig, FinetuneConfig, ProtocolConfig

NAMED = re.compile(r" \((?:[0-9a-f]{8,}(?: [RL])?(?:, )?)+(?:\.\.\.)?\)")
"""Hashed participants, their eyes or scans, behind a count of them."""


def nameless(text: str) -> str:
    """A line for a log without the hashes in it: a page and a model card name nobody."""
    return NAMED.sub("", text)


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """One question, its rows, and the rounds in which it is asked.

    Attributes:
        name: of the question.
        source: where the volumes come from.
        examples: the volumes with an answer.
        target: their answers.
        panel: whose they are.
        rounds: of the protocol.
        rows: the volumes, as candidates want them.
    """

    name: str
    source: oct_io.Source
    examples: oct_io.LabelledVolumes
    target: Target
    panel: Panel
    rounds: list[Round]
    rows: Rows

    @property
    def participants(self) -> NDArray[np.str_]:
        """Hashed participant of each row."""
        return self.examples.participants

    @property
    def tested(self) -> list[str]:
        """Hashed participants whom any round tests, sorted."""
        return sorted(set(self.examples.participants[self._held].tolist()))

    @property
    def _held(self) -> NDArray[np.bool_]:
        held: NDArray[np.bool_] = np.any([one.test for one in self.rounds], axis=0)
        return held

    def describe(self) -> str:
        """One line: what is asked of how many, and who is tested."""
        return f"{self.name}: {self.examples.describe()}"

    def fingerprint(self) -> str:
        """Stands for the question, those who are tested, and what is true of them."""
        values = self.examples.values[self._held].tolist()
        answers = zip(
            self.examples.participants[self._held].tolist(), map(str, values), strict=True
        )
        said = json.dumps([self.target.kind, self.target.names, sorted(answers)])
        return hashlib.sha256(said.encode()).hexdigest()[:16]


def open_study(config: FinetuneConfig, source: oct_io.Source) -> Study:
    """Find the answers and make the rounds.

    Raises:
        TreeError: no such label, or no volume with one.
        Mistake: too few participants for the protocol, or a column that is not there.
    """
    given = config.protocol.name == "given"
    apart = [config.protocol.by] if config.protocol.name == "leave_one_out" else []
    apart = [one for one in apart if one != SPLIT]
    wanted = [one for one in config.compare.subgroups if one in source.columns()]
    if missing := [one for one in apart if one not in source.columns()]:
        known = ", ".join(source.columns())
        raise Mistake(f"protocol.by ({missing[0]}) is no column; there are {known}")
    shortcuts = [one for one in config.compare.shortcuts if one in source.columns()]
    usual = ComparisonConfig().shortcuts
    if missing := [one for one in config.compare.shortcuts if one not in (*usual, *shortcuts)]:
        known = ", ".join(source.columns())
        raise Mistake(f"compare.shortcuts ({missing[0]}) is no column; there are {known}")
    examples = source.labelled(
        config.task,
        test_split=config.test_split if given else "",
        attributes=list(dict.fromkeys([*apart, *wanted, *shortcuts])),
    )
    target = Target(
        kind=examples.kind, values=examples.values, names=examples.names, unit=examples.unit
    )
    if config.compare.ensemble == "vote" and not target.is_counted:
        raise Mistake(
            f"compare.ensemble=vote counts votes for classes; a {target.kind} question takes mean "
            "or weighted"
        )
    people = np.unique(examples.participants, return_inverse=True)[1].reshape(-1)
    named = np.char.add(np.char.add(examples.participants, " "), examples.eyes)
    eyes = np.unique(named, return_inverse=True)[1].reshape(-1)
    with mistakes(ValueError):
        rounds = rounds_of(config.protocol, examples, target, config.test_split)
    return Study(
        name=config.task.name,
        source=source,
        examples=examples,
        target=target,
        panel=Panel(
            target=target,
            people=people,
            eyes=eyes,
            how="max" if config.join == "max" else "mean",
        ),
        rounds=rounds,
        rows=Rows.of(examples.volumes, examples.fingerprint),
    )


def rounds_of(
    protocol: ProtocolConfig, examples: oct_io.LabelledVolumes, target: Target, test_split: str
) -> list[Round]:
    """The rounds; of a given split, whoever is neither tested nor for validation is fitted on.

    Raises:
        ValueError: as `make_rounds`.
    """
    parts: NDArray[np.str_] | None = None
    if protocol.name == "given":
        parts = np.where(examples.held_out, "test", "train").astype("<U5")
        parts[(examples.parts == "val") & ~examples.held_out] = "val"
    rounds = make_rounds(
        protocol.name,
        target,
        examples.participants,
        parts=parts,
        by=_left_out(protocol, examples),
        folds=protocol.folds,
        repeats=protocol.repeats if protocol.name == "repeated_kfold" else 1,
        seed=protocol.seed,
    )
    people = examples.participants
    return hold_out(rounds, target, people, protocol.calibration, seed=protocol.seed)


def _left_out(protocol: ProtocolConfig, examples: oct_io.LabelledVolumes) -> NDArray[Any] | None:
    """What leave_one_out leaves out, of each row."""
    if protocol.name != "leave_one_out":
        return None
    return examples.parts if protocol.by == SPLIT else examples.columns[protocol.by]


class Tested(Protocol):
    """A question and those who are tested in it."""

    @property
    def source(self) -> oct_io.Source:
        """Where its volumes come from."""
        ...

    @property
    def rounds(self) -> list[Round]:
        """Of the protocol."""
        ...

    @property
    def participants(self) -> NDArray[np.str_]:
        """Hashed participant of each row."""
        ...

    def describe(self) -> str:
        """One line: what is asked of how many, and who is tested."""
        ...

    def fingerprint(self) -> str:
        """Stands for the question, and those who are tested."""
        ...


def met_by(study: Tested, family: Family, *, trained: bool) -> dict[str, list[str]]:
    """Whom the encoders have met that the run leaves in its model, for its provenance.json.

    Args:
        study: who is fitted on, chooses and is tested.
        family: the encoders before the run.
        trained: whether the run trains them: then also on who is fitted on or chooses.
    """
    known = [
        study.participants[rows]
        for one in study.rounds if trained
        for part, rows in one.parts.items() if part != "test"
    ]  # fmt: skip
    own = np.unique(np.concatenate(known)).tolist() if known else []
    return {TRAINED: own, BEFORE: seen_before(filter(None, family.places.values()))}


def check_test_set(config: FinetuneConfig, study: Tested, family: Family) -> None:
    """Refuse test participants whom the encoder's run, if it lies there, has trained on.

    Folds test everybody, so that one encoder for all, if it has seen anybody, is refused with them.
    """
    for one, seed in product(study.rounds, range(config.seed, config.seed + config.seeds)):
        place = family.place_of(one.name, seed)
        if place and (origin := read_origin(place)) is not None:
            refuse_seen(
                origin,
                set(study.participants[one.test].tolist()),
                fingerprint=study.source.volumes.fingerprint,
                version=study.source.version,
            )
