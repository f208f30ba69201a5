"""Where is it? A logistic regression on each token of a frozen encoder, patch by patch.

A probe of whole scans sees one answer each, and what is plain to the eye, such as oedema, a
thumbnail tells as well. That a token knows what lies in its own patch is what a prediction of
tokens trains, and what masks show: here as in the linear segmentation probes of DINOv2 (Oquab et
al. 2023) and V-JEPA 2.1, but scored by ranks, so that a structure of a hundredth of the patches
counts.
"""

import importlib
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from oct_vjepa.evaluation.features import TOKENS, embed_batch
from oct_vjepa.measures.ranking import area, average_precision, count_cells
from oct_vjepa.model.encoder import Encoder
from oct_vjepa.model.patches import mean_around
from oct_vjepa.model.pooling import class_tokens_of
from oct_vjepa.probes.protocol import Round
from oct_vjepa.scores.measured import Measured

LEAST = 0.05
"""Share of a patch's voxels from which on it holds the structure."""

AROUND = (3, 5)
"""Sides of the squares of patches whose mean is read beside each patch."""

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)  # scikit-learn's C
METRICS = ("auroc", "average_precision")
"""What `patch_probe` measures, in this order: over the patches of one participant."""

Truths = NDArray[np.bool_]


def mark_patches(
    mask_NZYX: NDArray[np.bool_], grid: tuple[int, int, int], *, least: float = LEAST
) -> Truths:
    """Which patches hold a structure, (N, patches) in the order of an encoder's tokens.

    Args:
        mask_NZYX: true for voxels of the structure.
        grid: patches along each axis, as `EncoderConfig.grid`.
        least: share of a patch's voxels.

    Raises:
        ValueError: a side is no multiple of the grid's.
    """
    count, *sides = mask_NZYX.shape
    if any(side % parts for side, parts in zip(sides, grid, strict=True)):
        raise ValueError(f"a mask {tuple(sides)} cannot be cut into {grid} patches")
    z, y, x = grid
    cut = mask_NZYX.reshape(count, z, sides[0] // z, y, sides[1] // y, x, sides[2] // x)
    return np.asarray(cut.mean(axis=(2, 4, 6)).reshape(count, -1) >= least)


def read_around(
    features_NTD: NDArray[np.floating],
    grid: tuple[int, int, int],
    around: Sequence[int] = AROUND,
) -> NDArray[np.floating]:
    """What a probe reads of each patch, (N, T, (1 + len(around)) * D + rows), of the same type.

    The patch's own features, their means over squares of patches around it, and the row of the
    grid, its depth, as one column a row. A token says what is in its patch; that fluid is dark
    where all around it is bright, no map of one token alone can say. And with the row beside
    everybody's features nobody is ahead for knowing where a patch lies.

    Args:
        features_NTD: of T patches of N scans, in the order of an encoder's tokens.
        grid: patches along (Z, Y, X).
        around: sides of the squares, odd; see `mean_around`.
    """
    count, patches, width = features_NTD.shape
    row = np.indices(grid)[1].ravel()
    read = np.zeros((count, patches, (1 + len(around)) * width + grid[1]), features_NTD.dtype)
    read[..., :width] = features_NTD
    read[..., -grid[1] :] = np.eye(grid[1])[row]
    for number, own in enumerate(features_NTD if width else ()):
        here = torch.from_numpy(own.astype(np.float32)).T.reshape(1, width, *grid)
        for place, side in enumerate(around, start=1):
            means = mean_around(here, side).reshape(width, patches).T.numpy()
            read[number, :, place * width : (place + 1) * width] = means
    return read


def blocks_between(depth: int) -> list[int]:
    """The first, the middle and the last of so many blocks, from 0."""
    return sorted({0, (depth - 1) // 2, depth - 1})


def read_tokens(
    encoder: Encoder,
    volumes: Iterable[NDArray[Any]],
    *,
    blocks: Sequence[int],
    batch_size: int = 32,
    spacing_N3: NDArray[Any] | None = None,
) -> NDArray[np.float16]:
    """What some blocks say of each patch, side by side, (N, patches, blocks * width).

    Computed where the encoder is; tokens that are of no patch are left out.

    Args:
        encoder: whose tokens.
        volumes: (Z, Y, X) each.
        blocks: from 0 and ascending.
        batch_size: volumes in one pass.
        spacing_N3: (z, y, x) between voxel centres, for encoders whose positions are lengths.

    Raises:
        ValueError: no volumes, no such blocks, or volumes that the encoder cannot take.
    """
    was_training, iterator, parts, done = encoder.training, iter(volumes), [], 0
    encoder.eval()
    while batch := list(islice(iterator, batch_size)):
        steps = None
        if spacing_N3 is not None:
            rows = np.asarray(spacing_N3[done : done + len(batch)], np.float32)
            steps = torch.from_numpy(rows)
        found = embed_batch(
            encoder, np.stack(batch), pools=(), spacing_B3=steps, layers=blocks, tokens=True
        )
        parts.append(found[TOKENS][:, class_tokens_of(encoder) :].astype(np.float16))
        done += len(batch)
    encoder.train(was_training)
    if not parts:
        raise ValueError("read_tokens got no volumes")
    return np.concatenate(parts)


class Asked(NamedTuple):
    """What a probe of patches came to in one round."""

    reading: Measured  # `METRICS` of each test participant
    strength: float  # scikit-learn's C, as validation chose it
    scores_NT: NDArray[np.float64]  # log-odds of each patch of the test rows, in their order
    weights_D: NDArray[
        np.float64
    ]  # of features as they are: log-odds are features @ weights + bias
    bias: float


def patch_probe(
    features_NTD: NDArray[np.floating],
    present_NT: Truths,
    people_N: NDArray[np.int64],
    rounds: Sequence[Round],
) -> list[Measured]:
    """Fit on the patches of some participants, rank those of others; one reading a round.

    Arguments and errors are those of `ask_patches`.
    """
    return [ask_patches(features_NTD, present_NT, people_N, one).reading for one in rounds]


def ask_patches(
    features_NTD: NDArray[np.floating],
    present_NT: Truths,
    people_N: NDArray[np.int64],
    one: Round,
    *,
    known_NT: Truths | None = None,
    most: int | None = None,
    seed: int = 0,
) -> Asked:
    """Fit on the patches of some participants, rank those of others.

    The strength is the one that ranks the patches of the validation participants best, by their
    mean average precision. A participant of whom no patch, or every one, holds the structure has
    NaN and counts in no mean.

    Args:
        features_NTD: N scans of T patches.
        present_NT: whether a patch holds the structure, from `mark_patches`.
        people_N: number of each scan's participant.
        one: who is fitted on, chooses and is tested, a row a scan.
        known_NT: patches of which this is known; the others count nowhere. Left out, all of them.
        most: patches to fit on at most, drawn by the seed; None: all.
        seed: of that draw.

    Raises:
        ValueError: the patches to fit are all of one kind.
        RuntimeError: scikit-learn is not installed.
    """
    known = np.ones_like(present_NT) if known_NT is None else known_NT
    places = np.flatnonzero(known & one.fit[:, None])
    if most is not None and len(places) > most:
        draw = np.random.default_rng(seed)
        places = np.sort(draw.choice(places, most, replace=False))
    y = present_NT.ravel()[places]
    if y.all() or not y.any():
        raise ValueError(f"{one.name}: every patch to fit, or none, holds the structure")
    x = features_NTD.reshape(present_NT.size, -1)[places].astype(np.float32)
    best, model, ranked = STRENGTHS[0], None, -1.0
    rows = np.flatnonzero(one.validation)
    for strength in STRENGTHS:
        fitted = _regression(strength).fit(x, y)
        scores = _score(fitted, features_NTD, rows)
        mean = _mean_precision(_read(scores, present_NT[rows], known[rows], people_N[rows]))
        if mean > ranked:
            best, model, ranked = strength, fitted, mean
    rows = np.flatnonzero(one.test)
    scores = _score(model, features_NTD, rows)
    reading = _read(scores, present_NT[rows], known[rows], people_N[rows])
    return Asked(reading, best, scores, *_plain(model))


def _regression(strength: float) -> Any:
    """A scikit-learn pipeline that standardises and fits a logistic regression of this C."""
    names = ("pipeline", "preprocessing", "linear_model")
    try:
        joined, scaled, linear = (importlib.import_module(f"sklearn.{name}") for name in names)
    except ImportError as error:
        raise RuntimeError("patches need scikit-learn: install oct-vjepa[probes]") from error
    model = linear.LogisticRegression(C=strength, max_iter=5000)
    return joined.make_pipeline(scaled.StandardScaler(), model)


def _plain(model: Any) -> tuple[NDArray[np.float64], float]:
    """Weights and bias of a fitted regression for features that nobody standardises."""
    scaler, fitted = model[0], model[-1]
    weights = np.asarray(fitted.coef_[0], np.float64) / scaler.scale_
    return weights, float(fitted.intercept_[0] - weights @ scaler.mean_)


def _score(
    model: Any, features_NTD: NDArray[np.floating], rows: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Log-odds of each patch of some scans, one scan after the other."""
    said = [model.decision_function(features_NTD[row].astype(np.float32)) for row in rows.tolist()]
    return np.stack(said).astype(np.float64)


def _read(
    scores_NT: NDArray[np.float64], present_NT: Truths, known_NT: Truths, people_N: NDArray[Any]
) -> Measured:
    groups = np.unique(people_N)
    values = []
    for group in groups:
        own = (people_N == group)[:, None] & known_NT
        ones = np.ones((1, int(own.sum())))
        cells = count_cells(present_NT[own], scores_NT[own], ones)
        values.append([area(cells)[0], average_precision(cells)[0]])
    return Measured(np.array(values), groups)


def _mean_precision(found: Measured) -> float:
    values = found.values_NM[:, METRICS.index("average_precision")]
    return float(np.nanmean(values)) if np.isfinite(values).any() else 0.0
