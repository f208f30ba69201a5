"""Probes with one hidden layer: all widths, decays and learning rates trained side by side.

Candidates see the same rows in the same order; each stops where its own validation loss is least.
B: candidates; N: rows; D: features; H: the greatest width; O: outputs.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

_BETAS, _EPSILON = (0.9, 0.999), 1e-8  # AdamW's own


class Layers(NamedTuple):
    """Weights of all candidates."""

    weight1_BDH: Tensor
    bias1_B1H: Tensor
    weight2_BHO: Tensor
    bias2_B1O: Tensor


class Rows(NamedTuple):
    """What is fitted on, or stopped by."""

    features_ND: Tensor
    answers_NO: Tensor
    weights_NO: Tensor

    @classmethod
    def of(cls, *arrays: NDArray[Any]) -> "Rows":
        """From arrays."""
        return cls(*(torch.from_numpy(np.asarray(one, dtype=np.float32)) for one in arrays))

    def take(self, rows: Tensor) -> "Rows":
        """The rows with these numbers."""
        return Rows(*(one[rows] for one in self))


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """How candidates are trained."""

    widths: tuple[int, ...]
    decays: tuple[float, ...]
    rates: tuple[float, ...]
    """One of each for every candidate."""
    epochs: int
    patience: int
    batch_size: int


def train_layers(
    kind: str, fit: Rows, rest: Rows, outputs: int, training: Training, *, seed: int
) -> tuple[Layers, list[int]]:
    """Weights of every candidate at its best epoch, and those epochs, from 1.

    Args:
        kind: of the target.
        fit: to train on.
        rest: validation rows, to stop by.
        outputs: of a model.
        training: see there.
        seed: of first weights and order.
    """
    draw = torch.Generator().manual_seed(seed)
    layers, mask_B1H = _first_layers(fit.features_ND.shape[1], outputs, training.widths, draw)
    optimizer = _AdamW(layers, training)
    candidates = len(training.widths)
    best = torch.full((candidates,), torch.inf)
    best_epoch = torch.zeros(candidates, dtype=torch.int64)
    kept = Layers(*(one.detach().clone() for one in layers))
    for epoch in range(1, training.epochs + 1):
        order = torch.randperm(len(fit.features_ND), generator=draw)
        for rows in order.split(training.batch_size):
            part = fit.take(rows)
            loss_B = losses_of(kind, run_layers(layers, part.features_ND, mask_B1H), part)
            slopes = torch.autograd.grad(loss_B.sum(), layers)
            optimizer.step(slopes)
        with torch.no_grad():
            now = losses_of(kind, run_layers(layers, rest.features_ND, mask_B1H), rest)
        better = now < best
        best, best_epoch = torch.where(better, now, best), best_epoch.where(~better, epoch)
        for old, new in zip(kept, layers, strict=True):
            old[better] = new.detach()[better]
        if bool((epoch - best_epoch >= training.patience).all()):
            break
    return kept, best_epoch.tolist()


def run_layers(layers: Layers, features_ND: Tensor, mask_B1H: Tensor | None = None) -> Tensor:
    """Outputs of all candidates, (B, N, O)."""
    hidden_BNH = functional.gelu(features_ND @ layers.weight1_BDH + layers.bias1_B1H)
    if mask_B1H is not None:
        hidden_BNH = hidden_BNH * mask_B1H
    return hidden_BNH @ layers.weight2_BHO + layers.bias2_B1O


def losses_of(kind: str, outputs_BNO: Tensor, rows: Rows) -> Tensor:
    """Mean loss of each candidate, (B,): log loss, squared error, or Cox's among these rows."""
    answers, weights = rows.answers_NO, rows.weights_NO
    if kind == "nominal":
        left = -(outputs_BNO.log_softmax(dim=2) * answers).sum(dim=2) * weights[:, 0]
        return left.sum(dim=1) / weights[:, 0].sum()
    if kind in ("ordinal", "multilabel"):
        left = functional.binary_cross_entropy_with_logits(
            outputs_BNO, answers.expand_as(outputs_BNO), reduction="none"
        )
        return (left * weights).sum(dim=(1, 2)) / weights.sum().clamp(min=1e-12)
    if kind == "regression":
        return (outputs_BNO - answers).square().mean(dim=(1, 2))
    time_N, event_N = answers.unbind(1)
    risk_BN = outputs_BNO[..., 0]
    at_risk_NN = time_N >= time_N[:, None]
    sums_BN = risk_BN[:, None].masked_fill(~at_risk_NN, -torch.inf).logsumexp(dim=2)
    return ((sums_BN - risk_BN) * event_N).sum(dim=1) / event_N.sum().clamp(min=1)


def _first_layers(
    width: int, outputs: int, widths: tuple[int, ...], draw: torch.Generator
) -> tuple[Layers, Tensor]:
    most, count = max(widths), len(widths)
    mask_B1H = (torch.arange(most) < torch.tensor(widths)[:, None]).float()[:, None]
    layers = Layers(
        torch.randn(width, most, generator=draw).expand(count, -1, -1) / width**0.5,
        torch.zeros(count, 1, most),
        torch.randn(most, outputs, generator=draw).expand(count, -1, -1)
        * torch.tensor(widths)[:, None, None] ** -0.5
        * 0.1,  # near 0: every class starts about as likely
        torch.zeros(count, 1, outputs),
    )
    return Layers(*(one.clone().requires_grad_() for one in layers)), mask_B1H


class _AdamW:
    """AdamW (Loshchilov and Hutter 2019) with a learning rate and a decay for each candidate.

    Torch's takes one of each for a whole tensor, and these tensors hold all candidates.
    """

    def __init__(self, layers: Layers, training: Training) -> None:
        self.layers, self.steps = layers, 0
        self.rates_B11 = torch.tensor(training.rates)[:, None, None]
        self.decays_B11 = torch.tensor(training.decays)[:, None, None]
        self.means = [torch.zeros_like(one) for one in layers]
        self.squares = [torch.zeros_like(one) for one in layers]

    @torch.no_grad()
    def step(self, slopes: tuple[Tensor, ...]) -> None:
        """Move all layers once; biases do not decay."""
        self.steps += 1
        unbias = [1 - beta**self.steps for beta in _BETAS]
        parts = zip(self.layers, slopes, self.means, self.squares, (1, 0, 1, 0), strict=True)
        for layer, slope, mean, square, decays in parts:
            mean.lerp_(slope, 1 - _BETAS[0])
            square.lerp_(slope.square(), 1 - _BETAS[1])
            if decays:
                layer.mul_(1 - self.rates_B11 * self.decays_B11)
            spread = (square / unbias[1]).sqrt_().add_(_EPSILON)
            layer.sub_(self.rates_B11 * (mean / unbias[0]) / spread)
