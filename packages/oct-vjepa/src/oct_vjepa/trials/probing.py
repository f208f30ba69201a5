"""What frozen features know, in one call: the linear evaluation on two sides of rows.

Features, labels and participants are arrays; whose features they are does not matter.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oct_vjepa.measures.target import Target
from oct_vjepa.measures.units import Interval, Units
from oct_vjepa.probes.configuration import GridConfig
from oct_vjepa.probes.fitted import FittedProbe
from oct_vjepa.probes.protocol import make_rounds
from oct_vjepa.scores.cards import ScoreCard
from oct_vjepa.scores.scorecard import BOOTSTRAP, compare
from oct_vjepa.trials.judging import Candidate, answer_frozen
from oct_vjepa.trials.verdict import Panel, card_of, units_of

READOUT = "features"


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeResult:
    """How well a linear probe does on the test participants; intervals are 95 % bootstrap."""

    card: ScoreCard
    """Every metric of classes."""
    fitted: FittedProbe
    """The regression that validation chose; it reads {"features": (N, D)}."""
    units: Units = field(repr=False)
    """A row a test participant and label, behind the numbers; `paired_difference` takes them up."""

    @property
    def auroc(self) -> Interval:
        """One class against the rest, mean over the classes; of two classes the second."""
        return self.card.headline

    @property
    def balanced_accuracy(self) -> Interval:
        """Mean over the classes of the share that is recognised."""
        return self.card.metrics["balanced_accuracy"]


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

    It is what an evaluation with `mode=linear` does: `fit_grid` on standardised features, all
    classes weighing alike; a fifth of the training participants, and folds of the others, choose
    the strength. Test scores are averaged within each participant.

    Args:
        features_train: (N, D).
        y_train: N labels, numbers or strings; two or more classes.
        features_test: (M, D).
        y_test: M labels; two or more of these classes.
        groups_train: participant of each row; each row its own if left out.
        groups_test: likewise; none may be among the training rows.
        seed: of who chooses, and of the bootstrap.
        bootstrap: number of bootstrap samples.

    Raises:
        ValueError: classes differ or are too few, sizes differ, a participant is on both sides.
    """
    for side, *parts in (
        ("train", features_train, y_train, groups_train),
        ("test", features_test, y_test, groups_test),
    ):
        sizes = [len(part) for part in parts if part is not None]
        if len(set(sizes)) > 1:
            raise ValueError(f"{side}: rows, labels and groups differ in number: {sizes}")
    classes, values = np.unique(np.concatenate([y_train, y_test]), return_inverse=True)
    names = tuple(str(one) for one in classes.tolist())
    target = Target(kind="nominal", values=values.reshape(-1), names=names)
    people = _number(
        _people(groups_train, "train", len(y_train)), _people(groups_test, "test", len(y_test))
    )
    sides = np.repeat(["train", "test"], [len(y_train), len(y_test)])
    rounds = make_rounds("given", target, people, parts=sides, seed=seed)
    features = np.concatenate([features_train, features_test])
    candidate = Candidate(name=READOUT, readouts=lambda one, seed: {READOUT: features})
    (answer,) = answer_frozen(
        candidate, "linear", target, people, rounds, GridConfig(), seed=seed, balanced=True
    )
    assert answer.probe is not None
    panel = Panel(target=target, people=people, eyes=people)
    return ProbeResult(
        card=card_of([[answer]], panel, seed=seed, bootstrap=bootstrap),
        fitted=answer.probe,
        units=units_of([[answer]], panel)[0][0],
    )


def paired_difference(
    one: ProbeResult, other: ProbeResult, *, seed: int, bootstrap: int = BOOTSTRAP
) -> Interval:
    """AUROC of `one` minus that of `other`, both read on the same resampled participants.

    Raises:
        ValueError: the two probes were not tested on the same participants and labels.
    """
    runs = {"one": [[one.units]], "other": [[other.units]]}
    if one.card.names != other.card.names:
        raise ValueError(f"probes of different classes: {one.card.names}, {other.card.names}")
    return compare(runs, "nominal", reference="other", seed=seed, bootstrap=bootstrap)[0].difference


def _people(groups: NDArray[Any] | None, side: str, rows: int) -> Sequence[Hashable]:
    return [(side, row) for row in range(rows)] if groups is None else np.asarray(groups).tolist()


def _number(train: Sequence[Hashable], test: Sequence[Hashable]) -> NDArray[np.int64]:
    """Numbers from 0, those of the test side first: whoever trains, they have the same."""
    numbers = {one: number for number, one in enumerate(dict.fromkeys([*test, *train]))}
    return np.array([numbers[one] for one in (*train, *test)])
