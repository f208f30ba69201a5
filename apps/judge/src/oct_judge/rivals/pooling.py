"""The volumes of a participant joined by attention instead of a mean: one more candidate."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from oct_vjepa.evaluation.participants import pool_volumes, sides_of
from oct_vjepa.heads.configuration import AttentionConfig
from oct_vjepa.probes.answers import priors_of
from oct_vjepa.trials.judging import Answer, Candidate, answer_of_scores

from oct_judge.study import Study


@dataclass(frozen=True, kw_only=True, slots=True)
class Pooling:
    """How volumes are joined.

    Attributes:
        study: the question.
        config: of the pool.
        balanced: classes weigh alike in the fit.
    """

    study: Study
    config: AttentionConfig
    balanced: bool

    def answers(self, candidate: Candidate, chosen: dict[str, str], seed: int) -> Iterator[Answer]:
        """What the pool says in each round, on the readout that validation chose for the probe.

        Every row has the scores of its participant, so that joining them changes nothing.
        """
        target = self.study.target
        for one in self.study.rounds:
            readouts = candidate.readouts(one, seed)
            readout = chosen.get(one.name) or next(iter(readouts))
            pooled = pool_volumes(
                readouts[readout],
                target,
                self.study.panel.people,
                self.sides,
                one,
                self.config,
                seed=seed,
                balanced=self.balanced,
            )
            yield answer_of_scores(
                pooled.scores_NK,
                target,
                one,
                seed,
                priors=priors_of(target.take(np.flatnonzero(one.fit))) if self.balanced else None,
                chosen=pooled.chosen | {"features": readout},
                candidates=pooled.candidates,
                pool=pooled.pool,
            )

    @property
    def sides(self) -> NDArray[np.int64]:
        """Side of each row, as the pool takes them."""
        return sides_of(self.study.examples.eyes.tolist())
