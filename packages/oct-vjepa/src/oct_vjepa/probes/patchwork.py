"""Baselines on patches: filters, principal components, one random layer; pooled or not.

Patches are those of a grid without gaps; voxels beyond the last whole patch are left out; those of
several channels are pooled together. What is fitted is fitted on the volumes of the fit rows, which
stream through once. `PatchPca`, `RandomLayer` and `FilterBank` say one thing of a volume; of each
patch, in the order of an encoder's tokens, `PatchVoxels`, `NeighbourPca`, `RandomUnits` and
`PatchFilters`.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray

from oct_vjepa.filters import filter_patches

Floats = NDArray[np.float64]
Sides = tuple[int, int, int]
"""Along Z, Y and X, in voxels or in patches."""
Cut = Callable[[NDArray[Any], tuple[int, int, int]], Floats]
"""Rows of voxels, one a patch, out of a volume."""

PATCHES = 256
"""Patches a volume that are fitted on, drawn by the seed; all of them if there are fewer."""

TAIL = 0.05
"""Share of the patches in each tail, as in the pool `tails` of an encoder's tokens."""

SLABS = 8
"""Patches of the depth that are filtered at once: their maps are 21 times the voxels."""


def whole_patches(volume: NDArray[Any], patch: Sides) -> tuple[Sides, Sides]:
    """How many whole patches lie along Z, Y and X, and their sides: a single B-scan has one slice.

    Raises:
        ValueError: the volume is smaller than a patch, or of other axes.
    """
    if volume.ndim not in (3, 4):
        raise ValueError(f"a volume must be (Z, Y, X) or (C, Z, Y, X), not {volume.shape}")
    depth, height, width = volume.shape[-3:]
    z, y, x = min(patch[0], depth), *patch[1:]
    grid = depth // z, height // y, width // x
    if not all(grid):
        raise ValueError(f"a volume {volume.shape} is smaller than a patch {patch}")
    return grid, (z, y, x)


def cut_patches(volume: NDArray[Any], patch: tuple[int, int, int]) -> Floats:
    """The patches of a volume, flat, (patches, voxels); channels one after the other.

    Raises:
        ValueError: the volume is smaller than a patch, or of other axes.
    """
    one = np.asarray(volume)
    grid, (z, y, x) = whole_patches(one, patch)
    one = one[..., : grid[0] * z, : grid[1] * y, : grid[2] * x]
    cut = one.reshape(-1, grid[0], z, grid[1], y, grid[2], x).transpose(0, 1, 3, 5, 2, 4, 6)
    return cut.reshape(-1, z * y * x).astype(np.float64)


def cut_neighbourhoods(volume: NDArray[Any], patch: tuple[int, int, int]) -> Floats:
    """Each patch with those around it, flat, (patches, voxels); beyond the edge it is repeated.

    Every other voxel is left out along an axis on which a patch has several. Along an axis with a
    single patch there is nothing around it.

    Raises:
        ValueError: the volume is smaller than a patch, or has not three axes.
    """
    one = np.asarray(volume)
    if one.ndim != 3:
        raise ValueError(f"a volume must be (Z, Y, X), not {one.shape}")
    grid, sides = whole_patches(one, patch)
    around = [side if parts > 1 else 0 for side, parts in zip(sides, grid, strict=True)]
    whole = one[tuple(slice(side * parts) for side, parts in zip(sides, grid, strict=True))]
    padded = np.pad(whole, [(more, more) for more in around], mode="edge")
    window = tuple(side + 2 * more for side, more in zip(sides, around, strict=True))
    views = np.lib.stride_tricks.sliding_window_view(padded, window)
    steps = [*sides, *(2 if side > 1 else 1 for side in sides)]
    kept = views[tuple(slice(None, None, step) for step in steps)]
    return kept.reshape(int(np.prod(grid)), -1).astype(np.float64)


class _Components:
    """Principal components of what is cut out for each patch.

    Args:
        patch: (Z, Y, X) voxels.
        components: at most; as many as what is cut out has voxels if fewer.
        seed: of the patches that are fitted on.
    """

    learns: ClassVar[bool] = True
    _cut: Cut

    def __init__(self, *, patch: tuple[int, int, int], components: int, seed: int) -> None:
        self.patch, self.components, self.seed = patch, components, seed
        self.mean = self.axes = np.empty(0)

    def fit(self, volumes: Iterable[NDArray[Any]]) -> Self:
        """Find the components in these volumes.

        Raises:
            ValueError: no volume, or one that cannot be cut.
        """
        self.mean, covariance = _moments(volumes, self._cut, self.patch, self.seed)
        self.axes = _axes(covariance, self.components)
        return self

    def _said(self, volumes: Iterable[NDArray[Any]]) -> Iterator[Floats]:
        """(patches, components) of each volume."""
        _check_fitted(self.axes)
        return ((self._cut(one, self.patch) - self.mean) @ self.axes for one in volumes)


class PatchPca(_Components):
    """Principal components of a volume's patches, pooled: texture, linearly."""

    _cut = staticmethod(cut_patches)

    def transform(self, volumes: Iterable[NDArray[Any]]) -> NDArray[np.float32]:
        """Means, spreads and tails of the components over the patches of each volume, (N, 4 * K).

        Raises:
            ValueError: `fit` was not called, or as `cut_patches`.
        """
        return _pool(self._said(volumes))


class NeighbourPca(_Components):
    """Principal components of each patch with its neighbours: what lies there and around, linearly.

    What is cut out is that of `cut_neighbourhoods`.
    """

    _cut = staticmethod(cut_neighbourhoods)

    def transform(self, volumes: Iterable[NDArray[Any]]) -> NDArray[np.float32]:
        """(N, patches, components).

        Raises:
            ValueError: `fit` was not called, or as `cut_neighbourhoods`.
        """
        return np.stack(list(self._said(volumes))).astype(np.float32)


class _Units:
    """Random ReLU units of what is cut out for each patch, standardised voxel by voxel.

    Random features as in Rahimi and Recht 2008.

    Args:
        patch: (Z, Y, X) voxels.
        units: of the layer; as many as an encoder says of a patch make it a fair rival.
        seed: of its weights and of the patches that standardise.
    """

    _cut: Cut = staticmethod(cut_patches)
    _stream: tuple[int, ...] = ()  # of the draws from the seed
    _scale: Callable[[Floats], Floats]  # from a voxel's variance to what it is divided by

    learns: ClassVar[bool] = True

    def __init__(self, *, patch: tuple[int, int, int], units: int, seed: int) -> None:
        self.patch, self.units, self.seed = patch, units, seed
        self.mean = self.weight = self.bias = np.empty(0)

    def fit(self, volumes: Iterable[NDArray[Any]]) -> Self:
        """Take mean and spread of the voxels of what is cut out from these volumes.

        Raises:
            ValueError: no volume, or one that cannot be cut.
        """
        self.mean, covariance = _moments(volumes, self._cut, self.patch, self.seed)
        scale = self._scale(np.diag(covariance))
        draw = np.random.default_rng((self.seed, *self._stream))
        weight = draw.normal(size=(len(scale), self.units)) / np.sqrt(len(scale))
        self.weight, self.bias = weight / scale[:, None], draw.normal(size=self.units)
        return self

    def _said(self, volumes: Iterable[NDArray[Any]]) -> Iterator[Floats]:
        """(patches, units) of each volume."""
        _check_fitted(self.weight)
        return (
            np.maximum((self._cut(one, self.patch) - self.mean) @ self.weight + self.bias, 0)
            for one in volumes
        )


class RandomLayer(_Units):
    """Random ReLU units of a volume's patches, pooled: what no training gives."""

    _stream = (1,)

    @staticmethod
    def _scale(variance_V: Floats) -> Floats:
        spread = np.sqrt(variance_V)
        return np.where(spread > 1e-12, spread, 1.0)

    def transform(self, volumes: Iterable[NDArray[Any]]) -> NDArray[np.float32]:
        """Means, spreads and tails of the units over the patches of each volume, (N, 4 * units).

        Raises:
            ValueError: `fit` was not called, or as `cut_patches`.
        """
        return _pool(self._said(volumes))


class _Unlearned:
    """What is read of patches as they are.

    Args:
        patch: (Z, Y, X) voxels.
    """

    learns: ClassVar[bool] = False

    def __init__(self, *, patch: tuple[int, int, int]) -> None:
        self.patch = patch

    def fit(self, volumes: Iterable[NDArray[Any]]) -> Self:
        """Nothing is learned."""
        return self


class PatchVoxels(_Unlearned):
    """The voxels of each patch as they are."""

    def transform(self, volumes: Iterable[NDArray[Any]]) -> NDArray[np.float32]:
        """(N, patches, voxels).

        Raises:
            ValueError: as `cut_patches`.
        """
        return np.stack([cut_patches(one, self.patch).astype(np.float32) for one in volumes])


class PatchFilters(_Unlearned):
    """What a bank of classical filters sees (`oct_vjepa.filters`) in each patch."""

    def transform(self, volumes: Iterable[NDArray[Any]]) -> NDArray[np.float32]:
        """(N, patches, features).

        Raises:
            ValueError: as `cut_patches`.
        """
        return np.stack([_filtered(one, self.patch) for one in volumes])


class FilterBank(PatchFilters):
    """`PatchFilters`, pooled over the patches of a volume."""

    def transform(self, volumes: Iterable[NDArray[Any]]) -> NDArray[np.float32]:
        """Means, spreads and tails over the patches of each volume, (N, 4 * features).

        Raises:
            ValueError: as `cut_patches`.
        """
        return _pool(_filtered(one, self.patch).astype(np.float64) for one in volumes)


class RandomUnits(_Units):
    """`RandomLayer` without a pool, of other weights; with `around` it sees neighbours too."""

    def __init__(
        self, *, patch: tuple[int, int, int], units: int, seed: int, around: bool = False
    ) -> None:
        super().__init__(patch=patch, units=units, seed=seed)
        self._cut = cut_neighbourhoods if around else cut_patches

    @staticmethod
    def _scale(variance_V: Floats) -> Floats:
        return np.sqrt(np.maximum(variance_V, 0)) + 1e-6

    def transform(self, volumes: Iterable[NDArray[Any]]) -> NDArray[np.float32]:
        """(N, patches, units).

        Raises:
            ValueError: `fit` was not called, or as `cut_patches` and `cut_neighbourhoods`.
        """
        return np.stack(list(self._said(volumes))).astype(np.float32)


def _filtered(volume: NDArray[Any], patch: tuple[int, int, int]) -> NDArray[np.float32]:
    """(patches, features) of one volume; patches of several channels one after the other."""
    one = np.asarray(volume)
    (depth, _, _), (thick, _, _) = whole_patches(one, patch)
    whole = one[..., : depth * thick, :, :].astype(np.float32)
    channels = torch.from_numpy(whole.reshape(-1, *whole.shape[-3:]))
    said = [filter_patches(part, patch) for part in channels.split(thick * SLABS, 1)]
    return np.asarray(torch.cat(said, dim=1).flatten(0, 1).numpy())


def _moments(
    volumes: Iterable[NDArray[Any]],
    cut: Cut,
    patch: tuple[int, int, int],
    seed: int,
) -> tuple[Floats, Floats]:
    """Mean and covariance of drawn patches, summed volume by volume."""
    draw = np.random.default_rng((seed, 0))
    count, total, products = 0, np.zeros(1), np.zeros((1, 1))
    for volume in volumes:
        patches = cut(volume, patch)
        if len(patches) > PATCHES:
            patches = patches[draw.choice(len(patches), PATCHES, replace=False)]
        count += len(patches)
        total = total + patches.sum(axis=0)
        products = products + patches.T @ patches
    if not count:
        raise ValueError("baseline: there is no volume to fit on")
    mean = total / count
    return mean, products / count - np.outer(mean, mean)


def _axes(covariance: Floats, components: int) -> Floats:
    """The first principal axes as columns, with a sign that stays."""
    axes = np.linalg.eigh(covariance)[1][:, ::-1][:, :components]
    largest = np.abs(axes).argmax(axis=0)
    return np.asarray(axes * np.sign(axes[largest, np.arange(axes.shape[1])]))


def _pool(values: Iterable[Floats]) -> NDArray[np.float32]:
    """Mean, spread, mean of the highest and of the lowest twentieth of the patches, by feature.

    What an encoder's tokens are pooled by at best: a baseline that is read out by less would lose
    for that alone.
    """
    rows = []
    for one in values:
        count = max(1, round(TAIL * len(one)))
        ordered = np.partition(one, [count - 1, len(one) - count], axis=0)
        tails = [ordered[-count:].mean(axis=0), ordered[:count].mean(axis=0)]
        rows.append(np.concatenate([one.mean(axis=0), one.std(axis=0), *tails]))
    return np.stack(rows).astype(np.float32)


def _check_fitted(weights: Floats) -> None:
    if not weights.size:
        raise ValueError("baseline: call fit with the volumes of the fit rows first")
