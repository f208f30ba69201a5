"""Features that nobody learned: what an encoder must beat before it may boast.

Each is a class with `fit(volumes)` and `transform(volumes)`, volumes to features (N, D);
`BASELINES` makes them by name. Most have nothing to fit; `PatchPca` and `RandomLayer` read the
volumes of the fit rows. Volumes stream through, one at a time. A volume is (Z, Y, X), Y along the
beam, or (C, Z, Y, X), of which channels stand side by side, or are pooled together where there are
patches; one B-scan is (1, Y, X).
"""

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from oct_vjepa.probes.patchwork import FilterBank, PatchPca, RandomLayer

Volumes = Iterable[NDArray[Any]]


class Baseline(Protocol):
    """What every baseline can do."""

    learns: ClassVar[bool]
    """Whether it hangs on what it was fitted to."""

    def fit(self, volumes: Volumes) -> Self:
        """Learn what there is to learn from the volumes of the fit rows."""
        ...

    def transform(self, volumes: Volumes) -> NDArray[np.float32]:
        """Features of each volume, (N, D)."""
        ...


class Plain:
    """A baseline with nothing to fit: a function of one volume.

    Args:
        measure: volume (Z, Y, X) to its features (D,).
    """

    learns: ClassVar[bool] = False

    def __init__(self, measure: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
        self.measure = measure

    def fit(self, volumes: Volumes) -> Self:
        """Nothing; the volumes are not read."""
        return self

    def transform(self, volumes: Volumes) -> NDArray[np.float32]:
        """Features of each volume, (N, D).

        Raises:
            ValueError: a volume of other axes, or volumes whose features differ in number.
        """
        rows = [
            np.concatenate([self.measure(one) for one in channels_of(volume)]) for volume in volumes
        ]
        if len(lengths := {len(one) for one in rows}) > 1:
            raise ValueError(f"volumes of {sorted(lengths)} rows have no profile in common")
        return np.stack(rows).astype(np.float32)


def channels_of(volume: NDArray[Any]) -> list[NDArray[Any]]:
    """The channels of (Z, Y, X) or (C, Z, Y, X), one (Z, Y, X) each.

    Raises:
        ValueError: a volume of other axes.
    """
    one = np.asarray(volume)
    if one.ndim not in (3, 4):
        raise ValueError(f"a volume must be (Z, Y, X) or (C, Z, Y, X), not {one.shape}")
    return [one] if one.ndim == 3 else list(one)


def axial_profile(volumes: Volumes) -> NDArray[np.float32]:
    """Mean over Z and X of each volume, (N, Y): the trivial baseline beside any probe.

    Args:
        volumes: (Z, Y, X) each, or (C, Z, Y, X) for the profiles of all channels side by side,
            (N, C * Y).

    Raises:
        ValueError: a volume of other axes, or volumes whose profiles differ in length.
    """
    return Plain(lambda one: one.mean(axis=(0, 2), dtype=np.float64)).transform(volumes)


def grey_histogram(volume: NDArray[Any], *, bins: int = 64) -> NDArray[np.float64]:
    """Share of the voxels of each grey level, (bins,): no place, no neighbourhood.

    Equal to the mean of the histograms of the B-scans. Whole numbers are of their type's range;
    floating volumes are of 0 to 1, and what is beyond counts at the ends.
    """
    whole = np.issubdtype(volume.dtype, np.integer)
    low, high = (0, int(np.iinfo(volume.dtype).max) + 1) if whole else (0.0, 1.0)
    level = (volume.astype(np.float64).ravel() - low) * bins / (high - low)
    counts = np.bincount(level.clip(0, bins - 1).astype(np.int64), minlength=bins)
    return counts / volume.size


def mean_std(volume: NDArray[Any]) -> NDArray[np.float64]:
    """Mean and standard deviation of all voxels, (2,): brightness and contrast."""
    return np.array([volume.mean(dtype=np.float64), volume.std(dtype=np.float64)])


def thumbnail(
    volume: NDArray[Any], *, size: tuple[int, int, int] | None = None
) -> NDArray[np.float64]:
    """Area averages on a coarse grid, flat: where it is bright, at the size of a stamp.

    Args:
        volume: (Z, Y, X).
        size: cells of the grid; 4 x 8 x 8 by default, of one B-scan 1 x 18 x 44. Axes with fewer
            voxels than cells repeat them, so that all volumes have as many features.
    """
    cells = size or ((1, 18, 44) if len(volume) == 1 else (4, 8, 8))
    small = volume.astype(np.float64)
    for axis, count in enumerate(cells):
        small = _shrink(small, axis, count)
    return small.ravel()


def surface_profile(volume: NDArray[Any], *, rows: int = 40) -> NDArray[np.float64]:
    """Mean and spread of the A-scans, each shifted so that the surface is at one row, (2 * rows,).

    Tissue by depth, whatever the eye's place in the image. The surface is the row of the steepest
    rise along the beam after smoothing over a thirtieth of the rows and over neighbouring A-scans.

    Args:
        volume: (Z, Y, X).
        rows: means of equal parts, an eighth of them above the surface; together half the image.
    """
    scans = np.moveaxis(volume, 1, 2).astype(np.float64)  # (Z, X, Y)
    depth = scans.shape[2]
    smooth = _smooth(_smooth(scans, 2, max(1, depth // 30)), 1, max(1, scans.shape[1] // 30))
    step = max(1, depth // 60)
    rise = smooth[..., step:] - smooth[..., :-step] if depth > step else smooth
    surface = rise.argmax(axis=2) + step // 2
    offsets = np.arange(-rows // 8, rows - rows // 8)
    span = max(1.0, depth / 2 / rows)
    place = surface[..., None] + np.round(offsets * span).astype(np.int64)
    inside = (place >= 0) & (place < depth)
    values = np.take_along_axis(smooth, place.clip(0, depth - 1), axis=2)
    count = inside.sum(axis=(0, 1)).clip(1)
    mean = (values * inside).sum(axis=(0, 1)) / count
    spread = np.sqrt(((values - mean) ** 2 * inside).sum(axis=(0, 1)) / count)
    return np.concatenate([mean, spread])


def rank_normalise(volume: NDArray[Any]) -> NDArray[np.uint8]:
    """Grey levels replaced by their ranks among all voxels, 0 to 255; equal levels share a rank.

    What depends on exposure, contrast or the device's grey curve is gone, shape is not: a score
    that falls on such volumes was read from grey levels.
    """
    level, counts = _levels(volume)
    middle = (np.cumsum(counts) - (counts + 1) / 2).clip(0)  # mean rank of equal levels, from 0
    ranks = np.round(middle / max(1, volume.size - 1) * 255).astype(np.uint8)
    return ranks[level]


def _levels(volume: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The number of each voxel's grey level in rising order, and how many voxels have each."""
    if volume.dtype == np.uint8:  # counted: sorting takes ten times as long
        return volume, np.bincount(volume.ravel(), minlength=256)
    _, level, counts = np.unique(volume, return_inverse=True, return_counts=True)
    return level.reshape(volume.shape), counts


BASELINES: dict[str, Callable[[int], Baseline]] = {
    "grey histogram": lambda seed: Plain(grey_histogram),
    "thumbnail": lambda seed: Plain(thumbnail),
    "mean and std": lambda seed: Plain(mean_std),
    "axial profile": lambda seed: Plain(lambda one: one.mean(axis=(0, 2), dtype=np.float64)),
    "surface profile": lambda seed: Plain(surface_profile),
    "patch PCA 2x8x16": lambda seed: PatchPca(patch=(2, 8, 16), components=96, seed=seed),
    "patch PCA 1x8x8": lambda seed: PatchPca(patch=(1, 8, 8), components=64, seed=seed),
    "random layer": lambda seed: RandomLayer(patch=(1, 8, 8), units=256, seed=seed),
    "filter bank": lambda seed: FilterBank(patch=(1, 8, 8)),
}
"""Makers of the baselines; each takes the seed of what it draws."""


def _shrink(volume: NDArray[np.float64], axis: int, count: int) -> NDArray[np.float64]:
    """Means of `count` equal parts of an axis; voxels on a border belong to both by their share."""
    length = volume.shape[axis]
    sums = np.cumsum(np.moveaxis(volume, axis, -1), axis=-1)
    sums = np.concatenate([np.zeros((*sums.shape[:-1], 1)), sums], axis=-1)
    edges = np.linspace(0, length, count + 1)
    floor = np.minimum(edges.astype(np.int64), length - 1)
    at = sums[..., floor] + (edges - floor) * (sums[..., floor + 1] - sums[..., floor])
    return np.moveaxis(np.diff(at, axis=-1) * (count / length), -1, axis)


def _smooth(volume: NDArray[np.float64], axis: int, width: int) -> NDArray[np.float64]:
    """Running mean over an odd width; the ends repeat."""
    reach = width // 2
    if not reach:
        return volume
    pad = [(reach, reach) if one == axis else (0, 0) for one in range(volume.ndim)]
    sums = np.cumsum(np.pad(volume, pad, mode="edge"), axis=axis)
    sums = np.concatenate([np.zeros_like(sums.take([0], axis)), sums], axis=axis)
    length = volume.shape[axis]
    ahead = sums.take(np.arange(2 * reach + 1, length + 2 * reach + 1), axis)
    return (ahead - sums.take(np.arange(length), axis)) / (2 * reach + 1)
