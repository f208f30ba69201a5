"""An objective with its optimiser on its devices: steps it, and gives its tensors out and back."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from oct_xla.devices.placing import Placed
from oct_xla.devices.runtime import Runtime
from oct_xla.devices.sharding import Piece
from oct_xla.errors import FeedError
from oct_xla.feeding.order import sample_seed
from oct_xla.folder.saved import SavedTensors
from oct_xla.settings import LoopConfig
from oct_xla.steps.adamw import GatedAdamW
from oct_xla.steps.failures import TooLarge, told_apart
from oct_xla.steps.guard import Guard
from oct_xla.steps.memory import out_of_memory
from oct_xla.steps.naming import OBJECTIVE, OPTIMIZER, check_fits
from oct_xla.steps.objective import AfterStep, parameter_groups
from oct_xla.steps.preemption import StopRequest
from oct_xla.telling.compiling import CompileWatch
from oct_xla.telling.metrics import StepClock


class Step(NamedTuple):
    """An optimiser step that was handed to the device; `Learner.read` tells how it went.

    Attributes:
        names: of its numbers.
        told: the numbers, and what the guard says, on the device; of Python where that is a CPU.
        after: what the objective's `after_step` has returned.
        stopping: whether any process was asked to stop.
    """

    names: list[str]
    told: Tensor | list[float]
    after: dict[str, float]
    stopping: bool


class Outcome(NamedTuple):
    """How one optimiser step went, the same on every process.

    Attributes:
        numbers: loss, gradient norm and metrics, means over micro-batches and processes.
        applied: whether weights changed; not if the gradient was not finite, or the loss not below
            its bound.
        skipped: steps of the run that were not applied.
        skipped_in_a_row: how many of them were the last ones.
    """

    numbers: dict[str, float]
    applied: bool
    skipped: int
    skipped_in_a_row: int


class Learner:
    """Takes optimiser steps on one objective: accumulate, reduce, clip, guard, update.

    A step waits for no device. Whether it counts is decided there, and holds weights, moments and
    teacher still; one small vector with the loss, the gradient norm, the metrics and that decision
    is read when somebody asks. Only an `after_step` that is not told the decision waits for it.

    Args:
        objective: an `oct_xla.Objective`; moved to the device.
        runtime: where it trains.
        config: see there.
        seed: names the draws of the objective.

    Attributes:
        compiling: has seen each micro-batch.
        coupled: whether the loss compares the samples of a micro-batch; see `Objective`.
        guard: decides which steps are applied.
    """

    def __init__(
        self, objective: nn.Module, runtime: Runtime, config: LoopConfig, seed: int
    ) -> None:
        self.runtime, self.config, self.seed = runtime, config, seed
        self.given, self.objective = objective, runtime.prepare(objective)
        groups = parameter_groups(self.objective, config.weight_decay)
        self.optimizer = GatedAdamW(
            groups,
            lr=1e-3,
            betas=config.betas,
            weight_decay=config.weight_decay,
            # One pass over the memory instead of ten; XLA fuses what it is given anyway.
            fused=runtime.device.type in ("cpu", "cuda"),
        )
        self._parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.accumulate = config.accumulate
        self.coupled = bool(getattr(objective, "coupled", False))
        self.compiling = CompileWatch(runtime)
        self.guard = Guard(runtime.device, most=config.max_skipped)
        self._after_step = AfterStep(self.objective, config.steps)
        self._names: list[str] | None = None  # of metrics, once all processes had the same
        if runtime.name == "xla":
            self._begin_moments()

    def take(
        self,
        step: int,
        lr: float,
        feed: Placed,
        clock: StepClock,
        stop: StopRequest,
        *,
        bound: float = math.inf,
    ) -> Step:
        """Hand step `step`, counted from 0, to the device.

        It is not applied if loss or gradient norm is not finite, or the loss is above `bound`. The
        decision is made on reduced values, so all processes make the same.

        Raises:
            TooLarge: if memory ran out.
            RuntimeError: if another process has ended; what an objective raises, too.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        # Dropout and the like draw from here; a function of the step, so a resume repeats it.
        self.runtime.seed(sample_seed(self.seed, step, self.runtime.rank))
        with told_apart(self.runtime):
            values, large = self._try_backward(step, feed, clock)
            asked = clock.now()
            stopping, everyone, large = self._agree(list(values), stop, large)
            clock.spent("wait", asked)
            if large:
                self.optimizer.zero_grad(set_to_none=True)
                self._move_teacher(step, False, clock)  # forgets what it has seen so far
                raise TooLarge(everywhere=True)
            values["grad_norm"] = self._reduce_and_clip()
            names, means = self._means(values, everyone)
            told, applied = self._decide(means, names.index("loss"), bound)
            self.optimizer.step_if(applied)
            self.optimizer.zero_grad(set_to_none=True)
            after = self._move_teacher(step, applied, clock)
            self.runtime.cut()
        return Step(names, told, after, stopping or (self.runtime.world == 1 and stop.requested))

    def read(self, step: Step, clock: StepClock) -> Outcome:
        """Wait for a step, and tell how it went.

        Raises:
            TooLarge: if memory ran out; on an accelerator that is found out here.
            RuntimeError: if another process has ended.
        """
        asked = clock.now()
        with told_apart(self.runtime):
            told = step.told if isinstance(step.told, list) else step.told.tolist()
            *values, applied, skipped, in_a_row = told
        clock.spent("wait", asked)
        numbers = dict(zip(step.names, values, strict=True))
        if applied:
            numbers |= step.after
        return Outcome(numbers, bool(applied), int(skipped), int(in_a_row))

    def _decide(
        self, means: Tensor, loss: int, bound: float
    ) -> tuple[Tensor | list[float], Tensor | bool]:
        """What `read` will give, and whether the step is applied."""
        if self.runtime.device.type != "cpu":
            there = self.guard.decide_there(means[loss], means[-1], bound)
            return torch.cat([means, self.guard.facts_there(there)]), there
        values: list[float] = means.tolist()
        here = self.guard.decide(values[loss], values[-1], bound)
        return values + self.guard.facts(here), here

    def _move_teacher(
        self, step: int, applied: Tensor | bool, clock: StepClock
    ) -> dict[str, float]:
        """Do what comes after the step, where it is applied."""
        after = self._after_step
        if not after.wanted:
            return {}
        if isinstance(applied, bool):
            if applied:
                return after.call(step)
            if not after.gated:
                return {}
            applied = torch.tensor(False).to(self.runtime.device)
        if after.gated:
            return after.call(step, applied)
        self.runtime.cut()
        asked = clock.now()
        moves = bool(applied)
        clock.spent("wait", asked)
        return after.call(step) if moves else {}

    def _begin_moments(self) -> None:
        """Make the moments that AdamW makes at its first step: cut as parameters are, no graph.

        On XLA only. Where malloc serves, moments made before the first gradients leave these at the
        top of the heap, which is then given back and faulted in anew at every step: a third more.
        """
        count = torch.zeros(()).to(self.runtime.device)
        for parameter in self._parameters:
            zeros = torch.zeros(parameter.shape)
            self.optimizer.state[parameter] = {
                "step": count,
                "exp_avg": self.runtime.like(zeros, parameter),
                "exp_avg_sq": self.runtime.like(zeros, parameter),
            }
        self.runtime.cut()

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Have the objective that `fit` was given hold what was trained, in evaluation mode."""
        with self.runtime.whole(self.objective, self.given) as whole:
            whole.eval()
            yield
            whole.train()

    def hand_back(self) -> None:
        """Bring the objective that `fit` was given up to date, as the run ends here."""
        with self.runtime.whole(self.objective, self.given, computes=False):
            pass

    def _try_backward(
        self, step: int, feed: Placed, clock: StepClock
    ) -> tuple[dict[str, Tensor], bool]:
        """Return the metrics, and whether memory ran out in an eager pass of this process alone."""
        try:
            return self._backward(step, feed, clock), False
        except (RuntimeError, MemoryError, FeedError) as error:
            # Where a pass speaks with other processes, or is compiled, it cannot be left half-way.
            alone = self.runtime.name != "xla" and self.runtime.writers == 1
            if not (alone and out_of_memory(error)):
                raise
        if self.runtime.device.type == "cuda":
            torch.cuda.empty_cache()
        return {}, True

    def _backward(self, step: int, feed: Placed, clock: StepClock) -> dict[str, Tensor]:
        accumulate = self.accumulate
        sums: dict[str, Tensor] = {}
        counts: dict[str, int] = {}
        for micro in range(accumulate):
            asked = clock.now()
            batch = feed.take()
            clock.spent("data", asked)
            self.compiling.see(batch)
            draws = sample_seed(self.seed, step, self.runtime.rank * accumulate + micro)
            generator = torch.Generator().manual_seed(draws)
            where = self.runtime.passing(self.objective, batch, number=micro, count=accumulate)
            with where as one:
                with self.runtime.autocast():
                    parts = self._loss(one.batch, generator if one.draws else None)
                (parts["loss"] / accumulate).backward()
                numbers = one.tell(parts)
            for name, value in numbers.items():
                share = value / accumulate
                sums[name] = sums[name] + share if name in sums else share
                counts[name] = counts.get(name, 0) + 1
            self.runtime.cut()
            asked = clock.now()
            feed.send_next()
            clock.spent("data", asked)
        for name, count in counts.items():
            if count != accumulate:  # a metric that only some micro-batches have
                sums[name] = sums[name] * (accumulate / count)
        return sums

    def _loss(self, batch: Any, generator: torch.Generator | None) -> Mapping[str, Tensor]:
        parts: Mapping[str, Tensor] = self.objective.loss(batch, generator)  # type: ignore[operator]
        if "loss" not in parts:
            raise ValueError(f"objective.loss returned {sorted(parts)}; it must hold 'loss'")
        return parts

    def _agree(
        self, names: list[str], stop: StopRequest, large: bool
    ) -> tuple[bool, list[str] | None, bool]:
        """Tell whether to stop; all names of metrics, if the processes' differ; whether to retry.

        The one agreement of a step. A reduction of vectors of two lengths would hang.
        """
        if self.runtime.world == 1:
            return False, None, large
        differs = int(names != self._names)
        stopping, differ, any_large = self.runtime.agree(int(stop.requested), differs, int(large))
        if any_large or not differ:
            return bool(stopping), None, bool(any_large)
        lists: list[list[str]] = [json.loads(one) for one in self.runtime.share(json.dumps(names))]
        if all(one == names for one in lists):
            self._names = names
            return bool(stopping), None, False
        self._names = None
        return bool(stopping), list(dict.fromkeys(name for one in lists for name in one)), False

    def _reduce_and_clip(self) -> Tensor:
        gradients = self.runtime.reduce_gradients(self._parameters)
        norm = self.runtime.norm(self._parameters)
        if self.config.clip_norm is not None:
            # On the device: a factor read to the host would be a new constant of the XLA graph.
            scale = torch.clamp(self.config.clip_norm / (norm + 1e-6), max=1.0)
            torch._foreach_mul_(gradients, scale)
        return norm

    def _means(
        self, values: Mapping[str, Tensor], everyone: Sequence[str] | None
    ) -> tuple[list[str], Tensor]:
        """Average over the processes: names, and numbers of which the gradient norm is the last."""
        if everyone is None:
            return list(values), self.runtime.mean(torch.stack(list(values.values())))
        # Each metric is averaged over the processes that have it.
        names = [*everyone, "grad_norm"]
        none = torch.zeros_like(values["loss"])
        held = torch.tensor([float(name in values) for name in names], device=none.device)
        sums = self.runtime.mean(torch.stack([values.get(name, none) for name in names]))
        return names, sums / self.runtime.mean(held)

    def pieces(self, *, whole: bool = False) -> dict[str, Piece]:
        """Return this process's part of everything that training changes, in host memory.

        With `whole` the first process gets all of it, and the others nothing; each must ask. Keys
        are `objective.<state_dict key>` and `optimizer.<parameter name>.<exp_avg, ...>`.
        """
        found = {f"{OBJECTIVE}{name}": t for name, t in self.objective.state_dict().items()}
        for name, parameter in self.objective.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                found[f"{OPTIMIZER}{name}.{key}"] = value
        return self.runtime.pieces(found, whole=whole)

    def restore(self, tensors: SavedTensors, where: str) -> None:
        """Put the tensors of a checkpoint back, whatever device, and how many, they came from.

        Of what is cut over processes each one reads its own part.

        Args:
            tensors: whole ones, by the names that `pieces` gives.
            where: the checkpoint, for the error.

        Raises:
            CheckpointError: if names or shapes are not those of this objective.
        """
        own = self.objective.state_dict()
        check_fits(own, tensors, where)
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(self.runtime.like(tensors.unread(f"{OBJECTIVE}{name}"), value))
        trained = {id(parameter) for parameter in self._parameters}
        counts: dict[float, Tensor] = {}
        for name, parameter in self.objective.named_parameters():
            if id(parameter) in trained:
                self._restore_moments(tensors, name, parameter, counts)
        self.runtime.cut()

    def _restore_moments(
        self,
        tensors: SavedTensors,
        name: str,
        parameter: Tensor,
        counts: dict[float, Tensor],
    ) -> None:
        state: dict[str, Any] = {}
        for key in ("step", "exp_avg", "exp_avg_sq"):
            saved = f"{OPTIMIZER}{name}.{key}"
            if saved not in tensors:
                continue
            if key != "step":
                state[key] = self.runtime.like(tensors.unread(saved), parameter)
                continue
            value = tensors[saved]
            if self.optimizer.defaults["fused"]:
                state[key] = value.to(parameter.device, copy=True)
            else:  # one for all that are equal, as `GatedAdamW` has it
                number = float(value)
                counts[number] = counts.get(number, value.to(parameter.device, copy=True))
                state[key] = counts[number]
        if state:
            self.optimizer.state[parameter] = state
