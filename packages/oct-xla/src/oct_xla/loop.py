"""The training loop: from a feed and an objective to a run folder."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn
from torch.optim import AdamW

from oct_xla.checkpoint import Checkpoints
from oct_xla.device import pick_runtime
from oct_xla.errors import CheckpointError, FeedError, NonFiniteError
from oct_xla.feed import Feed
from oct_xla.journal import Journal, Sink
from oct_xla.objective import parameter_groups
from oct_xla.preemption import StopRequest
from oct_xla.progress import ProgressSink
from oct_xla.runtime import Runtime
from oct_xla.settings import LoopConfig
from oct_xla.state import collect_tensors, restore_tensors
from oct_xla.step import Stepper
from oct_xla.timing import StepClock

CHECKPOINTS, METRICS = "checkpoints", "metrics.jsonl"


class FitResult(NamedTuple):
    """How a run ended.

    Attributes:
        step: finished optimiser steps.
        reason: "done", or "stopped" after SIGTERM and a save.
        metrics: the last row.
    """

    step: int
    reason: str
    metrics: dict[str, float]


def fit(
    objective: nn.Module,
    feed: Feed,
    config: LoopConfig,
    *,
    runtime: Runtime | None = None,
    run_dir: Path | None = None,
    learning_rate: Callable[[int], float] = lambda step: 1e-3,
    seed: int = 0,
    sinks: Sequence[Sink] = (),
    evaluate: Callable[[int], dict[str, float]] | None = None,
    progress: bool = False,
) -> FitResult:
    """Train `objective` on `feed`; go on from the newest whole checkpoint in `run_dir`.

    PyTorch's global generator is seeded anew at each step from (`seed`, step), and the generator
    given to `loss` likewise, so that a resumed run repeats the uninterrupted one bit for bit.

    Args:
        objective: an `oct_xla.Objective`; moved to the device.
        feed: makes the batches.
        config: see there.
        runtime: from `pick_runtime`, which the caller closes; None picks "auto".
        run_dir: for checkpoints and metrics; all processes must see it. None saves nothing.
        learning_rate: of the step, counted from 0. Begin above 0: on XLA an exact 0 costs a graph.
        seed: names all draws but the feed's.
        sinks: take the rows, on the first process.
        evaluate: called on every process with the number of finished steps.
        progress: show a bar on a terminal, lines elsewhere.

    Raises:
        CheckpointError: if the newest checkpoint belongs to another objective or feed.
        FeedError: if the batch does not divide by the devices, or a sample fails.
        NonFiniteError: after `config.max_skipped` skipped steps in a row.
        DeviceError: if the device is out of memory.
    """
    run = _Run(objective, feed, config, runtime or pick_runtime(), run_dir, seed)
    run.resume()
    if run.runtime.rank == 0:
        run.sinks += [Journal(run_dir / METRICS, run.step)] if run_dir else []
        run.sinks += [ProgressSink(config.steps, run.step)] if progress else []
        run.sinks += sinks
    try:
        with StopRequest() as stop:
            return run.train(learning_rate, evaluate, stop)
    finally:
        for sink in run.sinks:
            sink.close()


@dataclass(slots=True)
class _Run:
    """The state of one call of `fit`."""

    objective: nn.Module
    feed: Feed
    config: LoopConfig
    runtime: Runtime
    run_dir: Path | None
    seed: int
    step: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    seconds_before: float = 0.0
    best: float | None = None
    saved: int = -1
    sinks: list[Sink] = field(default_factory=list)
    optimizer: AdamW = field(init=False)
    checkpoints: Checkpoints | None = field(init=False)

    def __post_init__(self) -> None:
        parts = self.runtime.devices * self.config.accumulate
        if self.feed.config.batch_size % parts:
            raise FeedError(
                f"feed.batch_size ({self.feed.config.batch_size}) must be a multiple of devices x"
                f" loop.accumulate ({self.runtime.devices} x {self.config.accumulate})"
            )
        self.runtime.prepare(self.objective)
        groups = parameter_groups(self.objective, self.config.weight_decay)
        self.optimizer = AdamW(
            groups, lr=1e-3, betas=self.config.betas, weight_decay=self.config.weight_decay
        )
        folder = self.run_dir / CHECKPOINTS if self.run_dir else None
        self.checkpoints = Checkpoints(folder, self.config.keep_last) if folder else None

    @property
    def order(self) -> dict[str, int]:
        """What must stay equal for a step number to mean the same samples and draws."""
        config = self.feed.config
        return {
            "seed": self.seed,
            "feed.seed": config.seed,
            "feed.batch_size": config.batch_size,
            "feed.length": self.feed.length,
        }

    def resume(self) -> None:
        """Go on from the newest whole checkpoint, the same on every process."""
        if self.checkpoints is None:
            return
        newest = self.checkpoints.newest()
        step = self.runtime.agree(-1 if newest is None else newest)
        if step < 0:
            return
        where = str(self.checkpoints.path(step))
        tensors, state = self.checkpoints.load(step)
        for name, value in self.order.items():
            if state["order"].get(name) != value:
                raise CheckpointError(
                    f"{where}: made with {name} = {state['order'].get(name)}, now it is {value};"
                    " set it back or choose another run_dir"
                )
        restore_tensors(tensors, self.objective, self.optimizer, where)
        self.runtime.cut()
        self.step = self.saved = step
        self.skipped, self.skipped_in_a_row = state["skipped"], state["skipped_in_a_row"]
        self.seconds_before, self.best = state["seconds"], state["best"]

    def train(
        self,
        learning_rate: Callable[[int], float],
        evaluate: Callable[[int], dict[str, float]] | None,
        stop: StopRequest,
    ) -> FitResult:
        """Take the steps that are left; see `fit`."""
        config, clock, row = self.config, StepClock(self.seconds_before), dict[str, float]()
        batches = self._batches() if self.step < config.steps else iter(())
        stepper = Stepper(
            objective=self.objective,
            optimizer=self.optimizer,
            runtime=self.runtime,
            steps=config.steps,
            accumulate=config.accumulate,
            clip_norm=config.clip_norm,
            seed=self.seed,
        )
        self.objective.train()
        while self.step < config.steps:
            lr = self._set_learning_rate(learning_rate(self.step))
            numbers, applied = stepper.take(self.step, batches, clock)
            self._count(applied)
            clock.count(self.feed.config.batch_size)
            epoch = self.feed.epoch(self.step)
            self.step += 1
            stopping = bool(self.runtime.agree(int(stop.requested)))
            scores = self._evaluate(evaluate)
            if self._due(config.log_every) or self.step == 1 or stopping or scores:
                row = {
                    "step": self.step,
                    "epoch": epoch,
                    "lr": lr,
                    **numbers,
                    **scores,
                    "skipped": self.skipped,
                    "compilations": self.runtime.compilations(),
                    **clock.read(),
                }
                self._tell(row)
            improved = self._improved(scores)
            if stopping or improved or self._due(config.checkpoint_every):
                self._save(clock, scores if improved else None)
            if stopping and self.step < config.steps:
                return FitResult(self.step, "stopped", row)
        self._save(clock, None)
        return FitResult(self.step, "done", row)

    def _batches(self) -> Iterator[Any]:
        return self.feed.batches(
            self.step,
            rank=self.runtime.rank,
            world=self.runtime.world,
            micro_batches=self.config.accumulate,
            pinned=self.runtime.device.type == "cuda",
        )

    def _due(self, every: int) -> bool:
        return every > 0 and (self.step % every == 0 or self.step == self.config.steps)

    def _set_learning_rate(self, lr: float) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        return lr

    def _count(self, applied: bool) -> None:
        self.skipped += not applied
        self.skipped_in_a_row = 0 if applied else self.skipped_in_a_row + 1
        if self.skipped_in_a_row >= self.config.max_skipped:
            raise NonFiniteError(
                f"step {self.step + 1}: loss or gradient was not finite {self.skipped_in_a_row}"
                " times in a row; lower the learning rate, lengthen the warm-up or set fp32"
            )

    def _evaluate(self, evaluate: Callable[[int], dict[str, float]] | None) -> dict[str, float]:
        if evaluate is None or not self._due(self.config.evaluate_every):
            return {}
        self.objective.eval()
        scores = evaluate(self.step)
        self.objective.train()
        if self.config.best_metric and self.config.best_metric not in scores:
            raise ValueError(
                f"loop.best_metric ({self.config.best_metric!r}) must be one of evaluate's results:"
                f" {', '.join(sorted(scores))}"
            )
        return scores

    def _improved(self, scores: dict[str, float]) -> bool:
        value = scores.get(self.config.best_metric, math.nan)
        sign = 1.0 if self.config.best_mode == "max" else -1.0
        better = math.isfinite(value) and (self.best is None or sign * (value - self.best) > 0)
        better = bool(self.runtime.agree(int(better and self.runtime.rank == 0)))
        if better:
            self.best = value
        return better

    def _save(self, clock: StepClock, best: dict[str, float] | None) -> None:
        if self.checkpoints is None or self.saved == self.step:
            return
        tensors = collect_tensors(self.objective, self.optimizer, self.runtime)
        if self.runtime.rank == 0:
            state = {
                "order": self.order,
                "skipped": self.skipped,
                "best": self.best,
                "skipped_in_a_row": self.skipped_in_a_row,
                "seconds": clock.seconds,
            }
            self.checkpoints.save(self.step, tensors, state)
            if best is not None:
                metric = self.config.best_metric
                self.checkpoints.mark_best(self.step, metric, best[metric])
        self.saved = self.step
        self.runtime.agree(0)  # nobody goes on, or ends, before the checkpoint is whole

    def _tell(self, row: dict[str, float]) -> None:
        for sink in self.sinks:
            sink.write(row)
