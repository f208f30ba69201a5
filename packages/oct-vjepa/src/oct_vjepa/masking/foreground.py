"""Which patches hold something: a rule on brightness or texture that knows no organ and no device.

A scan is mostly background. Masks and diagnostics that treat all patches alike then speak about
the background, so both can be given a weight for each patch. A segmentation serves as well.
"""

import torch
from torch import Tensor

from oct_vjepa.masking.configuration import ForegroundConfig
from oct_vjepa.model.patches import split_patches


@torch.no_grad()
def foreground_patches(
    volume_BCZYX: Tensor, patch_size: tuple[int, int, int], config: ForegroundConfig
) -> Tensor:
    """1 for the patches of the largest mean or standard deviation, else 0, (B, N), float32.

    Raises:
        ValueError: the patches do not divide the volume.
    """
    voxels = split_patches(volume_BCZYX, patch_size).to(torch.float32)
    value_BN = voxels.mean(-1) if config.measure == "mean" else voxels.std(-1, correction=0)
    count = min(max(round(config.fraction * value_BN.shape[1]), 1), value_BN.shape[1])
    chosen = value_BN.topk(count, dim=1).indices
    return torch.zeros_like(value_BN).scatter_(1, chosen, 1.0)
