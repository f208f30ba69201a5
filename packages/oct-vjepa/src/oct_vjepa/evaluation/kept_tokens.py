"""Kept tokens of a frozen encoder, of several blocks side by side, read a batch at a time."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Blocks = tuple[int, ...]
"""Places, from 0 and ascending, of blocks among those that were kept; none stands for all."""


@dataclass(frozen=True, slots=True)
class KeptTokens:
    """Tokens of all rows, of which only a batch is in memory where a file is mapped to it.

    Attributes:
        tokens: (N, T, D).
        parts: blocks whose features lie side by side along D.
    """

    tokens: NDArray[Any]
    parts: int = 1

    def width(self, blocks: Blocks) -> int:
        """Features of a token of these blocks together.

        Raises:
            ValueError: there are no such blocks.
        """
        whole = int(self.tokens.shape[2])
        if whole % self.parts or max(blocks, default=0) >= self.parts:
            raise ValueError(
                f"tokens of {whole} features, {self.parts} blocks side by side, have no {blocks}"
            )
        return whole // self.parts * (len(blocks) or self.parts)

    def read(
        self, rows: NDArray[np.int64], wanted: Iterable[Blocks], device: torch.device | str
    ) -> dict[Blocks, Tensor]:
        """What is wanted of some rows, (B, T, D) float32 each; a row is read once for all."""
        batch = torch.from_numpy(np.asarray(self.tokens[rows], dtype=np.float32)).to(device)
        apart = batch.unflatten(-1, (self.parts, -1))
        return {
            blocks: batch if len(blocks) in (0, self.parts) else apart[:, :, blocks].flatten(2)
            for blocks in dict.fromkeys(wanted)
        }
