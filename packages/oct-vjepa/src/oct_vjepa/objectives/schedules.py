"""Numbers that change over a run, as pure functions of the step; steps count from 0."""

import math
from dataclasses import dataclass

from oct_vjepa.rules import FROM_0_TO_1, NOT_NEGATIVE, check_choices, check_numbers

SCHEDULE_KINDS = ("cosine", "wsd", "constant")
MOMENTUM_KINDS = ("linear", "cosine", "constant")
MOMENTUM_CAP = 1.0 - 2e-6
"""At 1 the teacher would stand still. Not 1 - 1e-6: torch-xla merges equal scalars of a graph, and
1e-6 is an epsilon of the layer norms, so that the last step would compile once more."""


@dataclass(kw_only=True, slots=True)
class ScheduleConfig:
    """A warm-up, then a shape; made for the learning rate and the weight decay."""

    peak: float = 1e-3
    """Value after the warm-up; 1e-3 suits cpu_smoke at batch 16, large encoders need less."""
    end: float = 1e-6
    """Value at the last step; unused by "constant"."""
    kind: str = "cosine"
    """"cosine", "wsd" (warm-up, stable, linear cooldown; can be branched at any length), or
    "constant"."""
    warmup_fraction: float = 0.05
    """Share of the steps that rise linearly; V-JEPA 2: 12k of 252k."""
    cooldown_fraction: float = 0.2
    """Share of the steps that fall linearly at the end; "wsd" only."""

    def __post_init__(self) -> None:
        check_choices(self, "schedule", kind=SCHEDULE_KINDS)
        check_numbers(self, "schedule", NOT_NEGATIVE, "peak", "end")
        check_numbers(self, "schedule", FROM_0_TO_1, "warmup_fraction", "cooldown_fraction")
        if self.kind == "wsd" and self.warmup_fraction + self.cooldown_fraction > 1:
            raise ValueError(
                f"schedule.warmup_fraction ({self.warmup_fraction}) and cooldown_fraction "
                f"({self.cooldown_fraction}) must add up to at most 1"
            )

    def at(self, step: int, steps: int) -> float:
        """Value for `step` of `steps`; the first is peak / warm-up steps, not 0: no step is lost.

        After the warm-up the value at the last step is `end`, and stays so beyond it.
        """
        warmup = math.ceil(self.warmup_fraction * steps)
        if step < warmup:
            return self.peak * (step + 1) / warmup
        if self.kind == "constant":
            return self.peak
        start = warmup
        if self.kind == "wsd":
            start = max(warmup, steps - math.ceil(self.cooldown_fraction * steps))
        done = min(max((step + 1 - start) / max(steps - start, 1), 0.0), 1.0)
        left = 1.0 - done if self.kind == "wsd" else 0.5 * (1.0 + math.cos(math.pi * done))
        return self.end + (self.peak - self.end) * left


def momentum_at(step: int, steps: int, *, start: float, end: float, kind: str = "linear") -> float:
    """Momentum of the teacher at `step` of `steps`, always below 1.

    "linear" goes from `start` to `end` at the last step (V-JEPA 2), "cosine" does so slowly at both
    ends (BYOL, arXiv 2006.07733, section 3.2), "constant" stays at `start`.

    Raises:
        ValueError: the kind is unknown.
    """
    if kind not in MOMENTUM_KINDS:
        raise ValueError(f"jepa.ema_kind ({kind!r}) must be one of {MOMENTUM_KINDS}")
    done = min(max(step / max(steps - 1, 1), 0.0), 1.0)
    if kind == "constant":
        done = 0.0
    elif kind == "cosine":
        done = 0.5 * (1.0 - math.cos(math.pi * done))
    return min(start + (end - start) * done, MOMENTUM_CAP)


def ramp_at(step: int, steps: int, *, start: float, full: float) -> float:
    """0 before `start`, 1 from `full` on, linear between; both are shares of the steps."""
    first, last = start * steps, full * steps
    if step >= last:
        return 1.0
    return max(step - first, 0.0) / (last - first)
