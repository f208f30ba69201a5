"""Who answers a question how well: every candidate, in every round of a protocol, with every seed.

A candidate is whoever has features of the rows: an encoder, a baseline, both side by side. What it
answers is kept whole; scores, calibration, thresholds and tables are made of it later (`verdict`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from oct_vjepa.measures.target import Target
from oct_vjepa.probes.answers import constant_of, shift_priors
from oct_vjepa.probes.configuration import GridConfig
from oct_vjepa.probes.fitted import FittedProbe
from oct_vjepa.probes.grid import fit_grid
from oct_vjepa.probes.protocol import Round
from oct_vjepa.scores.novelty import find_threshold, fit_novelty

Floats = NDArray[np.float64]
Readouts = Mapping[str, NDArray[np.floating[Any]]]
"""Ways to read features out, such as `last/mean`, to (N, D): all rows of the question."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """Whoever has features.

    Attributes:
        name: what tables call it.
        readouts: features of all rows for a round and a seed. What has to be fitted, such as a PCA,
            may look at the rows of the round's fit part alone.
    """

    name: str
    readouts: Callable[[Round, int], Readouts]


class Kept(Protocol):
    """A fitted model that is kept in a folder."""

    def save(self, folder: Path, /) -> None:
        """Write it there."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What one candidate says in one round with one seed.

    Attributes:
        round: name of the round.
        seed: of the fit.
        validation_rows: numbers of the validation rows, which chose the model.
        calibration_rows: numbers of the rows that set its temperature and thresholds; where nobody
            was set apart for it, those of validation.
        test_rows: numbers of the test rows.
        validation: scores of the validation rows, as `Target.kind` says; probabilities for classes
            as frequent as in the fit.
        calibration: those of the calibration rows.
        test: those of the test rows.
        validation_decided: scores of the validation rows in which all classes weigh alike, so that
            the greatest is the choice of the best balanced accuracy.
        calibration_decided: those of the calibration rows.
        test_decided: those of the test rows.
        chosen: what validation chose, with its value there.
        candidates: what it was chosen from, each with its value on validation.
        novelty: how far each test row lies from the rows of the fit; above 1 lies one of 20
            validation rows. None where nobody looked.
        probe: the fitted model; None for what was trained elsewhere.
        pool: what was fitted to read all volumes of a participant at once; None for others.
    """

    round: str
    seed: int
    validation_rows: NDArray[np.int64]
    calibration_rows: NDArray[np.int64]
    test_rows: NDArray[np.int64]
    validation: Floats
    calibration: Floats
    test: Floats
    validation_decided: Floats
    calibration_decided: Floats
    test_decided: Floats
    chosen: Mapping[str, object] = field(default_factory=dict)
    candidates: Sequence[Mapping[str, object]] = ()
    novelty: Floats | None = None
    probe: FittedProbe | None = field(default=None, repr=False)
    pool: Kept | None = field(default=None, repr=False)


Answers = list[list[Answer]]
"""Of one candidate: a list over seeds of lists over rounds."""


def answer_of_scores(
    scores_NK: Floats,
    target: Target,
    one: Round,
    seed: int,
    *,
    priors: Floats | None = None,
    **told: Any,
) -> Answer:
    """What a model that was trained elsewhere says in a round.

    Args:
        scores_NK: of all rows; those that were only fitted on are not read.
        target: the question.
        one: the round.
        seed: of the training.
        priors: shares of the classes to which probabilities are brought, if they had other weights
            in it; decisions are taken before. See `shift_priors`.
        told: further fields of the answer.
    """
    parts = parts_of(one)
    sides = {name: scores_NK[rows] for name, rows in parts.items()}
    likely = sides
    if priors is not None:
        likely = {name: shift_priors(target.kind, side, priors) for name, side in sides.items()}
    return Answer(round=one.name, seed=seed, **_fields(parts, likely, sides), **told)


def answer_unseen(target: Target, one: Round, seed: int) -> Answer:
    """What is said without a look at anybody: of all the same, what the fit rows have most.

    Args:
        target: the question.
        one: the round.
        seed: of the repeat; nothing is drawn.
    """
    constant = constant_of(target.take(np.flatnonzero(one.fit)))
    scores = np.tile(constant, (len(target), 1))
    return answer_of_scores(scores, target, one, seed)


def parts_of(one: Round) -> dict[str, NDArray[np.int64]]:
    """Numbers of the rows of a round that are asked, not fitted on, by what they are for."""
    return {
        "validation": np.flatnonzero(one.validation),
        "calibration": np.flatnonzero(one.calibrating),
        "test": np.flatnonzero(one.test),
    }


def _fields(
    parts: Mapping[str, NDArray[np.int64]],
    likely: Mapping[str, Floats],
    decided: Mapping[str, Floats],
) -> dict[str, Any]:
    """Rows and scores of each part, as `Answer` calls them."""
    return (
        {f"{name}_rows": rows for name, rows in parts.items()}
        | dict(likely)
        | {f"{name}_decided": scores for name, scores in decided.items()}
    )


def answer_frozen(
    candidate: Candidate,
    kind: str,
    target: Target,
    groups: NDArray[Any],
    rounds: Sequence[Round],
    grid: GridConfig,
    *,
    seed: int,
    balanced: bool = True,
) -> Iterator[Answer]:
    """Fit `kind` to a candidate's features in each round.

    Args:
        candidate: whose features.
        kind: linear, knn or mlp.
        target: the question.
        groups: participant of each row.
        rounds: who is fitted on, who chooses, who is tested.
        grid: what is tried.
        seed: of the fit, and of what the candidate draws.
        balanced: classes weigh alike in the fit.

    Raises:
        ValueError: as `fit_grid`.
    """
    for one in rounds:
        readouts = candidate.readouts(one, seed)
        probe = fit_grid(kind, readouts, target, groups, one, grid, balanced=balanced, seed=seed)
        features = readouts[probe.readout]
        parts = parts_of(one)
        sides = {name: {probe.readout: features[rows]} for name, rows in parts.items()}
        likely = {name: probe.predict(own, at_fit_priors=True) for name, own in sides.items()}
        decided = {name: probe.predict(own) for name, own in sides.items()}
        yield Answer(
            round=one.name,
            seed=seed,
            **_fields(parts, likely, decided),
            chosen=probe.chosen,
            candidates=probe.candidates,
            novelty=strangeness(features, one),
            probe=probe,
        )


def strangeness(features: NDArray[np.floating[Any]], one: Round) -> Floats | None:
    """How far each test row lies from the fit rows, (T,); None for features that do not vary."""
    try:
        measure = fit_novelty(features[one.fit])
    except ValueError:
        return None
    usual = find_threshold(measure.score(features[one.validation]))
    return measure.score(features[one.test]) / max(usual, np.finfo(np.float64).tiny)
