"""Where is it? A logistic regression on each token of a frozen encoder, patch by patch.

A probe of whole scans sees one answer each, and what is plain to the eye, such as oedema, a
thumbnail tells as well. That a token knows what lies in its own patch is what a prediction of
tokens trains, and what masks show: here as in the linear segmentation probes of DINOv2 (Oquab et
al. 2023) and V-JEPA 2.1, but scored by ranks, so that a structure of a hundredth of the patches
counts.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oct_vjepa.measures.ranking import area, average_precision, count_cells
from oct_vjepa.probes.linear import regression
from oct_vjepa.probes.protocol import Round
from oct_vjepa.scores.measured import Measured

LEAST = 0.05
"""Share of a patch's voxels from which on it holds the structure."""

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


def place_of_patches(grid: tuple[int, int, int]) -> NDArray[np.float32]:
    """The depth of each patch as one column a row of the grid, (patches, rows).

    Beside the features of every candidate, nobody is ahead for knowing where a patch lies.
    """
    depth = np.indices(grid)[1].ravel()
    return np.eye(grid[1], dtype=np.float32)[depth]


def patch_probe(
    features_NTD: NDArray[np.float32],
    present_NT: Truths,
    people_N: NDArray[np.int64],
    rounds: Sequence[Round],
) -> list[Measured]:
    """Fit on the patches of some participants, rank those of others; one reading a round.

    The strength is the one that ranks the patches of the validation participants best, by their
    mean average precision. A participant of whom no patch, or every one, holds the structure has
    NaN and counts in no mean.

    Args:
        features_NTD: N scans of T patches.
        present_NT: whether a patch holds the structure, from `mark_patches`.
        people_N: number of each scan's participant.
        rounds: who is fitted on, chooses and is tested, a row a scan.

    Raises:
        ValueError: a round whose patches to fit are all of one kind.
    """
    found = []
    for one in rounds:
        x, y = features_NTD[one.fit], present_NT[one.fit].ravel()
        if y.all() or not y.any():
            raise ValueError(f"{one.name}: every patch to fit, or none, holds the structure")
        models = [regression(c).fit(x.reshape(len(y), -1), y) for c in STRENGTHS]
        chosen, ranked = None, -1.0
        for model in models:
            held = _read(model, features_NTD, present_NT, people_N, one.validation)
            if (mean := _mean_precision(held)) > ranked:
                chosen, ranked = model, mean
        found.append(_read(chosen, features_NTD, present_NT, people_N, one.test))
    return found


def _read(
    model: Any,
    features_NTD: NDArray[np.float32],
    present_NT: Truths,
    people_N: NDArray[np.int64],
    rows: Truths,
) -> Measured:
    features, present, people = features_NTD[rows], present_NT[rows], people_N[rows]
    scores = model.decision_function(features.reshape(present.size, -1)).reshape(present.shape)
    groups = np.unique(people)
    values = []
    for group in groups:
        own = people == group
        ones = np.ones((1, present[own].size))
        cells = count_cells(present[own].ravel(), scores[own].ravel(), ones)
        values.append([area(cells)[0], average_precision(cells)[0]])
    return Measured(np.array(values), groups)


def _mean_precision(found: Measured) -> float:
    values = found.values_NM[:, METRICS.index("average_precision")]
    return float(np.nanmean(values)) if np.isfinite(values).any() else 0.0
