"""A guard that reads the logged numbers and says when a run looks collapsed, and by what sign.

It looks at spread, and at loss together with spread. The effective rank alone is no alarm: it falls
in healthy runs, and it does not see scale, so that it *rises* again once all features have shrunk
to noise around one point. It counts only where the student runs away from its teacher as well. The
guard is fed with numbers that were logged anyway. Its limits come from small runs: tests/
test_collapse.py drills it. Expect to move them for large ones.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median, pstdev
from typing import Any

from oct_vjepa.rules import AT_LEAST_1, BETWEEN_0_AND_1, POSITIVE, check_numbers

SPREADS = ("target_std", "spread_foreground", "spread_background")
HISTORY = (
    "loss",
    "loss_over_baseline",
    "variance_ratio",
    "effective_rank",
    "teacher_drift",
    *SPREADS,
)

SHARES = ("spread_fraction", "drop_spread", "shrink_fraction", "ratio_floor", "rank_fraction")


@dataclass(kw_only=True, slots=True)
class CollapseConfig:
    """When a number counts as a sign; counts are in reports, not in steps."""

    start: int = 5
    """The largest of so many first reports is where a number started."""
    recent: int = 5
    """Reports whose median is where it is now; one odd batch is no alarm."""
    window: int = 50
    """Reports before the recent ones that say what is usual for the loss."""
    spread_fraction: float = 0.2
    """Alarm when a spread is below this share of its start. In healthy runs it fell to 0.39 of it,
    with a collapsing teacher to 0.17 and below."""
    drop_sigma: float = 3.0
    """A loss so many standard deviations below the usual is a sudden drop."""
    drop_spread: float = 0.8
    """A sudden drop is an alarm if the target spread fell below this share of the usual, too."""
    shrink_fraction: float = 0.6
    """Alarm when loss and target spread are both below this share of their starts, and the loss is
    no better than that of the mean target: then it falls only because the targets shrink."""
    ratio_floor: float = 0.05
    """Alarm when the variance ratio falls below this after it was five times as high. Before, the
    predictor has yet to learn and is low in healthy runs, too."""

    rank_fraction: float = 0.2
    """An effective rank below this share of its start counts, if the drift is large, too. Healthy
    runs: 0.27 and above."""
    drift_limit: float = 0.5
    """Alarm when the student's weights are farther than this from the teacher's, over the length
    of those, and the rank is low. In the drill: 0.2 in healthy runs, above 0.6 at ten times the
    learning rate."""

    def __post_init__(self) -> None:
        check_numbers(self, "collapse", AT_LEAST_1, "start", "recent")
        if self.window < 10:
            raise ValueError(f"collapse.window ({self.window}) must be at least 10")
        check_numbers(self, "collapse", BETWEEN_0_AND_1, *SHARES)
        check_numbers(self, "collapse", POSITIVE, "drop_sigma", "drift_limit")


class CollapseGuard:
    """Feed it each report; it answers with the alarms that are new.

    A sign that goes away and comes back is reported again. Numbers that a report lacks are skipped,
    so that those made seldom may come with every tenth report.
    """

    def __init__(self, config: CollapseConfig | None = None) -> None:
        self.config = CollapseConfig() if config is None else config
        size = self.config.window + self.config.recent
        self._seen: dict[str, deque[float]] = {name: deque(maxlen=size) for name in HISTORY}
        self._first: dict[str, list[float]] = {name: [] for name in HISTORY}
        self._best_ratio = 0.0
        self._raised: set[str] = set()

    @property
    def alarms(self) -> tuple[str, ...]:
        """Names of the signs that are raised now."""
        return tuple(sorted(self._raised))

    def update(self, step: int, numbers: Mapping[str, float]) -> list[str]:
        """Take one report in; returns a sentence for each sign that is new.

        Args:
            step: of the report, for the sentence.
            numbers: what `loss` and `diagnostics` of an objective gave, as floats.
        """
        found: dict[str, str] = {}
        for name in HISTORY:
            if name not in numbers:
                continue
            value = float(numbers[name])
            if not math.isfinite(value):
                found[f"finite:{name}"] = f"{name} is {value}"
                continue
            self._seen[name].append(value)
            if len(self._first[name]) < self.config.start:
                self._first[name].append(value)
        for signs in (
            self._spread_signs,
            self._drop_sign,
            self._shrink_sign,
            self._ratio_sign,
            self._runaway_sign,
        ):
            found |= signs()
        new = [text for name, text in found.items() if name not in self._raised]
        self._raised = set(found)
        return [f"step {step}: {text}" for text in new]

    def state_dict(self) -> dict[str, Any]:
        """What it remembers, as JSON can hold it."""
        return {
            "seen": {name: list(values) for name, values in self._seen.items()},
            "first": {name: list(values) for name, values in self._first.items()},
            "best_ratio": self._best_ratio,
            "raised": sorted(self._raised),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        for name in HISTORY:
            self._seen[name].clear()
            self._seen[name].extend(state["seen"][name])
            self._first[name] = list(state["first"][name])
        self._best_ratio, self._raised = float(state["best_ratio"]), set(state["raised"])

    def _now(self, name: str) -> float | None:
        """Median of the recent values, once there are enough after the start."""
        recent = list(self._seen[name])[-self.config.recent :]
        enough = len(self._seen[name]) >= self.config.start + self.config.recent
        return median(recent) if enough else None

    def _share(self, name: str) -> float | None:
        """The recent median over where the number started."""
        now = self._now(name)
        return None if now is None else now / max(max(self._first[name]), 1e-12)

    def _spread_signs(self) -> dict[str, str]:
        found = {}
        for name in SPREADS:
            share = self._share(name)
            if share is not None and share < self.config.spread_fraction:
                found[name] = (
                    f"{name} is at {share:.0%} of its start: features become alike, whatever the "
                    "loss says; lower the learning rate or raise the teacher's momentum, and go "
                    "on from an earlier checkpoint"
                )
        return found

    def _drop_sign(self) -> dict[str, str]:
        recent = self.config.recent
        losses, spreads = list(self._seen["loss"]), list(self._seen["target_std"])
        if min(len(losses), len(spreads)) < 10 + recent:
            return {}
        usual, now = losses[:-recent], median(losses[-recent:])
        depth = (fmean(usual) - now) / max(pstdev(usual), 1e-12)
        fallen = median(spreads[-recent:]) / max(median(spreads[:-recent]), 1e-12)
        if depth < self.config.drop_sigma or fallen > self.config.drop_spread:
            return {}
        return {
            "drop": f"the loss fell by {depth:.1f} standard deviations at once, and target_std to "
            f"{fallen:.0%} of what it was: a partial collapse; go on from an earlier checkpoint "
            "with another seed or a lower learning rate"
        }

    def _shrink_sign(self) -> dict[str, str]:
        loss, spread = self._share("loss"), self._share("target_std")
        over = self._now("loss_over_baseline")
        if loss is None or spread is None or over is None:
            return {}
        limit = self.config.shrink_fraction
        if loss > limit or spread > limit or over < 0.95:
            return {}
        return {
            "shrink": f"the loss is at {loss:.0%} of its start because target_std is at "
            f"{spread:.0%} of its own; against the mean target it stands at {over:.2f}, so nothing "
            "is predicted"
        }

    def _ratio_sign(self) -> dict[str, str]:
        ratio, floor = self._now("variance_ratio"), self.config.ratio_floor
        if ratio is None:
            return {}
        self._best_ratio = max(self._best_ratio, ratio)
        if ratio >= floor or self._best_ratio < 5 * floor:
            return {}
        return {
            "ratio": f"variance_ratio fell from {self._best_ratio:.2f} to {ratio:.3f}: the "
            "predictor says nearly the same of every patch"
        }

    def _runaway_sign(self) -> dict[str, str]:
        rank, drift = self._share("effective_rank"), self._now("teacher_drift")
        if rank is None or drift is None:
            return {}
        if rank >= self.config.rank_fraction or drift < self.config.drift_limit:
            return {}
        return {
            "runaway": f"the student's weights are {drift:.2f} of their length away from the "
            f"teacher's and the effective rank is at {rank:.0%} of its start: the learning rate is "
            "too high for this teacher"
        }


def collapse_alarms(rows: Sequence[Mapping[str, float]]) -> list[str]:
    """What a fresh guard says of a whole run, a sentence for each sign.

    Args:
        rows: reports in their order, each with its "step".
    """
    guard = CollapseGuard()
    return [alarm for row in rows for alarm in guard.update(int(row["step"]), row)]
