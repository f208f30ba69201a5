"""What goes wrong in a clinic, at five strengths: how far a finished model can be trusted.

`perturb` spoils a volume in one way, as a pure function of its arguments. Grey levels are taken as
decibels, as scanners display them: `RANGE_DB` from black to white, the span of common displays (the
phantom's devices show 36 to 42). Not for training: `transforms` augments.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Levels = NDArray[np.float32]
RANGE_DB = 40.0
STRENGTHS = (1, 2, 3, 4, 5)


def perturb(voxels: Bytes, kind: str, strength: int, *, seed: int = 0) -> Bytes:
    """Spoil a volume in one way.

    Args:
        voxels: (bscans, rows, columns); left as it is. One B-scan is a volume, too: what happens
            between B-scans then happens between parts of its columns.
        kind: one of `PERTURBATIONS`.
        strength: 0, which changes nothing, or one of `STRENGTHS`.
        seed: of what is drawn, such as where a shadow falls.

    Raises:
        ValueError: no such kind or strength, or voxels that are not uint8 with three axes.
    """
    if kind not in PERTURBATIONS:
        raise ValueError(f"perturbation ({kind}) must be one of {', '.join(PERTURBATIONS)}")
    if strength not in (0, *STRENGTHS):
        raise ValueError(f"strength ({strength}) must be 0 to {STRENGTHS[-1]}")
    if voxels.ndim != 3 or voxels.dtype != np.uint8:
        raise ValueError(f"voxels must be uint8 (bscan, row, column), not {voxels.dtype}")
    if strength == 0:
        return voxels.copy()
    rng = np.random.default_rng([seed, list(PERTURBATIONS).index(kind)])
    changed = PERTURBATIONS[kind](voxels.astype(np.float32), strength - 1, rng)
    return np.clip(np.rint(changed), 0, 255).astype(np.uint8)


def _levels(decibels: float) -> np.float32:
    return np.float32(decibels * 255 / RANGE_DB)


def _speckle(voxels: Levels, step: int, rng: np.random.Generator) -> Levels:
    """Intensity times the mean of 16, 8, 4, 2 or 1 exponential variables: ever fewer looks."""
    looks = (16, 8, 4, 2, 1)[step]
    grain = rng.standard_gamma(looks, voxels.shape, dtype=np.float32) / np.float32(looks)
    return voxels + _levels(10) * np.log10(np.maximum(grain, np.float32(1e-6)))


def _roll_off(voxels: Levels, step: int, rng: np.random.Generator) -> Levels:
    """Signal that falls with depth, by 3 to 15 dB at the bottom: the arm is set too far away."""
    loss = _levels((3, 6, 9, 12, 15)[step]) * np.linspace(0, 1, voxels.shape[1], dtype=np.float32)
    return voxels - loss[:, None]


def _shadow(voxels: Levels, step: int, rng: np.random.Generator) -> Levels:
    """An opacity in the vitreous takes 4 to 20 dB of all below it, over 6 to 30 % of the width."""
    bscans, _, columns = voxels.shape
    depth, width = (4, 8, 12, 16, 20)[step], (0.06, 0.12, 0.18, 0.24, 0.30)[step]
    z = np.linspace(0, 1, bscans) - rng.random() if bscans > 1 else np.zeros(1)
    x = np.linspace(0, 1, columns) - rng.random()
    off = (z[:, None] ** 2 + x[None, :] ** 2) / (width / 2) ** 2
    loss = _levels(depth) * np.exp(-off / 2).astype(np.float32)
    return voxels - loss[:, None, :]


def _motion(voxels: Levels, step: int, rng: np.random.Generator) -> Levels:
    """Jumps in depth and across, by up to 1 to 8 % of the rows and columns, at 2 to 6 moments."""
    share = (0.01, 0.02, 0.035, 0.055, 0.08)[step]
    bscans, rows, columns = voxels.shape
    alone = bscans == 1
    parts = columns if alone else bscans
    jumps = min(2 + step, parts - 1)
    cuts = np.sort(rng.choice(np.arange(1, parts), jumps, replace=False))
    far = np.ceil(share * rng.uniform(0.5, 1, (jumps, 2)) * (rows, columns))
    moves = (far * rng.choice((-1, 1), (jumps, 2))).astype(int)
    found = voxels.copy()
    for first, last, (down, across) in zip(cuts, [*cuts[1:], parts], moves, strict=True):
        piece = np.s_[:, :, first:last] if alone else np.s_[first:last]
        moved = _slide(found[piece], down, 1)
        found[piece] = moved if alone else _slide(moved, across, 2)
    return found


def _slide(voxels: Levels, by: int, axis: int) -> Levels:
    """Move along an axis; what comes in repeats the edge."""
    size = voxels.shape[axis]
    return voxels.take(np.clip(np.arange(size) - by, 0, size - 1), axis=axis)


def _defocus(voxels: Levels, step: int, rng: np.random.Generator) -> Levels:
    """Blur along the B-scan of 0.4 to 3 % of its width, with 1 to 5 dB less signal."""
    sigma = (0.004, 0.008, 0.013, 0.02, 0.03)[step] * voxels.shape[2]
    reach = max(1, int(np.ceil(3 * sigma)))
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    taps = (taps / taps.sum()).astype(np.float32)
    wide = np.pad(voxels, ((0, 0), (0, 0), (reach, reach)), mode="edge")
    size = voxels.shape[2]
    blurred = np.zeros_like(voxels)
    for place, tap in enumerate(taps):
        blurred += tap * wide[:, :, place : place + size]
    return blurred - _levels((1, 2, 3, 4, 5)[step])


def _crop(voxels: Levels, step: int, rng: np.random.Generator) -> Levels:
    """A smaller field, 95 to 60 % of the width (and of the B-scans), drawn as large as before."""
    share = (0.95, 0.90, 0.80, 0.70, 0.60)[step]
    found = voxels
    for axis in (0, 2):
        size = found.shape[axis]
        if size > 1:
            start = rng.random() * (1 - share) * (size - 1)
            found = _sample(found, start + share * np.arange(size), axis)
    return found


def _sample(voxels: Levels, places: NDArray[np.float64], axis: int) -> Levels:
    """Read between voxels, linearly."""
    size = voxels.shape[axis]
    low = np.clip(np.floor(places).astype(int), 0, size - 1)
    high = np.minimum(low + 1, size - 1)
    shape = [1, 1, 1]
    shape[axis] = -1
    part = (places - low).astype(np.float32).reshape(shape)
    return voxels.take(low, axis=axis) * (1 - part) + voxels.take(high, axis=axis) * part


def _gain(voxels: Levels, step: int, rng: np.random.Generator) -> Levels:
    """Brighter or darker by 1.5 to 10 dB."""
    sign = np.float32(rng.choice((-1, 1)))
    return voxels + sign * _levels((1.5, 3, 5, 7, 10)[step])


def _missing_bscans(voxels: Levels, step: int, rng: np.random.Generator) -> Levels:
    """Blinks: 5 to 50 % of the B-scans are black, in runs."""
    share = (0.05, 0.10, 0.20, 0.35, 0.50)[step]
    axis = 2 if voxels.shape[0] == 1 else 0
    size = voxels.shape[axis]
    lost = max(1, round(share * size))
    runs = min(2, lost)
    found = np.moveaxis(voxels.copy(), axis, 0)
    for run in range(runs):
        length = lost // runs + (run < lost % runs)
        low, high = run * size // runs, (run + 1) * size // runs - length
        start = int(rng.integers(low, max(low, high) + 1))
        found[start : start + length] = 0
    return np.moveaxis(found, 0, axis)


PERTURBATIONS: dict[str, Callable[[Levels, int, np.random.Generator], Levels]] = {
    "speckle": _speckle,
    "roll_off": _roll_off,
    "shadow": _shadow,
    "motion": _motion,
    "defocus": _defocus,
    "crop": _crop,
    "gain": _gain,
    "missing_bscans": _missing_bscans,
}
"""Name to what it does; its docstring says how strong the five strengths are."""
