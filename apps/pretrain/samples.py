"""What the feed asks for: one cached volume, augmented, with its masks, by index and epoch."""

from array import array
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from oct_io import Spacing
from oct_io.space.transforms import AugmentConfig, changes_nothing
from oct_io.space.transforms import augment as make_augmentation
from oct_vjepa import EncoderConfig, JepaBatch, MaskingConfig, Masks, sample_masks
from oct_vjepa.masking.foreground import foreground_patches
from oct_vjepa.objectives.objective import PairBatch
from oct_xla import sample_seed
from pairing import Partners


class HasSpacing(Protocol):
    """What is known of a volume."""

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres along (bscan, row, column)."""
        ...


class Volumes(Protocol):
    """A cache of volumes, such as `oct_io.CachedVolumes`."""

    @property
    def entries(self) -> Sequence[HasSpacing]:
        """One a volume."""
        ...

    def __getitem__(self, index: int) -> NDArray[Any]:
        """The voxels, (bscan, row, column)."""
        ...

    def ahead(self, numbers: Iterable[int]) -> None:
        """Which will be asked for next."""
        ...


class PretrainSamples:
    """Volumes with freshly drawn masks; a pure function of (seed, epoch, index).

    Args:
        volumes: the cache, (bscan, row, column) each.
        indices: which volumes of the cache take part.
        masking: how to mask.
        augment: how volumes may be changed; the masks are drawn on what has become of them.
        encoder: whose patches are masked, and whether it wants to know the spacing.
        seed: of the run.
        partners: which volume goes beside each; None: none does.
    """

    def __init__(
        self,
        volumes: Volumes,
        indices: Sequence[int],
        masking: MaskingConfig,
        *,
        augment: AugmentConfig,
        encoder: EncoderConfig,
        seed: int,
        partners: Partners | None = None,
    ) -> None:
        self._partners = partners
        self._volumes, self._indices = volumes, array("I", indices)
        self._masking, self._encoder, self._seed = masking, encoder, seed
        self._augment = None if changes_nothing(augment) else make_augmentation(augment)

    def __len__(self) -> int:
        return len(self._indices)

    def __call__(self, index: int, epoch: int) -> JepaBatch | PairBatch:
        """Volume (C, Z, Y, X) uint8, its masks and, if asked for, partner and spacing.

        Without batch axis.
        """
        volume, spacing = self._changed(index, epoch)
        generator = torch.Generator().manual_seed(sample_seed(self._seed, epoch, index))
        foreground = None
        if self._masking.needs_foreground:
            patch_size = self._encoder.patch_size
            foreground = foreground_patches(volume[None], patch_size, self._masking.foreground)
        drawn = sample_masks(
            self._masking, self._encoder.grid, 1, generator=generator, foreground_BN=foreground
        )
        masks = tuple(Masks(one.context_BK[0], one.target_BM[0]) for one in drawn)
        if self._partners is None:
            return JepaBatch(volume, masks, spacing)
        other, others = self._changed(self._partner(index, epoch), epoch)
        return PairBatch(volume, other, masks, spacing, others)

    def ahead(self, keys: Sequence[tuple[int, int]]) -> None:
        """Say which (index, epoch) will be asked for next."""
        asked = [index for index, _ in keys]
        if self._partners is not None:
            asked = [one for key in keys for one in (key[0], self._partner(*key))]
        self._volumes.ahead([self._indices[index] for index in asked])

    def watched(self, count: int) -> JepaBatch:
        """`count` volumes at even distances, or all, with a batch axis and without masks."""
        indices = range(0, len(self), max(1, len(self) // count))[:count]
        spacings = [one for i in indices if (one := self._spacing(i)) is not None]
        self.ahead([(index, 0) for index in indices])
        volumes = torch.stack([self._volume(i) for i in indices])
        return JepaBatch(volumes, (), torch.stack(spacings) if spacings else None)

    def spacing_mm(self, index: int) -> tuple[float, float, float]:
        """Millimetres between voxels along (Z, Y, X) of the volume with this index."""
        return self._volumes.entries[self._indices[index]].spacing

    def _partner(self, index: int, epoch: int) -> int:
        assert self._partners is not None
        return self._partners.choose(index, sample_seed(self._seed, epoch, index))

    def _changed(self, index: int, epoch: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The volume as it is shown in an epoch, and its spacing if that is asked for."""
        # (bscan, row, column) are the tensor axes (Z, Y, X); one channel is put in front.
        volume = self._volume(index)
        if self._augment is None:
            return volume, self._spacing(index)
        spacing = Spacing(*self.spacing_mm(index))
        changed = self._augment(volume[0], spacing, epoch=epoch, index=index)
        return changed.voxels.unsqueeze(0), self._told(changed.spacing)

    def _volume(self, index: int) -> torch.Tensor:
        return torch.from_numpy(self._volumes[self._indices[index]]).unsqueeze(0)

    def _spacing(self, index: int) -> torch.Tensor | None:
        """Millimetres along (Z, Y, X), for an encoder whose positions are lengths."""
        return self._told(self.spacing_mm(index))

    def _told(self, spacing: tuple[float, float, float]) -> torch.Tensor | None:
        return torch.tensor(spacing) if self._encoder.position_unit == "length" else None
