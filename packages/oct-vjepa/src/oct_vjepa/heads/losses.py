"""A loss for each kind of question, one number a row, and the weights that balance classes.

Rows are added up and divided by their number, never by a sum of weights or of known labels: the
mean over micro-batches and devices is then that of the whole batch. Survival is the exception, as
its rows are compared with each other.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

UNKNOWN = -1
"""One of several labels of a row that nobody gave."""


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


def multilabel_loss(
    logits_BL: Tensor, label_BL: Tensor, *, positive_L: Tensor, weight_L: Tensor, smoothing: float
) -> Tensor:
    """Binary cross-entropy of the known labels over the number of labels, (B,).

    Args:
        logits_BL: log-odds of each label.
        label_BL: 0, 1 or `UNKNOWN`, which costs nothing and pulls at nothing.
        positive_L: weight of the rows that have the label; those that do not have it weigh 1.
        weight_L: how much each label counts.
        smoothing: share of a label that is spread over yes and no.
    """
    known = label_BL != UNKNOWN
    truth = label_BL.clamp_min(0).to(logits_BL.dtype)
    soft = truth * (1.0 - smoothing) + smoothing / 2
    entropy = functional.binary_cross_entropy_with_logits(logits_BL, soft, reduction="none")
    balance = torch.where(truth > 0, positive_L, torch.ones_like(positive_L))
    return (entropy * balance * weight_L * known).mean(dim=1)


def regression_loss(outputs_B1: Tensor, value_B: Tensor, distance: str) -> Tensor:
    """Distance of each output to its standardised value, (B,)."""
    loss = functional.smooth_l1_loss if distance == "smooth_l1" else functional.mse_loss
    return loss(outputs_B1[:, 0], value_B, reduction="none")


def cox_loss(risk_B1: Tensor, time_B: Tensor, event_B: Tensor) -> Tensor:
    """Negative log partial likelihood of the batch over its events, 0-dim; ties after Breslow.

    Each event is compared with all rows of the batch whose time is not shorter, so batches should
    be large. A batch without an event gives 0 and no gradient.

    Args:
        risk_B1: log hazard ratio of each row.
        time_B: until the event or the end of observation.
        event_B: 1 for an event, 0 for the end of observation.
    """
    risk = risk_B1[:, 0]
    at_risk = time_B.unsqueeze(0) >= time_B.unsqueeze(1)  # row i: who is there when i has it
    crowd = torch.where(at_risk, risk.unsqueeze(0), torch.full_like(risk, -torch.inf))
    each = crowd.logsumexp(dim=1) - risk
    return (each * event_B).sum() / event_B.sum().clamp_min(1.0)


def balanced_weights(labels_N: NDArray[Any], classes: int) -> list[float]:
    """Weights with which each class counts alike, 1 on average over the volumes.

    Raises:
        ValueError: a class without a volume.
    """
    counts = np.bincount(np.asarray(labels_N, dtype=np.int64), minlength=classes)
    if len(counts) > classes or (counts == 0).any():
        raise ValueError(f"labels: volumes per class are {counts.tolist()}; every class needs some")
    return (counts.sum() / (classes * counts)).tolist()


def positive_weights(labels_NL: NDArray[Any]) -> list[float]:
    """Weights of the rows that have a label with which they count as those that do not have it.

    Rows where the label is unknown are left out.

    Raises:
        ValueError: a label that no row has, or all have.
    """
    labels = np.asarray(labels_NL)
    have, lack = (labels == 1).sum(axis=0), (labels == 0).sum(axis=0)
    if (have == 0).any() or (lack == 0).any():
        raise ValueError(
            f"labels: {have.tolist()} rows have each label and {lack.tolist()} do not; every label "
            "needs both"
        )
    return (lack / have).tolist()
