"""From answers to what a reviewer reads: scores by participant, calibrated, with a promise kept.

Probabilities are those at the temperature that the calibration rows ask for, which also set
thresholds and promises: those set apart for it, or else those of validation. Decisions are taken
from scores in which classes weigh alike. Nothing here looks at a test row before all is chosen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oct_vjepa.measures.measure import DECIDED
from oct_vjepa.measures.shares import known_mean
from oct_vjepa.measures.target import UNKNOWN, Target
from oct_vjepa.measures.units import Units, aggregate_units
from oct_vjepa.scores.calibration import calibrated, fit_temperature
from oct_vjepa.scores.conformal import (
    fit_label_thresholds,
    fit_threshold,
    fit_width,
    label_sets,
    luck_of_coverage,
    measure_label_sets,
    measure_ranges,
    measure_sets,
    prediction_ranges,
    prediction_sets,
)
from oct_vjepa.scores.scorecard import ScoreCard, score_card
from oct_vjepa.trials.judging import Answer, Answers

Floats = NDArray[np.float64]
ALPHA = 0.1
"""Share of prediction sets that may miss the truth."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """Whose rows the answers are about.

    Attributes:
        target: the question.
        people: number of the participant of each row, from 0, in one numbering for all.
        eyes: number of the eye of each row; volumes of an eye are joined before eyes are.
        how: mean or max over the volumes of an eye and the eyes of a participant.
    """

    target: Target
    people: NDArray[np.int64]
    eyes: NDArray[np.int64]
    how: str = "mean"

    def join(self, scores: Floats, rows: NDArray[np.int64]) -> Units:
        """Volume to eye to participant; one row a participant and answer."""
        asked = self.target.take(rows)
        by_eye = aggregate_units(scores, asked, self.eyes[rows], how=self.how)
        owner = np.zeros(int(self.eyes.max()) + 1, np.int64)
        owner[self.eyes] = self.people
        eyes = replace(asked, values=by_eye.labels_N)
        return aggregate_units(by_eye.scores_NC, eyes, owner[by_eye.groups_N], how=self.how)


def temperature_of(answer: Answer, target: Target) -> float:
    """Temperature that the calibration rows ask for; 1 where scores are no probabilities."""
    if not target.is_counted:
        return 1.0
    return fit_temperature(answer.calibration, target.values[answer.calibration_rows])


def calibrate(answer: Answer, target: Target, scores: Floats) -> Floats:
    """Scores of the answer's model at its temperature."""
    if not target.is_counted:
        return scores
    return calibrated(target.kind, scores, temperature_of(answer, target))


def units_of(answers: Answers, panel: Panel, *, part: str = "test") -> list[list[Units]]:
    """Rows joined to participants, at the temperature of the answer: what scorecards take.

    Args:
        answers: of one candidate.
        panel: whose rows.
        part: test, validation or calibration; with _decided behind it, scores to choose by, as they
            are.
    """
    rows = f"{part.removesuffix('_decided')}_rows"
    return [
        [
            panel.join(
                getattr(one, part)
                if part.endswith("_decided")
                else calibrate(one, panel.target, getattr(one, part)),
                getattr(one, rows),
            )
            for one in rounds
        ]
        for rounds in answers
    ]


def card_of(
    answers: Answers,
    panel: Panel,
    *,
    seed: int,
    bootstrap: int,
    priors: Sequence[float] | None = None,
    turns: int = 1,
) -> ScoreCard:
    """Every metric of one candidate: of probabilities, and of choices where classes weigh alike.

    Args:
        answers: of the candidate.
        panel: whose rows.
        seed: of the bootstrap.
        bootstrap: number of samples.
        priors: as `score_card`.
        turns: as `score_card`.
    """
    target = panel.target
    settings: dict[str, Any] = {
        "seed": seed, "bootstrap": bootstrap, "priors": priors, "turns": turns,
    }  # fmt: skip

    def card(suffix: str) -> ScoreCard:
        return score_card(
            units_of(answers, panel, part=f"test{suffix}"),
            target.kind,
            target.names,
            validation=units_of(answers, panel, part=f"calibration{suffix}"),
            **settings,
        )

    likely = card("")
    if not target.is_counted:
        return likely
    decided = card("_decided")
    merged = {
        name: decided.metrics[name] if name in DECIDED else value
        for name, value in likely.metrics.items()
    }
    by_class = {
        one: {
            name: decided.by_class[one][name] if name in DECIDED else value
            for name, value in found.items()
        }
        for one, found in likely.by_class.items()
    }
    return replace(likely, metrics=merged, by_class=by_class, confusion=decided.confusion)


@dataclass(frozen=True, kw_only=True, slots=True)
class Promise:
    """What prediction sets, or ranges, promised and kept; means over seeds and rounds.

    Of several labels each has a set of its own, of two answers: it is there, or it is not. Their
    numbers are means over the labels.

    Attributes:
        promised: share that holds the truth.
        covered: share of test participants of whom it does.
        size: classes in a set, or the width of a range in the unit of the quantity.
        single: share of sets that name one class alone: cases that need not be deferred.
        empty: share of sets without a class.
        apart: the participants who set the thresholds had no part in choosing the model; otherwise
            the promise is too good.
        calibrated: participants who set a threshold, the fewest of all rounds.
        by_label: of several labels, the share of each that its sets held; NaN where nobody knows.
        luck: chance that a promise which is kept holds of so few, see `luck_of_coverage`; None of
            several seeds, rounds or labels, whose sets are not independent.
    """

    promised: float
    covered: float
    size: float
    apart: bool
    calibrated: int
    single: float | None = None
    empty: float | None = None
    by_label: dict[str, float] | None = None
    luck: float | None = None


def promise_of(answers: Answers, panel: Panel) -> Promise | None:
    """Split conformal prediction with thresholds of the calibration participants.

    Returns:
        None for times, which have no such promise here.
    """
    kind = panel.target.kind
    if kind == "survival":
        return None
    found, by_label = [], []
    tested, setting = (units_of(answers, panel, part=part) for part in ("test", "calibration"))
    for tests, calibrations in zip(tested, setting, strict=True):
        for test, calibration in zip(tests, calibrations, strict=True):
            if kind == "regression":
                width = fit_width(calibration.scores_NC[:, 0], calibration.labels_N, ALPHA)
                ranges = prediction_ranges(test.scores_NC[:, 0], width)
                found.append((measure_ranges(ranges, test.labels_N), 2 * width, np.nan, np.nan))
            elif kind == "multilabel":
                limits = fit_label_thresholds(calibration.scores_NC, calibration.labels_N, ALPHA)
                all_sets = label_sets(test.scores_NC, limits)
                each = measure_label_sets(all_sets, test.labels_N)
                known = [(one.covered, one.size, one.single, one.empty) for one in each if one]
                found.append(tuple(np.mean(known, axis=0)))
                by_label.append([np.nan if one is None else one.covered for one in each])
            else:
                threshold = fit_threshold(calibration.scores_NC, calibration.labels_N, ALPHA)
                sets = prediction_sets(test.scores_NC, threshold)
                kept = measure_sets(sets, test.labels_N)
                found.append((kept.covered, kept.size, kept.single, kept.empty))
    covered, size, single, empty = (float(one) for one in np.mean(found, axis=0))
    apart = not any(
        np.intersect1d(one.calibration_rows, one.validation_rows).size
        for rounds in answers
        for one in rounds
    )
    calibrated = min(_fewest(one.labels_N) for rounds in setting for one in rounds)
    told: dict[str, Any] = {"covered": covered, "size": size}
    if kind != "regression":
        told |= {"single": single, "empty": empty}
    if len(found) == 1 and not by_label:
        count = len(tested[0][0].labels_N)
        told["luck"] = luck_of_coverage(round(covered * count), count, calibrated, ALPHA)
    if by_label:
        means = known_mean(np.array(by_label), 0).tolist()
        told["by_label"] = dict(zip(panel.target.names, means, strict=True))
    return Promise(promised=1 - ALPHA, apart=apart, calibrated=calibrated, **told)


def _fewest(labels: NDArray[Any]) -> int:
    """Rows; of several labels those who know the one that the fewest know."""
    return len(labels) if labels.ndim == 1 else int((labels != UNKNOWN).sum(axis=0).min())


def values_by_person(values_N: NDArray[np.str_], people: NDArray[np.int64]) -> NDArray[np.str_]:
    """A column's value of each participant: that of all their rows, or "several"."""
    found = np.full(int(people.max()) + 1, "", dtype=f"<U{max(8, values_N.dtype.itemsize // 4)}")
    for person in range(len(found)):
        own = np.unique(values_N[people == person])
        found[person] = own[0] if len(own) == 1 else "several"
    return found


def groups_of(
    columns: Mapping[str, NDArray[np.str_]], people: NDArray[np.int64]
) -> dict[str, NDArray[np.str_]]:
    """The value of each participant, numbers cut, of the columns that tell participants apart."""
    found = {
        name: cut_numbers(values_by_person(values_N, people)) for name, values_N in columns.items()
    }
    return {name: values for name, values in found.items() if len(set(values.tolist()) - {""}) > 1}


def cut_numbers(values: NDArray[np.str_]) -> NDArray[np.str_]:
    """Numbers of more than eight different values as three ranges of about equal size.

    Cuts have three digits. Texts, and numbers of few values, stay as they are.
    """
    known = np.array([one for one in values if one not in ("", "several")])
    if len(np.unique(known)) <= 8:
        return values
    try:
        numbers = {one: float(one) for one in np.unique(known)}
    except ValueError:
        return values
    ordered = np.array([numbers[one] for one in known])
    exact = np.quantile(ordered, np.linspace(0, 1, 4)[1:-1])
    cuts = np.unique([float(f"{one:.3g}") for one in exact])
    between = [f"{low:g} to {high:g}" for low, high in pairwise(cuts)]
    names = [f"below {cuts[0]:g}", *between, f"{cuts[-1]:g} and more"]
    place = {one: int(np.searchsorted(cuts, number, "right")) for one, number in numbers.items()}
    return np.array([names[place[one]] if one in place else one for one in values])


def mean_temperature(answers: Answers, target: Target) -> float:
    """Mean temperature of the seeds and rounds."""
    return float(np.mean([temperature_of(one, target) for rounds in answers for one in rounds]))
