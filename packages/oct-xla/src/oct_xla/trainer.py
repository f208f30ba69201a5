"""Trains: takes the steps, and has them told, saved and evaluated when that is due."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from oct_xla.checkpointer import Checkpointer, RunState
from oct_xla.devices.placing import Placed
from oct_xla.errors import NonFiniteError, OutOfMemoryError
from oct_xla.feeding.feed import Feed
from oct_xla.steps.cutting import Cutting
from oct_xla.steps.failures import TooLarge, told_apart
from oct_xla.steps.learner import Learner, Outcome, Step
from oct_xla.steps.preemption import StopRequest
from oct_xla.telling.compiling import WARM_UP
from oct_xla.telling.metrics import Metrics
from oct_xla.telling.watchers import HangWatch, Profiler

Evaluate = Callable[[int], Mapping[str, float] | Iterator[Mapping[str, float] | None]]
"""Scores after that many steps; or an iterator whose last item they are, and which may be left
between two items when the run is asked to stop. All processes must yield equally often."""


REMEMBERED = 300
"""Losses that say what is usual (V-JEPA 2.1, app/vjepa_2_1/train.py: loss_reg_num_tracking_steps);
nothing is unusual before there are more than half as many."""


def largest_loss(before: Sequence[float], jump: float) -> float:
    """What a loss may be after those `before`: their mean and `jump` standard deviations."""
    if not jump or len(before) <= REMEMBERED // 2:
        return math.inf
    return float(np.mean(before) + jump * np.std(before))


class FitResult(NamedTuple):
    """How a run ended.

    Attributes:
        step: finished optimiser steps.
        reason: "done"; "early" if the best metric made no progress for `loop.patience` evaluations;
            or "stopped" after SIGTERM or SIGINT and a save.
        metrics: the last row.
    """

    step: int
    reason: str
    metrics: dict[str, float]


class Trainer:
    """One call of `fit`: steps the learner, tells the metrics, and has the checkpointer save."""

    def __init__(
        self,
        learner: Learner,
        feed: Feed,
        checkpointer: Checkpointer,
        metrics: Metrics,
        run: RunState,
        profiler: Profiler,
        watch: HangWatch,
        cutting: Cutting,
    ) -> None:
        self.learner, self.feed, self.metrics = learner, feed, metrics
        self.checkpointer, self.run, self.profiler = checkpointer, run, profiler
        self.watch, self.cutting = watch, cutting
        self.config, self.runtime = learner.config, learner.runtime
        self._first, self._evaluated = run.step, False

    def train(
        self, learning_rate: Callable[[int], float], evaluate: Evaluate | None, stop: StopRequest
    ) -> FitResult:
        """Take the steps that are left; see `fit`."""
        config, run, clock = self.config, self.run, self.metrics.clock
        learner, batch_size = self.learner, self.feed.config.batch_size
        self.cutting.begin()
        learner.accumulate = self.cutting.parts
        learner.guard.begin(run.skipped, run.skipped_in_a_row)
        self.checkpointer.stopping = lambda: stop.requested
        batches = self._batches()
        learner.objective.train()
        if config.evaluate_first and evaluate is not None and self._fresh:
            self._begin()
        if run.pending and not self._evaluate(evaluate, stop) and self._left:
            return self._stopped()
        while run.step < config.steps and not self._early:
            lr, epoch = learning_rate(run.step), self.feed.epoch(run.step)
            self.watch.beat(f"step {run.step + 1}", first=run.step == self._first)
            self.cutting.step(run.step + 1)
            try:
                with self.profiler.step(run.step + 1):
                    bound = largest_loss(run.losses, config.max_jump)
                    taken = learner.take(run.step, lr, batches, clock, stop, bound=bound)
                    numbers = self._numbers(taken)
            except TooLarge as large:
                self.cutting.halve(run.step + 1, large)
                learner.accumulate = self.cutting.parts
                batches = self._batches()
                continue
            clock.count(batch_size)
            run.step += 1
            if numbers:
                self.cutting.finished(run.step)
            expected = run.step - self._first <= WARM_UP
            learner.compiling.look(f"step {run.step}", expected=expected)
            head = {"step": run.step, "epoch": epoch, "lr": lr}
            self.watch.beat(f"what follows step {run.step}")
            stopping = self._end_step({**head, **numbers}, evaluate, stop, taken.stopping)
            if stopping and self._left:
                return self._stopped()
        self.watch.beat("the last save")
        self._must_save(stopping=False)
        if not self.checkpointer.copied:  # it was asked to stop in the meantime
            return FitResult(run.step, "stopped", run.row)
        return FitResult(run.step, "early" if self._early else "done", run.row)

    @property
    def _fresh(self) -> bool:
        """Whether nothing was done yet; a resume at step 0 knows the start, or has it pending."""
        return self.run.step == 0 and not self.checkpointer.has(0)

    def _begin(self) -> None:
        """Save the start, to be evaluated as any step is."""
        self.run.row, self.run.pending = {"step": 0, "epoch": self.feed.epoch(0)}, True
        self._save(waiting=True)

    @property
    def _left(self) -> bool:
        return self.run.pending or (self.run.step < self.config.steps and not self._early)

    @property
    def _early(self) -> bool:
        """Whether the run has waited in vain; an evaluation that is not over may still help."""
        patience = self.config.patience
        return 0 < patience <= self.run.waited and self.run.step < self.config.steps

    def _end_step(
        self, row: dict[str, float], evaluate: Evaluate | None, stop: StopRequest, stopping: bool
    ) -> bool:
        """Tell, save and evaluate what is due after a step; tells whether to stop."""
        evaluating = evaluate is not None and self._due(self.config.evaluate_every)
        if evaluating or stopping or self._due(self.config.log_every) or self.run.step == 1:
            row |= {"skipped": self.run.skipped, "compilations": self.runtime.compilations()}
            self.run.row, self.run.pending = row, evaluating
            if not evaluating:
                self._tell()
        self.checkpointer.poll()
        # Who stops saves at the end, and waits for a bucket no longer than it may.
        if not stopping and (evaluating or self._due(self.config.checkpoint_every)):
            self._save(waiting=evaluating or not self.config.save_in_background)
        if not evaluating:
            return stopping
        if stopping:
            self._tell()  # without scores, which come when the run is taken up
            return True
        return not self._evaluate(evaluate, stop)

    def _evaluate(self, evaluate: Evaluate | None, stop: StopRequest) -> bool:
        """Evaluate the saved step and tell its row; False if the run is to stop.

        Raises:
            OutOfMemoryError: if memory runs out for it.
        """
        run = self.run
        if evaluate is not None:
            doing = f"the evaluation after step {run.step}"
            try:
                with told_apart(self.runtime), self.learner.evaluating():
                    scores = self._scores(evaluate, stop)
            except TooLarge as large:
                saved = self.checkpointer.has(run.step)
                then = "; the step is saved, and the same command goes on from it" if saved else ""
                raise OutOfMemoryError(
                    f"{doing}: out of memory; ask it for less at a time, or take a smaller model"
                    f" or volume{then}",
                    again=False,
                    evaluating=True,
                ) from large
            self.learner.compiling.look(doing, expected=not self._evaluated)
            self._evaluated = True
            if scores is None:
                self._tell()
                return False
            self._note_progress(scores)
            self._note_best(scores)
            run.row = {**run.row, **scores}
        run.pending = False
        self._tell()
        run.seconds = self.metrics.clock.seconds
        self.checkpointer.settle(run)
        return not self.runtime.agree(int(stop.requested))[0]

    def _scores(self, evaluate: Evaluate, stop: StopRequest) -> dict[str, float] | None:
        with self.watch.paused():
            given = evaluate(self.run.step)
        if isinstance(given, Iterator):
            last: Mapping[str, float] | None = None
            doing = f"an item of the evaluation after step {self.run.step}"
            self.watch.beat(doing, first=True)
            for last in given:
                self.watch.beat(doing, first=True)
                if last is None and self.runtime.agree(int(stop.requested))[0]:
                    return None
            given = last or {}
        scores, wanted = dict(given), self.config.best_metric
        if wanted and wanted not in scores:
            raise ValueError(
                f"loop.best_metric ({wanted!r}) must be one of evaluate's results:"
                f" {', '.join(sorted(scores))}"
            )
        return scores

    def _note_best(self, scores: Mapping[str, float]) -> None:
        metric, run = self.config.best_metric, self.run
        value = scores.get(metric, math.nan)
        if not math.isfinite(value) or not self.checkpointer.has(run.step):
            return
        before = run.best["value"] if run.best and run.best["metric"] == metric else None
        sign = 1.0 if self.config.best_mode == "max" else -1.0
        if before is None or sign * (value - before) > 0:
            run.best = {"step": run.step, "metric": metric, "value": float(value)}

    def _note_progress(self, scores: Mapping[str, float]) -> None:
        """Count evaluations without progress, alike on all processes: they end together."""
        run, metric = self.run, self.config.best_metric
        if not metric:
            return
        if run.best and run.best["metric"] != metric:  # it was another one before the resume
            run.reached, run.waited = None, 0
        value = float(scores[metric])
        sign = 1.0 if self.config.best_mode == "max" else -1.0
        gain = math.inf if run.reached is None else sign * (value - run.reached)
        better = math.isfinite(value) and gain > 0 and gain >= self.config.min_delta
        if better:
            run.reached = value
        run.waited = self.runtime.agree(0 if better else run.waited + 1)[0]

    def _batches(self) -> Placed:
        parts, left = self.learner.accumulate, self.config.steps - self.run.step
        batches = self.feed.batches(
            self.run.step,
            rank=self.runtime.rank,
            world=self.runtime.world,
            micro_batches=parts,
            pinned=self.runtime.device.type == "cuda",
        )
        return Placed(batches, self.runtime, count=max(left, 0) * parts)

    def _due(self, every: int, step: int | None = None) -> bool:
        step = self.run.step if step is None else step
        return every > 0 and (step % every == 0 or step == self.config.steps)

    def _numbers(self, taken: Step) -> dict[str, float]:
        """The numbers of a step, if anybody wants them: an accelerator is waited for only then."""
        config, step = self.config, self.run.step + 1
        rhythms = (config.log_every, config.checkpoint_every, config.evaluate_every)
        wanted = (
            self.runtime.device.type == "cpu"  # has them already
            or (step == 1 or taken.stopping or config.max_jump > 0)
            or any(self._due(every, step) for every in rhythms)
        )
        return self._count(self.learner.read(taken, self.metrics.clock)) if wanted else {}

    def _count(self, outcome: Outcome) -> dict[str, float]:
        """Take over what a step says of itself and of those before it that nobody has read.

        Raises:
            NonFiniteError: after too many in a row that were not applied.
        """
        run, most, jump = self.run, self.config.max_skipped, self.config.max_jump
        run.skipped, run.skipped_in_a_row = outcome.skipped, outcome.skipped_in_a_row
        if outcome.applied and jump:
            run.losses = [*run.losses, outcome.numbers["loss"]][-REMEMBERED:]
        if run.skipped_in_a_row >= most:
            above = f", or the loss {jump:g} standard deviations above its mean," if jump else ""
            raise NonFiniteError(
                f"step {run.step + 1 - (run.skipped_in_a_row - most)}: loss or gradient was not"
                f" finite{above} {most} times in a row; lower the learning rate, lengthen the"
                " warm-up or set fp32"
            )
        return outcome.numbers

    def _tell(self) -> None:
        self.run.row = self.metrics.tell(self.run.row)

    def _bring_up_to_date(self) -> None:
        self.run.seconds, self.run.at_once = self.metrics.clock.seconds, self.cutting.sure

    def _save(self, *, waiting: bool) -> None:
        asked = self.metrics.clock.now()
        self._bring_up_to_date()
        if waiting:
            self.checkpointer.save(self.run, self.learner)
        else:
            self.checkpointer.begin(self.run, self.learner)
        self.metrics.clock.spent("save", asked)

    def _must_save(self, *, stopping: bool) -> None:
        self._bring_up_to_date()
        self.checkpointer.must_save(self.run, self.learner, stopping=stopping)

    def _stopped(self) -> FitResult:
        self._must_save(stopping=True)
        return FitResult(self.run.step, "stopped", self.run.row)
