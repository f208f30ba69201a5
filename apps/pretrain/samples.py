"""What the feed asks for: one cached volume with its masks, by index and epoch."""

from collections.abc import Sequence

import torch
from oct_io import CachedVolumes
from oct_vjepa import JepaBatch, MaskingConfig, Masks, sample_masks
from oct_xla import sample_seed


class PretrainSamples:
    """Volumes with freshly drawn masks; a pure function of (seed, epoch, index).

    Args:
        volumes: the cache, (bscan, row, column) each.
        indices: which volumes of the cache take part.
        masking: how to mask.
        grid: patches along (Z, Y, X).
        seed: of the run.
    """

    def __init__(
        self,
        volumes: CachedVolumes,
        indices: Sequence[int],
        masking: MaskingConfig,
        *,
        grid: tuple[int, int, int],
        seed: int,
    ) -> None:
        self._volumes, self._indices = volumes, list(indices)
        self._masking, self._grid, self._seed = masking, grid, seed

    def __len__(self) -> int:
        return len(self._indices)

    def __call__(self, index: int, epoch: int) -> JepaBatch:
        """Volume (C, Z, Y, X) uint8 and its masks, without the batch axis."""
        voxels = torch.from_numpy(self._volumes[self._indices[index]])
        generator = torch.Generator().manual_seed(sample_seed(self._seed, epoch, index))
        drawn = sample_masks(self._masking, self._grid, 1, generator=generator)
        # (bscan, row, column) are the tensor axes (Z, Y, X); one channel is put in front.
        masks = tuple(Masks(one.context_BK[0], one.target_BM[0]) for one in drawn)
        return JepaBatch(voxels.unsqueeze(0), masks)
