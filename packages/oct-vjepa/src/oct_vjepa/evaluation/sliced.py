"""An encoder of single B-scans, or of small stacks of them, as one of whole volumes."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from oct_vjepa.model.configuration import EncoderConfig
from oct_vjepa.model.encoder import Encoder
from oct_vjepa.model.pooling import check_pools
from oct_vjepa.model.weights import weights_fingerprint

AT_ONCE = 64
"""Stacks that go through the encoder together; a volume may have hundreds of B-scans."""


def takes(config: EncoderConfig, shape: Sequence[int]) -> bool:
    """Whether an encoder takes volumes of (Z, Y, X) voxels, whole or in stacks that fill them."""
    own = config.input_shape
    return tuple(shape[1:]) == tuple(own[1:]) and shape[0] % own[0] == 0


def over_volumes(encoder: Encoder, bscans: int) -> "Encoder | SlicedEncoder":
    """The encoder for volumes of so many B-scans: itself, or stack by stack where it takes fewer.

    Raises:
        ValueError: stacks of what it takes would leave B-scans over.
    """
    own = encoder.config.input_shape[0]
    if bscans % own:
        raise ValueError(
            f"volumes of {bscans} B-scans are no stacks of {own}, as the encoder takes"
        )
    return encoder if own == bscans else SlicedEncoder(encoder).eval()


class Stacks(NamedTuple):
    """Stacks cut out of volumes, those of one volume one after the other."""

    voxels: Tensor  # (B * S, C, n, Y, X)
    spacing_S3: Tensor | None  # (B * S, 3)
    each: int  # S, stacks of a volume


class SlicedEncoder(nn.Module):
    """Features of each stack of B-scans, averaged over the stacks of a volume.

    It stands where an `Encoder` does in `embed_volumes` and `load_or_embed`, which pool the tokens
    of each stack first. What lies across stacks it cannot see.

    Args:
        encoder: takes n consecutive B-scans, as `input_shape[0]` says; a B-scan encoder takes 1.
            Rows and columns of the volumes must be those that its patches divide; resizing is the
            caller's, as is that B-scans are as far apart as in its training.
        every: B-scans from the start of a stack to that of the next; None for n, so that each
            B-scan is seen once. What is left over is left out at both ends alike.
        pool: how `embed` pools the tokens of a stack.
    """

    def __init__(self, encoder: Encoder, *, every: int | None = None, pool: str = "mean") -> None:
        super().__init__()
        check_pools((pool,))
        self.encoder, self.pool = encoder, pool
        self.thickness = encoder.config.input_shape[0]
        self.every = self.thickness if every is None else every
        if self.every < 1:
            raise ValueError(f"every ({every}) must be at least 1")

    @property
    def config(self) -> EncoderConfig:
        """That of the encoder within."""
        return self.encoder.config

    @property
    def fingerprint(self) -> str:
        """16 hex characters for the weights and for how volumes are cut; `pool` is `embed`'s."""
        said = f"{weights_fingerprint(self.encoder)} {self.thickness} every {self.every}"
        return hashlib.sha256(f"sliced {said}".encode()).hexdigest()[:16]

    def cut(self, x_BCZYX: Tensor, spacing_B3: Tensor | None = None) -> Stacks:
        """The stacks of each volume.

        Raises:
            ValueError: a volume has fewer B-scans than a stack.
        """
        bscans, n = x_BCZYX.shape[2], self.thickness
        if bscans < n:
            raise ValueError(f"volumes of {bscans} B-scans, and the encoder takes {n}")
        first = (bscans - n) % self.every // 2
        starts = range(first, bscans - n + 1, self.every)
        stacks = torch.stack([x_BCZYX[:, :, z : z + n] for z in starts], dim=1).flatten(0, 1)
        steps = None if spacing_B3 is None else spacing_B3.repeat_interleave(len(starts), dim=0)
        return Stacks(stacks, steps, len(starts))

    def embed(self, volumes: Tensor, *, spacing_B3: Tensor | None = None) -> Tensor:
        """One vector a volume, (B, D), or as wide as `pool_tokens` says.

        Args:
            volumes: (B, Z, Y, X) or (B, C, Z, Y, X).
            spacing_B3: distance between voxels, for an encoder whose positions are lengths.
        """
        x_BCZYX = volumes if volumes.ndim == 5 else volumes.unsqueeze(1)
        cut = self.cut(x_BCZYX, spacing_B3)
        parts = []
        for first in range(0, len(cut.voxels), AT_ONCE):
            some = slice(first, first + AT_ONCE)
            steps = None if cut.spacing_S3 is None else cut.spacing_S3[some]
            parts.append(self.encoder.embed(cut.voxels[some], self.pool, spacing_B3=steps))
        return torch.cat(parts).unflatten(0, (-1, cut.each)).mean(dim=1)
