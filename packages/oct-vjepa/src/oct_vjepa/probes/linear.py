"""What frozen features know: a logistic regression on them, with honest intervals.

Features, labels and participants are arrays; whose features they are does not matter. Scikit-learn
fits the regression and is loaded on first use: install `oct-vjepa[probes]`.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from oct_vjepa.measures.units import (
    Interval,
    Scores,
    auroc,
    average_units,
    interval_of,
    resample_weights,
    score_units,
)

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # scikit-learn's C: large means little shrinkage
FOLDS = 5
BOOTSTRAP = 1000


@dataclass(kw_only=True, slots=True)
class ProbeResult(Scores):
    """How well a linear probe does on the test participants; intervals are 95 % bootstrap."""

    strength: float
    """The C that cross-validation on the training participants chose."""
    regression: Any = field(repr=False)
    """The fitted scikit-learn pipeline of StandardScaler and LogisticRegression, on class numbers;
    `LinearHead.from_regression` makes a module of it."""


def probe(
    features_train: NDArray[Any],
    y_train: NDArray[Any],
    features_test: NDArray[Any],
    y_test: NDArray[Any],
    *,
    groups_train: NDArray[Any] | None = None,
    groups_test: NDArray[Any] | None = None,
    seed: int,
    bootstrap: int = BOOTSTRAP,
) -> ProbeResult:
    """Fit on the training participants, score the test participants.

    Features are standardised; the strength of the regression is the one with the least log loss in
    cross-validation that keeps a participant in one fold. Test scores are averaged within each
    participant, and participants are resampled within their class.

    Args:
        features_train: (N, D).
        y_train: N labels, numbers or strings; two or more classes.
        features_test: (M, D).
        y_test: M labels; the same classes.
        groups_train: participant of each row; each row its own if left out.
        groups_test: likewise; none may be among the training rows.
        seed: of the folds and of the bootstrap.
        bootstrap: number of bootstrap samples.

    Raises:
        ValueError: classes differ or are too few, sizes differ, a participant is on both sides.
    """
    sides = prepare_sides(features_train, y_train, features_test, y_test, groups_train, groups_test)
    strength = _choose_strength(features_train, sides.y, sides.groups, seed)
    model = regression(strength).fit(features_train, sides.y)
    units = average_units(model.predict_proba(features_test), sides.y_test, sides.groups_test)
    scores = score_units(units, sides.classes, seed=seed, bootstrap=bootstrap)
    return ProbeResult(**scores, strength=strength, regression=model)


def probe_sides(
    features_ND: NDArray[Any],
    labels_N: NDArray[Any],
    participants_N: NDArray[Any],
    fit: NDArray[np.bool_],
    test: NDArray[np.bool_],
    *,
    seed: int,
    bootstrap: int = BOOTSTRAP,
) -> ProbeResult:
    """As `probe`, where both sides are rows of the same arrays: those true in `fit`, in `test`."""
    return probe(
        features_ND[fit],
        labels_N[fit],
        features_ND[test],
        labels_N[test],
        groups_train=participants_N[fit],
        groups_test=participants_N[test],
        seed=seed,
        bootstrap=bootstrap,
    )


def paired_difference(
    one: Scores, other: Scores, *, seed: int, bootstrap: int = BOOTSTRAP
) -> Interval:
    """AUROC of `one` minus that of `other`, both read on the same resampled participants.

    The two may come from probes of any kind.

    Raises:
        ValueError: the two probes were not tested on the same participants and labels.
    """
    return mean_difference([one], [other], seed=seed, bootstrap=bootstrap)


def mean_difference(
    ones: Sequence[Scores], others: Sequence[Scores], *, seed: int, bootstrap: int = BOOTSTRAP
) -> Interval:
    """Mean AUROC of `ones` minus that of `others`, all read on the same resampled participants.

    For several seeds of one method against several of another. The interval is that of the test
    participants; how much seeds differ stands in the values of each.

    Raises:
        ValueError: there are none, or they were not tested on the same participants and labels.
    """
    if not ones or not others:
        raise ValueError("a difference of probes needs at least one on either side")
    first = ones[0]
    for other in (*ones[1:], *others):
        same = np.array_equal(first.units.labels_N, other.units.labels_N) and np.array_equal(
            first.units.groups_N, other.units.groups_N
        )
        if not same or first.classes != other.classes:
            raise ValueError("paired_difference needs probes of the same test participants")
    weights = resample_weights(first.units, bootstrap=bootstrap, seed=seed)
    values = [float(np.mean([one.auroc for one in side])) for side in (ones, others)]
    samples = [
        np.mean([auroc(one.units, weights) for one in side], axis=0) for side in (ones, others)
    ]
    return interval_of(values[0] - values[1], samples[0] - samples[1])


class Sides(NamedTuple):
    """Labels and participants of the training and the test rows, as every probe takes them."""

    classes: list[str]  # names, in the order of the numbers
    y: NDArray[np.int64]  # classes of the training rows, from 0
    groups: NDArray[Any]  # their participants
    y_test: NDArray[np.int64]
    groups_test: NDArray[Any]


def prepare_sides(
    features_train: NDArray[Any],
    y_train: NDArray[Any],
    features_test: NDArray[Any],
    y_test: NDArray[Any],
    groups_train: NDArray[Any] | None,
    groups_test: NDArray[Any] | None,
) -> Sides:
    """Labels as numbers of their classes, and participants, numbered by row if there are none.

    Raises:
        ValueError: classes differ or are too few, a participant is on both sides, or features,
            labels and groups of a side differ in number.
    """
    classes, held = np.unique(y_train), np.unique(y_test)
    if len(classes) < 2 or not np.array_equal(classes, held):
        raise ValueError(
            f"training has the classes {classes.tolist()} and testing {held.tolist()}: "
            "both must have the same two or more"
        )
    known = [set(groups) for groups in (groups_train, groups_test) if groups is not None]
    if len(known) == 2 and (both := set.intersection(*known)):
        raise ValueError(f"{len(both)} participants are in both the training and the test rows")
    sides = Sides(
        classes=[str(one) for one in classes.tolist()],
        y=np.searchsorted(classes, y_train),
        groups=np.arange(len(y_train)) if groups_train is None else np.asarray(groups_train),
        y_test=np.searchsorted(classes, y_test),
        groups_test=np.arange(len(y_test)) if groups_test is None else np.asarray(groups_test),
    )
    for side, parts in (
        ("train", (features_train, sides.y, sides.groups)),
        ("test", (features_test, sides.y_test, sides.groups_test)),
    ):
        sizes = [len(part) for part in parts]
        if len(set(sizes)) > 1:
            raise ValueError(f"{side}: rows, labels and groups differ in number: {sizes}")
    return sides


def _sklearn(module: str) -> Any:
    try:
        return importlib.import_module(f"sklearn.{module}")
    except ImportError as error:
        raise RuntimeError("probes need scikit-learn: install oct-vjepa[probes]") from error


def regression(strength: float) -> Any:
    """A scikit-learn pipeline that standardises and fits a logistic regression of this C."""
    return _sklearn("pipeline").make_pipeline(
        _sklearn("preprocessing").StandardScaler(),
        _sklearn("linear_model").LogisticRegression(C=strength, max_iter=5000),
    )


def _choose_strength(
    features: NDArray[Any], y: NDArray[np.int64], groups: NDArray[Any], seed: int
) -> float:
    """The C with the least log loss on held-out folds of training participants."""
    folds = participant_folds(features, y, groups, seed)
    losses = []
    for strength in STRENGTHS:
        total = 0.0
        for fit, rest in folds:
            chances = regression(strength).fit(features[fit], y[fit]).predict_proba(features[rest])
            total -= np.log(chances[np.arange(len(rest)), y[rest]].clip(1e-15)).sum()
        losses.append(total)
    return STRENGTHS[int(np.argmin(losses))]


def participant_folds(
    features: NDArray[Any], y: NDArray[np.int64], groups: NDArray[Any], seed: int
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Folds whose training part holds every class; a participant is in one fold only.

    Raises:
        RuntimeError: scikit-learn is not installed.
        ValueError: too few participants.
    """
    model_selection = _sklearn("model_selection")
    fewest = min(len(np.unique(groups[y == one])) for one in np.unique(y))
    if fewest < 2:
        raise ValueError("every class needs at least two training participants")
    splitter = model_selection.StratifiedGroupKFold(
        min(FOLDS, fewest), shuffle=True, random_state=seed
    )
    folds = [
        (fit, rest)
        for fit, rest in splitter.split(features, y, groups)
        if len(np.unique(y[fit])) == len(np.unique(y))
    ]
    if not folds:
        raise ValueError("too few training participants to keep every class in every fold")
    return folds


def draw_participants(
    y_N: NDArray[Any],
    groups_N: NDArray[Any],
    size: int,
    *,
    seed: tuple[int, ...],
    at_least: bool = False,
) -> NDArray[np.bool_]:
    """Rows of `size` participants drawn without replacement, true where drawn, (N,).

    Drawn within those who have the same label or labels, in proportion, at least two each or all of
    them if they are fewer; with `at_least` a size below what that needs is raised to it.

    Raises:
        ValueError: the size is below what that needs, or above the number of participants.
    """
    labels = np.unique(y_N, return_inverse=True)[1].reshape(-1)
    people, member = np.unique(groups_N, return_inverse=True)
    member = member.reshape(-1)
    has = np.zeros((len(people), int(labels.max()) + 1), dtype=bool)
    has[member, labels] = True
    stratum = np.unique(has, axis=0, return_inverse=True)[1].reshape(-1)
    counts = np.bincount(stratum)
    least = np.minimum(counts, 2)
    size = max(size, int(least.sum())) if at_least else size
    if not least.sum() <= size <= len(people):
        raise ValueError(
            f"sizes ({size}) must be from {least.sum()}, two participants for each class, to "
            f"{len(people)}, all that have a label"
        )
    wanted = counts / counts.sum() * size
    take = np.maximum(np.floor(wanted).astype(np.int64), least)
    while take.sum() != size:  # rounding: give to, or take from, whoever is furthest from the share
        gap = wanted - take
        if take.sum() < size:
            take[np.argmax(np.where(take < counts, gap, -np.inf))] += 1
        else:
            take[np.argmin(np.where(take > least, gap, np.inf))] -= 1
    generator = np.random.default_rng(seed)
    drawn = [
        generator.choice(np.flatnonzero(stratum == one), count, replace=False)
        for one, count in enumerate(take)
    ]
    return np.isin(member, np.concatenate(drawn))
