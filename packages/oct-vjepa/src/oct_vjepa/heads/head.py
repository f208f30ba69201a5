"""What every head is: it knows its classes, reads tokens or pooled features, and can be saved."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from oct_vjepa.heads.answer import Answer
from oct_vjepa.model.configuration import CELLS
from oct_vjepa.model.pooling import pool_cells, pool_tokens
from oct_vjepa.model.weights import (
    WeightsError,
    load_weights,
    read_config,
    without_numbers,
    write_weights,
)


class Head(nn.Module):
    """A classifier that can be saved: it knows its classes, and gives logits from tokens.

    A subclass names its `kind`, returns from `settings` what its constructor takes, and computes
    `from_tokens`.
    """

    kind: ClassVar[str]
    classes: list[str]
    answer: Answer = Answer()
    """What the outputs mean; saved with the head."""
    levels: tuple[int, ...] = ()
    """Numbers of the blocks whose tokens it takes, side by side along their features; empty for the
    encoder's output. Saved with the head."""

    def settings(self) -> dict[str, Any]:
        """Keyword arguments that rebuild this head, as JSON values."""
        raise NotImplementedError

    def from_tokens(self, tokens_BND: Tensor, *, class_tokens: int = 0) -> Tensor:
        """Logits (B, classes) from an encoder's tokens, of which `class_tokens` come first."""
        raise NotImplementedError

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors to `folder`."""
        read = {"levels": list(self.levels)} if self.levels else {}
        whole = self.settings() | {"answer": asdict(self.answer)} | read
        write_weights(folder, self.kind, whole, self)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Read a head from a folder, in evaluation mode and on the CPU.

        Raises:
            WeightsError: files missing or damaged, settings that do not fit, or keys that do not.
        """
        settings = read_config(folder, cls.kind)
        try:
            answer = Answer(**settings.pop("answer", {}))
            levels = tuple(int(one) for one in settings.pop("levels", ()))
            with without_numbers():  # all of them are in the file
                head = cls(**settings)
        except (TypeError, ValueError) as error:
            raise WeightsError(f"{folder}: config.json is not valid: {error}") from error
        load_weights(head, folder)
        head.answer, head.levels = answer, levels
        return head.eval()


class PooledHead(Head):
    """A head whose input is a volume's pooled features, which it standardises first.

    Args:
        width: features of a volume, D.
        classes: names of the classes, in the order of the outputs.
        pool: how the tokens became features, so that whoever uses the head does the same; empty
            if they were not pooled from tokens.
        dropout: share of the last layer's input that training sets to 0.
        levels: see `Head.levels`; each is pooled by itself, and stands beside the others. `cells`
            are those of the last.
        grid: patches along (Z, Y, X), which `cells` wants to know.

    Raises:
        ValueError: a dropout that is not from 0 to below 1, or `cells` without a grid.
    """

    def __init__(
        self,
        *,
        width: int,
        classes: Sequence[str],
        pool: str = "",
        dropout: float = 0.0,
        levels: Sequence[int] = (),
        grid: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.classes, self.pool = list(classes), pool
        self.levels, self.grid = tuple(levels), tuple(grid)
        if pool == CELLS and len(self.grid) != 3:
            raise ValueError(f"head.grid ({self.grid}) must be patches along (Z, Y, X) for cells")
        self.dropout = check_dropout(dropout)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))

    mean: Tensor
    scale: Tensor

    def standardise(self, features_ND: Tensor) -> Tensor:
        """Take over mean and standard deviation of training features; constant ones keep scale 1.

        Returns the features with mean 0 and standard deviation 1.
        """
        spread = features_ND.std(dim=0, correction=0)
        with torch.no_grad():
            self.mean.copy_(features_ND.mean(dim=0))
            self.scale.copy_(torch.where(spread > 1e-12, spread, torch.ones_like(spread)))
        return (features_ND - self.mean) / self.scale

    def from_tokens(self, tokens_BND: Tensor, *, class_tokens: int = 0) -> Tensor:
        """Logits (B, classes) from an encoder's tokens.

        Raises:
            ValueError: the head was not made for pooled tokens.
        """
        return self(self.pooled(tokens_BND, class_tokens=class_tokens))

    def pooled(self, tokens_BND: Tensor, *, class_tokens: int = 0) -> Tensor:
        """The features (B, D) that it reads from tokens of its blocks, as `read_out` has them.

        Raises:
            ValueError: the head was not made for pooled tokens.
        """
        if not self.pool:
            raise ValueError(f"{self.kind}: its pool is empty, so it cannot start from tokens")
        levels = tokens_BND.chunk(max(len(self.levels), 1), dim=-1)
        if self.pool == CELLS:
            z, y, x = self.grid
            return pool_cells(levels[-1], (z, y, x), class_tokens=class_tokens)
        each = [pool_tokens(one, self.pool, class_tokens=class_tokens) for one in levels]
        return torch.cat(each, dim=-1)

    def settings(self) -> dict[str, Any]:
        """Keyword arguments that rebuild this head."""
        return {
            "width": len(self.mean),
            "classes": self.classes,
            "pool": self.pool,
            "dropout": self.dropout,
            "grid": list(self.grid),
        }


def check_dropout(dropout: float) -> float:
    """Return `dropout`.

    Raises:
        ValueError: it is not from 0 to below 1.
    """
    if not 0 <= dropout < 1:
        raise ValueError(f"head.dropout ({dropout}) must be from 0 to below 1")
    return dropout
