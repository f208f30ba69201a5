"""Whether the answers are as good for everyone: metrics by the values of a column.

A column has a text for each participant, such as sex, site or device; ages are cut into texts by
the caller. Participants are drawn within their value, so that each sample has as many of it.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from oct_vjepa.measures.measure import DECIDED, measure
from oct_vjepa.measures.shares import Floats
from oct_vjepa.measures.units import Interval, Units, centred_interval
from oct_vjepa.scores.cards import as_plain
from oct_vjepa.scores.measured import (
    Measured,
    Readings,
    draw_measured,
    replicate_measured,
)
from oct_vjepa.scores.resampling import Part, Replicated, Runs, draw_samples, replicate

_Rounds = Sequence[Sequence[Units]] | Sequence[Sequence[Measured]]
BOOTSTRAP = 1000
FEWEST = 10
"""Participants below which a value is shown and not believed: it is left out of gaps."""
UNSAID = ""
"""The value of a participant of whom the column says nothing."""
NUMBER = re.compile(r"(below )?([+-]?\d[\d.]*(?:e[+-]?\d+)?)(?: to \S+)?( and more)?$")
"""A number, or a range of numbers in words."""
SHOWN = {
    "nominal": ("auroc", "sensitivity", "specificity", "ece"),
    "ordinal": ("auroc", "sensitivity", "specificity", "ece"),
    "multilabel": ("auroc", "sensitivity", "specificity", "ece"),
    "regression": ("r2", "mae"),
    "survival": ("concordance",),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class SubgroupRow:
    """One value of the column."""

    value: str
    participants: int
    metrics: dict[str, Interval]
    note: str
    """Why it should not be believed, or empty."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SubgroupTable:
    """A column's values, and how far apart they are."""

    column: str
    rows: list[SubgroupRow]
    gaps: dict[str, Interval]
    """Of each metric, the largest less the smallest value among rows without a note. Luck alone
    makes a gap, and the more values the larger; empty with fewer than two such rows."""

    def as_json(self) -> dict[str, Any]:
        """Plain values; an interval is three numbers, and what is not defined is null."""
        return as_plain(asdict(self))


def subgroup_table(
    runs: Runs,
    kind: str,
    names: Sequence[str],
    values_G: NDArray[np.str_],
    *,
    column: str,
    seed: int,
    bootstrap: int = BOOTSTRAP,
    decided: Runs | None = None,
) -> SubgroupTable:
    """The metrics of `SHOWN` for each value of a column: numbers from low to high, then texts.

    Args:
        runs: see `resampling`.
        kind: of the question, see `target.Target`.
        names: of the classes or labels, for the notes.
        values_G: the column's value of each participant, by number; `UNSAID` where unknown.
        column: its name.
        seed: of the bootstrap.
        bootstrap: number of samples.
        decided: the runs with the scores that choices are taken from; none: `runs` are those.

    Raises:
        ValueError: fewer values than participants.
    """
    tested = _tested(runs, values_G, column)
    draws = draw_samples(runs, kind, bootstrap=bootstrap, seed=seed, apart_G=values_G)

    def look(inside_G: NDArray[np.bool_]) -> _Group:
        inside = _within(runs, inside_G)
        found = replicate(_parts(kind, inside), draws)
        if decided is not None:
            chosen = replicate(_parts(kind, _within(decided, inside_G)), draws)
            found |= {name: chosen[name] for name in found if name in DECIDED}
        return _Group(found, _participants(inside), _alike(kind, names, inside))

    return _table(column, values_G, tested, SHOWN[kind], look)


def subgroup_means(
    readings: Readings,
    metrics: Sequence[str],
    values_G: NDArray[np.str_],
    *,
    shown: Sequence[str],
    column: str,
    seed: int,
    bootstrap: int = BOOTSTRAP,
) -> SubgroupTable:
    """As `subgroup_table`, of what was measured on each volume, such as Dice.

    Args:
        readings: see `measured`.
        metrics: names of their columns.
        values_G: as `subgroup_table`.
        shown: metrics to tell; a value of whom the first cannot be measured is left out of gaps.
        column: its name.
        seed: of the bootstrap.
        bootstrap: number of samples.

    Raises:
        ValueError: as `subgroup_table`.
    """
    tested = _tested(readings, values_G, column)
    draws = draw_measured(readings, seed=seed, bootstrap=bootstrap, apart_G=values_G)

    def look(inside_G: NDArray[np.bool_]) -> _Group:
        inside = [[_measured_of(one, inside_G) for one in rounds] for rounds in readings]
        found = replicate_measured(inside, metrics, draws)
        return _Group(found, _participants(inside))

    return _table(column, values_G, tested, shown, look)


class _Group(NamedTuple):
    """Those of one value: every metric, how many they are, and that all have one answer, if so."""

    found: dict[str, Replicated]
    participants: int
    alike: str = ""

    def note(self, headline: str) -> str:
        """Why its numbers should not be believed, or empty."""
        if self.participants < FEWEST:
            return f"fewer than {FEWEST} participants"
        if not self.alike and np.isnan(self.found[headline].value):
            return f"{headline} cannot be measured"
        return self.alike


def _tested(runs: _Rounds, values_G: NDArray[np.str_], column: str) -> NDArray[np.int64]:
    tested = np.unique(np.concatenate([one.groups_N for rounds in runs for one in rounds]))
    if len(values_G) <= tested.max(initial=-1):
        raise ValueError(f"{column} has {len(values_G)} values, participants go to {tested.max()}")
    return tested


def _table(
    column: str,
    values_G: NDArray[np.str_],
    tested: NDArray[np.int64],
    shown: Sequence[str],
    look: Callable[[NDArray[np.bool_]], _Group],
) -> SubgroupTable:
    rows, sound = [], []
    for value in sorted(np.unique(values_G[tested]).tolist(), key=_in_order):
        if value == UNSAID:
            continue
        group = look(values_G == value)
        if not (note := group.note(shown[0])):
            sound.append(group.found)
        metrics = {name: group.found[name].interval(name) for name in shown}
        rows.append(
            SubgroupRow(value=value, participants=group.participants, metrics=metrics, note=note)
        )
    gaps = {name: _gap([one[name] for one in sound]) for name in shown}
    return SubgroupTable(column=column, rows=rows, gaps=gaps if len(sound) > 1 else {})


def _in_order(value: str) -> tuple[float, int, str]:
    """Numbers and ranges of them from low to high, before texts by the alphabet."""
    found = NUMBER.match(value)
    if not found:
        return np.inf, 0, value
    end = {"below ": -1, " and more": 1}.get(found[1] or found[3], 0)
    return float(found[2]), end, value


def _within(runs: Runs, inside_G: NDArray[np.bool_]) -> list[list[Units]]:
    return [[_only(one, inside_G) for one in rounds] for rounds in runs]


def _only(units: Units, inside_G: NDArray[np.bool_]) -> Units:
    rows = inside_G[units.groups_N]
    return Units(units.scores_NC[rows], units.labels_N[rows], units.groups_N[rows])


def _parts(kind: str, runs: Runs) -> list[list[Part]]:
    return [[_part(kind, one) for one in rounds] for rounds in runs]


def _part(kind: str, units: Units) -> Part:
    def measured(weights_RN: Floats | None) -> dict[str, Floats]:
        found = measure(kind, units, weights_RN)
        return {name: found[name] for name in SHOWN[kind]}

    return Part(units.groups_N, measured)


def _measured_of(one: Measured, inside_G: NDArray[np.bool_]) -> Measured:
    rows = inside_G[one.groups_N]
    return Measured(one.values_NM[rows], one.groups_N[rows])


def _participants(runs: _Rounds) -> int:
    return len(np.unique(np.concatenate([one.groups_N for rounds in runs for one in rounds])))


def _alike(kind: str, names: Sequence[str], runs: Runs) -> str:
    if kind not in ("nominal", "ordinal"):
        return ""
    labels = np.unique(np.concatenate([one.labels_N for rounds in runs for one in rounds]))
    return f"all are {names[int(labels[0])]}" if len(labels) == 1 else ""


def _gap(sound: Sequence[Replicated]) -> Interval:
    if len(sound) < 2:
        return Interval(np.nan, np.nan, np.nan)
    values = np.stack([one.value for one in sound])
    samples = np.stack([one.samples for one in sound], axis=1)
    return centred_interval(float(np.ptp(values)), np.ptp(samples, axis=1))
