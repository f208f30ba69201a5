"""Many penalised linear models on the same rows, fitted together.

Features are standardised and rotated once onto their principal axes, at most as many as rows or
columns; a penalty on squares does not see the rotation, so that is exact. There the curvature of
all losses here is nearly diagonal, which is what L-BFGS starts from: a few dozen steps do, each of
them two matrix products for all models at once. Features that hardly agree with one another are
about as diagonal as they are, and are left where they are.

B: models; R: axes, the intercept last; O: outputs of a model.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from oct_vjepa.probes.answers import Floats

MOST_STEPS = 500
MEMORY = 10  # pairs that L-BFGS keeps
TOLERANCE = 1e-11  # of the loss a row, that a step could still gain
HALVINGS = 30  # of a step, at most
_CERTAIN = 40.0  # an output whose doubt is below rounding
_RANK = 1e-12  # of the greatest variance: axes below it are rounding
_ROUND = 0.25  # of the features: with so many directions of equal spread no axis is worth finding

Loss = Callable[[Floats, NDArray[np.int64]], tuple[Floats, Floats]]
"""Outputs (N, B, O) of the models numbered in the second argument to their losses (B,), and the
slopes of those with respect to the outputs (N, B, O)."""


class Axes(NamedTuple):
    """Rows on the principal axes of their standardised features."""

    rows_NR: NDArray[Any]
    mean_D: Floats
    scale_D: Floats
    turn_DR: Floats
    """From standardised features to axes."""


def principal_axes(features_ND: NDArray[Any], *, exact: bool = False) -> Axes:
    """Standardise and rotate; features that are constant keep scale 1.

    Args:
        features_ND: of the rows to fit.
        exact: the axes themselves matter, not only that they are a rotation.
    """
    x = np.asarray(features_ND, dtype=np.float64)
    mean, spread = x.mean(axis=0), x.std(axis=0)
    scale = np.where(spread > 1e-12, spread, 1.0)
    x = (x - mean) / scale
    wide = x.shape[0] < x.shape[1]
    if not (wide or exact):
        half = torch.from_numpy(x).float()  # any rotation is exact; these axes need not be
        if _directions(half) > _ROUND * x.shape[1]:
            return Axes(half.numpy(), mean, scale, np.eye(x.shape[1]))
        rotation = _single_axes(half.T @ half)
        return Axes((half @ rotation).numpy(), mean, scale, rotation.double().numpy())
    variance, axes = np.linalg.eigh(x @ x.T if wide else x.T @ x)
    kept = variance > _RANK * max(variance[-1], 1e-300)
    turn = axes[:, kept]
    if wide:
        turn = x.T @ (turn / np.sqrt(variance[kept]))
    return Axes(x @ turn, mean, scale, turn)


def _single_axes(products_DD: torch.Tensor) -> torch.Tensor:
    """Eigenvectors in single precision, in which LAPACK may fail where features are constant."""
    try:
        return torch.linalg.eigh(products_DD)[1]
    except RuntimeError:  # torch.linalg.LinAlgError
        return torch.from_numpy(np.linalg.eigh(products_DD.double().numpy())[1]).float()


def _directions(rows_ND: torch.Tensor) -> float:
    """About how many directions share the spread of standardised features: tr(C)^2 / tr(C^2).

    The latter from a few random signs (Hutchinson 1990), the same for every call.
    """
    rows, width = rows_ND.shape
    draw = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (width, 8), generator=draw).to(rows_ND) * 2 - 1
    turned = rows_ND.T @ (rows_ND @ signs) / rows
    total = float(rows_ND.square().sum()) / rows
    return total**2 / max(float(turned.square().sum(dim=0).mean()), 1e-300)


def fit_models(
    rows_NR: Floats, loss: Loss, penalty_B: Floats, curvature_B: Floats, outputs: int
) -> Floats:
    """Weights of the least loss plus half the penalty times their squares, (R + 1, B, O).

    The intercept is not penalised and comes last.

    Args:
        rows_NR: as `principal_axes` gives them.
        loss: see `Loss`; convex.
        penalty_B: of each model.
        curvature_B: about the second derivative of each loss by an output, summed over rows and
            divided by their number: the scale of the first step.
        outputs: of each model.
    """
    rows = np.concatenate([rows_NR, np.ones((len(rows_NR), 1))], axis=1)
    penalty = penalty_B[:, None] * np.r_[np.ones(rows_NR.shape[1]), 0.0]
    metric = curvature_B[:, None] * (rows**2).sum(axis=0) + penalty
    each = (np.tile(one, (1, outputs)) for one in (penalty, metric))
    return _Descent(rows, loss, *each).run().transpose(2, 0, 1)


class _Descent:
    """L-BFGS (Nocedal 1980) for independent models side by side; those that are done drop out.

    Weights, slopes and steps are (B, O * R): each model's in one run of memory, along which sums
    and products are two or three times as fast as across models.
    """

    def __init__(self, rows: Floats, loss: Loss, penalty: Floats, metric: Floats) -> None:
        self.rows, self.loss = rows.astype(np.float32), loss
        self.active = np.arange(len(penalty))
        self.penalty, self.metric = penalty, metric
        self.weights, self.result = np.zeros_like(penalty), np.zeros_like(penalty)
        self.outputs = np.zeros((len(rows), len(penalty), penalty.shape[1] // rows.shape[1]))
        self.pairs: list[tuple[Floats, Floats, Floats]] = []

    def run(self) -> Floats:
        """Go on until no step gains anything; the weights, (B, O, R)."""
        loss, bend = self.loss(self.outputs, self.active)
        value, slope = self._penalise(loss, bend)
        for _ in range(MOST_STEPS):
            step = -self._direction(slope)
            descent = _dot(slope, step)
            going = -0.5 * descent > TOLERANCE * len(self.rows)
            if not going.all():
                self.result[self.active[~going]] = self.weights[~going]
                value, slope, descent = value[going], slope[going], descent[going]
                step = step[going]
                self._keep(going)
            if not len(self.active):
                break
            moved, loss, bend = self._move(step, descent, value)
            before, (value, slope) = slope, self._penalise(loss, bend)
            self._remember(moved, slope - before)
        self.result[self.active] = self.weights
        return self.result.reshape(len(self.result), -1, self.rows.shape[1])

    def _penalise(self, loss: Floats, bend: Floats) -> tuple[Floats, Floats]:
        """Loss with its penalty, and the slope by the weights."""
        shrunk = self.penalty * self.weights
        turned = bend.reshape(len(bend), -1).T.astype(np.float32) @ self.rows
        value = loss + 0.5 * _dot(shrunk, self.weights)
        return value, turned.reshape(self.weights.shape) + shrunk

    def _direction(self, slope: Floats) -> Floats:
        """Slope times about the inverse of the curvature: the two loops of L-BFGS."""
        turn, shares = slope.copy(), []
        for moved, bent, scale in reversed(self.pairs):
            shares.append(_dot(moved, turn) * scale)
            turn -= bent * shares[-1][:, None]
        turn /= self.metric
        if self.pairs:
            _, bent, scale = self.pairs[-1]
            ratio = scale * _dot(bent, bent / self.metric)
            turn *= np.where(ratio > 0, 1 / np.where(ratio > 0, ratio, 1), 1)[:, None]
        for (moved, bent, scale), share in zip(self.pairs, reversed(shares), strict=True):
            turn += moved * (share - _dot(bent, turn) * scale)[:, None]
        return turn

    def _move(self, step: Floats, descent: Floats, value: Floats) -> tuple[Floats, Floats, Floats]:
        """Go along the step, half as far for each model as long as its loss would not fall.

        Returns the way, and loss and slope by the outputs at its end.
        """
        columns = step.reshape(-1, self.rows.shape[1]).astype(np.float32)
        ahead = (self.rows @ columns.T).reshape(self.outputs.shape)
        level, tilt, bow = (
            _dot(self.penalty * one, other)
            for one, other in ((self.weights, self.weights), (self.weights, step), (step, step))
        )
        far = np.ones(len(self.active))
        for left in reversed(range(HALVINGS)):
            there = self.outputs + far[:, None] * ahead
            loss, bend = self.loss(there, self.active)
            whole = loss + 0.5 * level + far * tilt + 0.5 * far**2 * bow
            bad = whole > value + 1e-4 * far * descent + 1e-12 * np.abs(value)
            if not bad.any() or not left:
                break
            far[bad] *= 0.5
        moved = far[:, None] * step
        self.weights, self.outputs = self.weights + moved, there
        return moved, loss, bend

    def _remember(self, moved: Floats, bent: Floats) -> None:
        along = _dot(moved, bent)
        scale = np.where(along > 1e-300, 1 / np.where(along > 1e-300, along, 1), 0.0)
        self.pairs = [*self.pairs[-MEMORY + 1 :], (moved, bent, scale)]

    def _keep(self, going: NDArray[np.bool_]) -> None:
        self.active, self.weights = self.active[going], self.weights[going]
        self.outputs = self.outputs[:, going]
        self.penalty, self.metric = self.penalty[going], self.metric[going]
        self.pairs = [(one[going], two[going], three[going]) for one, two, three in self.pairs]


def _dot(one: Floats, other: Floats) -> Floats:
    """Of each model, (B,)."""
    return np.asarray(np.vecdot(one, other))


def softmax_loss(answers_NK: Floats, weights_N: Floats) -> Loss:
    """Of models that tell classes, all with the same answers."""

    def loss(outputs: Floats, models: NDArray[np.int64]) -> tuple[Floats, Floats]:
        top = outputs.max(axis=2, keepdims=True)
        powers = np.exp(outputs - top)
        total = powers.sum(axis=2, keepdims=True)
        answers = answers_NK[:, None, :]
        left = (np.log(total) + top)[..., 0] - (outputs * answers).sum(axis=2)
        return weights_N @ left, weights_N[:, None, None] * (powers / total - answers)

    return loss


def binary_loss(answers_NB: Floats, weights_NB: Floats) -> Loss:
    """Of models with one yes or no each."""

    def loss(outputs: Floats, models: NDArray[np.int64]) -> tuple[Floats, Floats]:
        whole = len(models) == answers_NB.shape[1]
        answers, weights = (one if whole else one[:, models] for one in (answers_NB, weights_NB))
        one = torch.from_numpy(outputs[..., 0])  # its exponentials take half of NumPy's time
        left = functional.softplus(one, threshold=_CERTAIN).numpy() - answers * one.numpy()
        bend = weights * (torch.sigmoid(one).numpy() - answers)
        return np.einsum("nb,nb->b", weights, left), bend[..., None]

    return loss


def hazard_loss(time_N: Floats, event_N: Floats) -> Loss:
    """Minus the log of Cox's partial likelihood; equal times share a risk set (Breslow 1974)."""
    order = np.argsort(-time_N, kind="stable")  # whoever is observed longest first
    time, event = time_N[order], event_N[order]
    last = np.searchsorted(-time, -time, side="right") - 1  # of those with the same time
    first = np.searchsorted(-time, -time, side="left")
    back = np.argsort(order)

    def loss(outputs: Floats, models: NDArray[np.int64]) -> tuple[Floats, Floats]:
        risk = outputs[order, :, 0]
        top = risk.max(axis=0)
        powers = np.exp(risk - top)
        sums = np.cumsum(powers, axis=0)[last].clip(1e-300)
        left = event @ (np.log(sums) + top - risk)
        shares = np.cumsum((event[:, None] / sums)[::-1], axis=0)[::-1][first]
        return left, (powers * shares - event[:, None])[back][..., None]

    return loss
