"""Fine-tuning for classes: an encoder with a head, the losses, and labels that are checked."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from oct_vjepa.heads.attentive import AttentiveHead, CrossAttentionHead
from oct_vjepa.heads.finetuning import FineTuned, FinetuningConfig
from oct_vjepa.heads.head import Head
from oct_vjepa.heads.linear import LinearHead
from oct_vjepa.heads.mlp import MlpHead
from oct_vjepa.model.encoder import Encoder
from oct_vjepa.model.pooling import class_tokens_of
from oct_vjepa.model.weights import WeightsError, read_config
from oct_vjepa.rules import FROM_0_BELOW_1, check_choices, check_numbers

LOSSES = ("cross_entropy", "ordinal")
HEADS: dict[str, type[Head]] = {
    one.kind: one for one in (LinearHead, MlpHead, AttentiveHead, CrossAttentionHead)
}
"""Heads by the name under which they are saved."""


class LabelledBatch(NamedTuple):
    """Volumes and the class of each."""

    volume_BCZYX: Tensor  # uint8 or floating, not normalised
    label_B: Tensor  # int64, from 0
    spacing_B3: Tensor | None = None  # (z, y, x), for encoders whose positions are lengths


@dataclass(kw_only=True, slots=True)
class ClassifierConfig:
    """What the classifier is punished for."""

    loss: str = "cross_entropy"
    """cross_entropy: all mistakes are alike; ordinal: classes have an order, and a mistake costs
    more the further it goes."""

    label_smoothing: float = 0.0
    """Share of a label that is spread over all classes; 0.1 is common where labels are doubtful."""

    class_weights: list[float] | None = None
    """Weight of each class in the loss, such as those of `balanced_weights`; none: all alike."""

    def __post_init__(self) -> None:
        check_choices(self, "classifier", loss=LOSSES)
        check_numbers(self, "classifier", FROM_0_BELOW_1, "label_smoothing")
        weights = self.class_weights
        if weights is not None and (min(weights, default=0) < 0 or sum(weights) <= 0):
            raise ValueError(
                f"classifier.class_weights ({weights}) must not be negative, nor all be 0"
            )


class Classifier(FineTuned):
    """Encoder and head with the loss that trains them: an objective for any training loop.

    Args:
        encoder: see `FineTuned`.
        head: gives one logit a class.
        config: see `ClassifierConfig`.
        finetuning: see `FinetuningConfig`.

    Raises:
        ValueError: class weights for another number of classes; see also `FineTuned`.
    """

    head: Head
    weight_C: Tensor

    def __init__(
        self,
        encoder: Encoder,
        head: Head,
        config: ClassifierConfig | None = None,
        finetuning: FinetuningConfig | None = None,
    ) -> None:
        super().__init__(encoder, head, finetuning)
        self.costs = ClassifierConfig() if config is None else config
        classes = len(head.classes)
        weights = self.costs.class_weights or [1.0] * classes
        if len(weights) != classes:
            raise ValueError(
                f"classifier.class_weights has {len(weights)} values, the head {classes} classes"
            )
        self.register_buffer("weight_C", torch.tensor(weights), persistent=False)

    def forward(self, volume_BCZYX: Tensor, spacing_B3: Tensor | None = None) -> Tensor:
        """Logits (B, classes)."""
        tokens = self.tokens(volume_BCZYX, spacing_B3)
        return self.head.from_tokens(tokens, class_tokens=class_tokens_of(self.encoder))

    def loss(
        self, batch: LabelledBatch | tuple[Tensor, ...], generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Loss and accuracy of a batch, each 0-dim and on the device; nothing is read back.

        Args:
            batch: labelled volumes; `label_batch` makes one from arrays and checks every label. A
                plain tuple in the same order will do, as feeds that stack samples make them.
            generator: not used: nothing is drawn.

        Returns:
            "loss" (differentiable) and, detached, "accuracy".

        Raises:
            ValueError: labels that are not one whole number a volume, or, where they lie on the
                CPU, out of range.
        """
        self.freeze()
        batch = LabelledBatch(*batch)
        check_labels(batch.label_B, len(batch.volume_BCZYX), self.head.classes)
        logits_BC = self(batch.volume_BCZYX, batch.spacing_B3).float()
        target_BC = smooth_labels(batch.label_B, len(self.head.classes), self.costs.label_smoothing)
        score = ordinal_loss if self.costs.loss == "ordinal" else soft_cross_entropy
        weight_B = self.weight_C.gather(0, batch.label_B)
        # The clamp is for a batch of classes of weight 0 only.
        loss = (weight_B * score(logits_BC, target_BC)).sum() / weight_B.sum().clamp_min(1e-12)
        right = (logits_BC.detach().argmax(dim=1) == batch.label_B).float()
        return {"loss": loss, "accuracy": right.mean()}


def smooth_labels(label_B: Tensor, classes: int, smoothing: float) -> Tensor:
    """Probabilities (B, classes): 1 - smoothing on the label, the rest spread over all classes."""
    hot = functional.one_hot(label_B, classes).float()
    return hot * (1.0 - smoothing) + smoothing / classes


def soft_cross_entropy(logits_BC: Tensor, target_BC: Tensor) -> Tensor:
    """Cross-entropy of each volume, (B,)."""
    return -(target_BC * logits_BC.log_softmax(dim=1)).sum(dim=1)


def ordinal_loss(logits_BC: Tensor, target_BC: Tensor) -> Tensor:
    """Log loss of each statement "the class is above k", averaged over k, (B,).

    A proper score of the cumulative distribution, the logarithmic sibling of the ranked probability
    score (Epstein 1969). With two classes it is the cross-entropy; the head stays as it is.
    """
    chance = logits_BC.log_softmax(dim=1)
    below = torch.logcumsumexp(chance, dim=1)[:, :-1]
    above = torch.logcumsumexp(chance.flip(1), dim=1).flip(1)[:, 1:]
    truth_above = target_BC.flip(1).cumsum(dim=1).flip(1)[:, 1:]
    return -(truth_above * above + (1.0 - truth_above) * below).mean(dim=1)


def balanced_weights(labels_N: NDArray[Any], classes: int) -> list[float]:
    """Weights with which each class counts alike, 1 on average over the volumes.

    Raises:
        ValueError: a class without a volume.
    """
    counts = np.bincount(np.asarray(labels_N, dtype=np.int64), minlength=classes)
    if len(counts) > classes or (counts == 0).any():
        raise ValueError(f"labels: volumes per class are {counts.tolist()}; every class needs some")
    return (counts.sum() / (classes * counts)).tolist()


def check_labels(label_B: Tensor, volumes: int, classes: Sequence[str]) -> None:
    """Refuse labels that a classifier of `classes` cannot learn from.

    Values are looked at on the CPU only: elsewhere that would make the step wait for the device.

    Raises:
        ValueError: what is wrong, in which batch positions, and what to do.
    """
    if label_B.is_floating_point() or label_B.is_complex() or label_B.dtype == torch.bool:
        raise ValueError(f"labels: must be whole numbers from 0 (int64), not {label_B.dtype}")
    if label_B.shape != (volumes,):
        raise ValueError(
            f"labels: must be one number for each of {volumes} volumes, not {tuple(label_B.shape)}"
        )
    if label_B.device.type != "cpu":
        return
    unlabelled = (label_B < 0).nonzero().flatten().tolist()
    if unlabelled:
        raise ValueError(
            f"labels: {len(unlabelled)} of {volumes} volumes have none (negative, at "
            f"{unlabelled[:5]}); a batch must not mix labelled and unlabelled volumes: leave the "
            "unlabelled ones out"
        )
    if volumes and int(label_B.max()) >= len(classes):
        raise ValueError(
            f"labels: {int(label_B.max())} is not below {len(classes)}, the number of the head's "
            f"classes {list(classes)}"
        )


def label_batch(
    volumes: NDArray[Any] | Tensor, labels: NDArray[Any] | Sequence[int], classes: Sequence[str]
) -> LabelledBatch:
    """A checked batch from arrays, for a feed to make on the host.

    Args:
        volumes: (B, Z, Y, X) or (B, C, Z, Y, X).
        labels: B classes, from 0.
        classes: names of the classes, for the error.

    Raises:
        ValueError: as `check_labels`.
    """
    volume = torch.as_tensor(np.asarray(volumes))
    volume = volume.unsqueeze(1) if volume.ndim == 4 else volume
    label = torch.as_tensor(np.asarray(labels))
    check_labels(label, len(volume), classes)
    return LabelledBatch(volume, label.long())


def load_head(folder: str | Path) -> Head:
    """Read a saved head of any kind.

    Raises:
        WeightsError: no head there, or one that is damaged.
    """
    for kind, head in HEADS.items():
        try:
            read_config(folder, kind)
        except WeightsError as error:
            if "has no section" not in str(error):
                raise
        else:
            return head.from_pretrained(folder)
    raise WeightsError(f"{folder}: config.json is not that of a head ({', '.join(HEADS)})")
