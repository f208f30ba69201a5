"""AdamW that a number on the device may hold still."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW


class GatedAdamW(AdamW):
    """AdamW whose weights, moments and count of steps stay as they are where a step is not applied.

    Where PyTorch has one kernel for the step (CPU, CUDA), that kernel looks at the number. On XLA
    each tensor becomes, in the one graph of the step, what it was or what it should be; the count
    of steps is then on the device as well, one for all parameters that have learned equally long.
    """

    found_inf: Tensor

    def step_if(self, applied: Tensor | bool) -> None:
        """Take a step where `applied` holds; where it is 0-dim on the device, nobody waits."""
        if isinstance(applied, bool):
            if applied:
                self.step()
        elif self.defaults["fused"]:
            self.found_inf = (~applied).float()  # by this name the kernels ask for it
            self.step()
        else:
            self._step_if(applied)

    @torch.no_grad()
    def _step_if(self, applied: Tensor) -> None:
        counts: dict[int, Tensor] = {}
        for group, numbers in zip(self.param_groups, self._numbers(applied.device), strict=True):
            rates: dict[int, tuple[Tensor, Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                before = state["step"]
                key = id(before)
                if key not in counts:
                    counts[key] = torch.where(applied, before + 1, before)
                if key not in rates:
                    rates[key] = _corrected(group, numbers[0], before + 1)
                _move(parameter, state, group, numbers[1], rates[key], applied)
                state["step"] = counts[key]

    def _numbers(self, device: torch.device) -> Tensor:
        """Of each group: learning rate, and share of a weight that decay leaves, (groups, 2).

        Not as numbers of Python: torch-xla writes what is 0 or 1 as float32 into the graph, and
        compiles another one where a schedule comes near it.
        """
        rows = [
            [group["lr"], 1 - group["lr"] * group["weight_decay"]] for group in self.param_groups
        ]
        return torch.tensor(rows).to(device, non_blocking=True)


def _corrected(group: Mapping[str, Any], lr: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Learning rate, and what divides the root of the second moment, for a step of that number."""
    first, second = group["betas"]
    return lr / _share(first, count), _share(second, count).sqrt()


def _share(beta: float, count: Tensor) -> Tensor:
    """1 - beta ** count: of the moments' weights, what falls on steps that were taken.

    As float32 the difference itself would lose four digits at the first steps.
    """
    return -torch.expm1(count * math.log(beta)) if beta else torch.ones_like(count)


def _move(
    parameter: Tensor,
    state: Mapping[str, Tensor],
    group: Mapping[str, Any],
    kept: Tensor,
    rates: tuple[Tensor, Tensor],
    applied: Tensor,
) -> None:
    first, second = group["betas"]
    gradient, (rate, root) = parameter.grad, rates
    assert gradient is not None
    mean = torch.lerp(state["exp_avg"], gradient, 1 - first)
    square = state["exp_avg_sq"] * second + gradient * gradient * (1 - second)
    moved = parameter * kept - rate * (mean / (square.sqrt() / root + group["eps"]))
    for own, new in ((parameter, moved), (state["exp_avg"], mean), (state["exp_avg_sq"], square)):
        own.copy_(torch.where(applied, new, own))
