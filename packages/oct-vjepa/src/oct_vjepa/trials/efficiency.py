"""How many labelled participants a probe needs: its score after training on few of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oct_vjepa.measures.units import (
    Interval,
    Scores,
    auroc,
    balanced_accuracy,
    interval_of,
    resample_weights,
)
from oct_vjepa.probes.linear import BOOTSTRAP, draw_participants, probe

SIZES = (25, 50, 100)
REPEATS = 5
EVERYONE = 0
"""Size that stands for all labelled participants."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EfficiencyRow:
    """Scores after training on `participants` of the labelled ones."""

    participants: int
    volumes: float
    """Training volumes, averaged over the repeats."""
    repeats: int
    """Subsets drawn; one where everyone takes part."""
    auroc: Interval
    """Mean over the subsets; the interval holds both draws, of training and test participants."""
    balanced_accuracy: Interval
    results: tuple[Scores, ...] = field(repr=False)
    """One a subset, for paired differences."""


def label_efficiency(
    features_train: NDArray[Any],
    y_train: NDArray[Any],
    features_test: NDArray[Any],
    y_test: NDArray[Any],
    *,
    groups_train: NDArray[Any] | None = None,
    groups_test: NDArray[Any] | None = None,
    sizes: Sequence[int] = (*SIZES, EVERYONE),
    repeats: int = REPEATS,
    seed: int,
    bootstrap: int = BOOTSTRAP,
    fit: Callable[..., Scores] = probe,
) -> list[EfficiencyRow]:
    """Probe with few labelled participants, then more; the test side stays the same.

    Subsets keep the shares of the classes, at least two participants each, and depend on labels,
    participants and seed only: two encoders see the same ones, so their results can be paired.
    Sizes that are not below the number of participants are left out, all but `EVERYONE`.

    Args:
        features_train: (N, D), or whatever `fit` takes, by row.
        y_train: N labels.
        features_test: (M, D).
        y_test: M labels.
        groups_train: participant of each row; each row its own if left out.
        groups_test: likewise.
        sizes: numbers of training participants; `EVERYONE` for all.
        repeats: subsets for each size.
        seed: of subsets, folds and bootstrap.
        bootstrap: number of bootstrap samples.
        fit: a probe with the arguments of `probe`, such as `neighbour_probe`.

    Raises:
        ValueError: as `probe`, or a size below two participants a class.
    """
    y, groups = np.asarray(y_train), groups_train
    groups = np.arange(len(y)) if groups is None else np.asarray(groups)
    everyone = len(np.unique(groups))
    rows = []
    for size in sorted(sizes, key=lambda one: one or everyone + 1):
        if size >= everyone:
            continue
        subsets = [
            draw_participants(y, groups, size or everyone, seed=(seed, size, turn))
            for turn in range(repeats if size else 1)
        ]
        results = tuple(
            fit(
                features_train[chosen],
                y[chosen],
                features_test,
                y_test,
                groups_train=groups[chosen],
                groups_test=groups_test,
                seed=seed,
                bootstrap=bootstrap,
            )
            for chosen in subsets
        )
        volumes = float(np.mean([chosen.sum() for chosen in subsets]))
        rows.append(_row(size or everyone, volumes, results, seed=seed, bootstrap=bootstrap))
    return rows


def _row(
    participants: int, volumes: float, results: tuple[Scores, ...], *, seed: int, bootstrap: int
) -> EfficiencyRow:
    draws = {"seed": seed, "bootstrap": bootstrap}
    return EfficiencyRow(
        participants=participants,
        volumes=volumes,
        repeats=len(results),
        auroc=_over_subsets(results, auroc, **draws),
        balanced_accuracy=_over_subsets(results, balanced_accuracy, **draws),
        results=results,
    )


def _over_subsets(
    results: Sequence[Scores], score: Callable[..., Any], *, seed: int, bootstrap: int
) -> Interval:
    """Mean over the subsets; the samples of all of them together give the interval."""
    weights = [resample_weights(one.units, bootstrap=bootstrap, seed=seed) for one in results]
    samples = [score(one.units, weight) for one, weight in zip(results, weights, strict=True)]
    value = float(np.mean([score(one.units)[0] for one in results]))
    return interval_of(value, np.concatenate(samples))
