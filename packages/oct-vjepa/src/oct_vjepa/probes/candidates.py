"""The candidates of each kind of probe on one readout, with their scores of the validation rows.

Candidates stand in the order in which equal ones are preferred: the most shrunk first.
"""

from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from oct_vjepa.measures.target import Target
from oct_vjepa.probes.answers import Floats, answers_of, outputs_of, scores_from, weights_of
from oct_vjepa.probes.descent import (
    Axes,
    binary_loss,
    fit_models,
    hazard_loss,
    principal_axes,
    softmax_loss,
)
from oct_vjepa.probes.fitted import hidden_outputs, vote_scores
from oct_vjepa.probes.hidden import Rows, Training, train_layers
from oct_vjepa.probes.neighbours import nearest_rows


class Candidates(NamedTuple):
    """Those of one readout."""

    settings: list[dict[str, Any]]
    scores: list[Floats]  # of the validation rows, at the weights of the fit
    arrays: list[dict[str, NDArray[Any]]]  # see `FittedProbe.arrays`


class Question(NamedTuple):
    """What does not depend on the readout."""

    target: Target  # of the fit rows
    held: Target  # of the validation rows
    answers: Floats
    weights: Floats
    balanced: bool
    seed: int


def fit_linear(x: Floats, held: Floats, ask: Question, strengths_B: Sequence[float]) -> Candidates:
    """Logistic, ridge or Cox regression, one a strength."""
    axes = principal_axes(x, exact=ask.target.kind == "regression")
    strengths = np.sort(np.asarray(strengths_B, dtype=np.float64))
    solved_RBO = _solve(axes, ask, strengths)
    weight_DBO = np.tensordot(axes.turn_DR, solved_RBO[:-1], 1)
    bias_BO = solved_RBO[-1]
    outputs_MBO = np.tensordot((held - axes.mean_D) / axes.scale_D, weight_DBO, 1) + bias_BO
    common = {"mean": axes.mean_D, "scale": axes.scale_D}
    return Candidates(
        [{"strength": float(one)} for one in strengths],
        [scores_from(ask.target.kind, outputs_MBO[:, one]) for one in range(len(strengths))],
        [
            common | {"weight": weight_DBO[:, one].T, "bias": bias_BO[one]}
            for one in range(len(strengths))
        ],
    )


def _solve(axes: Axes, ask: Question, strengths: Floats) -> Floats:
    """Weights on the axes for each strength, the intercept last, (R + 1, B, O)."""
    rows, kind, count = axes.rows_NR, ask.target.kind, len(strengths)
    answers, weights = ask.answers, ask.weights
    if kind == "regression":
        centre = answers.mean()
        spread_R = np.square(rows).sum(axis=0)[:, None] + 1 / strengths
        slopes = (rows.T @ (answers - centre)) / spread_R
        return np.concatenate([slopes, np.full((1, count), centre)])[..., None]
    if kind == "survival":
        curvature = np.full(count, answers[:, 1].mean())
        return fit_models(rows, hazard_loss(*answers.T), 1 / strengths, curvature, 1)
    if kind == "nominal" and answers.shape[1] > 2:
        curvature = np.full(count, 0.25 * weights[:, 0].mean())
        loss = softmax_loss(answers, weights[:, 0])
        return fit_models(rows, loss, 1 / strengths, curvature, answers.shape[1])
    if kind == "nominal":  # log-odds of the second class, as scikit-learn penalises them
        answers, weights = answers[:, 1:], weights[:, 1:]
    outputs = answers.shape[1]
    solved = fit_models(
        rows,
        binary_loss(np.tile(answers, count), np.tile(weights, count)),
        np.repeat(1 / strengths, outputs),
        np.tile(0.25 * weights.mean(axis=0), count),
        1,
    ).reshape(-1, count, outputs)
    if kind == "nominal":
        return np.concatenate([np.zeros_like(solved), solved], axis=2)
    return solved


def fit_neighbours(
    x: Floats, held: Floats, ask: Question, counts: Sequence[int], temperatures: Sequence[float]
) -> Candidates:
    """Votes of neighbours, one a count and a temperature."""
    most = max(counts)
    cosine, rows = nearest_rows(torch.from_numpy(x), torch.from_numpy(held), k=most)
    near, found = cosine.numpy(), rows.numpy()
    answers, weights = ask.answers[found], ask.weights[found]
    settings = [
        {"neighbours": min(k, len(x)), "temperature": temperature}
        for k, temperature in product(
            sorted(counts, reverse=True), sorted(temperatures, reverse=True)
        )
    ]
    scores = [
        vote_scores(
            ask.target.kind,
            near[:, : one["neighbours"]],
            answers[:, : one["neighbours"]],
            weights[:, : one["neighbours"]],
            one["temperature"],
        )
        for one in settings
    ]
    spread = x.std(axis=0)
    own = {
        "mean": x.mean(axis=0),
        "scale": np.where(spread > 1e-12, spread, 1.0),
        "known": x,
        "answers": ask.answers,
        "weights": ask.weights,
    }
    return Candidates(settings, scores, [own] * len(settings))


def fit_hidden(x: Floats, held: Floats, ask: Question, training: Training) -> Candidates:
    """Models with one hidden layer, all those of `training`."""
    spread = x.std(axis=0)
    mean, scale = x.mean(axis=0), np.where(spread > 1e-12, spread, 1.0)
    kind, answers, centre, unit = ask.target.kind, ask.answers, 0.0, 1.0
    there = answers_of(ask.held)
    if kind == "regression":
        centre, unit = float(answers.mean()), float(answers.std()) or 1.0
        answers, there = (answers - centre) / unit, (there - centre) / unit
    layers, epochs = train_layers(
        kind,
        Rows.of((x - mean) / scale, answers, ask.weights),
        Rows.of(
            (held - mean) / scale,
            there,
            weights_of(ask.held, balanced=ask.balanced, counted=ask.target),
        ),
        outputs_of(ask.target),
        training,
        seed=ask.seed,
    )
    first, bias1, second, bias2 = (one.double().numpy() for one in layers)
    arrays = [
        {
            "mean": mean,
            "scale": scale,
            "weight1": first[one, :, :width].T,
            "bias1": bias1[one, 0, :width],
            "weight2": second[one, :width].T * unit,
            "bias2": bias2[one, 0] * unit + centre,
        }
        for one, width in enumerate(training.widths)
    ]
    tried = zip(training.widths, training.decays, training.rates, epochs, strict=True)
    return Candidates(
        [
            {"width": width, "decay": decay, "learning_rate": rate, "epoch": epoch}
            for width, decay, rate, epoch in tried
        ],
        [scores_from(kind, hidden_outputs(one, held)) for one in arrays],
        arrays,
    )
