"""What training and evaluation read: volumes with their label or mask, by number."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from oct_io import Spacing
from oct_io.space.transforms import augment as augment_scan
from oct_vjepa.heads.augmentation import augment
from oct_vjepa.heads.segmentation import SegmentationBatch
from oct_vjepa.heads.supervised import LabelledBatch
from oct_xla import Runtime, sample_seed
from torch import Tensor

from oct_judge.recipe import TrainingConfig


class Volumes(Protocol):
    """Scans of one shape by number, such as `oct_io.CachedVolumes`."""

    @property
    def spacings(self) -> NDArray[np.float64]:
        """Millimetres between voxel centres, (N, 3) along (Z, Y, X)."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> NDArray[np.uint8]: ...


class Masks(Protocol):
    """The class of each voxel of volumes by number, (Z, Y, X) whole numbers; -1 where unknown."""

    def __getitem__(self, number: int, /) -> NDArray[Any]: ...


class Parts(Protocol):
    """Which rows are for what: one round of a protocol; all bool (N,)."""

    @property
    def fit(self) -> NDArray[np.bool_]:
        """Rows that are trained on."""
        ...

    @property
    def validation(self) -> NDArray[np.bool_]:
        """Rows that choose the epoch."""
        ...

    @property
    def calibrating(self) -> NDArray[np.bool_]:
        """Rows that set temperature and thresholds; those of validation, or others."""
        ...

    @property
    def test(self) -> NDArray[np.bool_]:
        """Rows that are looked at once."""
        ...


class Taker(Protocol):
    """What takes volumes, such as the configuration of an encoder."""

    @property
    def position_unit(self) -> str:
        """Where positions come from: only "length" wants to know the spacing."""
        ...


class VolumeReader:
    """Volumes as an encoder takes them; a pure function of (seed, epoch, index).

    Args:
        volumes: all of them.
        rows: numbers of those that `index` counts.
        config: how they are changed.
        encoder: whether it wants to know the spacing.
        seed: of the changes.
    """

    def __init__(
        self,
        volumes: Volumes,
        rows: NDArray[Any],
        config: TrainingConfig,
        *,
        encoder: Taker,
        seed: int,
    ) -> None:
        self._volumes, self._rows = volumes, [int(row) for row in rows]
        self._augmentation, self._seed = config.augmentation, seed
        scan = config.scan_augmentation
        self._scan = None if scan is None else replace(scan, seed=scan.seed + seed)
        self._wants_spacing = encoder.position_unit == "length"

    def __len__(self) -> int:
        return len(self._rows)

    def read(
        self, index: int, epoch: int, mask_ZYX: NDArray[np.int64] | None = None
    ) -> tuple[Tensor, NDArray[np.int64] | None, Tensor | None]:
        """Volume (1, Z, Y, X) uint8 and its mask, both changed, and spacing if it is wanted."""
        row = self._rows[index]
        voxels, spacing = self._volumes[row], self._volumes.spacings[row]
        if self._scan is not None:
            change = augment_scan(self._scan)
            voxels = change(voxels, Spacing(*spacing), epoch=epoch, index=row).voxels
        if self._augmentation.changes:
            generator = np.random.default_rng(sample_seed(self._seed, epoch, row))
            voxels, mask_ZYX = augment(voxels, self._augmentation, generator, mask_ZYX=mask_ZYX)
        volume = torch.from_numpy(np.ascontiguousarray(voxels)).unsqueeze(0)
        return volume, mask_ZYX, self._spacing(row)

    def ahead(self, keys: Sequence[tuple[int, int]]) -> None:
        """Say which (index, epoch) will be asked for next."""
        read_ahead(self._volumes, [self._rows[index] for index, _ in keys])

    def _spacing(self, row: int) -> Tensor | None:
        if not self._wants_spacing:
            return None
        return torch.tensor(self._volumes.spacings[row], dtype=torch.float32)


class LabelledSamples(VolumeReader):
    """Volumes with the answer of each; see `VolumeReader`. `labels` are those of `rows`."""

    def __init__(self, *args: Any, labels: NDArray[Any], **options: Any) -> None:
        super().__init__(*args, **options)
        self._labels = labels

    def __call__(self, index: int, epoch: int) -> LabelledBatch:
        """One sample, without batch axis."""
        volume, _, spacing = self.read(index, epoch)
        label = torch.as_tensor(self._labels[index])
        return LabelledBatch(
            volume, label.float() if label.is_floating_point() else label.long(), spacing
        )


class MaskedSamples(VolumeReader):
    """Volumes with the class of each voxel; see `VolumeReader`. `masks` are of all volumes."""

    def __init__(self, *args: Any, masks: Masks, **options: Any) -> None:
        super().__init__(*args, **options)
        self._masks = masks

    def __call__(self, index: int, epoch: int) -> SegmentationBatch:
        """One sample, without batch axis."""
        mask = np.asarray(self._masks[self._rows[index]]).astype(np.int64)
        volume, mask_ZYX, spacing = self.read(index, epoch, mask)
        assert mask_ZYX is not None
        return SegmentationBatch(volume, torch.from_numpy(mask_ZYX), spacing)


class Batch(NamedTuple):
    """Volumes to be evaluated by one process."""

    rows: list[int]  # the first of the volumes; the others only fill up the shape
    volume_BCZYX: Tensor
    spacing_B3: Tensor | None


def stripe(
    volumes: Volumes, rows: NDArray[Any], size: int, runtime: Runtime, encoder: Taker
) -> Iterator[Batch]:
    """This process's share of the rows, in batches of one shape, as many on every process.

    Every row is on exactly one process: all of the validation part counts, however many there are.

    Args:
        volumes: all of them.
        rows: numbers of those that are asked; none: no batch.
        size: volumes of a batch over all devices.
        runtime: which share.
        encoder: whether it wants to know the spacing.
    """
    numbers = [int(row) for row in rows]
    own = max(1, size // runtime.devices) * runtime.local_devices
    most = math_ceil(len(numbers), runtime.world)
    mine = numbers[runtime.rank :: runtime.world]
    for first in range(0, most, own):
        part = mine[first : first + own]
        filled = part + [numbers[0]] * (own - len(part))
        read_ahead(volumes, [*part, *mine[first + own : first + 2 * own]])
        volume = torch.from_numpy(np.stack([volumes[row] for row in filled])).unsqueeze(1)
        spacing = None
        if encoder.position_unit == "length":
            spacing = torch.tensor(volumes.spacings[filled], dtype=torch.float32)
        yield Batch(part, volume, spacing)


def read_ahead(volumes: Volumes, rows: Sequence[int]) -> None:
    """Say which volumes will be asked for next, if that helps: those of a cache in a bucket."""
    ahead = getattr(volumes, "ahead", None)
    if ahead is not None:
        ahead(rows)


def math_ceil(count: int, parts: int) -> int:
    """How many each of `parts` has at the most."""
    return -(-count // parts)
