"""One linear layer on pooled features: what a probe fits, as a module."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from oct_vjepa.heads.head import PooledHead


class LinearHead(PooledHead):
    """Standardise, then one linear layer; gives log-odds of each class.

    Args:
        width: features of a volume, D.
        classes: names of the classes, in the order of the outputs.
        pool: how the tokens became features; empty if they were not pooled from tokens.
        dropout: share of the features that training sets to 0.
    """

    kind = "linear_head"

    def __init__(
        self, *, width: int, classes: Sequence[str], pool: str = "", dropout: float = 0.0
    ) -> None:
        super().__init__(width=width, classes=classes, pool=pool, dropout=dropout)
        self.linear = nn.Linear(width, len(self.classes))

    def forward(self, features_BD: Tensor) -> Tensor:
        """Logits (B, classes); softmax gives the probabilities."""
        features_BD = (features_BD - self.mean) / self.scale
        return self.linear(functional.dropout(features_BD, self.dropout, self.training))

    @classmethod
    def from_regression(cls, model: Any, classes: Sequence[str], pool: str = "") -> Self:
        """Take over a fitted scikit-learn pipeline of StandardScaler and LogisticRegression.

        With two classes the regression keeps one row of weights, the log-odds of the second class;
        the first class then gets logit 0.
        """
        scaler, regression = model[0], model[-1]
        weight, bias = torch.as_tensor(regression.coef_), torch.as_tensor(regression.intercept_)
        if len(weight) == 1:
            weight = torch.cat([torch.zeros_like(weight), weight])
            bias = torch.cat([torch.zeros_like(bias), bias])
        head = cls(width=weight.shape[1], classes=classes, pool=pool)
        with torch.no_grad():
            head.mean.copy_(torch.as_tensor(scaler.mean_))
            head.scale.copy_(torch.as_tensor(scaler.scale_))
            head.linear.weight.copy_(weight)
            head.linear.bias.copy_(bias)
        return head
