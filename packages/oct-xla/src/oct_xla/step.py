"""One optimiser step: accumulate, reduce, clip, guard, update."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from oct_xla.errors import DeviceError
from oct_xla.feed import sample_seed
from oct_xla.objective import after_step
from oct_xla.runtime import Runtime
from oct_xla.timing import StepClock


@dataclass(kw_only=True, slots=True)
class Stepper:
    """Takes optimiser steps on one objective.

    A step reads the device once: one small vector with the loss, the gradient norm and the metrics.
    """

    objective: nn.Module
    optimizer: AdamW
    runtime: Runtime
    steps: int
    accumulate: int
    clip_norm: float | None
    seed: int

    def take(
        self, step: int, feed: Iterator[Any], clock: StepClock
    ) -> tuple[dict[str, float], bool]:
        """Take step `step`, counted from 0; return its numbers and whether it was applied.

        It is not applied, and `after_step` not called, if loss or gradient norm is not finite. The
        decision is made on reduced values, so all processes make the same.

        Raises:
            DeviceError: if the device is out of memory; the text says what to set.
        """
        # Dropout and the like draw from here; a function of the step, so a resume repeats it.
        self.runtime.seed(sample_seed(self.seed, step, self.runtime.rank))
        try:
            names, values = self._backward(step, feed, clock)
            self._reduce_and_clip(names, values)
            numbers = dict(zip(names, self.runtime.mean(torch.stack(values)).tolist(), strict=True))
            finite = math.isfinite(numbers["loss"]) and math.isfinite(numbers["grad_norm"])
            if finite:
                self.optimizer.step()
                numbers |= after_step(self.objective, step, self.steps)
            self.optimizer.zero_grad(set_to_none=True)
            self.runtime.cut()
        except RuntimeError as error:
            raise _explained(error, self.accumulate) from error
        return numbers, finite

    def _backward(
        self, step: int, feed: Iterator[Any], clock: StepClock
    ) -> tuple[list[str], list[Tensor]]:
        sums: dict[str, Tensor] = {}
        for micro in range(self.accumulate):
            asked = clock.now()
            batch = next(feed)
            clock.waited(asked)
            draws = sample_seed(self.seed, step, self.runtime.rank * self.accumulate + micro)
            generator = torch.Generator().manual_seed(draws)
            with self.runtime.autocast():
                parts = self._loss(self.runtime.put(batch), generator)
            (parts["loss"] / self.accumulate).backward()
            for name, value in parts.items():
                share = value.detach().float() / self.accumulate
                sums[name] = sums[name] + share if micro else share
            self.runtime.cut()
        return list(sums), list(sums.values())

    def _loss(self, batch: Any, generator: torch.Generator) -> Mapping[str, Tensor]:
        parts: Mapping[str, Tensor] = self.objective.loss(batch, generator)  # type: ignore[operator]
        if "loss" not in parts:
            raise ValueError(f"objective.loss returned {sorted(parts)}; it must hold 'loss'")
        return parts

    def _reduce_and_clip(self, names: list[str], values: list[Tensor]) -> None:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.runtime.reduce_gradients(parameters)
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients).float()
        if self.clip_norm is not None:
            # On the device: a factor read to the host would be a new constant of the XLA graph.
            scale = torch.clamp(self.clip_norm / (norm + 1e-6), max=1.0)
            torch._foreach_mul_(gradients, scale)
        names.append("grad_norm")
        values.append(norm)


def _explained(error: RuntimeError, accumulate: int) -> Exception:
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError) or any(
        sign in text for sign in ("RESOURCE_EXHAUSTED", "out of memory", "Out of memory")
    ):
        return DeviceError(
            f"out of device memory: raise loop.accumulate from {accumulate} to {2 * accumulate}"
            " (the batch and the result stay the same) and start again; it resumes"
        )
    return error
