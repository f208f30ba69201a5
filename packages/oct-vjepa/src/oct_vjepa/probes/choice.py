"""Which candidate is the best on validation rows, and several models asked as one.

The headline of the kind of target decides, then the log loss.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from oct_vjepa.measures import ranking
from oct_vjepa.measures.measure import HEADLINE
from oct_vjepa.measures.progress import watch_scores
from oct_vjepa.measures.target import UNKNOWN, Target
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
    averaged, answers = average_rows(target, np.concatenate(both, axis=1), groups_N)
    parts = np.split(averaged, len(both), axis=1)
    return [
        Validation(headline(answers, one), log_loss(answers, fair))
        for one, fair in zip(parts[: len(scores)], parts[len(scores) :], strict=True)
    ]


def best_of(found: Sequence[Validation]) -> int:
    """Number of the best candidate; of equal ones the first, so the simplest should come first."""
    return max(range(len(found)), key=lambda one: (_rank(found[one].headline), -found[one].loss))


def headline(target: Target, scores_NK: Floats) -> float:
    """The number by which models are chosen; NaN where it does not exist."""
    if target.kind in ("regression", "survival"):
        return watch_scores(scores_NK, target)[HEADLINE[target.kind]]
    if target.kind == "multilabel":
        questions = [
            (target.values[:, one] == 1, scores_NK[:, one], target.values[:, one] != UNKNOWN)
            for one in range(len(target.names))
        ]
    else:
        asked = range(1, 2) if len(target.names) == 2 else range(len(target.names))
        everyone = np.ones(len(target), dtype=bool)
        questions = [(target.values == one, scores_NK[:, one], everyone) for one in asked]
    areas = [
        ranking.area(ranking.count_cells(positive[known], score[known], np.ones((1, known.sum()))))
        for positive, score, known in questions
        if len(np.unique(positive[known])) == 2  # a class that no participant has tells nothing
    ]
    return float(np.mean(areas)) if areas else float("nan")


def average_rows(
    target: Target, scores_NK: Floats, groups_N: NDArray[Any]
) -> tuple[Floats, Target]:
    """Mean score of each participant and answer, and those answers."""
    people = np.unique(groups_N, return_inverse=True)[1].reshape(-1, 1)
    keys = np.concatenate([people, target.values.reshape(len(target), -1)], axis=1)
    _, first, row = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    row = row.reshape(-1)
    sums = np.zeros((len(first), scores_NK.shape[1]))
    np.add.at(sums, row, scores_NK)
    return sums / np.bincount(row)[:, None], target.take(first)


def ensemble(
    scores: Sequence[NDArray[Any]], how: str = "mean", *, weights: Sequence[float] | None = None
) -> NDArray[np.float64]:
    """Scores of all models together, (N, K), like those of one.

    Args:
        scores: (N, K) of each model, for the same rows.
        how: mean; weighted, by `weights`; vote: the share of the models whose greatest score is of
            that class, of a single column the share that is above one half.
        weights: of each model, such as its headline on validation; not negative.

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
        if stacked.shape[2] == 1:
            return (stacked > 0.5).mean(axis=0)
        return np.eye(stacked.shape[2])[stacked.argmax(axis=2)].mean(axis=0)
    share = np.ones(len(stacked)) if weights is None else np.asarray(weights, dtype=np.float64)
    if share.shape != (len(stacked),) or not (share >= 0).all() or not share.sum() > 0:
        raise ValueError(f"ensemble: weights ({weights}) must be {len(stacked)}, none negative")
    return np.tensordot(share / share.sum(), stacked, 1)


def _rank(value: float) -> float:
    return -np.inf if np.isnan(value) else value
