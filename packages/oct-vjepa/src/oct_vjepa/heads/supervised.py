"""Fine-tuning for a question of any kind: encoder, head, loss, and labels that are checked."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from oct_vjepa.heads.answer import Answer
from oct_vjepa.heads.configuration import FinetuningConfig, LossConfig
from oct_vjepa.heads.costs import Costs, check_labels
from oct_vjepa.heads.finetuning import FineTuned
from oct_vjepa.heads.head import Head
from oct_vjepa.model.decay import decay_groups
from oct_vjepa.model.encoder import Encoder
from oct_vjepa.model.pooling import class_tokens_of


class LabelledBatch(NamedTuple):
    """Volumes and the answer of each."""

    volume_BCZYX: Tensor  # uint8 or floating, not normalised
    label_B: Tensor
    """nominal, ordinal: int64 from 0, (B,); multilabel: int64 0, 1 or -1, (B, labels); regression:
    float in its unit, (B,); survival: float time and event, (B, 2)."""
    spacing_B3: Tensor | None = None  # (z, y, x), for encoders whose positions are lengths


class Supervised(FineTuned):
    """Encoder and head with the loss that trains them: an objective for any training loop.

    Args:
        encoder: see `FineTuned`.
        head: see `Costs`.
        config: see `LossConfig`.
        finetuning: see `FinetuningConfig`.

    Raises:
        ValueError: see `Costs` and `FineTuned`.
    """

    head: Head

    def __init__(
        self,
        encoder: Encoder,
        head: Head,
        config: LossConfig | None = None,
        finetuning: FinetuningConfig | None = None,
    ) -> None:
        super().__init__(encoder, head, finetuning)
        self.costs = Costs(head, LossConfig() if config is None else config)
        self.coupled = self.costs.coupled

    def forward(self, volume_BCZYX: Tensor, spacing_B3: Tensor | None = None) -> Tensor:
        """Outputs of the head (B, K), such as logits."""
        tokens = self.tokens(volume_BCZYX, spacing_B3, layers=self.head.levels)
        return self.head.from_tokens(tokens, class_tokens=class_tokens_of(self.encoder))

    def predict(self, volume_BCZYX: Tensor, spacing_B3: Tensor | None = None) -> Tensor:
        """What the head says of each volume, (B, K): see `Answer.scores`."""
        return self.head.answer.scores(self(volume_BCZYX, spacing_B3))

    def loss(
        self, batch: LabelledBatch | tuple[Tensor, ...], generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Loss of a batch and how far off it is, each 0-dim and on the device; nothing is read.

        Args:
            batch: labelled volumes; `label_batch` makes one from arrays and checks every label. A
                plain tuple in the same order will do, as feeds that stack samples make them.
            generator: not used: nothing is drawn.

        Returns:
            See `Costs`.

        Raises:
            ValueError: labels of another type or shape than the kind has, or, where they lie on
                the CPU, out of range.
        """
        self.freeze()
        batch = LabelledBatch(*batch)
        self.costs.check(batch.label_B, len(batch.volume_BCZYX))
        return self.costs(self(batch.volume_BCZYX, batch.spacing_B3), batch.label_B)


class VolumeNetwork(nn.Module):
    """Any network of volumes with the losses of `Supervised`: an objective for any training loop.

    Args:
        network: from (B, C, Z, Y, X) to (B, K), an output for each of `classes`.
        classes: names of the classes or labels; of the one quantity.
        answer: what the outputs mean.
        config: see `LossConfig`.
        mean: of the grey levels that it is trained on; subtracted.
        std: of the grey levels; what is left is divided by it.

    Raises:
        ValueError: see `Costs`.
    """

    def __init__(
        self,
        network: nn.Module,
        classes: Sequence[str],
        answer: Answer,
        config: LossConfig | None = None,
        *,
        mean: float = 0.0,
        std: float = 1.0,
    ) -> None:
        super().__init__()
        self.network, self.mean, self.std = network, mean, std
        self.classes, self.answer = list(classes), answer
        self.costs = Costs(self, LossConfig() if config is None else config)
        self.coupled = self.costs.coupled

    def forward(self, volume_BCZYX: Tensor, spacing_B3: Tensor | None = None) -> Tensor:
        """Outputs (B, K); the spacing is not used."""
        outputs: Tensor = self.network((volume_BCZYX.float() - self.mean) / self.std)
        return outputs

    def predict(self, volume_BCZYX: Tensor, spacing_B3: Tensor | None = None) -> Tensor:
        """What the network says of each volume, (B, K): see `Answer.scores`."""
        return self.answer.scores(self(volume_BCZYX))

    def loss(
        self, batch: LabelledBatch | tuple[Tensor, ...], generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """As `Supervised.loss`.

        Raises:
            ValueError: likewise.
        """
        batch = LabelledBatch(*batch)
        self.costs.check(batch.label_B, len(batch.volume_BCZYX))
        return self.costs(self(batch.volume_BCZYX), batch.label_B)

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Optimiser groups; biases and norms have no weight decay."""
        return decay_groups(self.network, weight_decay)


def label_batch(
    volumes: NDArray[Any] | Tensor,
    labels: NDArray[Any] | Sequence[int],
    classes: Sequence[str],
    kind: str = "nominal",
) -> LabelledBatch:
    """A checked batch from arrays, for a feed to make on the host.

    Args:
        volumes: (B, Z, Y, X) or (B, C, Z, Y, X).
        labels: B answers, in the shape that `LabelledBatch` tells.
        classes: names of the classes, for the error.
        kind: one of `KINDS`.

    Raises:
        ValueError: as `check_labels`.
    """
    volume = torch.as_tensor(np.asarray(volumes))
    volume = volume.unsqueeze(1) if volume.ndim == 4 else volume
    label = torch.as_tensor(np.asarray(labels))
    check_labels(label, len(volume), classes, kind)
    label = label.float() if label.is_floating_point() else label.long()
    return LabelledBatch(volume, label)
