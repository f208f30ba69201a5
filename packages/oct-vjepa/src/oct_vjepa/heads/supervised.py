"""Fine-tuning for a question of any kind: encoder, head, loss, and labels that are checked."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oct_vjepa.heads.configuration import FinetuningConfig, LossConfig
from oct_vjepa.heads.finetuning import FineTuned
from oct_vjepa.heads.head import Head
from oct_vjepa.heads.losses import (
    UNKNOWN,
    cox_loss,
    multilabel_loss,
    ordinal_loss,
    regression_loss,
    smooth_labels,
    soft_cross_entropy,
)
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
        head: one output a class or label; one in all for regression and survival. What they mean
            is its `answer`, whose kind must be the loss's.
        config: see `LossConfig`.
        finetuning: see `FinetuningConfig`.

    Raises:
        ValueError: weights for another number of classes, another kind than the head's answer, or
            several outputs where there is one quantity; see also `FineTuned`.
    """

    head: Head
    class_weight_C: Tensor
    label_weight_C: Tensor

    def __init__(
        self,
        encoder: Encoder,
        head: Head,
        config: LossConfig | None = None,
        finetuning: FinetuningConfig | None = None,
    ) -> None:
        super().__init__(encoder, head, finetuning)
        self.costs = LossConfig() if config is None else config
        classes, kind = len(head.classes), self.costs.kind
        if head.answer.kind != kind:
            raise ValueError(f"loss.kind is {kind!r}, the head answers {head.answer.kind!r}")
        if kind in ("regression", "survival") and classes != 1:
            raise ValueError(f"a {kind} target has one output, the head {classes}")
        for name, given in (
            ("class_weights", self.costs.class_weights),
            ("label_weights", self.costs.label_weights),
        ):
            weights = given or [1.0] * classes
            if len(weights) != classes:
                raise ValueError(
                    f"loss.{name} has {len(weights)} values, the head {classes} classes"
                )
            buffer = f"{name.removesuffix('s')}_C"
            self.register_buffer(buffer, torch.tensor(weights), persistent=False)

    def forward(self, volume_BCZYX: Tensor, spacing_B3: Tensor | None = None) -> Tensor:
        """Outputs of the head (B, K), such as logits."""
        tokens = self.tokens(volume_BCZYX, spacing_B3)
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
            "loss" (differentiable) and, detached, "accuracy", "error" in the unit of a quantity, or
            the number of "events".

        Raises:
            ValueError: labels of another type or shape than the kind has, or, where they lie on
                the CPU, out of range.
        """
        self.freeze()
        batch = LabelledBatch(*batch)
        check_labels(batch.label_B, len(batch.volume_BCZYX), self.head.classes, self.costs.kind)
        outputs = self(batch.volume_BCZYX, batch.spacing_B3).float()
        return getattr(self, f"_{self.costs.kind}")(outputs, batch.label_B)

    def _nominal(self, logits_BC: Tensor, label_B: Tensor) -> dict[str, Tensor]:
        target_BC = smooth_labels(label_B, len(self.head.classes), self.costs.label_smoothing)
        score = ordinal_loss if self.costs.kind == "ordinal" else soft_cross_entropy
        weight_B = self.class_weight_C.gather(0, label_B)
        right = (logits_BC.detach().argmax(dim=1) == label_B).float()
        return {"loss": (weight_B * score(logits_BC, target_BC)).mean(), "accuracy": right.mean()}

    _ordinal = _nominal

    def _multilabel(self, logits_BL: Tensor, label_BL: Tensor) -> dict[str, Tensor]:
        loss = multilabel_loss(
            logits_BL,
            label_BL,
            positive_L=self.class_weight_C,
            weight_L=self.label_weight_C,
            smoothing=self.costs.label_smoothing,
        )
        known = (label_BL != UNKNOWN).float()
        right = ((logits_BL.detach() > 0) == (label_BL == 1)).float() * known
        return {"loss": loss.mean(), "accuracy": right.sum() / known.sum().clamp_min(1.0)}

    def _regression(self, outputs_B1: Tensor, value_B: Tensor) -> dict[str, Tensor]:
        answer = self.head.answer
        goal = (value_B.to(outputs_B1.dtype) - answer.mean) / answer.scale
        loss = regression_loss(outputs_B1, goal, self.costs.distance)
        error = (outputs_B1.detach()[:, 0] - goal).abs().mean() * answer.scale
        return {"loss": loss.mean(), "error": error}

    def _survival(self, risk_B1: Tensor, label_B2: Tensor) -> dict[str, Tensor]:
        time_B, event_B = label_B2.to(risk_B1.dtype).unbind(dim=1)
        return {"loss": cox_loss(risk_B1, time_B, event_B), "events": event_B.sum()}


def check_labels(
    label_B: Tensor, volumes: int, classes: Sequence[str], kind: str = "nominal"
) -> None:
    """Refuse labels that a head of `classes` cannot learn from.

    Values are looked at on the CPU only: elsewhere that would make the step wait for the device.

    Raises:
        ValueError: what is wrong, in which batch positions, and what to do.
    """
    quantity = kind in ("regression", "survival")
    whole = not (label_B.is_floating_point() or label_B.is_complex() or label_B.dtype == torch.bool)
    if whole == quantity:
        wanted = "quantities (floating)" if quantity else "whole numbers from 0 (int64)"
        raise ValueError(f"labels: must be {wanted}, not {label_B.dtype}")
    widths = {"multilabel": (len(classes),), "survival": (2,)}
    shape = (volumes, *widths.get(kind, ()))
    if label_B.shape != shape:
        numbers = f"{shape[1]} numbers" if shape[1:] else "one number"
        raise ValueError(
            f"labels: must be {numbers} for each of {volumes} volumes, not {tuple(label_B.shape)}"
        )
    if label_B.device.type != "cpu" or not volumes:
        return
    rows = label_B.reshape(volumes, -1)
    none = ~rows.isfinite().all(dim=1) if quantity else (rows < 0).all(dim=1)
    unlabelled = none.nonzero().flatten().tolist()
    if unlabelled:
        raise ValueError(
            f"labels: {len(unlabelled)} of {volumes} volumes have none (at {unlabelled[:5]}); a "
            "batch must not mix labelled and unlabelled volumes: leave the unlabelled ones out"
        )
    choices = 2 if kind == "multilabel" else len(classes)
    if whole and int(label_B.max()) >= choices:
        raise ValueError(
            f"labels: {int(label_B.max())} is not below {choices}, the number of the head's "
            f"classes {['no', 'yes'] if kind == 'multilabel' else list(classes)}"
        )


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
