"""One answer from all volumes of a participant: volume to side to participant, by learned pools.

The fusion of several views follows the idea of EchoJEPA's multi-view probe: attention over the
views that are there, and views left out at random in training, so that none becomes indispensable.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from oct_vjepa.heads.configuration import LossConfig
from oct_vjepa.heads.costs import Costs
from oct_vjepa.heads.head import Head
from oct_vjepa.model.blocks import INIT_STD
from oct_vjepa.model.decay import decay_groups

SIDES = 3
"""Right, left, and volumes whose side is unknown."""


class MaskedPool(nn.Module):
    """One vector from a set of vectors some of which are missing: a learned query asks the rest.

    Args:
        width: features of a vector.
        inner: width of keys and values.
        heads: attention heads.

    Raises:
        ValueError: the heads do not divide `inner`.
    """

    def __init__(self, *, width: int, inner: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or inner < 1 or inner % heads:
            raise ValueError(f"head.inner ({inner}) must be a positive multiple of heads ({heads})")
        self.heads = heads
        self.query = nn.Parameter(torch.empty(1, 1, inner))
        self.norm = nn.LayerNorm(width)
        self.keyvalue = nn.Linear(width, 2 * inner)
        self.proj = nn.Linear(inner, width)
        for weight in (self.query, self.keyvalue.weight, self.proj.weight):
            nn.init.trunc_normal_(weight, std=INIT_STD)
        for bias in (self.keyvalue.bias, self.proj.bias):
            nn.init.zeros_(bias)

    def forward(self, x_BVD: Tensor, there_BV: Tensor) -> Tensor:
        """The mean of the vectors that are there plus what the query finds, (B, D); 0 for none."""
        some_B1 = there_BV.any(dim=1, keepdim=True)
        # A softmax over nothing is NaN: a set without vectors asks all, and its answer is not used.
        asked_BV = there_BV | ~some_B1
        query = self.query.expand(x_BVD.shape[0], -1, -1).unflatten(-1, (self.heads, -1))
        keyvalue = self.keyvalue(self.norm(x_BVD)).unflatten(-1, (2, self.heads, -1))
        key, value = (part.transpose(1, 2) for part in keyvalue.unbind(2))
        mask = asked_BV[:, None, None, :]
        found = functional.scaled_dot_product_attention(
            query.transpose(1, 2), key, value, attn_mask=mask
        )
        found_BD = self.proj(found.transpose(1, 2).flatten(-2).squeeze(1))
        share_BV = asked_BV.to(x_BVD.dtype)
        share_BV = share_BV / share_BV.sum(dim=1, keepdim=True)
        mean_BD = (x_BVD * share_BV.unsqueeze(-1)).sum(dim=1)
        return (mean_BD + found_BD) * some_B1


class MultiVolumeHead(Head):
    """Pool the feature vectors of a participant's volumes by side, then over the sides.

    The number of volumes is a shape, so batches are filled up to one number and a mask says which
    are real; what stands in the others does not matter. Order does not matter either.

    Args:
        width: features of a volume.
        classes: names of the classes, in the order of the outputs.
        inner: width of keys and values of both pools.
        heads: attention heads of both pools.
        view_dropout: chance that training leaves a volume out; one always stays.

    Raises:
        ValueError: the heads do not divide `inner`, or a chance that is not from 0 to below 1.
    """

    kind = "multi_volume_head"

    def __init__(
        self,
        *,
        width: int,
        classes: Sequence[str],
        inner: int = 128,
        heads: int = 4,
        view_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= view_dropout < 1:
            raise ValueError(f"head.view_dropout ({view_dropout}) must be from 0 to below 1")
        self.classes, self.view_dropout = list(classes), view_dropout
        self._shape = {"width": width, "inner": inner, "heads": heads}
        self.by_side = MaskedPool(**self._shape)
        self.by_participant = MaskedPool(**self._shape)
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, len(self.classes))
        nn.init.trunc_normal_(self.linear.weight, std=INIT_STD)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x_BVD: Tensor, there_BV: Tensor, side_BV: Tensor | None = None) -> Tensor:
        """Outputs (B, classes).

        Args:
            x_BVD: features of V volumes each.
            there_BV: bool; which volumes are real, at least one of each participant.
            side_BV: 0 right, 1 left, 2 unknown; None: all of one side.

        Raises:
            ValueError: shapes that do not fit, or, on the CPU, a participant without a volume.
        """
        if there_BV.shape != x_BVD.shape[:2] or there_BV.dtype != torch.bool:
            raise ValueError(
                f"there_BV must be bool {tuple(x_BVD.shape[:2])}, not {there_BV.dtype} "
                f"{tuple(there_BV.shape)}"
            )
        if there_BV.device.type == "cpu" and not there_BV.any(dim=1).all():
            raise ValueError("there_BV: a participant has no volume; leave the participant out")
        x_BVD = torch.where(there_BV.unsqueeze(-1), x_BVD, torch.zeros_like(x_BVD))
        there_BV = self._left(there_BV)
        side_BV = torch.zeros_like(there_BV, dtype=torch.int64) if side_BV is None else side_BV
        sides, seen = [], []
        for side in range(SIDES):
            of_side = there_BV & (side_BV == side)
            sides.append(self.by_side(x_BVD, of_side))
            seen.append(of_side.any(dim=1))
        pooled = self.by_participant(torch.stack(sides, dim=1), torch.stack(seen, dim=1))
        return self.linear(self.norm(pooled))

    def _left(self, there_BV: Tensor) -> Tensor:
        """Which volumes stay in this step."""
        if not self.training or self.view_dropout == 0:
            return there_BV
        draw = torch.rand(there_BV.shape, device=there_BV.device).masked_fill(~there_BV, -1.0)
        last = draw == draw.amax(dim=1, keepdim=True)
        return there_BV & ((draw >= self.view_dropout) | last)

    def from_tokens(self, tokens_BND: Tensor, *, class_tokens: int = 0) -> Tensor:
        """Refuse: it reads the features of several volumes, not the tokens of one."""
        raise ValueError(f"{self.kind}: give it features of volumes and which are there")

    def settings(self) -> dict[str, Any]:
        """Keyword arguments that rebuild this head."""
        own = {"classes": self.classes, "view_dropout": self.view_dropout}
        return self._shape | own


def fill_up(
    features: Sequence[Tensor], sides: Sequence[Sequence[int]], volumes: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Participants with different numbers of volumes as one batch of `volumes` each.

    Args:
        features: (V, D) of each participant; only the first `volumes` are taken.
        sides: of each volume, 0 right, 1 left, 2 unknown.
        volumes: V of the batch, the same in all batches.

    Returns:
        x_BVD, there_BV and side_BV, as `MultiVolumeHead` takes them.
    """
    x_BVD = features[0].new_zeros(len(features), volumes, features[0].shape[1])
    there_BV = torch.zeros(len(features), volumes, dtype=torch.bool)
    side_BV = torch.full((len(features), volumes), SIDES - 1)
    for row, (own, own_sides) in enumerate(zip(features, sides, strict=True)):
        count = min(len(own), volumes)
        x_BVD[row, :count] = own[:count]
        there_BV[row, :count] = True
        side_BV[row, :count] = torch.tensor(list(own_sides)[:count])
    return x_BVD, there_BV, side_BV


class ParticipantBatch(NamedTuple):
    """Participants with the features of their volumes, as `fill_up` makes them, and an answer."""

    x_BVD: Tensor
    there_BV: Tensor
    side_BV: Tensor
    label_B: Tensor  # as in `LabelledBatch`, a row a participant


class ParticipantModel(nn.Module):
    """A head for participants with the loss that trains it: an objective for any training loop.

    Args:
        head: its `answer` says what is asked.
        config: see `LossConfig`.

    Raises:
        ValueError: see `Costs`.
    """

    def __init__(self, head: MultiVolumeHead, config: LossConfig | None = None) -> None:
        super().__init__()
        self.head = head
        self.costs = Costs(head, LossConfig() if config is None else config)
        self.coupled = self.costs.coupled

    def loss(
        self, batch: ParticipantBatch | tuple[Tensor, ...], generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Loss of a batch; see `Costs`.

        Args:
            batch: a plain tuple in the same order will do.
            generator: not used: views are left out by torch's own, as dropout is.

        Raises:
            ValueError: labels or shapes that do not fit.
        """
        batch = ParticipantBatch(*batch)
        self.costs.check(batch.label_B, len(batch.x_BVD))
        outputs = self.head(batch.x_BVD, batch.there_BV, batch.side_BV)
        return self.costs(outputs, batch.label_B)

    def predict(self, x_BVD: Tensor, there_BV: Tensor, side_BV: Tensor) -> Tensor:
        """What the head says of each participant, (B, K): see `Answer.scores`."""
        return self.head.answer.scores(self.head(x_BVD, there_BV, side_BV))

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Optimiser groups; biases, norms and queries have no weight decay."""
        return decay_groups(self.head, weight_decay)
