"""Points of curves with bands: ROC, precision and recall, calibration, and decision curves.

Each is the mean over seeds and rounds of the curve in each round, on a common grid; bands are 95 %
bootstrap, point by point, of the samples that `scorecard` draws.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oct_vjepa.measures.chances import bin_of
from oct_vjepa.measures.measure import one_label
from oct_vjepa.measures.ranking import ROUNDING, count_cells
from oct_vjepa.measures.shares import Floats, all_rows, share
from oct_vjepa.measures.units import Units, interval_of
from oct_vjepa.scores.cards import as_plain
from oct_vjepa.scores.resampling import Part, Replicated, Runs, draw_samples, replicate

SHARES = np.linspace(0.0, 1.0, 101)
"""Where ROC and precision are read."""
CHANCES = np.arange(1, 100) / 100
"""Threshold probabilities of decision curves."""
BINS = 10

LABELS = {
    "roc": ("1 - specificity", "sensitivity"),
    "precision": ("sensitivity", "precision"),
    "calibration": ("predicted probability", "observed share"),
    "benefit": ("threshold probability", "net benefit"),
    "benefit_all": ("threshold probability", "net benefit"),
}
SMALLEST = 1e-9  # sensitivity that finds anything


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """One curve; NaN where it is not defined."""

    name: str
    x_label: str
    y_label: str
    x: list[float]
    y: list[float]
    low: list[float]
    high: list[float]

    def as_json(self) -> dict[str, Any]:
        """Plain values, null where the curve is not defined."""
        return as_plain(asdict(self))


def draw_curves(
    runs: Runs, kind: str, one: int, *, seed: int, bootstrap: int = 200
) -> dict[str, Curve]:
    """Name to curve of a class or label: those in `LABELS`.

    "benefit" is the decision curve of Vickers & Elkin 2006 and "benefit_all" that of treating
    everybody; treating nobody has no benefit.

    Args:
        runs: see `resampling`.
        kind: nominal, ordinal or multilabel.
        one: number of the class or label to find.
        seed: of the bootstrap.
        bootstrap: number of samples.

    Raises:
        ValueError: another kind.
    """
    if kind not in ("nominal", "ordinal", "multilabel"):
        raise ValueError(f"curves are of classes and labels, not of a {kind} question")
    draws = draw_samples(runs, kind, bootstrap=bootstrap, seed=seed)
    parts = [[_part(units, kind, one) for units in rounds] for rounds in runs]
    found = replicate(parts, draws)
    places = {
        "roc": SHARES,
        "precision": SHARES,
        "calibration": found["chance"].value,
        "benefit": CHANCES,
        "benefit_all": CHANCES,
    }
    found["calibration"] = found["observed"]
    return {name: _curve(name, LABELS[name], place, found[name]) for name, place in places.items()}


def _part(units: Units, kind: str, one: int) -> Part:
    known = np.arange(len(units.labels_N))
    if kind == "multilabel":
        units_of_one, known = one_label(units, one)
        positive, chance = units_of_one.labels_N == 1, units_of_one.scores_NC[:, 1]
    else:
        positive, chance = units.labels_N == one, units.scores_NC[:, one]

    def measured(weights_RN: Floats | None) -> dict[str, Floats]:
        weights = all_rows(weights_RN, len(units.labels_N))[:, known]
        return _points(positive, chance, weights)

    return Part(units.groups_N, measured)


def _points(
    positive_N: NDArray[np.bool_], chance_N: Floats, weights_RN: Floats
) -> dict[str, Floats]:
    """The heights of every curve under each row of weights, (R, P)."""
    cells = count_cells(positive_N, chance_N, weights_RN)
    found, wrong = (_from_the_top(side) for side in (cells.above_RT, cells.below_RT))
    positives, negatives = found[:, -1:], wrong[:, -1:]
    sensitivity, false = share(found, positives), share(wrong, negatives)
    precision = share(found, found + wrong)
    inside = np.zeros((len(chance_N), BINS))
    inside[np.arange(len(chance_N)), bin_of(chance_N, BINS)] = 1.0
    rows = weights_RN @ inside
    called = len(cells.thresholds_T) - np.searchsorted(cells.thresholds_T, CHANCES)
    everybody, odds = positives + negatives, CHANCES / (1.0 - CHANCES)
    return {
        "roc": np.stack([_read_roc(*one) for one in zip(false, sensitivity, strict=True)]),
        "precision": np.stack(
            [_read_precision(*one) for one in zip(sensitivity, precision, strict=True)]
        ),
        "chance": share((weights_RN * chance_N) @ inside, rows),
        "observed": share((weights_RN * positive_N) @ inside, rows),
        "benefit": share(found[:, called] - wrong[:, called] * odds, everybody),
        "benefit_all": share(positives - negatives * odds, everybody),
    }


def _from_the_top(side_RT: Floats) -> Floats:
    """Weight at no threshold, at the highest, at the two highest, and so on, (R, T + 1)."""
    return np.c_[np.zeros(len(side_RT)), np.cumsum(side_RT[:, ::-1], axis=1)]


def _read_roc(false_T: Floats, sensitivity_T: Floats) -> Floats:
    if np.isnan(false_T).any() or np.isnan(sensitivity_T).any():
        return np.full(len(SHARES), np.nan)
    return np.interp(SHARES + ROUNDING, false_T, sensitivity_T)


def _read_precision(sensitivity_T: Floats, precision_T: Floats) -> Floats:
    """Precision at the highest threshold that finds as much; at 0, that finds anything."""
    if np.isnan(sensitivity_T).any():
        return np.full(len(SHARES), np.nan)
    first = np.searchsorted(sensitivity_T, np.maximum(SHARES - ROUNDING, SMALLEST))
    return precision_T[np.minimum(first, len(precision_T) - 1)]


def _curve(name: str, labels: tuple[str, str], x_P: Floats, found: Replicated) -> Curve:
    points = [
        interval_of(float(value), found.samples[:, point])
        for point, value in enumerate(found.value)
    ]
    return Curve(
        name=name,
        x_label=labels[0],
        y_label=labels[1],
        x=x_P.tolist(),
        y=[one.value for one in points],
        low=[one.low for one in points],
        high=[one.high for one in points],
    )
