"""A target as the numbers that a fit needs, and what a fit gives back as scores.

A model has outputs, one number each a row: log-odds of the classes (nominal), of being above each
step (ordinal: Frank and Hall 2001, one binary question a step), of each label (multilabel), the
quantity itself (regression) or the log of the risk (survival: Cox 1972).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from oct_vjepa.measures.target import UNKNOWN, Target

Floats = NDArray[np.float64]
_LEAST = 1e-12  # of a probability, before its logarithm is taken


def outputs_of(target: Target) -> int:
    """How many numbers a model of this target gives for a row."""
    if target.is_counted:
        return len(target.names) - (target.kind == "ordinal")
    return 1


def answers_of(target: Target) -> Floats:
    """What each output should be: (N, outputs), of survival (N, 2), time and event.

    Nominal: 1 for the class; ordinal: 1 for each step that the row is above; multilabel: 0 or 1.
    """
    values = target.values
    if target.kind == "nominal":
        return np.eye(len(target.names))[values]
    if target.kind == "ordinal":
        return (values[:, None] > np.arange(len(target.names) - 1)).astype(np.float64)
    if target.kind == "multilabel":
        return values.clip(0).astype(np.float64)
    return values.reshape(len(values), -1).astype(np.float64)


def weights_of(target: Target, *, balanced: bool, counted: Target | None = None) -> Floats:
    """What each answer counts, (N, outputs); 0 where nobody labelled.

    Args:
        target: the answers.
        balanced: make all classes, or both answers to each label, count alike, as scikit-learn's
            class_weight does; it says nothing about a quantity or a time.
        counted: rows in which classes are counted, if not these.

    Raises:
        ValueError: a class, or an answer to a label, that no row has.
    """
    if not target.is_counted:
        return np.ones((len(target), 1))
    columns = target.values.reshape(len(target), -1)
    rows = columns if counted is None else counted.values.reshape(len(counted), -1)
    weights = (columns != UNKNOWN).astype(np.float64)
    for one in range(columns.shape[1]):
        counts = np.bincount(rows[rows[:, one] != UNKNOWN, one], minlength=target.counts)
        if not counts.all():
            name = target.names[one if target.kind == "multilabel" else int(counts.argmin())]
            raise ValueError(f"probe: {name!r} has too few rows to fit: {counts.tolist()}")
        if balanced:
            share = counts.sum() / (len(counts) * counts)
            weights[:, one] *= share[columns[:, one].clip(0)]
    return np.broadcast_to(weights, (len(target), outputs_of(target))).copy()


def priors_of(target: Target) -> Floats:
    """Share of the rows of each class, (classes,), or with each label; empty for other kinds."""
    if not target.is_counted:
        return np.empty(0)
    if target.kind == "multilabel":
        return np.array([(one[one != UNKNOWN] == 1).mean() for one in target.values.T])
    return np.bincount(target.values, minlength=len(target.names)) / len(target)


def constant_of(target: Target) -> Floats:
    """Scores of these rows that are the same for everybody, (scores,): of who sees no scan.

    Shares of the classes or labels, the mean of a quantity, one risk for all.
    """
    if target.is_counted:
        return priors_of(target)
    return np.zeros(1) if target.kind == "survival" else target.values.mean(keepdims=True)


def scores_from(kind: str, outputs_NO: NDArray[Any]) -> Floats:
    """What the outputs of a model mean for a target of this kind, (N, scores); see `Target`.

    The chances of being above a step never rise from step to step: where single fits say so, the
    least of the steps before holds.
    """
    outputs = np.asarray(outputs_NO, dtype=np.float64)
    if kind == "nominal":
        powers = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)
    if kind == "ordinal":
        above = np.minimum.accumulate(sigmoid(outputs), axis=1)
        ends = np.ones((len(outputs), 1)), np.zeros((len(outputs), 1))
        return -np.diff(np.concatenate([ends[0], above, ends[1]], axis=1), axis=1)
    return sigmoid(outputs) if kind == "multilabel" else outputs


def shift_priors(kind: str, scores_NK: Floats, priors_K: Floats) -> Floats:
    """Probabilities that hold where all classes are alike, for classes as frequent as `priors_K`.

    Saerens, Latinne, Decaestecker 2002, equation 4; labels each by themselves.
    """
    if kind == "multilabel":
        present, absent = scores_NK * priors_K, (1 - scores_NK) * (1 - priors_K)
        return present / (present + absent)
    if kind in ("nominal", "ordinal"):
        moved = scores_NK * priors_K
        return moved / moved.sum(axis=1, keepdims=True)
    return scores_NK


def log_loss(target: Target, scores_NK: Floats) -> float:
    """What is left to explain, the lower the better; between models that rank alike.

    Mean of minus the log of the probability of what was; mean squared error of a quantity; minus
    the log of Cox's partial likelihood over the number of events.
    """
    if target.kind == "regression":
        return float(np.mean((scores_NK[:, 0] - target.values) ** 2))
    if target.kind == "survival":
        risk, (time, event) = scores_NK[:, 0], target.values.T
        at_risk = time[None, :] >= time[:, None]
        sums = np.where(at_risk, np.exp(risk - risk.max()), 0).sum(axis=1)
        return float(np.sum(event * (np.log(sums) + risk.max() - risk)) / max(1, event.sum()))
    if target.kind == "multilabel":
        right = np.where(target.values == 1, scores_NK, 1 - scores_NK)[target.values != UNKNOWN]
    else:
        right = scores_NK[np.arange(len(target)), target.values]
    return float(-np.log(right.clip(_LEAST)).mean())


def sigmoid(logits: Floats) -> Floats:
    """Probability of log-odds, without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * logits))
