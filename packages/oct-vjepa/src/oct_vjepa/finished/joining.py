"""What a model of `join=attention` or `join=pairs` says of a participant: it reads all volumes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oct_vjepa.evaluation.participants import FittedPool, pair_up, sides_of
from oct_vjepa.finished.about import ATTENTION, JoinedAbout
from oct_vjepa.measures.shares import Floats
from oct_vjepa.probes.answers import shift_priors
from oct_vjepa.probes.fitted import FittedProbe
from oct_vjepa.scores.calibration import calibrated


@dataclass(frozen=True, kw_only=True, slots=True)
class Joiner:
    """What a member joins the volumes of a participant by.

    Attributes:
        about: what model.json says of it.
        kind: of the question, see `Target`.
        fitted: a pool over the features of the volumes, or a probe on what `pair_up` makes of them.
    """

    about: JoinedAbout
    kind: str
    fitted: FittedPool | FittedProbe

    def score(
        self, features_ND: NDArray[Any], people_N: NDArray[Any], eyes_N: NDArray[np.str_]
    ) -> tuple[Floats, Floats]:
        """Scores of each participant, in the order of `np.unique(people_N)`.

        Args:
            features_ND: of all their volumes, at `about.readout`.
            people_N: whose each is.
            eyes_N: of which eye each is, R, L or another text.

        Returns:
            Calibrated scores, and those in which all classes weigh alike; both (P, K).
        """
        if isinstance(self.fitted, FittedPool):
            likely = even = self.fitted.predict(features_ND, people_N, sides_of(eyes_N.tolist()))
            if self.about.priors:
                likely = shift_priors(self.kind, even, np.array(self.about.priors))
        else:
            firsts, owners = np.unique(people_N, return_index=True, return_inverse=True)[1:]
            rows = {self.fitted.readout: pair_up(features_ND, owners.reshape(-1))[firsts]}
            likely = self.fitted.predict(rows, at_fit_priors=True)
            even = self.fitted.predict(rows)
        return calibrated(self.kind, likely, self.about.temperature), even


def load_joiner(place: Path, how: str, kind: str, about: JoinedAbout) -> Joiner:
    """Read what joins.

    Args:
        place: folder of it.
        how: "attention" or "pairs".
        kind: of the question.
        about: what model.json says of it.

    Raises:
        ValueError: it is missing or damaged.
    """
    fitted: FittedPool | FittedProbe
    fitted = FittedPool.load(place) if how == ATTENTION else FittedProbe.load(place)
    return Joiner(about=about, kind=kind, fitted=fitted)
