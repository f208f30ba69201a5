"""How well a class for every voxel agrees with the truth: Dice, and the distance of surfaces.

Distances need SciPy, which comes with `oct-vjepa[probes]`.
"""

import importlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

UNLABELLED_VOXEL = -1
"""Voxels whose truth is this take no part."""
FAR_PERCENTILE = 95  # not the maximum: one stray voxel would be the whole result


class Overlap(NamedTuple):
    """Voxel counts of each class, (C,); those of several volumes may be added up."""

    both: NDArray[np.int64]
    sizes: NDArray[np.int64]  # voxels of the prediction plus voxels of the truth


class SurfaceDistance(NamedTuple):
    """How far two surfaces are from each other; NaN if one of them does not exist."""

    mean: float
    far: float  # 95th percentile, known as HD95


def count_overlap(predicted: NDArray[Any], truth: NDArray[Any], classes: int) -> Overlap:
    """Count the voxels of each class; those without a truth are left out.

    Args:
        predicted: class of each voxel, from 0.
        truth: likewise, in the same shape; `UNLABELLED_VOXEL` where unknown.
        classes: how many there are.

    Raises:
        ValueError: two shapes, or a class that is not below `classes`.
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"masks differ in shape: {predicted.shape} predicted, {truth.shape} true")
    known = truth != UNLABELLED_VOXEL
    mine = np.asarray(predicted[known], dtype=np.int64)
    theirs = np.asarray(truth[known], dtype=np.int64)
    if (
        mine.size
        and not 0 <= min(mine.min(), theirs.min()) <= max(mine.max(), theirs.max()) < classes
    ):
        raise ValueError(f"masks hold classes outside 0 to {classes - 1}")
    both = np.bincount(mine[mine == theirs], minlength=classes)
    sizes = np.bincount(mine, minlength=classes) + np.bincount(theirs, minlength=classes)
    return Overlap(both, sizes)


def dice_of(overlap: Overlap) -> NDArray[np.float64]:
    """Dice score of each class, (C,); NaN for a class that is neither true nor predicted."""
    sizes = overlap.sizes.astype(np.float64)
    return 2.0 * overlap.both / np.where(sizes > 0, sizes, np.nan)


def surface_points(
    mask: NDArray[np.bool_], spacing: Sequence[float], known: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """Centres of the voxels of a mask that touch a voxel outside it by a face, (P, axes).

    The end of the volume, and of what is known of it, is no surface: there the tissue goes on.

    Args:
        mask: of any number of axes.
        spacing: distance of neighbouring voxels along each axis; the points have its unit.
        known: voxels of which it is known whether the mask holds them; none: all.
    """
    inner, on = mask.copy(), mask if known is None else mask | ~known
    for axis in range(mask.ndim):
        for step in (1, -1):
            beside = np.roll(on, step, axis=axis)
            end = [slice(None)] * mask.ndim
            end[axis] = slice(0, 1) if step == 1 else slice(-1, None)
            beside[tuple(end)] = True
            inner &= beside
    return np.argwhere(mask & ~inner).astype(np.float64) * np.asarray(spacing, dtype=np.float64)


def surface_distance(
    predicted: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    spacing: Sequence[float],
    known: NDArray[np.bool_] | None = None,
) -> SurfaceDistance:
    """Distance from each surface voxel to the nearest of the other surface, both ways together.

    Args:
        predicted: where the class is said to be.
        truth: where it is, in the same shape.
        spacing: distance of neighbouring voxels along each axis, such as micrometres along
            (Z, Y, X); the result has its unit.
        known: see `surface_points`; voxels outside it are in neither mask.

    Raises:
        RuntimeError: SciPy is not installed.
        ValueError: two shapes, or a spacing for another number of axes.
    """
    if predicted.shape != truth.shape or len(spacing) != truth.ndim:
        raise ValueError(
            f"masks of {predicted.shape} and {truth.shape} voxels with {len(spacing)} spacings"
        )
    mine, theirs = (surface_points(one, spacing, known) for one in (predicted, truth))
    if not len(mine) or not len(theirs):
        return SurfaceDistance(np.nan, np.nan)
    tree = _trees()
    there, back = tree(theirs).query(mine)[0], tree(mine).query(theirs)[0]
    every = np.concatenate([there, back])
    return SurfaceDistance(float(every.mean()), float(np.percentile(every, FAR_PERCENTILE)))


def score_masks(
    predicted: NDArray[Any], truth: NDArray[Any], names: Sequence[str], spacing: Sequence[float]
) -> list[dict[str, Any]]:
    """One row a class: `class`, `dice`, `surface_mean`, `surface_95`; NaN where there is none.

    Args:
        predicted: class of each voxel of one volume.
        truth: likewise; `UNLABELLED_VOXEL` where unknown. There no surface runs.
        names: of the classes, from 0.
        spacing: see `surface_distance`.

    Raises:
        RuntimeError: SciPy is not installed.
        ValueError: see `count_overlap`.
    """
    dice = dice_of(count_overlap(predicted, truth, len(names)))
    known = truth != UNLABELLED_VOXEL
    filled = np.where(known, predicted, truth)
    rows = []
    for number, name in enumerate(names):
        far = surface_distance(filled == number, truth == number, spacing, known)
        score = {"dice": float(dice[number]), "surface_mean": far.mean, "surface_95": far.far}
        rows.append({"class": name, **score})
    return rows


def _trees() -> Any:
    try:
        return importlib.import_module("scipy.spatial").cKDTree
    except ImportError as error:
        raise RuntimeError("surface distances need SciPy: install oct-vjepa[probes]") from error
