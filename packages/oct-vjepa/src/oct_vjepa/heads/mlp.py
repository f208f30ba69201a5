"""One hidden layer on pooled features."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from oct_vjepa.heads.head import PooledHead
from oct_vjepa.model.blocks import INIT_STD


class MlpHead(PooledHead):
    """Standardise, then one hidden layer with exact GELU and dropout.

    Args:
        width: features of a volume, D.
        classes: names of the classes, in the order of the outputs.
        pool: how the tokens became features; empty if they were not pooled from tokens.
        hidden: width of the hidden layer.
        dropout: share of the hidden features that training sets to 0.

    Raises:
        ValueError: no hidden features, or a dropout that is not from 0 to below 1.
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
    ) -> None:
        super().__init__(width=width, classes=classes, pool=pool)
        if hidden < 1:
            raise ValueError(f"head.hidden ({hidden}) must be positive")
        if not 0 <= dropout < 1:
            raise ValueError(f"head.dropout ({dropout}) must be from 0 to below 1")
        self.dropout = dropout
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, len(self.classes))
        for layer in (self.fc1, self.fc2):
            nn.init.trunc_normal_(layer.weight, std=INIT_STD)
            nn.init.zeros_(layer.bias)

    def forward(self, features_BD: Tensor) -> Tensor:
        """Logits (B, classes)."""
        hidden = functional.gelu(self.fc1((features_BD - self.mean) / self.scale))
        return self.fc2(functional.dropout(hidden, self.dropout, self.training))

    def settings(self) -> dict[str, Any]:
        """Keyword arguments that rebuild this head."""
        own = {"hidden": self.fc1.out_features, "dropout": self.dropout}
        return PooledHead.settings(self) | own
