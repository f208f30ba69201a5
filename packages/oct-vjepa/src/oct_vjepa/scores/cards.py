"""The results of `scorecard`: numbers with intervals, as plain values."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from oct_vjepa.measures.measure import HEADLINE
from oct_vjepa.measures.units import Interval


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreCard:
    """How good the predictions of a candidate are; intervals are 95 % bootstrap."""

    kind: str
    """Of the question, see `target.Target`."""
    names: tuple[str, ...]
    """Of the classes or labels, or of the quantity alone."""
    metrics: dict[str, Interval]
    """The headline metric first."""
    by_class: dict[str, dict[str, Interval]]
    """Class or label to metric; empty for quantities and times."""
    by_seed: list[float]
    """The headline metric of each seed."""
    confusion: list[list[float]]
    """Participants and labels of true classes (down) called classes (across), summed over rounds,
    mean over seeds; empty unless each row is of one class."""
    participants: int
    support: dict[str, int]
    """Participants of each class, or with each label; empty for quantities and times."""
    seeds: int
    rounds: int
    """Of the first seed."""
    specificity: float
    """At which `sensitivity_at_specificity` is read."""
    threshold_from: str
    """What chose the threshold of that: "validation", or "roc", the test rows' own curve, which
    flatters; empty for quantities and times."""
    priors: list[float] | None
    """Shares of the classes to which rows were weighed."""

    @property
    def headline(self) -> Interval:
        """The metric that `HEADLINE` names for this kind."""
        return self.metrics[HEADLINE[self.kind]]

    def as_json(self) -> dict[str, Any]:
        """Plain values; an interval is three numbers, and what is not defined is null."""
        return as_plain(asdict(self))


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """The headline metric of a candidate minus that of the reference, on the same samples."""

    candidate: str
    reference: str
    metric: str
    difference: Interval
    p: float
    """Two-sided, from the bootstrap: how often the sign turns over, twice; never below
    2 / (samples + 1)."""
    p_holm: float
    """`p`, corrected by Holm's method for all candidates compared."""
    p_delong: float | None
    """DeLong's test of two AUROCs; None but for two classes, and one row for each participant. Not
    corrected."""
    no_delong: str
    """Why `p_delong` is None; else empty."""
    delong_seeds: int = 1
    """Seeds whose scores were averaged for `p_delong`, at most: it compares these ensembles, and
    knows nothing of how other seeds would differ."""
    p_delong_holm: float | None = None
    """`p_delong`, corrected by Holm's method for all candidates that have one."""

    def as_json(self) -> dict[str, Any]:
        """Plain values; the interval is three numbers."""
        return as_plain(asdict(self))


def as_plain(value: Any) -> Any:
    """Lists, dictionaries, numbers and texts only; None for what is not finite."""
    if isinstance(value, dict):
        return {name: as_plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(one) for one in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
