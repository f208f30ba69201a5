"""What fixed units, random or classical, see of a patch and of what is around it: more to be said.

One layer of random ReLU units on a patch and its neighbours, which nobody trains, tells where fluid
is on real B-scans better than most encoders that learned little (docs/findings.md). So it has
something that features of a young teacher lack, and voxels say only in a form that a linear map
cannot read. To predict the outputs of a fixed random map, of what is hidden, is BEST-RQ's idea for
speech (Chiu and others 2022, arXiv 2202.01855), which makes classes of them; here they are values.

A bank of classical filters tells oedema of whole B-scans as they are better than any encoder that
was tried (docs/findings.md). To predict what hand-made features see of hidden patches is MaskFeat's
idea (Wei and others 2022, arXiv 2112.09133), with histograms of gradients.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from oct_vjepa.filters import MAPS, SCALES, filter_patches
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


class FixedFilters(nn.Module):
    """Mean, lowest and highest response of each filter of a bank in each patch (`filters`).

    Filters see standardised voxels, and reach beyond the patch as far as they are wide. From each
    value is taken, and by it is divided, what is usual on images with the spectrum of natural
    scenes, on which derivatives that are multiplied by their scale have the same spread at each
    (Field 1987, Journal of the Optical Society of America A 4). So no data set is looked at, and
    no volume's values depend on which others are in the batch. Neither trained nor saved.

    Args:
        encoder: whose patches, channels, and mean and spread of the input.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, encoder: EncoderConfig) -> None:
        super().__init__()
        self.config = encoder
        with torch.device("cpu"):  # known from the start, also where a network has no storage yet
            usual = filter_patches(natural_scenes(), (1, *encoder.patch_size[1:])).flatten(0, 1)
            mean, spread = usual.mean(dim=0), usual.std(dim=0)
        place = torch.get_default_device()
        self.register_buffer("mean", mean.to(place), persistent=False)
        self.register_buffer("spread", spread.to(place), persistent=False)

    @staticmethod
    def values(encoder: EncoderConfig) -> int:
        """How many values a patch has."""
        return encoder.channels * 3 * (1 + MAPS * len(SCALES))

    def forward(self, volume_BCZYX: Tensor) -> Tensor:
        """What the filters see of each patch, (B, N, values), float32, channel after channel."""
        volume = standardise(volume_BCZYX, self.config)
        said = [
            (filter_patches(one, self.config.patch_size) - self.mean) / self.spread
            for one in volume.unbind(1)
        ]
        return torch.cat(said, dim=-1)


def natural_scenes(images: int = 16, side: int = 128, seed: int = 0) -> Tensor:
    """Random images whose amplitudes fall as 1/f, mean 0 and spread 1, (images, 1, side, side)."""
    generator = torch.Generator().manual_seed(seed)
    white = torch.fft.rfft2(torch.randn(images, 1, side, side, generator=generator))
    down, across = torch.fft.fftfreq(side)[:, None], torch.fft.rfftfreq(side)
    frequency = torch.hypot(down, across)
    frequency[0, 0] = torch.inf  # no mean
    scenes = torch.fft.irfft2(white / frequency, s=(side, side))
    return scenes / scenes.std()
