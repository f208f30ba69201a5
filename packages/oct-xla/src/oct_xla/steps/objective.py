"""What `fit` can train."""

from collections.abc import Mapping
from inspect import signature
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@runtime_checkable
class Objective(Protocol):
    """A `torch.nn.Module` with a loss. Three more methods and two flags are used if they exist.

    - `after_step(step: int, steps: int) -> dict[str, float]`: called after each optimiser step that
      was not skipped, `step` counted from 0; moves an EMA teacher; returns numbers to log. It
      must not read from the device. On an accelerator the host waits for each step to know whether
      it was skipped, unless there is a third parameter `applied: Tensor | None = None`: then it is
      also called after a skipped step, with a 0-dim bool on the device, and must leave all as it
      was where that is False, but for what `loss` has noted down for it in that step.
    - `parameter_groups(weight_decay: float) -> list[dict]`: groups for AdamW; a group's
      "lr_scale" multiplies its learning rate. Without it, all trainable parameters form one group.
    - `sharding_units() -> list[nn.Module]`: with parallel="fsdp" the modules that are gathered one
      at a time, each called through `forward`. Without it, the elements of every `ModuleList`.
    - `separable: bool`: True says that the loss is a mean over samples, that `loss` draws nothing
      if the generator is None, drops nothing and changes no buffer. Then XLA devices add up the
      gradients of micro-batches each for itself, and reduce them once a step.
    - `coupled: bool`: True says that the loss is no mean over samples but compares those of a
      micro-batch, as batch norm does. Then a run keeps the micro-batches that it began with: no
      lack of memory halves them, and a resume that cuts the batch otherwise is refused.

    The whole state is `state_dict()`. `fit` moves the module to the device first, which on XLA
    makes new parameter objects: keep no list of parameters made before. With parallel="fsdp" it
    trains a copy that is cut over the processes, and brings the one it was given up to date for
    each evaluation and at the end.
    """

    def loss(self, batch: Any, generator: torch.Generator | None) -> Mapping[str, Tensor]:
        """Return "loss", differentiable, and detached metrics; all 0-dim, none read to the host."""
        ...


def parameter_groups(objective: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return the objective's own groups, or all trainable parameters as one.

    Raises:
        ValueError: if nothing is trainable.
    """
    own = getattr(objective, "parameter_groups", None)
    groups: list[dict[str, Any]] = (
        [{"params": list(objective.parameters()), "weight_decay": weight_decay}]
        if own is None
        else list(own(weight_decay))
    )
    for group in groups:
        group["params"] = [p for p in group["params"] if p.requires_grad]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise ValueError("objective: it has no trainable parameter; unfreeze a part of it")
    return groups


class AfterStep:
    """The `after_step` of an objective, if it has one.

    Args:
        objective: whose it is.
        steps: planned number of steps.

    Attributes:
        wanted: whether there is one.
        gated: whether it takes the decision as a tensor.
    """

    def __init__(self, objective: nn.Module, steps: int) -> None:
        self._own, self._steps = getattr(objective, "after_step", None), steps
        self.wanted = self._own is not None
        self.gated = self._own is not None and "applied" in signature(self._own).parameters

    def call(self, step: int, applied: Tensor | None = None) -> dict[str, float]:
        """Call it, with `applied` only where it is given."""
        assert self._own is not None
        more = {} if applied is None else {"applied": applied}
        return dict(self._own(step, self._steps, **more))
