"""Probabilities that can be taken at their word: temperature, other priors, reliability.

Fit on validation rows, apply to test rows. Classes are rows that sum to 1; of several labels each
probability stands by itself.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from oct_vjepa.measures.chances import BINS, TINY, bin_of
from oct_vjepa.measures.shares import Floats, share
from oct_vjepa.measures.target import UNKNOWN

TEMPERATURES = (0.2, 20.0)
"""Searched in between. Few validation rows that happen to be told apart ask for ever less, at which
all scores round to 0 or 1 and nothing ranks first any more."""
HALVINGS = 60


def fit_temperature(scores_NC: Floats, values: NDArray[Any]) -> float:
    """The temperature that makes the log loss least, within `TEMPERATURES`.

    Above 1 for scores that were too sure.

    The loss is convex in its inverse, so the root of its slope is found by halving.

    Args:
        scores_NC: probabilities of classes, or of labels each by itself.
        values: (N,) classes or (N, labels), see `target.Target`; unknown ones are left out.

    Raises:
        ValueError: no value is known.
    """
    logits, true = _known_logits(scores_NC, np.asarray(values))
    rows = np.arange(len(true))
    low, high = np.log(1.0 / TEMPERATURES[1]), np.log(1.0 / TEMPERATURES[0])
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        chances = _softmax(logits * np.exp(middle))
        slope = ((chances * logits).sum(axis=1) - logits[rows, true]).mean()
        low, high = (middle, high) if slope < 0 else (low, middle)
    return float(np.exp(-0.5 * (low + high)))


def apply_temperature(scores_NC: Floats, temperature: float, *, multilabel: bool = False) -> Floats:
    """Probabilities softened (above 1) or sharpened; what ranks first stays first.

    Raises:
        ValueError: the temperature is not above 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature ({temperature}) must be above 0")
    if multilabel:
        two = np.stack([1.0 - scores_NC, scores_NC], axis=-1)
        return _softmax(_logs(two) / temperature)[..., 1]
    return _softmax(_logs(scores_NC) / temperature)


def calibrated(kind: str, scores_NK: Floats, temperature: float) -> Floats:
    """Probabilities of classes or labels at a temperature; scores of other questions as they are.

    Args:
        kind: of the question, see `Target`.
        scores_NK: what was said.
        temperature: see `apply_temperature`.
    """
    if kind not in ("nominal", "ordinal", "multilabel"):
        return scores_NK
    return apply_temperature(scores_NK, temperature, multilabel=kind == "multilabel")


def adjust_priors(scores_NC: Floats, old_C: Floats, new_C: Floats) -> Floats:
    """Class probabilities for a population with other shares of the classes, by Bayes' rule.

    Args:
        scores_NC: probabilities that hold where the classes have the shares `old_C`.
        old_C: shares in training, or equal ones if training was balanced.
        new_C: shares where the answers will be used.

    Raises:
        ValueError: a class that has no share of the old, or shares that do not fit the scores.
    """
    old, new = np.asarray(old_C, dtype=np.float64), np.asarray(new_C, dtype=np.float64)
    if not len(old) == len(new) == scores_NC.shape[1] or (old <= 0).any() or (new < 0).any():
        raise ValueError(f"priors {old.tolist()} and {new.tolist()} must be shares of the classes")
    moved = np.maximum(scores_NC, TINY) * (new / old)
    return moved / moved.sum(axis=1, keepdims=True)


class Reliability(NamedTuple):
    """Of each bin of a probability: its mean, how often it came true, and its rows."""

    chance_P: Floats  # NaN in an empty bin
    came_true_P: Floats
    rows_P: NDArray[np.int64]


def reliability(chance_N: Floats, true_N: NDArray[Any], *, bins: int = BINS) -> Reliability:
    """Equal-width bins of the probability of one thing, against whether it was so."""
    inside = bin_of(chance_N, bins)
    members = np.eye(bins)[inside]
    rows = members.sum(axis=0)
    came_true = np.asarray(true_N, dtype=np.float64) @ members
    return Reliability(
        share(chance_N @ members, rows), share(came_true, rows), rows.astype(np.int64)
    )


def _known_logits(scores: Floats, values: NDArray[Any]) -> tuple[Floats, NDArray[np.int64]]:
    known = values != UNKNOWN
    if not known.any():
        raise ValueError("a temperature needs rows whose answer is known")
    if values.ndim == 2:
        chance = scores[known]
        scores = np.stack([1.0 - chance, chance], axis=1)
    else:
        scores = scores[known]
    return _logs(scores), values[known].astype(np.int64)


def _logs(scores: Floats) -> Floats:
    return np.log(np.maximum(scores, TINY))


def _softmax(logits: Floats) -> Floats:
    raised = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)
