"""All that can be said of one candidate's predictions, each number with its interval.

A metric is the mean over seeds and rounds of what it is in each round. Its interval is that of
`resampling`: participants and seeds are both drawn anew, so that luck with seeds is inside.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from oct_vjepa.measures import decisions
from oct_vjepa.measures.measure import (
    BY_CLASS,
    HEADLINE,
    SPECIFICITY,
    Measured,
    find_thresholds,
    headline,
    measure,
)
from oct_vjepa.measures.shares import Floats, share
from oct_vjepa.measures.units import Interval, Units
from oct_vjepa.scores.cards import Difference, ScoreCard
from oct_vjepa.scores.paired import Pair, delong_p_of, holm, sign_p
from oct_vjepa.scores.resampling import (
    Part,
    Replicated,
    Runs,
    check_runs,
    draw_samples,
    draws_of,
    replicate,
)

__all__ = [
    "Difference",
    "ScoreCard",
    "compare",
    "headline_interval",
    "replicate_headlines",
    "score_card",
]

BOOTSTRAP = 1000
CLASSES = ("nominal", "ordinal")
SUM_TOLERANCE = 1e-6
COUNTED = (*CLASSES, "multilabel")


def score_card(
    runs: Runs,
    target_kind: str,
    names: Sequence[str],
    *,
    seed: int,
    bootstrap: int = BOOTSTRAP,
    priors: Sequence[float] | None = None,
    validation: Runs | None = None,
    specificity: float = SPECIFICITY,
    turns: int = 1,
) -> ScoreCard:
    """Every metric of the kind, with intervals.

    Args:
        runs: list over seeds of a list over rounds of `Units`; participants numbered alike in all.
        target_kind: see `target.Target`.
        names: of the classes or labels, or of the quantity alone.
        seed: of the bootstrap.
        bootstrap: number of samples.
        priors: share of each class where the answers will be used; rows are weighed so that each
            round has these. Scores stay as they are: `calibration.adjust_priors` moves those.
        validation: units of the validation rows of each seed and round; they choose the threshold
            at which `specificity` is expected. Left out, the test rows' own ROC curve does.
        specificity: at which sensitivity is read.
        turns: in which each seed was asked, see `resampling`.

    Raises:
        ValueError: no rounds, names that do not fit the scores, priors of what has no classes or
            that are no shares, validation of other rounds than `runs`.
    """
    _check(runs, target_kind, names, priors)
    thresholds = _thresholds(runs, target_kind, validation, specificity)
    parts = [
        [
            Part(one.groups_N, _measure_of(target_kind, one, own, priors, specificity))
            for one, own in zip(rounds, chosen, strict=True)
        ]
        for rounds, chosen in zip(runs, thresholds, strict=True)
    ]
    draws = draw_samples(runs, target_kind, bootstrap=bootstrap, seed=seed, turns=turns)
    return _card(
        runs,
        target_kind,
        tuple(names),
        replicate(parts, draws),
        specificity=specificity,
        threshold_from=_threshold_from(target_kind, validation),
        priors=None if priors is None else [float(one) for one in priors],
    )


def headline_interval(
    runs: Runs, target_kind: str, *, seed: int, bootstrap: int = BOOTSTRAP
) -> Interval:
    """The headline of `score_card` alone, for who needs it many times.

    Raises:
        ValueError: no rounds, or rounds without rows.
    """
    check_runs(runs, target_kind)
    parts = [[_headline_part(target_kind, one) for one in rounds] for rounds in runs]
    draws = draw_samples(runs, target_kind, bootstrap=bootstrap, seed=seed)
    return replicate(parts, draws)["headline"].interval(HEADLINE[target_kind])


def compare(
    candidates: Mapping[str, Runs],
    target_kind: str,
    *,
    reference: str,
    seed: int,
    bootstrap: int = BOOTSTRAP,
    turns: int = 1,
) -> list[Difference]:
    """Each candidate against the reference, in the order given; `turns` as `score_card`.

    Raises:
        ValueError: as `replicate_headlines`.
    """
    settings: dict[str, Any] = {"seed": seed, "bootstrap": bootstrap, "turns": turns}
    found = replicate_headlines(candidates, target_kind, reference=reference, **settings)
    base = candidates[reference]
    others = [name for name in candidates if name != reference]
    differences = [_difference(found[name], found[reference]) for name in others]
    values = [sign_p(one.samples) for one in differences]
    delongs = [_delong(target_kind, candidates[name], base) for name in others]
    tested_p = [float("nan") if one.p is None else one.p for one in delongs]
    return [
        Difference(
            candidate=name,
            reference=reference,
            metric=HEADLINE[target_kind],
            difference=one.interval(HEADLINE[target_kind]),
            p=p,
            p_holm=corrected,
            p_delong=tested.p,
            no_delong=tested.lacks,
            delong_seeds=tested.seeds,
            p_delong_holm=None if tested.p is None else likely,
        )
        for name, one, p, corrected, tested, likely in zip(
            others, differences, values, holm(values), delongs, holm(tested_p), strict=True
        )
    ]


def replicate_headlines(
    candidates: Mapping[str, Runs],
    target_kind: str,
    *,
    reference: str,
    seed: int,
    bootstrap: int = BOOTSTRAP,
    turns: int = 1,
) -> dict[str, Replicated]:
    """The headline of each candidate, of the data and of samples that all of them share.

    Participants are drawn alike for all, seeds as `draws_of` says. Of each seed there are `turns`
    runs.

    Raises:
        ValueError: `reference` is no candidate, or a candidate has other participants or answers.
    """
    if reference not in candidates:
        raise ValueError(f"reference ({reference}) must be one of {', '.join(candidates)}")
    base = candidates[reference]
    draws = draw_samples(base, target_kind, bootstrap=bootstrap, seed=seed, turns=turns)
    found = {}
    for name, runs in candidates.items():
        check_runs(runs, target_kind)
        if not np.array_equal(_answers(runs), _answers(base)):
            raise ValueError(f"{name} and {reference} have different participants or answers")
        own = draws_of(draws, len(runs), seed=seed, turns=turns)
        parts = [[_headline_part(target_kind, one) for one in rounds] for rounds in runs]
        found[name] = replicate(parts, own)["headline"]
    return found


def _card(
    runs: Runs, kind: str, names: tuple[str, ...], found: Mapping[str, Replicated], **told: Any
) -> ScoreCard:
    first = HEADLINE[kind]
    order = [first, *(one for one in found if one != first and not one.endswith(BY_CLASS))]
    return ScoreCard(
        kind=kind,
        names=names,
        metrics={one: found[one].interval(one) for one in order},
        by_class=_by_class(found, names) if kind in COUNTED else {},
        by_seed=found[first].by_seed.tolist(),
        confusion=_confusion(runs, len(names)) if kind in CLASSES else [],
        participants=len(np.unique(np.concatenate([one.groups_N for one in runs[0]]))),
        support=_support(kind, runs, names) if kind in COUNTED else {},
        seeds=len(runs),
        rounds=len(runs[0]),
        **told,
    )


def _measure_of(
    kind: str,
    units: Units,
    thresholds: Floats | None,
    priors: Sequence[float] | None,
    specificity: float,
) -> Callable[[Floats | None], Measured]:
    rows = np.ones((1, len(units.labels_N)))
    if priors is not None:
        shares = np.bincount(units.labels_N, minlength=len(priors)) / len(units.labels_N)
        rows = share(np.asarray(priors, dtype=np.float64), shares)[units.labels_N][None]

    def measured(weights_RN: Floats | None) -> Measured:
        weights = rows if weights_RN is None else weights_RN * rows
        return measure(kind, units, weights, thresholds_C=thresholds, specificity=specificity)

    return measured


def _headline_part(kind: str, units: Units) -> Part:
    return Part(units.groups_N, lambda weights: {"headline": headline(kind, units, weights)})


def _thresholds(
    runs: Runs, kind: str, validation: Runs | None, specificity: float
) -> list[list[Floats | None]]:
    if validation is None or kind not in COUNTED:
        return [[None] * len(rounds) for rounds in runs]
    if [len(rounds) for rounds in runs] != [len(rounds) for rounds in validation]:
        raise ValueError("validation must have the seeds and rounds of the runs")
    return [
        [find_thresholds(kind, one, specificity=specificity) for one in rounds]
        for rounds in validation
    ]


def _threshold_from(kind: str, validation: Runs | None) -> str:
    if kind not in COUNTED:
        return ""
    return "roc" if validation is None else "validation"


def _check(runs: Runs, kind: str, names: Sequence[str], priors: Sequence[float] | None) -> None:
    check_runs(runs, kind)
    for units in (one for rounds in runs for one in rounds):
        if units.scores_NC.shape[1] != len(names):
            raise ValueError(f"scores have {units.scores_NC.shape[1]} columns for {list(names)}")
    if priors is None:
        return
    if kind not in CLASSES:
        raise ValueError(f"priors are of classes, not of a {kind} question")
    if len(priors) != len(names) or min(priors) < 0 or abs(sum(priors) - 1) > SUM_TOLERANCE:
        raise ValueError(f"priors ({list(priors)}) must be a share for each of {list(names)}")


def _by_class(
    found: Mapping[str, Replicated], names: Sequence[str]
) -> dict[str, dict[str, Interval]]:
    columns = [one for one in found if one.endswith(BY_CLASS)]
    return {
        name: {
            (short := one.removesuffix(BY_CLASS)): found[one].take(number).interval(short)
            for one in columns
        }
        for number, name in enumerate(names)
    }


def _confusion(runs: Runs, classes: int) -> list[list[float]]:
    total = np.zeros((classes, classes))
    for units in (one for rounds in runs for one in rounds):
        called = units.scores_NC.argmax(axis=1)
        weights = np.ones((1, len(called)))
        total += decisions.confusion(units.labels_N, called, classes, weights)[0]
    return (total / len(runs)).tolist()


def _support(kind: str, runs: Runs, names: Sequence[str]) -> dict[str, int]:
    """Participants of the first seed with each class or label."""
    labels = np.concatenate([one.labels_N for one in runs[0]])
    groups = np.concatenate([one.groups_N for one in runs[0]])
    has = labels == 1 if kind == "multilabel" else labels[:, None] == np.arange(len(names))
    return {name: len(np.unique(groups[has[:, one]])) for one, name in enumerate(names)}


def _answers(runs: Runs) -> Floats:
    """(N, 1 + L): the participants and answers of all rounds, each once."""
    rows = [np.column_stack([one.groups_N, one.labels_N]) for rounds in runs for one in rounds]
    return np.unique(np.concatenate(rows), axis=0)


def _difference(one: Replicated, other: Replicated) -> Replicated:
    return Replicated(one.value - other.value, one.samples - other.samples, one.by_seed)


class _Delong(NamedTuple):
    """DeLong's p, or what it lacks, and of how many seeds together."""

    p: float | None
    lacks: str = ""
    seeds: int = 1


def _delong(kind: str, runs: Runs, base: Runs) -> _Delong:
    classes = runs[0][0].scores_NC.shape[1]
    if kind not in CLASSES or classes != 2:
        return _Delong(None, "it compares the AUROCs of two classes")
    people = np.concatenate([one.groups_N for one in runs[0]])
    if len(np.unique(people)) < len(people):
        return _Delong(None, "it counts rows, and participants are tested in several")
    folds = [[np.sort(one.groups_N) for one in rounds] for rounds in (*runs, *base)]
    if not all(_equal(one, folds[0]) for one in folds):
        return _Delong(None, "it pairs people, and seeds or candidates have folds of their own")
    strata = []
    for number, one in enumerate(runs[0]):
        positive_N = one.labels_N[np.argsort(one.groups_N)] == 1
        strata.append(Pair(_ensemble(runs, number), _ensemble(base, number), positive_N))
    p, seeds = delong_p_of(strata), max(len(runs), len(base))
    lacks = "it needs two of either class"
    return _Delong(p, f"{lacks} in each round" if p is None else "", seeds)


def _equal(ones: Sequence[NDArray[np.int64]], others: Sequence[NDArray[np.int64]]) -> bool:
    return len(ones) == len(others) and all(map(np.array_equal, ones, others))


def _ensemble(runs: Runs, number: int) -> Floats:
    """Score of the second class of each participant in a round, (N,), the mean of seeds.

    Ordered by participant. Whatever the seeds are, it is one score of each, so that DeLong's test
    holds as it does for a single model: participants differ by chance, the models do not.
    """
    tested = [rounds[number] for rounds in runs]
    scores = [one.scores_NC[np.argsort(one.groups_N), 1] for one in tested]
    return np.mean(scores, axis=0)
