"""Who is ahead, by how much, and how sure that is: ranks with intervals, differences in pairs.

All entries are measured on the same bootstrap samples of the test participants, and each sample
ranks them anew: the interval of a rank is what 95 % of the samples gave it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict, Unpack

import numpy as np

from oct_vjepa.boards.entries import Entry, make_entries
from oct_vjepa.boards.runs import BoardError, Run
from oct_vjepa.measures.measure import DECIDED, HEADLINE
from oct_vjepa.measures.shares import Floats
from oct_vjepa.measures.units import INTERVAL_PERCENTILES, Interval, Units, interval_of
from oct_vjepa.scores.measured import Measured, measure_card, replicate_each
from oct_vjepa.scores.paired import holm, sign_p
from oct_vjepa.scores.resampling import Replicated
from oct_vjepa.scores.scorecard import replicate_headlines, score_card

BOOTSTRAP = 1000
AT_THRESHOLD = ("sensitivity_at_specificity", "specificity_reached")
"""Metrics at a threshold that validation chooses, which only the run itself does."""


class Bootstrap(TypedDict):
    """How samples are drawn."""

    seed: int
    bootstrap: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Gap:
    """The headline of an entry minus that of another, on the same samples."""

    difference: Interval
    p: float
    """Two-sided, from the bootstrap."""
    p_holm: float
    """Corrected by Holm's method for all that were compared with the same one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """One line of a leaderboard."""

    entry: Entry
    rank: int
    rank_low: int
    """Of 95 % of the bootstrap samples."""
    rank_high: int
    metrics: dict[str, Interval]
    """The headline first."""
    to_best: Gap | None
    """None for the best itself."""
    to_reference: Gap | None
    """None for the reference itself, and where there is none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Board:
    """Everybody in order, the best first.

    Attributes:
        question: what was asked.
        headline: the metric that ranks.
        standings: best first.
        reference: name of the entry that others are compared with; "" for none.
        failed: job of a sweep and why it has no result.
        remarks: what a reader should know.
        participants: number of those tested.
        made_up: whether the scans were drawn by the phantom.
    """

    question: Mapping[str, Any]
    headline: str
    standings: list[Standing]
    reference: str = ""
    failed: Sequence[tuple[str, str]] = ()
    remarks: Sequence[str] = field(default_factory=list)
    participants: int = 0
    made_up: bool = False


def make_board(
    runs: Sequence[Run],
    *,
    failed: Sequence[tuple[str, str]] = (),
    reference: str = "",
    seed: int = 0,
    bootstrap: int = BOOTSTRAP,
) -> Board:
    """Rank runs of one question.

    Args:
        runs: at least one.
        failed: what is told of those that left no result.
        reference: name of an entry, or a part of the name of a single one.
        seed: of the bootstrap.
        bootstrap: number of samples.

    Raises:
        BoardError: different questions or test participants, or no such reference.
        ValueError: there are no runs.
    """
    entries, remarks = make_entries(runs)
    people = number_people(entries)
    settings = Bootstrap(seed=seed, bootstrap=bootstrap)
    found = measure_headlines(runs[0], entries, people, **settings)
    order = sorted(entries, key=lambda one: _descending(found[one.name]))
    chosen = find_reference(reference, entries) if reference else ""
    best = compare_with(found, order[0].name)
    others = compare_with(found, chosen) if chosen else {}
    ranks = rank_samples(np.stack([found[one.name].samples for one in order], axis=1))
    standings = [
        Standing(
            entry=entry,
            rank=number + 1,
            rank_low=low,
            rank_high=high,
            metrics=measure_entry(runs[0], entry, people, **settings),
            to_best=best.get(entry.name),
            to_reference=others.get(entry.name),
        )
        for number, (entry, (low, high)) in enumerate(zip(order, ranks, strict=True))
    ]
    return Board(
        question=runs[0].question,
        headline=runs[0].headline or HEADLINE[runs[0].question["kind"]],
        standings=standings,
        reference=chosen,
        failed=list(failed),
        remarks=remarks,
        participants=len(people),
        made_up=any(run.made_up for run in runs),
    )


def number_people(entries: Sequence[Entry]) -> dict[str, int]:
    """Every participant of any entry, numbered from 0."""
    blocks = [
        one for entry in entries for rounds in entry.seeds.values() for one in rounds.values()
    ]
    people = np.unique(np.concatenate([one.participants for one in blocks]))
    return {name: number for number, name in enumerate(people.tolist())}


def units_of(
    entry: Entry, people: Mapping[str, int], *, decided: bool = False
) -> list[list[Units]]:
    """A list over seeds of a list over rounds, as scorecards take them."""
    return [
        [
            Units(
                block.decided_NC if decided else block.scores_NC,
                block.answers,
                np.array([people[name] for name in block.participants.tolist()], np.int64),
            )
            for _, block in sorted(rounds.items())
        ]
        for _, rounds in sorted(entry.seeds.items())
    ]


def readings_of(entry: Entry, people: Mapping[str, int]) -> list[list[Measured]]:
    """Of masks: a list over seeds of a list over rounds of what was measured."""
    return [
        [
            Measured(block.scores_NC, np.array([people[name] for name in block.participants]))
            for _, block in sorted(rounds.items())
        ]
        for _, rounds in sorted(entry.seeds.items())
    ]


def measure_headlines(
    run: Run, entries: Sequence[Entry], people: Mapping[str, int], **settings: Unpack[Bootstrap]
) -> dict[str, Replicated]:
    """The headline of every entry by its name, on samples that all share.

    Args:
        run: one of them, which says what was asked.
        entries: the first says how many seeds are drawn.
        people: number of each participant.
        settings: of the bootstrap.
    """
    first = entries[0].name
    if run.metrics:
        readings = {one.name: readings_of(one, people) for one in entries}
        return replicate_each(readings, run.metrics, run.headline, reference=first, **settings)
    sets = {one.name: units_of(one, people) for one in entries}
    return replicate_headlines(sets, run.question["kind"], reference=first, **settings)


def measure_entry(
    run: Run, entry: Entry, people: Mapping[str, int], **settings: Unpack[Bootstrap]
) -> dict[str, Interval]:
    """Every metric of an entry, the headline first; choices from scores made for them."""
    if run.metrics:
        each = measure_card(readings_of(entry, people), run.metrics, **settings)
        return {run.headline: each[run.headline], **each}
    kind, names = run.question["kind"], tuple(run.question["names"])
    runs = units_of(entry, people)
    found = score_card(runs, kind, names, **settings).metrics
    if kind not in ("nominal", "ordinal", "multilabel"):
        return found
    choices = score_card(units_of(entry, people, decided=True), kind, names, **settings).metrics
    return {
        key: choices[key] if key in DECIDED else value
        for key, value in found.items()
        if key not in AT_THRESHOLD
    }


def rank_samples(samples_RE: Floats) -> list[tuple[int, int]]:
    """Ends of the interval of each entry's rank; equal values share the better rank."""
    values = np.where(np.isnan(samples_RE), -np.inf, samples_RE)
    ranks = 1 + (values[:, None, :] > values[:, :, None]).sum(axis=2)
    low, high = np.percentile(ranks, INTERVAL_PERCENTILES, axis=0, method="nearest")
    return list(zip(low.astype(int).tolist(), high.astype(int).tolist(), strict=True))


def compare_with(found: Mapping[str, Replicated], name: str) -> dict[str, Gap]:
    """Each of the others minus one of them, in pairs."""
    base = found[name]
    others = [one for one in found if one != name]
    samples = [found[one].samples - base.samples for one in others]
    values = [sign_p(one) for one in samples]
    return {
        other: Gap(
            difference=interval_of(float(found[other].value - base.value), drawn),
            p=p,
            p_holm=corrected,
        )
        for other, drawn, p, corrected in zip(others, samples, values, holm(values), strict=True)
    }


def find_reference(wanted: str, entries: Sequence[Entry]) -> str:
    """The entry of this name, or the only one whose name has this in it.

    Raises:
        BoardError: none or several.
    """
    names = [one.name for one in entries]
    if wanted in names:
        return wanted
    holding = [one for one in names if wanted in one]
    if len(holding) != 1:
        raise BoardError(f"reference {wanted!r} must be one of {'; '.join(names)}")
    return holding[0]


def _descending(one: Replicated) -> tuple[bool, float]:
    value = float(one.value)
    return bool(np.isnan(value)), -value
