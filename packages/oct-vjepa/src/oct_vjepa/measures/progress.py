"""Numbers for a training log and for early stopping: quick, without intervals, a row a volume.

What a result is reported with counts participants and has intervals; that is not done here.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from oct_vjepa.measures.target import UNKNOWN, Target

Floats = NDArray[np.float64]
SMALLER_IS_BETTER = ("log_loss", "mae", "rmse")


_OF_CLASSES = ("auroc", "balanced_accuracy", "macro_f1", "accuracy", "log_loss")
WATCHED = {
    "nominal": _OF_CLASSES,
    "ordinal": _OF_CLASSES,
    "multilabel": ("auroc", "balanced_accuracy", "log_loss"),
    "regression": ("r2", "mae", "rmse"),
    "survival": ("concordance",),
}
"""Kind of a question to the names of its numbers."""


def watch_scores(scores_NK: NDArray[Any], target: Target) -> dict[str, float]:
    """Numbers by name for rows that are all labelled; NaN where the rows do not allow one.

    nominal, ordinal: auroc (one class against the rest, mean over the classes that are there),
    balanced_accuracy, macro_f1, accuracy, log_loss. multilabel: auroc, balanced_accuracy and
    log_loss, means over the labels. regression: r2, mae, rmse. survival: concordance (Harrell).

    Args:
        scores_NK: in the shape that `Target` tells.
        target: the answers.
    """
    scores = np.asarray(scores_NK, dtype=np.float64)
    if target.kind == "multilabel":
        return _of_labels(scores, target.values)
    if target.kind == "regression":
        return _of_quantity(scores[:, 0], target.values)
    if target.kind == "survival":
        return {"concordance": concordance(scores[:, 0], target.values)}
    return _of_classes(scores, target.values)


def area_under_roc(score_N: Floats, positive_N: NDArray[np.bool_]) -> float:
    """Chance that a positive row scores above a negative one, ties half; NaN without either."""
    positives, negatives = int(positive_N.sum()), int((~positive_N).sum())
    if not positives or not negatives:
        return np.nan
    _, inverse, counts = np.unique(score_N, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # from 1; ties share theirs
    wins = ranks[positive_N].sum() - positives * (positives + 1) / 2
    return float(wins / (positives * negatives))


def concordance(risk_N: Floats, values_N2: Floats) -> float:
    """Share of comparable pairs in which the one with the earlier event has the higher risk.

    A pair is comparable if one has an event before the other's event or end of observation; equal
    risks count half (Harrell et al. 1982). NaN without a pair.
    """
    time, event = values_N2[:, 0], values_N2[:, 1] == 1
    right = pairs = 0.0
    for one in np.flatnonzero(event):
        later = time > time[one]
        pairs += later.sum()
        right += (risk_N[one] > risk_N[later]).sum() + 0.5 * (risk_N[one] == risk_N[later]).sum()
    return float(right / pairs) if pairs else np.nan


def _of_classes(chances: Floats, labels: NDArray[Any]) -> dict[str, float]:
    chosen = chances.argmax(axis=1)
    areas, recalls, f1s = [], [], []
    for one in range(chances.shape[1]):
        true, said = labels == one, chosen == one
        hits = (true & said).sum()
        if true.any():
            areas.append(area_under_roc(chances[:, one], true))
            recalls.append(hits / true.sum())
        if true.any() or said.any():
            f1s.append(2.0 * hits / (true.sum() + said.sum()))
    likely = np.take_along_axis(chances, labels[:, None], axis=1)
    return {
        "auroc": _mean(areas),
        "balanced_accuracy": _mean(recalls),
        "macro_f1": _mean(f1s),
        "accuracy": float((chosen == labels).mean()),
        "log_loss": float(-np.log(np.maximum(likely, 1e-12)).mean()),
    }


def _of_labels(chances: Floats, labels: NDArray[Any]) -> dict[str, float]:
    areas, recalls, losses = [], [], []
    for chance, label in zip(chances.T, labels.T, strict=True):
        known = label != UNKNOWN
        true, score = label[known] == 1, chance[known]
        areas.append(area_under_roc(score, true))
        if true.any() and not true.all():
            recalls.append(((score > 0.5)[true].mean() + (score <= 0.5)[~true].mean()) / 2)
        if known.any():
            right = np.where(true, score, 1 - score)
            losses.append(-np.log(np.maximum(right, 1e-12)).mean())
    means = {"auroc": areas, "balanced_accuracy": recalls, "log_loss": losses}
    return {name: _mean(values) for name, values in means.items()}


def _of_quantity(said: Floats, values: Floats) -> dict[str, float]:
    off = said - values
    spread = ((values - values.mean()) ** 2).sum()
    return {
        "r2": float(1.0 - (off**2).sum() / spread) if spread > 0 else np.nan,
        "mae": float(np.abs(off).mean()),
        "rmse": float(np.sqrt((off**2).mean())),
    }


def _mean(values: list[Any]) -> float:
    """Mean of those that are numbers."""
    known = [float(value) for value in values if np.isfinite(value)]
    return sum(known) / len(known) if known else np.nan
