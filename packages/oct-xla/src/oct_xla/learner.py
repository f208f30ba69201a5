"""An objective with its optimiser on its devices: steps it, and gives its tensors out and back."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from oct_xla.compiling import CompileWatch
from oct_xla.errors import CheckpointError, FeedError
from oct_xla.memory import out_of_memory
from oct_xla.metrics import StepClock
from oct_xla.objective import after_step, parameter_groups
from oct_xla.order import sample_seed
from oct_xla.placing import Placed
from oct_xla.preemption import StopRequest
from oct_xla.runtime import Runtime
from oct_xla.settings import LoopConfig
from oct_xla.sharding import Piece

_OBJECTIVE, _OPTIMIZER = "objective.", "optimizer."

_LEFT = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")
"""What gloo says where the process at the other end is gone."""
_GONE = (
    "another process of this run has ended; its own last line says why, and the same command goes"
    " on from the newest checkpoint"
)
"""No error of ours, which ends a program as a user's mistake: whoever watches over the processes
may start all of them again."""


class Step(NamedTuple):
    """How one optimiser step went, the same on every process.

    Attributes:
        numbers: loss, gradient norm and metrics, means over micro-batches and processes.
        applied: whether weights changed; not if the gradient was not finite, or the loss not below
            its bound.
        stopping: whether any process was asked to stop.
    """

    numbers: dict[str, float]
    applied: bool
    stopping: bool


class TooLarge(Exception):
    """A micro-batch does not fit in memory.

    Attributes:
        everywhere: whether all processes were told and the step was not taken, so that it can be
            tried again. Else this process is in the middle of it, others may wait for it, and only
            a new start helps.
    """

    def __init__(self, *, everywhere: bool) -> None:
        super().__init__()
        self.everywhere = everywhere


class Learner:
    """Takes optimiser steps on one objective: accumulate, reduce, clip, guard, update.

    A step reads the device once: one small vector with the loss, the gradient norm and the metrics.
    Whether the step counts hangs on it, the teacher included, so it cannot be read later.

    Args:
        objective: an `oct_xla.Objective`; moved to the device.
        runtime: where it trains.
        config: see there.
        seed: names the draws of the objective.

    Attributes:
        compiling: has seen each micro-batch.
    """

    def __init__(
        self, objective: nn.Module, runtime: Runtime, config: LoopConfig, seed: int
    ) -> None:
        self.runtime, self.config, self.seed = runtime, config, seed
        self.given, self.objective = objective, runtime.prepare(objective)
        groups = parameter_groups(self.objective, config.weight_decay)
        self.optimizer = AdamW(
            groups,
            lr=1e-3,
            betas=config.betas,
            weight_decay=config.weight_decay,
            # One pass over the memory instead of ten; XLA fuses what it is given anyway.
            fused=runtime.device.type in ("cpu", "cuda"),
        )
        self._parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.accumulate = config.accumulate
        self.compiling = CompileWatch(runtime)
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
        """Take step `step`, counted from 0.

        It is not applied, and `after_step` not called, if loss or gradient norm is not finite, or
        the loss is above `bound`. The decision is made on reduced values, so all processes make the
        same.

        Raises:
            TooLarge: if memory ran out.
            RuntimeError: if another process has ended; what an objective raises, too.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        # Dropout and the like draw from here; a function of the step, so a resume repeats it.
        self.runtime.seed(sample_seed(self.seed, step, self.runtime.rank))
        try:
            values, large = self._try_backward(step, feed, clock)
            asked = clock.now()
            stopping, everyone, large = self._agree(list(values), stop, large)
            clock.spent("wait", asked)
            if large:
                self.optimizer.zero_grad(set_to_none=True)
                raise TooLarge(everywhere=True)
            values["grad_norm"] = self._reduce_and_clip()
            asked = clock.now()
            numbers = self._means(values, everyone)
            clock.spent("wait", asked)
            finite = math.isfinite(numbers["loss"]) and math.isfinite(numbers["grad_norm"])
            applied = finite and numbers["loss"] <= bound
            if applied:
                self.optimizer.step()
                numbers |= after_step(self.objective, step, self.config.steps)
            self.optimizer.zero_grad(set_to_none=True)
            self.runtime.cut()
        except (RuntimeError, MemoryError, FeedError) as error:
            if out_of_memory(error):
                raise TooLarge(everywhere=False) from error
            if any(sign in str(error) for sign in _LEFT):
                raise RuntimeError(_GONE) from error
            raise
        return Step(numbers, applied, stopping or (self.runtime.world == 1 and stop.requested))

    def _begin_moments(self) -> None:
        """Make the moments that AdamW makes at its first step: cut as parameters are, no graph.

        On XLA only. Where malloc serves, moments made before the first gradients leave these at the
        top of the heap, which is then given back and faulted in anew at every step: a third more.
        """
        for parameter in self._parameters:
            zeros = torch.zeros(parameter.shape)
            self.optimizer.state[parameter] = {
                "step": torch.tensor(0.0),
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
        with self.runtime.whole(self.objective, self.given):
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
            self.runtime.reduces_next(self.objective, micro == accumulate - 1)
            with self.runtime.autocast():
                parts = self._loss(batch, generator)
            (parts["loss"] / accumulate).backward()
            for name, value in parts.items():
                share = value.detach().float() / accumulate
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

    def _loss(self, batch: Any, generator: torch.Generator) -> Mapping[str, Tensor]:
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
    ) -> dict[str, float]:
        if everyone is None:
            means = self.runtime.mean(torch.stack(list(values.values())))
            return dict(zip(values, means.tolist(), strict=True))
        # Each metric is averaged over the processes that have it.
        names = [*everyone, "grad_norm"]
        none = torch.zeros_like(values["loss"])
        held = torch.tensor([float(name in values) for name in names], device=none.device)
        sums = self.runtime.mean(torch.stack([values.get(name, none) for name in names]))
        return dict(zip(names, (sums / self.runtime.mean(held)).tolist(), strict=True))

    def pieces(self) -> dict[str, Piece]:
        """Return this process's part of everything that training changes, in host memory.

        Keys are `objective.<state_dict key>` and `optimizer.<parameter name>.<exp_avg, ...>`.
        """
        found = {f"{_OBJECTIVE}{name}": t for name, t in self.objective.state_dict().items()}
        for name, parameter in self.objective.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                found[f"{_OPTIMIZER}{name}.{key}"] = value
        return self.runtime.pieces(found)

    def restore(self, tensors: Mapping[str, Tensor], where: str) -> None:
        """Put the tensors of a checkpoint back, whatever device, and how many, they came from.

        Args:
            tensors: whole ones, by the names that `pieces` gives.
            where: the checkpoint, for the error.

        Raises:
            CheckpointError: if names or shapes are not those of this objective.
        """
        own = self.objective.state_dict()
        _check(own, tensors, where)
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(self.runtime.like(tensors[f"{_OBJECTIVE}{name}"], value))
        trained = {id(parameter) for parameter in self._parameters}
        for name, parameter in self.objective.named_parameters():
            if id(parameter) in trained:
                self._restore_moments(tensors, name, parameter)
        self.runtime.cut()

    def _restore_moments(self, tensors: Mapping[str, Tensor], name: str, parameter: Tensor) -> None:
        state: dict[str, Any] = {}
        for key in ("step", "exp_avg", "exp_avg_sq"):
            value = tensors.get(f"{_OPTIMIZER}{name}.{key}")
            if value is None:
                continue
            if key != "step":
                state[key] = self.runtime.like(value, parameter)
            else:  # lies on the device where AdamW is fused
                fused = self.optimizer.defaults["fused"]
                state[key] = value.to(parameter.device if fused else value.device, copy=True)
        if state:
            self.optimizer.state[parameter] = state


def objective_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the objective's own state dict out of a checkpoint's tensors."""
    size = len(_OBJECTIVE)
    return {name[size:]: t for name, t in tensors.items() if name.startswith(_OBJECTIVE)}


def _check(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], where: str) -> None:
    saved = {name[len(_OBJECTIVE) :] for name in tensors if name.startswith(_OBJECTIVE)}
    missing, unknown = sorted(own.keys() - saved), sorted(saved - own.keys())
    if missing or unknown:
        raise CheckpointError(
            f"{where}: made by another objective: it lacks {_some(missing)} and has"
            f" {_some(unknown)} more; use its own configuration or another run_dir"
        )
    for name, value in own.items():
        shape = tensors[f"{_OBJECTIVE}{name}"].shape
        if value.shape != shape:
            raise CheckpointError(
                f"{where}: {name} has shape {tuple(shape)}, this objective needs"
                f" {tuple(value.shape)}; use its own configuration or another run_dir"
            )


def _some(names: Sequence[str]) -> str:
    if not names:
        return "nothing"
    return ", ".join(names[:3]) + (f" and {len(names) - 3} others" if len(names) > 3 else "")
