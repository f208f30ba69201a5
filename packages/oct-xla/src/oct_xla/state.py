"""The objective and its optimiser as named tensors, on their way to a checkpoint and back."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from oct_xla.errors import CheckpointError
from oct_xla.runtime import Runtime

_OBJECTIVE, _OPTIMIZER = "objective.", "optimizer."


def collect_tensors(objective: nn.Module, optimizer: AdamW, runtime: Runtime) -> dict[str, Tensor]:
    """Return everything that training changes, in host memory, by parameter name.

    Keys are `objective.<state_dict key>` and `optimizer.<parameter name>.<exp_avg, ...>`.
    """
    tensors = {f"{_OBJECTIVE}{name}": value for name, value in objective.state_dict().items()}
    for name, parameter in objective.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{_OPTIMIZER}{name}.{key}"] = value
    return runtime.host(tensors)


def restore_tensors(
    tensors: Mapping[str, Tensor], objective: nn.Module, optimizer: AdamW, where: str
) -> None:
    """Put the tensors of a checkpoint back, whatever device they came from.

    Args:
        tensors: as `collect_tensors` made them.
        objective: already on its device.
        optimizer: of the objective's parameters.
        where: the checkpoint, for the error.

    Raises:
        CheckpointError: if names or shapes are not those of this objective.
    """
    own = objective.state_dict()
    saved = objective_tensors(tensors)
    _check_names(own, saved, where)
    _check_shapes(own, saved, where)
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(saved[name].to(value.device))
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in objective.named_parameters():
        if id(parameter) in trained:
            _restore_moments(tensors, name, parameter, optimizer)


def objective_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the objective's own state dict out of a checkpoint's tensors."""
    size = len(_OBJECTIVE)
    return {name[size:]: t for name, t in tensors.items() if name.startswith(_OBJECTIVE)}


def _restore_moments(
    tensors: Mapping[str, Tensor], name: str, parameter: Tensor, optimizer: AdamW
) -> None:
    state: dict[str, Any] = {}
    for key in ("step", "exp_avg", "exp_avg_sq"):
        value = tensors.get(f"{_OPTIMIZER}{name}.{key}")
        if value is not None:
            # AdamW keeps its step counter on the host.
            state[key] = value if key == "step" else value.to(parameter.device)
    if state:
        optimizer.state[parameter] = state


def _check_names(own: Mapping[str, Any], saved: Mapping[str, Any], where: str) -> None:
    missing, unknown = sorted(own.keys() - saved.keys()), sorted(saved.keys() - own.keys())
    if missing or unknown:
        raise CheckpointError(
            f"{where}: made by another objective: it lacks {_some(missing)} and has"
            f" {_some(unknown)} more; use its own configuration or another run_dir"
        )


def _check_shapes(own: Mapping[str, Tensor], saved: Mapping[str, Tensor], where: str) -> None:
    for name, value in own.items():
        if value.shape != saved[name].shape:
            raise CheckpointError(
                f"{where}: {name} has shape {tuple(saved[name].shape)}, this objective needs"
                f" {tuple(value.shape)}; use its own configuration or another run_dir"
            )


def _some(names: Sequence[str]) -> str:
    if not names:
        return "nothing"
    return ", ".join(names[:3]) + (f" and {len(names) - 3} others" if len(names) > 3 else "")
