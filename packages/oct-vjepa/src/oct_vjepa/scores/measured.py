"""Numbers measured on each volume, such as Dice or a distance, as means by participant.

What cannot be measured on a volume, such as the distance to a surface that is not there, is NaN and
left out. Volumes are averaged within their participant, participants within a round, then rounds
and seeds; intervals and comparisons draw participants and seeds as `resampling` does.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from oct_vjepa.measures.shares import Floats, known_mean
from oct_vjepa.measures.units import Interval, Units
from oct_vjepa.scores.paired import holm, sign_p
from oct_vjepa.scores.resampling import (
    Draws,
    Part,
    Replicated,
    draw_samples,
    draws_of,
    replicate,
)


class Measured(NamedTuple):
    """What was measured in one round; a row a participant."""

    values_NM: Floats
    groups_N: NDArray[np.int64]  # participants, in a numbering that rounds and seeds share


Readings = Sequence[Sequence[Measured]]
"""Of one candidate: a list over seeds of lists over rounds."""


class Gap(NamedTuple):
    """A metric of one candidate less that of another."""

    difference: Interval
    p: float
    p_holm: float


def by_participant(values_VM: Floats, people_V: NDArray[np.int64]) -> Measured:
    """Mean of each participant's volumes.

    Args:
        values_VM: a row a volume, a column a metric; NaN where there is none.
        people_V: number of the participant of each volume.
    """
    groups = np.unique(people_V)
    means = [known_mean(values_VM[people_V == one], 0) for one in groups]
    return Measured(np.stack(means).reshape(len(groups), -1), groups)


def measure_card(
    readings: Readings, metrics: Sequence[str], *, seed: int, bootstrap: int, turns: int = 1
) -> dict[str, Interval]:
    """Each metric with its interval; of each seed there are `turns` runs, see `resampling`.

    Raises:
        ValueError: no seed, no round, or no sample to draw.
    """
    draws = draw_measured(readings, seed=seed, bootstrap=bootstrap, turns=turns)
    found = replicate_measured(readings, metrics, draws)
    return {name: found[name].interval(name) for name in metrics}


def compare_measured(
    candidates: Mapping[str, Readings],
    metrics: Sequence[str],
    metric: str,
    *,
    reference: str,
    seed: int,
    bootstrap: int,
    turns: int = 1,
) -> dict[str, Gap]:
    """The reference less each other candidate, on the same draws; p is corrected for all of them.

    Args:
        candidates: with as many seeds and rounds of the same participants.
        metrics: names of the columns.
        metric: the one to compare by.
        reference: a candidate.
        seed: of the draws.
        bootstrap: number of samples.
        turns: runs of each seed, see `resampling`.
    """
    found = replicate_each(
        candidates, metrics, metric, reference=reference, seed=seed, bootstrap=bootstrap,
        turns=turns,
    )  # fmt: skip
    base = found.pop(reference)
    samples = {name: base.samples - one.samples for name, one in found.items()}
    values = {name: float(base.value - one.value) for name, one in found.items()}
    p = {name: sign_p(one) for name, one in samples.items()}
    corrected = dict(zip(p, holm(list(p.values())), strict=True))
    return {
        name: Gap(
            Replicated(np.array(values[name]), one, np.empty(0)).interval(metric),
            p[name],
            corrected[name],
        )
        for name, one in samples.items()
    }


def replicate_each(
    candidates: Mapping[str, Readings],
    metrics: Sequence[str],
    metric: str,
    *,
    reference: str,
    seed: int,
    bootstrap: int,
    turns: int = 1,
) -> dict[str, Replicated]:
    """One metric of every candidate, of the data and of samples that all of them share.

    Seeds are drawn as `draws_of` says; see `compare_measured` for the arguments.
    """
    draws = draw_measured(candidates[reference], seed=seed, bootstrap=bootstrap, turns=turns)
    found = {}
    for name, one in candidates.items():
        own = draws_of(draws, len(one), seed=seed, turns=1 if len(one) == 1 else turns)
        found[name] = replicate_measured(one, metrics, own)[metric]
    return found


def draw_measured(
    readings: Readings,
    *,
    seed: int,
    bootstrap: int,
    apart_G: NDArray[Any] | None = None,
    turns: int = 1,
) -> Draws:
    """Draw participants and seeds; of `apart_G` and `turns` see `draw_samples`.

    Raises:
        ValueError: as `measure_card`.
    """
    units = [
        [
            Units(np.zeros((len(one.groups_N), 2)), np.zeros_like(one.groups_N), one.groups_N)
            for one in rounds
        ]
        for rounds in readings
    ]
    return draw_samples(
        units, "nominal", bootstrap=bootstrap, seed=seed, apart_G=apart_G, turns=turns
    )


def replicate_measured(
    readings: Readings, metrics: Sequence[str], draws: Draws
) -> dict[str, Replicated]:
    """Each metric of the data, of every sample and of every seed."""
    parts = [[_part(one, metrics) for one in rounds] for rounds in readings]
    return replicate(parts, draws)


def _part(one: Measured, metrics: Sequence[str]) -> Part:
    known = ~np.isnan(one.values_NM)
    filled = np.where(known, one.values_NM, 0.0)

    def measure(weights_RN: Floats | None) -> dict[str, Any]:
        weights = np.ones((1, len(filled))) if weights_RN is None else weights_RN
        total, counts = weights @ filled, weights @ known.astype(np.float64)
        means = np.divide(total, counts, out=np.full(total.shape, np.nan), where=counts > 0)
        return {name: means[:, column] for column, name in enumerate(metrics)}

    return Part(one.groups_N, measure)
