"""Which parameters weight decay spares: one rule for pretraining, fine-tuning and probes."""

from typing import Any

from torch import Tensor, nn

UNDECAYED = ("query", "mask_tokens", "table", "positions")
"""Names of parameters that are tokens or places and no maps, whatever module they belong to."""


def decays(name: str, weight: Tensor) -> bool:
    """Whether a parameter is a map, which decay keeps small.

    Biases, norms, queries, mask tokens and learned places are not.

    Args:
        name: as `named_parameters` gives it; its last part counts.
        weight: the parameter.
    """
    return weight.ndim >= 2 and name.rpartition(".")[2] not in UNDECAYED


def decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Optimiser groups of what learns in `module`: first what decays, then what does not."""
    maps: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, weight in module.named_parameters():
        if weight.requires_grad:
            (maps if decays(name, weight) else others).append(weight)
    return [
        {"params": maps, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
