"""What fixed random units see of a patch and of those around it: one more thing to be said of it.

One layer of random ReLU units on a patch and its neighbours, which nobody trains, tells where fluid
is on real B-scans better than most encoders that learned little (docs/findings.md). So it has
something that features of a young teacher lack, and voxels say only in a form that a linear map
cannot read. To predict the outputs of a fixed random map, of what is hidden, is BEST-RQ's idea for
speech (Chiu and others 2022, arXiv 2202.01855), which makes classes of them; here they are values.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from oct_vjepa.model.configuration import EncoderConfig
from oct_vjepa.objectives.losses import standardise

SPREAD = 0.62
"""Standard deviation of ReLU(z + b) over z, root mean square over b, of standard normal z and b."""


class FixedUnits(nn.Module):
    """Random ReLU units on standardised voxels of a patch and its eight neighbours in the slices.

    Weights and biases are normal and the same in every run; neither trained nor saved. Slices are
    often further apart than they are thick, so neighbours along Z are left out.

    Args:
        encoder: whose patches, channels, and mean and spread of the input.
        units: how many.
        seed: of weights and biases.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, encoder: EncoderConfig, units: int, seed: int = 0) -> None:
        super().__init__()
        self.config = encoder
        z, y, x = encoder.patch_size
        generator = torch.Generator().manual_seed(seed)
        shape = (units, encoder.channels, z, 3 * y, 3 * x)
        weight = torch.randn(shape, generator=generator) / (encoder.channels * z * 9 * y * x) ** 0.5
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("bias", torch.randn(units, generator=generator), persistent=False)

    def forward(self, volume_BCZYX: Tensor) -> Tensor:
        """What the units say of each patch, (B, N, units), float32, with a spread of about 1.

        Beyond the edge of a slice stands what stands at its edge.
        """
        _, y, x = self.config.patch_size
        volume = standardise(volume_BCZYX, self.config)
        around = functional.pad(volume, (x, x, y, y, 0, 0), "replicate")
        said = functional.conv3d(around, self.weight, self.bias, stride=self.config.patch_size)
        return functional.relu(said.to(torch.float32)).flatten(2).transpose(1, 2) / SPREAD
