"""Maps of a finished model: the chance of each patch to hold a class, and what speaks against."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oct_vjepa.evaluation.patch_probe import read_tokens
from oct_vjepa.finished.member import Member
from oct_vjepa.heads.linear import PatchHead
from oct_vjepa.measures.shares import Floats

Chances = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Located:
    """What is said of every patch of N volumes.

    Attributes:
        names: of the classes.
        chances: (N, classes, Z, Y, X) on the encoder's grid, 0 to 1.
        novelty: (N,); above 1 lies what is stranger than 99 of 100 validation rows. NaN: unknown.
        flags: what of each volume is unlike what the model was made for; most have none.
    """

    names: tuple[str, ...]
    chances: Chances
    novelty: Floats
    flags: tuple[tuple[str, ...], ...]

    def __len__(self) -> int:
        return len(self.chances)


def locate_batch(
    members: Sequence[Member], volumes_BZYX: NDArray[np.generic], spacing_B3: Tensor | None
) -> tuple[Chances, Floats]:
    """Chances of one batch, the mean of what the members say, and its novelty.

    Args:
        members: each with an encoder and a patch head.
        volumes_BZYX: of the encoders' shape.
        spacing_B3: where the encoders want it.
    """
    chances, novelty = zip(*(_look(one, volumes_BZYX, spacing_B3) for one in members), strict=True)
    return np.mean(chances, axis=0, dtype=np.float32), np.mean(novelty, axis=0)


@torch.no_grad()
def _look(
    member: Member, volumes_BZYX: NDArray[np.generic], spacing_B3: Tensor | None
) -> tuple[Chances, Floats]:
    """Chances (B, classes, Z, Y, X), and the novelty of each volume."""
    head = member.head
    assert isinstance(head, PatchHead)
    tokens = read_tokens(
        member.encoder,
        iter(volumes_BZYX),
        blocks=head.levels,
        batch_size=len(volumes_BZYX),
        spacing_N3=None if spacing_B3 is None else spacing_B3.numpy(),
    )
    odds: Tensor = head(torch.from_numpy(tokens).float().to(head.row.device))
    return odds.sigmoid().cpu().numpy(), member.strangeness(mean_of_patches(tokens))


def mean_of_patches(tokens_NTD: NDArray[np.floating]) -> NDArray[np.float32]:
    """What novelty is looked for in, (N, D): all patches together, of the blocks that are read."""
    return np.stack([one.mean(axis=0, dtype=np.float32) for one in tokens_NTD])
