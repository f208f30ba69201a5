"""What probabilities are worth where classes have other shares than in the test: prior shift."""

from collections.abc import Sequence

import numpy as np

from oct_vjepa.measures.target import Target
from oct_vjepa.measures.units import Interval
from oct_vjepa.probes.answers import priors_of
from oct_vjepa.probes.protocol import Round
from oct_vjepa.scores.calibration import adjust_priors
from oct_vjepa.scores.scorecard import score_card
from oct_vjepa.trials.judging import Answers
from oct_vjepa.trials.verdict import Panel, units_of

SHIFTED = ("auprc", "ece", "brier", "nll")
"""Metrics that go with the shares of the classes; AUROC, sensitivity and specificity do not."""


def check_prevalence(shares: Sequence[float], target: Target) -> None:
    """Refuse what are no shares of the classes.

    Raises:
        ValueError: not one a class, one that is not above 0, or another sum than 1.
    """
    if not target.is_classes:
        raise ValueError(f"compare.prevalence is of classes, and the question is {target.kind}")
    if len(shares) != len(target.names) or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(
            f"compare.prevalence ({list(shares)}) must be a share above 0 for each of "
            f"{', '.join(target.names)}, 1 together"
        )


def measure_elsewhere(
    answers: Answers,
    panel: Panel,
    rounds: Sequence[Round],
    shares: Sequence[float],
    *,
    seed: int,
    bootstrap: int,
) -> dict[str, Interval]:
    """`SHIFTED` among people of whom so many have each class.

    Calibrated probabilities are moved from the shares among the fit rows to the new ones by Bayes'
    rule, and test participants weighed so that they have them. It trusts that a class looks alike
    in both places.

    Args:
        answers: of one candidate.
        panel: whose rows.
        rounds: of the answers.
        shares: of each class where the answers will be used.
        seed: of the bootstrap.
        bootstrap: number of samples.

    Raises:
        ValueError: as `check_prevalence`.
    """
    target = panel.target
    check_prevalence(shares, target)
    wanted = np.asarray(shares, np.float64)
    known = [priors_of(target.take(np.flatnonzero(one.fit & target.known))) for one in rounds]
    moved = [
        [
            units._replace(scores_NC=adjust_priors(units.scores_NC, old, wanted))
            for units, old in zip(run, known, strict=True)
        ]
        for run in units_of(answers, panel)
    ]
    card = score_card(
        moved, target.kind, target.names, priors=list(shares), seed=seed, bootstrap=bootstrap
    )
    return {name: card.metrics[name] for name in SHIFTED}
