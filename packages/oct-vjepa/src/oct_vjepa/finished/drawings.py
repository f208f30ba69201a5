"""Masks of a finished model: a class of every voxel, and what speaks against it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oct_vjepa.finished.member import Member, look
from oct_vjepa.heads.segmentation import SegmentationHead
from oct_vjepa.measures.shares import Floats

Masks = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawings:
    """What is drawn of N volumes.

    Attributes:
        names: of the classes from 0, background or what lies above the first boundary included.
        masks: (N, Z, Y, X), the class of each voxel.
        novelty: (N,); above 1 lies what is stranger than 99 of 100 validation rows. NaN: unknown.
        flags: what of each volume is unlike what the model was made for; most have none.
    """

    names: tuple[str, ...]
    masks: Masks
    novelty: Floats
    flags: tuple[tuple[str, ...], ...]

    def __len__(self) -> int:
        return len(self.masks)


def draw_batch(
    members: Sequence[Member],
    levels: tuple[int, ...],
    volumes_BZYX: NDArray[np.generic],
    spacing_B3: Tensor | None,
) -> tuple[Masks, Floats]:
    """Masks of one batch, from the mean of what the members hold likely, and its novelty.

    Args:
        members: each with an encoder and a segmentation head.
        levels: numbers of the blocks whose tokens the heads take; empty for the output.
        volumes_BZYX: of the encoders' shape.
        spacing_B3: where the encoders want it.
    """
    chances, novelty = zip(
        *(_look(one, levels, volumes_BZYX, spacing_B3) for one in members), strict=True
    )
    likely = torch.stack(chances).mean(dim=0) if len(chances) > 1 else chances[0]
    masks: Masks = likely.argmax(dim=1).cpu().numpy().astype(np.uint8)
    return masks, np.mean(novelty, axis=0)


@torch.no_grad()
def _look(
    member: Member,
    levels: tuple[int, ...],
    volumes_BZYX: NDArray[np.generic],
    spacing_B3: Tensor | None,
) -> tuple[Tensor, Floats]:
    """Chances of the classes (B, classes, Z, Y, X), and the novelty of each volume."""
    head = member.head
    assert isinstance(head, SegmentationHead)
    tokens, features = look(member.encoder, levels, volumes_BZYX, spacing_B3)
    z, y, x = volumes_BZYX.shape[1:]
    chances = head(tokens, (z, y, x)).float().softmax(dim=1)
    return chances, member.strangeness(features)
