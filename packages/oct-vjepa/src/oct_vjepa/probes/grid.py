"""A grid of probes on several readouts, fitted together and chosen on held-out participants.

Linear models are exact and equal scikit-learn's (tests/probes/test_grid.py); benchmarks/
probe_grid.py measures what fitting them together saves. Nothing here needs scikit-learn.
"""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from oct_vjepa.measures.target import Target
from oct_vjepa.probes.answers import Floats, answers_of, priors_of, shift_priors, weights_of
from oct_vjepa.probes.candidates import Question, fit_hidden, fit_linear, fit_neighbours
from oct_vjepa.probes.choice import best_of, validate_all
from oct_vjepa.probes.configuration import GridConfig
from oct_vjepa.probes.fitted import FittedProbe
from oct_vjepa.probes.hidden import Training
from oct_vjepa.probes.protocol import Round, check_part, fold_participants, marks_of

KINDS = ("linear", "knn", "mlp")


def fit_grid(
    kind: str,
    readouts: Mapping[str, NDArray[Any]],
    target: Target,
    groups: NDArray[Any],
    round: Round,
    grid: GridConfig | None = None,
    *,
    balanced: bool,
    seed: int,
) -> FittedProbe:
    """Fit every candidate on the fit rows, choose on held-out rows, never look at the test.

    Those who choose are the validation participants and, in `grid.folds`, the fit participants,
    each by a model that has not seen them.
    The best has the greatest headline on them (AUROC; R2 of a quantity;
    concordance of a time), then the least log loss; of equal ones the most shrunk, in the order of
    the readouts. It is not fitted again on fit and validation rows together.

    Args:
        kind: linear: logistic regression, ridge or Cox regression, by the kind of the target. knn:
            weighted neighbours. mlp: one hidden layer.
        readouts: name to features of all rows, (N, D) each; they may differ in D.
        target: the question.
        groups: (N,) participants; validation scores are averaged within each.
        round: which rows fit and which choose.
        grid: what is tried.
        balanced: weigh all classes alike; see `FittedProbe.predict`.
        seed: of the first weights and the order of rows; mlp only.

    Raises:
        ValueError: no such kind, rows that differ in number, features that are not finite, or a
            class without a row to fit.
    """
    grid = GridConfig() if grid is None else grid
    _check(kind, readouts, target, groups, round)
    whole = _fit_all(kind, readouts, target, round, grid, balanced, seed)
    turns = [(round, whole)]
    for inner in inner_rounds(kind, target, groups, round, grid.folds, seed):
        turns.append((inner, _fit_all(kind, readouts, target, inner, grid, balanced, seed)))
    held = np.concatenate([np.flatnonzero(one.validation) for one, _ in turns])
    found_all = validate_all(
        target.take(held),
        [np.concatenate(parts) for parts in zip(*(one.scores for _, one in turns), strict=True)],
        groups[held],
        calibrated=[
            np.concatenate(parts) for parts in zip(*(one.fair for _, one in turns), strict=True)
        ],
    )
    best = best_of(found_all)
    candidates = [
        one | {"validation": found.headline, "loss": found.loss}
        for one, found in zip(whole.settings, found_all, strict=True)
    ]
    return FittedProbe(
        kind=kind,
        target_kind=target.kind,
        names=target.names,
        unit=target.unit,
        chosen=candidates[best],
        candidates=candidates,
        balanced=balanced and target.is_counted,
        arrays=whole.arrays[best] | {"priors": whole.priors},
    )


class _Fitted(NamedTuple):
    """Every candidate, fitted on the fit rows of a round; scores are of its validation rows."""

    settings: list[dict[str, Any]]
    scores: list[Floats]
    fair: list[Floats]  # at the shares of the classes among the fit rows
    arrays: list[dict[str, NDArray[Any]]]
    priors: NDArray[np.float64]


def _fit_all(
    kind: str,
    readouts: Mapping[str, NDArray[Any]],
    target: Target,
    round: Round,
    grid: GridConfig,
    balanced: bool,
    seed: int,
) -> _Fitted:
    fit = target.take(round.fit)
    question = Question(
        fit,
        target.take(round.validation),
        answers_of(fit),
        weights_of(fit, balanced=balanced),
        balanced and target.is_counted,
        seed,
    )
    settings, scores, arrays = [], [], []
    for name, features in readouts.items():
        x, held = (
            np.asarray(features[on], dtype=np.float64) for on in (round.fit, round.validation)
        )
        if kind == "linear":
            found = fit_linear(x, held, question, grid.strengths)
        elif kind == "knn":
            found = fit_neighbours(x, held, question, grid.neighbours, grid.temperatures)
        else:
            found = fit_hidden(x, held, question, _training(grid))
        settings += [{"readout": name} | one for one in found.settings]
        scores += found.scores
        arrays += found.arrays
    priors = priors_of(fit)
    fair = [shift_priors(target.kind, one, priors) if question.balanced else one for one in scores]
    return _Fitted(settings, scores, fair, arrays, priors)


def inner_rounds(
    kind: str, target: Target, groups: NDArray[Any], round: Round, folds: int, seed: int
) -> Iterator[Round]:
    """The fit rows again, in folds by participant: each is held by a model of the others.

    None for what stops by its validation rows, and where a fold would lack a class to fit.
    """
    if folds < 2 or kind == "mlp":
        return
    rows = np.flatnonzero(round.fit)
    marks, members = marks_of(target.take(rows), np.unique(groups[rows], return_inverse=True)[1])
    if marks.sum(axis=0).min() < folds:
        return
    fold = fold_participants(marks, folds, seed=(seed, 3))
    of_row = fold[np.searchsorted(members, np.unique(groups[rows], return_inverse=True)[1])]
    for one in range(folds):
        fit, held = np.zeros_like(round.fit), np.zeros_like(round.fit)
        fit[rows[of_row != one]], held[rows[of_row == one]] = True, True
        yield round._replace(fit=fit, validation=held)


def _training(grid: GridConfig) -> Training:
    """Every width, decay and learning rate with every other, the smallest, most decayed first."""
    tried = product(
        sorted(grid.widths), sorted(grid.decays, reverse=True), sorted(grid.learning_rates)
    )
    widths, decays, rates = (tuple(one) for one in zip(*tried, strict=True))
    return Training(
        widths=widths,
        decays=decays,
        rates=rates,
        epochs=grid.epochs,
        patience=grid.patience,
        batch_size=grid.batch_size,
    )


def _check(
    kind: str, readouts: Mapping[str, NDArray[Any]], target: Target, groups: NDArray[Any], on: Round
) -> None:
    if kind not in KINDS:
        raise ValueError(f"probe ({kind!r}) must be one of {', '.join(KINDS)}")
    if not readouts:
        raise ValueError("probe: there is no readout")
    sizes = {name: len(one) for name, one in readouts.items()}
    sizes |= {"target": len(target), "groups": len(groups), "round": len(on.fit)}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"probe: rows differ in number: {sizes}")
    for name, one in readouts.items():
        if not np.isfinite(one[on.fit | on.validation]).all():
            raise ValueError(f"probe: features of {name!r} are not all finite")
    check_part(target.take(on.fit), groups[on.fit], "probe: fit")
    rows = on.validation
    check_part(target.take(rows), groups[rows], "probe: validation", all_of=False)
