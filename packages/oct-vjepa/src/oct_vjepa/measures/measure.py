"""Every metric of a kind of question at once, for R rows of weights.

The macro mean is over the classes that can be measured: AUROC and AUPRC of a class that a part
lacks are NaN and left out. With two classes the second is the one to find, and takes the place of
a macro mean. Several labels are each measured as two classes, on the rows where they are known.
"""

import numpy as np
from numpy.typing import NDArray

from oct_vjepa.measures import chances, decisions, quantities, ranking
from oct_vjepa.measures.shares import Floats, all_rows, known_mean
from oct_vjepa.measures.target import UNKNOWN
from oct_vjepa.measures.units import Units, auroc

HEADLINE = {
    "nominal": "auroc",
    "ordinal": "auroc",
    "multilabel": "auroc",
    "regression": "r2",
    "survival": "concordance",
}
"""The metric by which settings are chosen and candidates compared; higher is better."""
SPECIFICITY = 0.9
BY_CLASS = " by class"
"""Ends the names of what has a value for each class or label, (R, C)."""
INFLATED = ("ece",)
"""Larger in samples than in the data, because a sample is rougher; see `centred_interval`."""
DECIDED = (
    *("sensitivity", "specificity", "f1", "f1_macro", "f1_weighted", "balanced_accuracy"),
    *("accuracy", "quadratic_kappa"),
)
"""Metrics of a choice, which is taken from scores in which classes weigh alike."""
OPERATING = ("sensitivity_at_specificity", "specificity_reached")

Measured = dict[str, Floats]


def measure(
    kind: str,
    units: Units,
    weights_RN: Floats | None = None,
    *,
    thresholds_C: Floats | None = None,
    specificity: float = SPECIFICITY,
) -> Measured:
    """Name of a metric to its (R,) values, and name + `BY_CLASS` to (R, C).

    Args:
        kind: of the question, see `target.Target`.
        units: what is scored.
        weights_RN: how often each row counts in each sample; once if left out.
        thresholds_C: scores from which a class or label is called at the specificity asked for,
            chosen on validation rows by `find_thresholds`; left out, each sample's own ROC curve
            chooses, which flatters.
        specificity: at which sensitivity is read.
    """
    weights = all_rows(weights_RN, len(units.labels_N))
    if kind == "multilabel":
        return _labels(units, weights, thresholds_C, specificity)
    if kind == "survival":
        risk = units.scores_NC[:, 0]
        return {"concordance": quantities.concordance(risk, units.labels_N, weights)}
    if kind == "regression":
        sides = (units.scores_NC[:, 0], units.labels_N, weights)
        return {
            "mae": quantities.absolute_error(*sides),
            "rmse": quantities.root_error(*sides),
            "r2": quantities.explained(*sides),
            "pearson": quantities.pearson(*sides),
        }
    return _classes(units, weights, thresholds_C, specificity, ordinal=kind == "ordinal")


def headline(kind: str, units: Units, weights_RN: Floats | None = None) -> Floats:
    """The metric that `HEADLINE` names, alone, (R,)."""
    weights = all_rows(weights_RN, len(units.labels_N))
    if HEADLINE[kind] != "auroc":
        return measure(kind, units, weights)[HEADLINE[kind]]
    if kind != "multilabel":
        return auroc(units, weights)
    parts = [one_label(units, one) for one in range(units.scores_NC.shape[1])]
    return known_mean(np.stack([auroc(part, weights[:, known]) for part, known in parts], 1), 1)


def find_thresholds(kind: str, units: Units, *, specificity: float = SPECIFICITY) -> Floats:
    """For each class or label, the score from which to call it; of validation rows, (C,)."""
    classes = range(units.scores_NC.shape[1])
    if kind == "multilabel":
        parts = [(one_label(units, one)[0], 1) for one in classes]
    else:
        parts = [(units, one) for one in classes]
    return np.array(
        [
            ranking.threshold_at(part.labels_N == one, part.scores_NC[:, one], specificity)
            for part, one in parts
        ]
    )


def one_label(units: Units, label: int) -> tuple[Units, NDArray[np.int64]]:
    """One of several labels as two classes, on the rows where it is known, and those rows."""
    known = np.flatnonzero(units.labels_N[:, label] != UNKNOWN)
    chance = units.scores_NC[known, label]
    scores = np.stack([1.0 - chance, chance], axis=1)
    return Units(scores, units.labels_N[known, label], units.groups_N[known]), known


def _classes(
    units: Units, weights: Floats, thresholds: Floats | None, specificity: float, *, ordinal: bool
) -> Measured:
    scores, labels = units.scores_NC, units.labels_N
    counts = decisions.confusion(labels, scores.argmax(axis=1), scores.shape[1], weights)
    by_class = _ranked(units, weights, thresholds, specificity)
    by_class["sensitivity"] = decisions.sensitivity(counts)
    by_class["specificity"] = decisions.specificity(counts)
    by_class["f1"] = decisions.f1(counts)
    found = {name: _macro(values) for name, values in by_class.items() if name != "f1"}
    found["f1_macro"] = by_class["f1"].mean(axis=1)
    found["f1_weighted"] = decisions.weighted_f1(counts)
    found["balanced_accuracy"] = decisions.balanced_accuracy_of(counts)
    found["accuracy"] = decisions.accuracy(counts)
    if ordinal:
        found["quadratic_kappa"] = decisions.quadratic_kappa(counts)
    found["ece"] = chances.calibration_error(scores, labels, weights)
    found["brier"] = chances.brier(scores, labels, weights)
    found["nll"] = chances.log_loss(scores, labels, weights)
    return found | {name + BY_CLASS: values for name, values in by_class.items()}


def _ranked(
    units: Units, weights: Floats, thresholds: Floats | None, specificity: float
) -> Measured:
    """What needs the rows in the order of their scores, (R, C) each."""
    columns: dict[str, list[Floats]] = {}
    for one in range(units.scores_NC.shape[1]):
        positive, score = units.labels_N == one, units.scores_NC[:, one]
        cells = ranking.count_cells(positive, score, weights)
        found = {"auroc": ranking.area(cells), "auprc": ranking.average_precision(cells)}
        if thresholds is None:
            found[OPERATING[0]] = ranking.sensitivity_at(cells, specificity)
        else:
            point = ranking.caught(positive, score, weights, float(thresholds[one]))
            found |= dict(zip(OPERATING, point, strict=True))
        for name, values in found.items():
            columns.setdefault(name, []).append(values)
    return {name: np.stack(values, axis=1) for name, values in columns.items()}


def _macro(values_RC: Floats) -> Floats:
    return values_RC[:, 1] if values_RC.shape[1] == 2 else known_mean(values_RC, 1)


def _labels(
    units: Units, weights: Floats, thresholds: Floats | None, specificity: float
) -> Measured:
    """Each label as two classes; the mean over labels is that of the ones with a value."""
    columns: dict[str, list[Floats]] = {}
    for one in range(units.scores_NC.shape[1]):
        part, known = one_label(units, one)
        own = None if thresholds is None else np.array([np.nan, thresholds[one]])
        found = measure(
            "nominal", part, weights[:, known], thresholds_C=own, specificity=specificity
        )
        positive = found["f1" + BY_CLASS][:, 1]
        kept = {
            name: values
            for name, values in found.items()
            if not name.endswith(BY_CLASS) and not name.startswith("f1")
        }
        for name, values in (kept | {"f1": positive}).items():
            columns.setdefault(name, []).append(values)
    by_label = {name: np.stack(values, axis=1) for name, values in columns.items()}
    overall = {name: known_mean(values, 1) for name, values in by_label.items()}
    return overall | {name + BY_CLASS: values for name, values in by_label.items()}
