"""What stands on top of a frozen encoder: a linear classifier of pooled features."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from oct_vjepa.weights import WeightsError, load_weights, read_config, write_weights


class LinearHead(nn.Module):
    """Standardise, then one linear layer; gives log-odds of each class.

    Args:
        width: features of a volume, D.
        classes: names of the classes, in the order of the outputs.
        pool: how the tokens became features, so that whoever uses the head does the same; empty
            if they were not pooled from tokens.
    """

    def __init__(self, *, width: int, classes: Sequence[str], pool: str = "") -> None:
        super().__init__()
        self.classes, self.pool = list(classes), pool
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.linear = nn.Linear(width, len(self.classes))

    mean: Tensor
    scale: Tensor

    def forward(self, features_BD: Tensor) -> Tensor:
        """Logits (B, classes); softmax gives the probabilities."""
        return self.linear((features_BD - self.mean) / self.scale)

    @classmethod
    def from_regression(cls, model: Any, classes: Sequence[str]) -> Self:
        """Take over a fitted scikit-learn pipeline of StandardScaler and LogisticRegression.

        With two classes the regression keeps one row of weights, the log-odds of the second class;
        the first class then gets logit 0.
        """
        scaler, regression = model[0], model[-1]
        weight, bias = torch.as_tensor(regression.coef_), torch.as_tensor(regression.intercept_)
        if len(weight) == 1:
            weight = torch.cat([torch.zeros_like(weight), weight])
            bias = torch.cat([torch.zeros_like(bias), bias])
        head = cls(width=weight.shape[1], classes=classes)
        with torch.no_grad():
            head.mean.copy_(torch.as_tensor(scaler.mean_))
            head.scale.copy_(torch.as_tensor(scaler.scale_))
            head.linear.weight.copy_(weight)
            head.linear.bias.copy_(bias)
        return head

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors to `folder`."""
        config = {"width": len(self.mean), "classes": self.classes, "pool": self.pool}
        write_weights(folder, "linear_head", config, self)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Read a head from a folder.

        Raises:
            WeightsError: files missing or damaged, or keys that do not fit.
        """
        settings = read_config(folder, "linear_head")
        try:
            head = cls(**settings)
        except TypeError as error:
            raise WeightsError(f"{folder}: config.json is not valid: {error}") from error
        load_weights(head, folder)
        return head.eval()
