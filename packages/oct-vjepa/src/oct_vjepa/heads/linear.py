"""One linear layer, on pooled features or on each token: what probes fit, as modules."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from oct_vjepa.heads.answer import Answer
from oct_vjepa.heads.head import Head, PooledHead
from oct_vjepa.model.patches import mean_around

Grid = tuple[int, int, int]


class LinearHead(PooledHead):
    """Standardise, then one linear layer; gives log-odds of each class.

    Args:
        width: features of a volume, D.
        classes: names of the classes, in the order of the outputs.
        pool: how the tokens became features; empty if they were not pooled from tokens.
        dropout: share of the features that training sets to 0.
        places: `levels` and `grid`, as `PooledHead` takes them.
    """

    kind = "linear_head"

    def __init__(
        self,
        *,
        width: int,
        classes: Sequence[str],
        pool: str = "",
        dropout: float = 0.0,
        **places: Any,
    ) -> None:
        super().__init__(width=width, classes=classes, pool=pool, dropout=dropout, **places)
        self.linear = nn.Linear(width, len(self.classes))

    def forward(self, features_BD: Tensor) -> Tensor:
        """Logits (B, classes); softmax gives the probabilities."""
        features_BD = (features_BD - self.mean) / self.scale
        return self.linear(functional.dropout(features_BD, self.dropout, self.training))

    @classmethod
    def from_probe(
        cls,
        arrays: Mapping[str, NDArray[Any]],
        classes: Sequence[str],
        answer: Answer,
        *,
        pool: str,
        dropout: float = 0.0,
        **places: Any,
    ) -> Self:
        """Take over a fitted linear probe, to be trained on; until then its scores are the probe's.

        The features are brought to norm 1 together, the weights to that: AdamW moves each of them
        by the learning rate, and thousands together would leave the probe within a few steps.

        Args:
            arrays: those of a linear `oct_vjepa.probes.fitted.FittedProbe`.
            classes: as it names them.
            answer: what the outputs of this head shall mean; its kind is the probe's.
            pool: that of the readout.
            dropout: share of the features that training sets to 0.
            places: `levels` of the readout, and `grid` of the encoder.

        Raises:
            ValueError: an ordinal probe of more than two classes, whose outputs are steps.
        """
        weight, bias = arrays["weight"], arrays["bias"]
        if answer.kind == "regression":
            weight, bias = weight / answer.scale, (bias - answer.mean) / answer.scale
        elif answer.kind == "ordinal":
            weight, bias = _as_logits(weight, bias)
        if len(weight) != len(classes):
            raise ValueError(
                f"a probe of {len(weight)} outputs is no head of {len(classes)} classes"
            )
        width = weight.shape[1]
        head = cls(width=width, classes=classes, pool=pool, dropout=dropout, **places)
        head.answer, norm = answer, math.sqrt(width)
        head._take(arrays["mean"], arrays["scale"] * norm, weight * norm, bias)
        return head

    @torch.no_grad()
    def _take(
        self,
        mean_D: NDArray[Any],
        scale_D: NDArray[Any],
        weight_CD: NDArray[Any],
        bias_C: NDArray[Any],
    ) -> None:
        self.mean.copy_(torch.as_tensor(mean_D))
        self.scale.copy_(torch.as_tensor(scale_D))
        self.linear.weight.copy_(torch.as_tensor(weight_CD))
        self.linear.bias.copy_(torch.as_tensor(bias_C))


def _as_logits(weight_CD: NDArray[Any], bias_C: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """A row a class: of two classes a fit may keep the second one's alone, beside 0."""
    if len(weight_CD) != 1:
        return weight_CD, bias_C
    none = np.zeros_like(weight_CD), np.zeros_like(bias_C)
    return np.concatenate([none[0], weight_CD]), np.concatenate([none[1], bias_C])


class PatchHead(Head):
    """A linear map of each patch's token and of the mean tokens around it, and one of its row.

    Tokens of several blocks lie side by side along their features, as `levels` says; none of them
    stands for the whole volume.

    Args:
        width: features of a token, of all blocks together.
        classes: names of what is looked for; each is there or not.
        grid: patches along (Z, Y, X).
        around: sides of the squares of patches whose means are read too.
    """

    kind = "patch_head"

    def __init__(
        self,
        *,
        width: int,
        classes: Sequence[str],
        grid: Sequence[int],
        around: Sequence[int] = (),
    ) -> None:
        super().__init__()
        z, y, x = (int(side) for side in grid)
        self.classes, self.width, self.grid = list(classes), width, (z, y, x)
        self.around = [int(side) for side in around]
        self.map = nn.Linear(width * (1 + len(around)), len(self.classes), bias=False)
        self.row = nn.Parameter(torch.zeros(len(self.classes), y))

    @classmethod
    def from_regression(
        cls,
        weights_CF: NDArray[np.floating],
        bias_C: NDArray[np.floating],
        *,
        classes: Sequence[str],
        grid: Grid,
        around: Sequence[int] = (),
    ) -> Self:
        """A regression on what `oct_vjepa.evaluation.patch_probe.read_around` gives.

        Args:
            weights_CF: of features as they are; those of the rows come last.
            bias_C: what is added for each class.
            classes: their names.
            grid: patches along (Z, Y, X).
            around: sides of the squares whose means were read too.
        """
        read = weights_CF.shape[1] - grid[1]
        head = cls(width=read // (1 + len(around)), classes=classes, grid=grid, around=around)
        with torch.no_grad():
            head.map.weight.copy_(torch.from_numpy(weights_CF[:, :read]))
            head.row.copy_(torch.from_numpy(weights_CF[:, read:] + bias_C[:, None]))
        return head.eval()

    def forward(self, tokens_BND: Tensor) -> Tensor:
        """Log-odds (B, classes, Z, Y, X) on the grid.

        Raises:
            ValueError: the tokens are not those of the grid.
        """
        z, y, x = self.grid
        if tokens_BND.shape[1:] != (z * y * x, self.width):
            raise ValueError(
                f"{tokens_BND.shape[1]} tokens of {tokens_BND.shape[2]} features are not those of a"
                f" grid of {self.grid} with {self.width}"
            )
        weights = self.map.weight.split(self.width, dim=1)
        own, *means = (
            functional.linear(tokens_BND, one).movedim(-1, 1).unflatten(-1, (z, y, x))
            for one in weights
        )
        # A mean of tokens and a linear map of it: the map's values are fewer to take the mean of.
        odds = own + sum(
            mean_around(one, side) for one, side in zip(means, self.around, strict=True)
        )
        return odds + self.row[:, None, :, None]

    def from_tokens(self, tokens_BND: Tensor, *, class_tokens: int = 0) -> Tensor:
        """Refuse: each patch has an answer, and the volume none; call the head."""
        raise ValueError("patch_head: it answers of each patch: call head(tokens)")

    def settings(self) -> dict[str, Any]:
        """Keyword arguments that rebuild this head."""
        return {
            "width": self.width,
            "classes": self.classes,
            "grid": list(self.grid),
            "around": self.around,
        }
