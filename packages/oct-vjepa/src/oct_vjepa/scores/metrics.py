"""Scores of a classifier with intervals, where the unit that is resampled is the participant.

Not scipy.stats.bootstrap, which resamples rows, knows no participants, and takes 24 times the CPU
for the same interval where each has one volume (benchmarks/intervals.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
INTERVAL_PERCENTILES = (2.5, 97.5)


class Interval(NamedTuple):
    """A value with its 95 % percentile bootstrap interval."""

    value: float
    low: float
    high: float

    def text(self, sign: str = "") -> str:
        """`0.812 (0.751 to 0.866)`; `sign="+"` for differences."""
        return f"{self.value:{sign}.3f} ({self.low:{sign}.3f} to {self.high:{sign}.3f})"


class Units(NamedTuple):
    """What is scored: one row per participant and label, scores averaged over its volumes."""

    scores_NC: Floats
    labels_N: NDArray[np.int64]  # index of the class
    groups_N: NDArray[np.int64]  # index of the participant


@dataclass(kw_only=True, slots=True)
class Scores:
    """How well a classifier does on the test participants; intervals are 95 % bootstrap."""

    auroc: float
    auroc_low: float
    auroc_high: float
    balanced_accuracy: float
    balanced_accuracy_low: float
    balanced_accuracy_high: float
    classes: list[str]
    """Labels in the order of the score columns."""
    participants_test: int
    units: Units = field(repr=False)
    """The averaged scores behind the numbers; `paired_difference` takes them up."""

    @property
    def auroc_interval(self) -> Interval:
        """AUROC and the ends of its interval."""
        return Interval(self.auroc, self.auroc_low, self.auroc_high)

    @property
    def balanced_accuracy_interval(self) -> Interval:
        """Balanced accuracy and the ends of its interval."""
        low, high = self.balanced_accuracy_low, self.balanced_accuracy_high
        return Interval(self.balanced_accuracy, low, high)


def score_units(
    units: Units, classes: Sequence[str], *, seed: int, bootstrap: int
) -> dict[str, Any]:
    """The fields of `Scores` for scored rows; participants are resampled within their class."""
    weights = resample_weights(units, bootstrap=bootstrap, seed=seed)
    area = interval_of(auroc(units)[0], auroc(units, weights))
    accuracy = interval_of(balanced_accuracy(units)[0], balanced_accuracy(units, weights))
    return {
        "auroc": area.value,
        "auroc_low": area.low,
        "auroc_high": area.high,
        "balanced_accuracy": accuracy.value,
        "balanced_accuracy_low": accuracy.low,
        "balanced_accuracy_high": accuracy.high,
        "classes": list(classes),
        "participants_test": len(np.unique(units.groups_N)),
        "units": units,
    }


def average_units(scores_NC: Floats, labels_N: NDArray[Any], groups_N: NDArray[Any]) -> Units:
    """Average the scores of each participant, so that one with many volumes counts once.

    A participant whose volumes have different labels (left and right eye, say) gives one row a
    label, and is still resampled as one.
    """
    groups = np.unique(groups_N, return_inverse=True)[1].reshape(-1)
    labels = np.asarray(labels_N, dtype=np.int64)
    pairs, row = np.unique(np.stack([groups, labels], axis=1), axis=0, return_inverse=True)
    row = row.reshape(-1)
    sums = np.zeros((len(pairs), scores_NC.shape[1]))
    np.add.at(sums, row, scores_NC)
    return Units(sums / np.bincount(row)[:, None], pairs[:, 1], pairs[:, 0])


def resample_weights(units: Units, *, bootstrap: int, seed: int) -> Floats:
    """How often each row is drawn in each of `bootstrap` samples, (R, N).

    Participants are drawn with replacement within those who have the same label or labels, so that
    every sample has as many of each class as the data.
    """
    generator = np.random.default_rng(seed)
    classes = units.scores_NC.shape[1]
    has = np.zeros((int(units.groups_N.max()) + 1, classes), dtype=bool)
    has[units.groups_N, units.labels_N] = True
    strata = np.unique(has, axis=0, return_inverse=True)[1].reshape(-1)
    drawn = np.zeros((bootstrap, len(has)))
    for stratum in range(int(strata.max()) + 1):
        members = np.flatnonzero(strata == stratum)
        chances = np.full(len(members), 1.0 / len(members))
        drawn[:, members] = generator.multinomial(len(members), chances, size=bootstrap)
    return drawn[:, units.groups_N]


def auroc(units: Units, weights_RN: Floats | None = None) -> Floats:
    """Area under the ROC curve for each row of weights, (R,); one against the rest, macro average.

    Ties count half. With two classes the score of the second decides.
    """
    weights = np.ones((1, len(units.labels_N))) if weights_RN is None else weights_RN
    classes = range(units.scores_NC.shape[1])
    if len(classes) == 2:
        classes = range(1, 2)
    areas = [_area(units.labels_N == one, units.scores_NC[:, one], weights) for one in classes]
    return np.mean(areas, axis=0)


def balanced_accuracy(units: Units, weights_RN: Floats | None = None) -> Floats:
    """Mean over the classes of the share that is recognised, for each row of weights, (R,)."""
    weights = np.ones((1, len(units.labels_N))) if weights_RN is None else weights_RN
    right = units.scores_NC.argmax(axis=1) == units.labels_N
    recalls = []
    for one in range(units.scores_NC.shape[1]):
        members = weights * (units.labels_N == one)
        recalls.append((members * right).sum(axis=1) / members.sum(axis=1))
    return np.mean(recalls, axis=0)


def interval_of(value: float, samples_R: Floats) -> Interval:
    """`value` with the percentile interval of its bootstrap samples."""
    low, high = np.percentile(samples_R, INTERVAL_PERCENTILES)
    return Interval(float(value), float(low), float(high))


def _area(positive_N: NDArray[np.bool_], score_N: Floats, weights_RN: Floats) -> Floats:
    order = np.argsort(score_N, kind="stable")
    score, weights, positive = score_N[order], weights_RN[:, order], positive_N[order]
    starts = np.flatnonzero(np.r_[True, np.diff(score) != 0])  # one cell for each distinct score
    above = np.add.reduceat(weights * positive, starts, axis=1)
    below = np.add.reduceat(weights * ~positive, starts, axis=1)
    beaten = np.cumsum(below, axis=1) - 0.5 * below
    return (above * beaten).sum(axis=1) / (above.sum(axis=1) * below.sum(axis=1))
