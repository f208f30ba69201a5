"""Which candidate is the best on validation rows, and several models asked as one.

The headline of the kind of target decides, then the log loss.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from oct_vjepa.measures import measure
from oct_vjepa.measures.target import Target
from oct_vjepa.measures.units import Units, aggregate_units
from oct_vjepa.probes.answers import Floats, log_loss

HOW = ("mean", "vote", "weighted")


class Validation(NamedTuple):
    """How good a candidate is on the validation participants."""

    headline: float
    """AUROC, macro over classes or labels; R2 of a quantity; concordance of a time."""
    loss: float
    """See `answers.log_loss`; decides between equal headlines."""


def validate_all(
    target: Target,
    scores: Sequence[Floats],
    groups_N: NDArray[Any],
    *,
    calibrated: Sequence[Floats] | None = None,
) -> list[Validation]:
    """Score candidates on validation rows, averaged within each participant and answer.

    Args:
        target: answers of the rows.
        scores: predicted scores of each candidate, (N, K).
        groups_N: participants.
        calibrated: scores to read the loss from, if others.
    """
    both = [*scores, *(scores if calibrated is None else calibrated)]
    people = np.unique(groups_N, return_inverse=True)[1].reshape(-1)
    units = aggregate_units(np.concatenate(both, axis=1), target, people)
    answers = replace(target, values=units.labels_N)
    parts = np.split(units.scores_NC, len(both), axis=1)
    return [
        Validation(headline(answers, one), log_loss(answers, fair))
        for one, fair in zip(parts[: len(scores)], parts[len(scores) :], strict=True)
    ]


def best_of(found: Sequence[Validation]) -> int:
    """Number of the best candidate; of equal ones the first, so the simplest should come first."""
    return max(range(len(found)), key=lambda one: (_rank(found[one].headline), -found[one].loss))


def headline(target: Target, scores_NK: Floats) -> float:
    """The number by which models are chosen, as it is reported; NaN where it does not exist."""
    units = Units(scores_NK, target.values, np.arange(len(target)))
    return float(measure.headline(target.kind, units)[0])


def ensemble(
    scores: Sequence[NDArray[Any]],
    how: str = "mean",
    *,
    weights: Sequence[float] | None = None,
    apart: bool = False,
) -> NDArray[np.float64]:
    """Scores of all models together, (N, K), like those of one.

    Args:
        scores: (N, K) of each model, for the same rows.
        how: mean; weighted, by `weights`; vote: the share of the models whose greatest score is of
            that class, or that are above one half where each column is a question of its own.
        weights: of each model, such as its headline on validation; not negative; where all are 0
            none is better than another.
        apart: each column is a question of its own, as several labels are; a single one always is.

    Raises:
        ValueError: no models, models of different rows, no such way, or weights that do not fit.
    """
    if how not in HOW:
        raise ValueError(f"ensemble ({how!r}) must be one of {', '.join(HOW)}")
    shapes = {np.shape(one) for one in scores}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise ValueError(f"ensemble: scores must be (N, K), alike and one or more: {shapes}")
    if (how == "weighted") != (weights is not None):
        raise ValueError("ensemble: weighted takes weights, the others do not")
    stacked = np.stack([np.asarray(one, dtype=np.float64) for one in scores])
    if how == "vote":
        if apart or stacked.shape[2] == 1:
            return (stacked > 0.5).mean(axis=0)
        return np.eye(stacked.shape[2])[stacked.argmax(axis=2)].mean(axis=0)
    share = np.ones(len(stacked)) if weights is None else np.asarray(weights, dtype=np.float64)
    if share.shape != (len(stacked),) or not (share >= 0).all():
        raise ValueError(f"ensemble: weights ({weights}) must be {len(stacked)}, none negative")
    if not share.any():
        share = np.ones(len(stacked))
    return np.tensordot(share / share.sum(), stacked, 1)


def _rank(value: float) -> float:
    return -np.inf if np.isnan(value) else value
