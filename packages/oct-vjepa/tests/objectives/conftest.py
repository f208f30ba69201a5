"""What the tests of several objectives share."""

import pytest
import torch


@pytest.fixture
def voxels_of():
    """`voxels_of(ids, config)` is true where a voxel belongs to one of the patches."""

    def voxels_of(ids_BM, config):
        """True where a voxel belongs to one of the patches."""
        chosen = torch.zeros(len(ids_BM), config.tokens, dtype=torch.bool).scatter_(1, ids_BM, True)
        chosen = chosen.view(-1, 1, *config.grid)
        for axis, patch in zip((2, 3, 4), config.patch_size, strict=True):
            chosen = chosen.repeat_interleave(patch, dim=axis)
        return chosen

    return voxels_of
