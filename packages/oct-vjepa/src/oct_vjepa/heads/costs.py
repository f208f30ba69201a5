"""What the outputs of a head cost, for a question of any kind; labels are checked."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from oct_vjepa.heads.answer import Answer
from oct_vjepa.heads.configuration import LossConfig
from oct_vjepa.heads.losses import (
    UNKNOWN,
    cox_loss,
    multilabel_loss,
    ordinal_loss,
    regression_loss,
    smooth_labels,
    soft_cross_entropy,
)


class Answering(Protocol):
    """What has outputs: it knows what they are called and what they mean."""

    @property
    def classes(self) -> list[str]:
        """Names of the outputs."""

    @property
    def answer(self) -> Answer:
        """Their meaning."""


class Costs(nn.Module):
    """The loss of a head's outputs, and how far off they are.

    Args:
        head: one output a class or label; one in all for regression and survival. What they mean
            is its `answer`, whose kind must be the loss's.
        config: see `LossConfig`.

    Attributes:
        coupled: whether rows are compared with each other, so that the loss is no mean over them.

    Raises:
        ValueError: weights for another number of classes, another kind than the head's answer, or
            several outputs where there is one quantity.
    """

    class_weight_C: Tensor
    label_weight_C: Tensor

    def __init__(self, head: Answering, config: LossConfig) -> None:
        super().__init__()
        self.config = config
        self.coupled = config.kind == "survival"
        self._head = (head,)  # in a tuple: its weights are not this module's
        classes, kind = len(head.classes), config.kind
        if head.answer.kind != kind:
            raise ValueError(f"loss.kind is {kind!r}, the head answers {head.answer.kind!r}")
        if kind in ("regression", "survival") and classes != 1:
            raise ValueError(f"a {kind} target has one output, the head {classes}")
        for name in ("class_weights", "label_weights"):
            weights = getattr(config, name) or [1.0] * classes
            if len(weights) != classes:
                raise ValueError(
                    f"loss.{name} has {len(weights)} values, the head {classes} classes"
                )
            buffer = f"{name.removesuffix('s')}_C"
            self.register_buffer(buffer, torch.tensor(weights), persistent=False)

    def check(self, label_B: Tensor, rows: int) -> None:
        """Refuse labels that do not fit; see `check_labels`.

        Raises:
            ValueError: as `check_labels`.
        """
        check_labels(label_B, rows, self._head[0].classes, self.config.kind)

    def forward(self, outputs_BK: Tensor, label_B: Tensor) -> dict[str, Tensor]:
        """Each 0-dim and on the device: nothing is read.

        Returns:
            "loss" (differentiable) and, detached, "accuracy", "error" in the unit of a quantity, or
            the number of "events".
        """
        return getattr(self, f"_{self.config.kind}")(outputs_BK.float(), label_B)

    def _nominal(self, logits_BC: Tensor, label_B: Tensor) -> dict[str, Tensor]:
        target_BC = smooth_labels(label_B, len(self._head[0].classes), self.config.label_smoothing)
        score = ordinal_loss if self.config.kind == "ordinal" else soft_cross_entropy
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
            smoothing=self.config.label_smoothing,
        )
        known = (label_BL != UNKNOWN).float()
        right = ((logits_BL.detach() > 0) == (label_BL == 1)).float() * known
        return {"loss": loss.mean(), "accuracy": right.sum() / known.sum().clamp_min(1.0)}

    def _regression(self, outputs_B1: Tensor, value_B: Tensor) -> dict[str, Tensor]:
        answer = self._head[0].answer
        goal = (value_B.to(outputs_B1.dtype) - answer.mean) / answer.scale
        loss = regression_loss(outputs_B1, goal, self.config.distance)
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
