"""One hidden layer on pooled features."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from oct_vjepa.heads.head import PooledHead
from oct_vjepa.model.blocks import INIT_STD

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "relu": functional.relu,
    "silu": functional.silu,
    "tanh": torch.tanh,
}


class MlpHead(PooledHead):
    """Standardise, then one hidden layer with dropout.

    Args:
        width: features of a volume, D.
        classes: names of the classes, in the order of the outputs.
        pool: how the tokens became features; empty if they were not pooled from tokens.
        hidden: width of the hidden layer.
        dropout: share of the hidden features that training sets to 0.
        activation: one of `ACTIVATIONS`; gelu is the exact one.
        places: `levels` and `grid`, as `PooledHead` takes them.

    Raises:
        ValueError: no hidden features, a dropout that is not from 0 to below 1, or an activation
            that is not there.
    """

    kind = "mlp_head"

    def __init__(
        self,
        *,
        width: int,
        classes: Sequence[str],
        pool: str = "",
        hidden: int = 256,
        dropout: float = 0.0,
        activation: str = "gelu",
        **places: Any,
    ) -> None:
        super().__init__(width=width, classes=classes, pool=pool, dropout=dropout, **places)
        if hidden < 1:
            raise ValueError(f"head.hidden ({hidden}) must be positive")
        if activation not in ACTIVATIONS:
            raise ValueError(f"head.activation ({activation}) must be one of {list(ACTIVATIONS)}")
        self.activation = activation
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, len(self.classes))
        for layer in (self.fc1, self.fc2):
            nn.init.trunc_normal_(layer.weight, std=INIT_STD)
            nn.init.zeros_(layer.bias)

    def forward(self, features_BD: Tensor) -> Tensor:
        """Logits (B, classes)."""
        hidden = self.fc1((features_BD - self.mean) / self.scale)
        hidden = ACTIVATIONS[self.activation](hidden)
        return self.fc2(functional.dropout(hidden, self.dropout, self.training))

    def settings(self) -> dict[str, Any]:
        """Keyword arguments that rebuild this head."""
        own = {"hidden": self.fc1.out_features, "activation": self.activation}
        return PooledHead.settings(self) | own
