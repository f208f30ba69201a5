"""Views of a volume for objectives that say which belong together: crops, mirrors, gain, noise.

Everything runs where the volume is, in shapes that never change: a crop is read out by linear
interpolation along one axis after the other, so that XLA compiles once. Only the numbers that say
what happens are drawn on the CPU.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from oct_vjepa.model.configuration import EncoderConfig
from oct_vjepa.model.encoder import Encoder
from oct_vjepa.objectives.objective import JepaBatch, PairBatch
from oct_vjepa.objectives.rivals.configuration import CropConfig


class View(NamedTuple):
    """What became of a volume, with the distance between its voxels if that is known."""

    volume_BCZYX: Tensor
    spacing_B3: Tensor | None


def draw_pair(
    batch: JepaBatch,
    paired: Tensor | JepaBatch | PairBatch,
    encoder: EncoderConfig,
    config: CropConfig,
    generator: torch.Generator | None,
) -> tuple[View, View]:
    """Two views of each volume, or one of it and one of its partner.

    Args:
        batch: the volumes.
        paired: what they were given as; their partners are in it if it is a `PairBatch`.
        encoder: see `draw_crop`.
        config: what may happen.
        generator: on the CPU.

    Raises:
        ValueError: no generator, or partners of another shape.
    """
    if generator is None:
        raise ValueError("give loss() a generator that draws the two views of each volume")
    first = second = View(batch.volume_BCZYX, batch.spacing_B3)
    if isinstance(paired, PairBatch):
        second = View(paired.partner_BCZYX, paired.partner_spacing_B3)
    shapes = first.volume_BCZYX.shape, second.volume_BCZYX.shape
    if shapes[0] != shapes[1]:
        raise ValueError(f"partners are {tuple(shapes[1])}, their volumes {tuple(shapes[0])}")
    one, other = (draw_crop(view, encoder, config, generator) for view in (first, second))
    return one, other


@torch.no_grad()
def draw_crop(
    view: View, encoder: EncoderConfig, config: CropConfig, generator: torch.Generator
) -> View:
    """A crop of each volume, stretched to its size, float32; equal states give equal crops.

    Args:
        view: voxels as the encoder takes them; a stretched crop has finer spacing.
        encoder: whose input it is; its spread is the unit of the noise.
        config: what may happen.
        generator: on the CPU.
    """
    volume = view.volume_BCZYX.to(torch.float32)
    batch, device = len(volume), volume.device
    drawn_6B = torch.rand(6, batch, generator=generator)
    share = config.crop_low + (1 - config.crop_low) * drawn_6B[0]
    ratio = ((2 * drawn_6B[1] - 1) * math.log(config.aspect)).exp()
    edge_2B = torch.stack([(share * ratio).sqrt(), (share / ratio).sqrt()]).clamp(max=1.0)
    mirrored_B1 = (drawn_6B[4] < config.mirror_probability).unsqueeze(1)
    for axis, edge_B, start_B in zip((3, 4), edge_2B, drawn_6B[2:4], strict=True):
        size = volume.shape[axis]
        step_B1 = edge_B.unsqueeze(1)
        places_BN = (start_B * (1 - edge_B) * size).unsqueeze(1)
        places_BN = places_BN + (torch.arange(size) + 0.5) * step_B1 - 0.5
        if axis == 4:
            places_BN = torch.where(mirrored_B1, places_BN.flip(1), places_BN)
        volume = read_along(volume, places_BN.clamp(0, size - 1).to(device), axis)
    gain = (1 + config.gain * (2 * drawn_6B[5] - 1)).view(-1, 1, 1, 1, 1).to(device)
    noise = torch.randn(volume.shape, generator=generator) * (config.noise_std * encoder.input_std)
    spacing = view.spacing_B3
    if spacing is not None:
        scale_B3 = torch.stack([torch.ones(batch), *edge_2B], dim=1)
        spacing = spacing * scale_B3.to(spacing)
    return View(volume * gain + noise.to(device), spacing)


def read_along(volume_BCZYX: Tensor, places_BN: Tensor, axis: int) -> Tensor:
    """Voxels at fractional places of one axis, by linear interpolation; N is that axis's size."""
    size = volume_BCZYX.shape[axis]
    if size == 1:
        return volume_BCZYX
    shape = [len(places_BN), 1, 1, 1, 1]
    shape[axis] = size
    places = places_BN.view(shape)
    below = places.floor().clamp(max=size - 2)
    index = below.to(torch.int64).expand(volume_BCZYX.shape)
    low, high = volume_BCZYX.gather(axis, index), volume_BCZYX.gather(axis, index + 1)
    return torch.lerp(low, high, (places - below).expand_as(low))


def pooled(encoder: Encoder, view: View, ids_BK: Tensor | None = None) -> Tensor:
    """Mean token of each volume, (B, D), float32; of the listed patches alone if there are any.

    A view of a few patches is what a small crop is to an image: the others are dropped before the
    first block, so it costs little and sees nothing of them.
    """
    tokens = encoder(view.volume_BCZYX, ids_BK, spacing_B3=view.spacing_B3)
    return tokens.mean(dim=1).to(torch.float32)
