"""Training `MultiVolumeHead` on features that a frozen encoder gave: one answer a participant."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from oct_vjepa.heads.configuration import LossConfig
from oct_vjepa.heads.costs import Costs
from oct_vjepa.heads.multivolume import MultiVolumeHead
from oct_vjepa.model.decay import decay_groups


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
