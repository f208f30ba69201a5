"""Bootstrap samples of participants and seeds, the same ones for everything that is compared.

A candidate's runs are a list over seeds of a list over rounds of `Units`; a round is one test part
of the protocol. Participants are drawn with replacement among those of the same round, whatever
their answers: of others more or fewer might have been ill. (Drawn within equal answers, 95 %
intervals of accuracy held the truth in 75 % of trials, and hold it in 96 % so; of the Brier score
in 78 % and 94 %; benchmarks/scorecard.py.) One who is tested in several rounds or seeds is drawn as
often in each. Of S seeds S - 1 are drawn, with replacement: with S draws of so few the variance of
their mean would come out short by (S - 1) / S (McCarthy & Snowden 1985). Few seeds still say little
of how seeds vary: where their luck outweighs that of participants, 95 % intervals held the truth in
73 % of trials with 2 seeds, 81 % with 3, 88 % with 5 and 92 % with 8; 27 % with one.

Where each seed was asked in the same several turns, such as draws of few labels, runs are a list
over seeds and, within each, over turns. Both are drawn, each by itself: a turn that is drawn twice
counts twice in every seed.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from oct_vjepa.measures.measure import INFLATED
from oct_vjepa.measures.shares import Floats, known_mean
from oct_vjepa.measures.units import Interval, Units, centred_interval, interval_of

Runs = Sequence[Sequence[Units]]
FEWEST = 5
"""Fewer participants than this are not resampled among themselves: there would be no spread."""
CELLS = 2**21  # weights held at once, 16 MiB


class Part(NamedTuple):
    """One round of one seed, ready to be measured under R rows of weights."""

    groups_N: NDArray[np.int64]
    measure: Callable[[Floats | None], dict[str, Floats]]
    """Name to (R,) or (R, C); one row where there are no weights."""


class Draws(NamedTuple):
    """How often each participant counts in each sample, and each seed."""

    participants_RG: NDArray[np.int16]
    seeds_RS: Floats


class Replicated(NamedTuple):
    """A metric of the data, () or (C,), of each sample, (R,) or (R, C), and of each seed."""

    value: Floats
    samples: Floats
    by_seed: Floats  # (S,) or (S, C)

    def take(self, number: int) -> "Replicated":
        """One of C columns."""
        return Replicated(self.value[number], self.samples[:, number], self.by_seed[:, number])

    def interval(self, name: str) -> Interval:
        """Of a metric () of this name."""
        make = centred_interval if name in INFLATED else interval_of
        return make(float(self.value), self.samples)


def draw_samples(
    runs: Runs,
    kind: str,
    *,
    bootstrap: int,
    seed: int,
    apart_G: NDArray[Any] | None = None,
    turns: int = 1,
) -> Draws:
    """Draw participants and seeds `bootstrap` times; equal arguments, equal draws.

    Args:
        runs: of any candidate; all that share participants and answers share the draws.
        kind: of the question, see `target.Target`.
        bootstrap: number of samples.
        seed: of the draws.
        apart_G: a value per participant; those with different ones are drawn apart.
        turns: in which each seed was asked.

    Raises:
        ValueError: there is no seed, a seed without a round or a turn, no sample, or what
            `check_runs` finds.
    """
    check_runs(runs, kind)
    if bootstrap < 1:
        raise ValueError(f"bootstrap ({bootstrap}) must be 1 or more")
    participants, seeds = np.random.default_rng(seed).spawn(2)
    cells = _cells(runs, apart_G)
    drawn = np.zeros((bootstrap, len(cells)), dtype=np.int16)
    for cell in np.unique(cells[cells >= 0]):
        members = np.flatnonzero(cells == cell)
        chances = np.full(len(members), 1.0 / len(members))
        drawn[:, members] = participants.multinomial(len(members), chances, size=bootstrap)
    return Draws(drawn, draw_seeds(len(runs), bootstrap, seeds, turns=turns))


def draw_seeds(
    count: int, bootstrap: int, generator: np.random.Generator, *, turns: int = 1
) -> Floats:
    """Weights in each sample, (R, S), of `count` runs: of each seed all turns, one after the other.

    Raises:
        ValueError: a seed lacks a turn.
    """
    seeds, lacking = divmod(count, turns)
    if lacking:
        raise ValueError(f"{count} runs are not seeds with {turns} turns each")
    by_seed, by_turn = (_draw_one_less(one, bootstrap, generator) for one in (seeds, turns))
    return (by_seed[:, :, None] * by_turn[:, None, :]).reshape(bootstrap, count)


def draws_of(draws: Draws, count: int, *, seed: int, turns: int = 1) -> Draws:
    """The draws for another candidate, of `count` runs: the same of participants.

    Of seeds in pairs where it has as many runs as the one they were drawn for, for equal numbers
    may share their folds, and else apart.

    Raises:
        ValueError: a seed lacks a turn.
    """
    bootstrap, drawn = draws.seeds_RS.shape
    if count == drawn:
        return draws
    generator = np.random.default_rng([seed, count])
    return draws._replace(seeds_RS=draw_seeds(count, bootstrap, generator, turns=turns))


def _draw_one_less(count: int, bootstrap: int, generator: np.random.Generator) -> Floats:
    """How often each of `count` is drawn, (R, count), if one less than all are."""
    if count == 1:
        return np.ones((bootstrap, 1))
    return generator.multinomial(count - 1, np.full(count, 1.0 / count), bootstrap).astype(float)


def check_runs(runs: Runs, kind: str) -> None:
    """Raise a ValueError if there is nothing to score, or something that is no score or answer."""
    if not runs or not all(len(rounds) for rounds in runs):
        raise ValueError("scoring needs a seed, and at least one round of each")
    for units in (one for rounds in runs for one in rounds):
        rows = {len(units.scores_NC), len(units.labels_N), len(units.groups_N)}
        if len(rows) > 1:
            raise ValueError(f"scores, answers and participants differ in number: {sorted(rows)}")
        if not np.isfinite(units.scores_NC).all():
            raise ValueError("scores must be finite; a model has predicted NaN or infinity")
        if kind in ("nominal", "ordinal"):
            low, high = units.labels_N.min(initial=0), units.labels_N.max(initial=0)
            if low < 0 or high >= units.scores_NC.shape[1]:
                raise ValueError(f"classes go from {low} to {high}: leave unknown rows out")


def replicate(parts: Sequence[Sequence[Part]], draws: Draws) -> dict[str, Replicated]:
    """Measure each part, and average over rounds and then seeds, for the data and every sample.

    A part in which something cannot be measured is left out of its average.
    """
    values = [_over_rounds([[part.measure(None)] for part in rounds]) for rounds in parts]
    samples = [_over_rounds([list(_in_blocks(part, draws)) for part in rounds]) for rounds in parts]
    found = {}
    for name, first in samples[0].items():
        stacked = np.stack([one[name] for one in samples], axis=1)  # (R, S) or (R, S, C)
        weights = draws.seeds_RS if first.ndim == 1 else draws.seeds_RS[:, :, None]
        by_seed = np.stack([one[name][0] for one in values])
        found[name] = Replicated(known_mean(by_seed, 0), known_mean(stacked, 1, weights), by_seed)
    return found


def _in_blocks(part: Part, draws: Draws) -> Iterator[dict[str, Floats]]:
    rows = max(1, CELLS // max(1, len(part.groups_N)))
    for start in range(0, len(draws.participants_RG), rows):
        drawn = draws.participants_RG[start : start + rows]
        yield part.measure(drawn[:, part.groups_N].astype(np.float64))


def _over_rounds(rounds: Sequence[Sequence[dict[str, Floats]]]) -> dict[str, Floats]:
    """Join the blocks of each round, then average the rounds."""
    return {
        name: known_mean(
            np.stack([np.concatenate([block[name] for block in blocks]) for blocks in rounds]), 0
        )
        for name in rounds[0][0]
    }


def _cells(runs: Runs, apart_G: NDArray[Any] | None) -> NDArray[np.int64]:
    """(G,): the cell in which each participant is drawn, -1 for those who are not tested.

    Of equal round and `apart_G`; rounds in which these are fewer than `FEWEST` are joined.
    """
    parts = [units for rounds in runs for units in rounds]
    size = max(int(units.groups_N.max(initial=-1)) for units in parts) + 1
    first_round = np.full(size, -1)
    for number, units in reversed(list(enumerate(parts))):
        first_round[units.groups_N] = number
    tested = first_round >= 0
    apart = np.zeros(size, dtype=np.int64)
    if apart_G is not None:
        apart = np.unique(apart_G[:size], return_inverse=True)[1].reshape(-1)
    keys = np.stack([apart, first_round], axis=1)
    _, inverse, counts = np.unique(keys[tested], axis=0, return_inverse=True, return_counts=True)
    few = np.zeros(size, dtype=bool)
    few[tested] = counts[inverse.reshape(-1)] < FEWEST
    keys[few, 1] = -1
    cells = np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)
    return np.where(tested, cells, -1)
