"""The settings of the training loop and of its feed; nothing here needs torch."""

from dataclasses import dataclass


@dataclass(kw_only=True, slots=True)
class LoopConfig:
    """How long to train, how to step, and how often to tell and to save."""

    steps: int = 1000
    """Optimiser steps of the whole run; schedules see this number."""

    accumulate: int = 1
    """Micro-batches of one step: less memory, the same result. The batch is `feed.batch_size`."""

    clip_norm: float | None = 1.0
    """Largest global norm of the gradient, over all processes; 1.0 as in most ViT recipes."""

    weight_decay: float = 0.04
    """Passed to the objective's parameter groups; V-JEPA 2 keeps 0.04 throughout."""

    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay rates of the first and second moment; V-JEPA 2 keeps PyTorch's."""

    log_every: int = 10
    """Steps between two rows of metrics; the first and the last step always make one. Between them
    nobody waits for an accelerator."""

    checkpoint_every: int = 500
    """Steps between two checkpoints; 0 saves at the end and when told to stop."""

    save_in_background: bool = True
    """Whether training goes on while a checkpoint is written; it costs a copy of weights and
    moments in host memory. Saves before an evaluation and at the end are waited for."""

    keep_last: int = 2
    """Checkpoints that stay; two, so that a damaged one does not cost the run."""

    evaluate_every: int = 0
    """Steps between two calls of `evaluate`, each after a save; 0 never calls it."""

    evaluate_first: bool = False
    """Whether `evaluate` is called before the first step, too, for a run whose start is worth
    something: it then counts for `patience`, and may be the best checkpoint."""

    best_metric: str = ""
    """Key of `evaluate`'s result by which `best.json` is set; empty sets none. Not a loss: a
    falling self-supervised loss can be a collapse."""

    best_mode: str = "max"
    """Whether a larger ("max") or a smaller ("min") value of `best_metric` is better."""

    patience: int = 0
    """Evaluations in a row that may pass without progress of `best_metric` before the run ends
    early; 0 lets it take all its steps."""

    min_delta: float = 0.0
    """How much better than at the last progress `best_metric` must be to count as progress."""

    max_skipped: int = 10
    """Steps in a row that may be skipped for their loss before the run stops. On an accelerator it
    does at the next row or save, having applied no step in between."""

    max_jump: float = 0.0
    """Skip a step whose loss lies more standard deviations above the mean of the last 300 steps
    that were taken, once there are 151 of them; 0: only one that is not finite. V-JEPA 2.1 can do
    so (app/vjepa_2_1/train.py: loss_reg_std_mult), which none of its published settings asks for.
    No jump: a loss that gets a new term in the middle of a run. Each step is then waited for."""

    profile: str = ""
    """First and last step, counted from 1, of which each process writes a trace to the run folder,
    such as "10:15"; ui.perfetto.dev shows it. Empty profiles nothing."""

    hang_after_s: float = 1800.0
    """Seconds without progress after which a process ends, with the stack of each of its threads; 0
    waits for ever. A step must be shorter, the first one, which compiles, four times as long. As
    long as gloo waits, so that whatever the wait is in, it ends."""

    @property
    def profiled(self) -> range:
        """The steps to profile, counted from 1."""
        first, _, last = self.profile.partition(":")
        return range(int(first), int(last) + 1) if self.profile else range(0)

    def __post_init__(self) -> None:
        low, high = self.betas
        self.betas = (float(low), float(high))
        for name, least in (
            ("steps", 1),
            ("accumulate", 1),
            ("log_every", 1),
            ("keep_last", 1),
            ("checkpoint_every", 0),
            ("evaluate_every", 0),
            ("patience", 0),
            ("min_delta", 0),
            ("max_skipped", 1),
            ("max_jump", 0),
            ("hang_after_s", 0),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"loop.{name} ({getattr(self, name)}) must be at least {least}")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise ValueError(
                f"loop.clip_norm ({self.clip_norm}) must be positive, or null for none"
            )
        if self.weight_decay < 0:
            raise ValueError(f"loop.weight_decay ({self.weight_decay}) must not be negative")
        if not (0 <= low < 1 and 0 <= high < 1):
            raise ValueError(f"loop.betas ({self.betas}) must each lie in [0, 1)")
        if self.best_mode not in ("max", "min"):
            raise ValueError(f"loop.best_mode ({self.best_mode!r}) must be max or min")
        first, _, last = self.profile.partition(":")
        numbers = first.isdecimal() and last.isdecimal() and 0 < int(first) <= int(last)
        if self.profile and not numbers:
            raise ValueError(f"loop.profile ({self.profile!r}) must be two steps, such as 10:15")
        if self.profile and int(last) > self.steps:
            raise ValueError(
                f"loop.profile ({self.profile}) must end within loop.steps ({self.steps})"
            )
        if self.best_metric and not self.evaluate_every:
            raise ValueError(
                f"loop.best_metric ({self.best_metric!r}) needs loop.evaluate_every above 0"
            )
        if self.evaluate_first and not self.evaluate_every:
            raise ValueError("loop.evaluate_first needs loop.evaluate_every above 0")
        if self.patience and not self.best_metric:
            raise ValueError(f"loop.patience ({self.patience}) needs loop.best_metric to wait for")


@dataclass(kw_only=True, slots=True)
class FeedConfig:
    """How many samples a step takes, and who prepares them."""

    batch_size: int = 8
    """Samples of one optimiser step over all processes and micro-batches, so that results do not
    depend on how many devices there are."""

    workers: int = 0
    """Processes that prepare samples on each host; 0 prepares them in the training process, which
    is right for a cache that fits in memory and for tests."""

    prefetch: int = 2
    """Micro-batches each worker prepares ahead; 2 hides one slow sample without holding much."""

    seed: int = 0
    """Names the order of samples."""

    subsets: int = 1
    """Fixed parts of the samples, neighbours together, of which a process takes whole ones: each
    step has equally many samples of each, so that a host asks for the same samples in every epoch
    and its disk can hold them. The order depends on this number, not on that of the processes,
    which must divide it. 1: a process may get any sample."""

    def __post_init__(self) -> None:
        lowest = {"batch_size": 1, "workers": 0, "prefetch": 1, "seed": 0, "subsets": 1}
        for name, low in lowest.items():
            value = getattr(self, name)
            if value < low:
                raise ValueError(f"feed.{name} ({value}) must be at least {low}")
        if self.batch_size % self.subsets:
            raise ValueError(
                f"feed.batch_size ({self.batch_size}) must be a multiple of feed.subsets"
                f" ({self.subsets}): each step takes equally many samples of each"
            )
