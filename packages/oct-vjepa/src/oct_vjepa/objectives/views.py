"""Two augmented views of a volume, as the predecessor drew them; for its objective only.

V-JEPA 2 needs no views: what it hides is its task. The predecessor showed the student one view and
the teacher another, flipped and turned independently, and compared them patch by patch; `aligned`
leaves only the noise, so that a patch is the same place in both.
"""

import torch
from torch import Tensor
from torch.nn import functional

from oct_vjepa.objectives.configuration import ViewConfig


@torch.no_grad()
def draw_view(
    volume_BCZYX: Tensor,
    config: ViewConfig,
    generator: torch.Generator,
    *,
    mean: float = 0.0,
    std: float = 1.0,
) -> Tensor:
    """One view of each volume, float32, same shape; equal generator states give equal views.

    Args:
        volume_BCZYX: voxels as the encoder takes them.
        config: what may happen.
        generator: on the CPU.
        mean: the encoder's `input_mean`; what an affine map brings in from outside has this value.
        std: the encoder's `input_std`, the unit of the noise.
    """
    view = volume_BCZYX.to(torch.float32)
    batch, device = view.shape[0], view.device
    chance_3B = torch.rand(3, batch, 1, 1, 1, 1, generator=generator)
    if not config.aligned:
        flipped = (chance_3B[0] < config.flip_probability).to(device)
        view = torch.where(flipped, view.flip(2, 3, 4), view)
        map_B34 = _affine(config, view.shape, generator).to(device)
        places = functional.affine_grid(map_B34, list(view.shape), align_corners=False)
        moved = functional.grid_sample(view - mean, places, align_corners=False) + mean
        view = torch.where((chance_3B[1] < config.affine_probability).to(device), moved, view)
    noise = torch.randn(view.shape, generator=generator) * (config.noise_std * std)
    return view + (noise * (chance_3B[2] < config.noise_probability)).to(device)


def _affine(config: ViewConfig, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Maps from places of the view to places of the volume, x y z from -1 to 1, (B, 3, 4)."""
    batch = shape[0]
    angle_B3, shift_B3, scale_B3 = 2 * torch.rand(3, batch, 3, generator=generator) - 1
    # Rotations are about voxel axes: distances along an axis are counted in voxels, not in sizes.
    size_3 = torch.tensor([shape[4], shape[3], shape[2]], dtype=torch.float32)
    turn_B33 = torch.eye(3).expand(batch, 3, 3)
    for first, second, axis in ((1, 2, 0), (0, 2, 1), (0, 1, 2)):
        angle_B = angle_B3[:, axis] * config.rotation
        plane_B33 = torch.eye(3).repeat(batch, 1, 1)
        plane_B33[:, first, first] = plane_B33[:, second, second] = angle_B.cos()
        plane_B33[:, first, second], plane_B33[:, second, first] = -angle_B.sin(), angle_B.sin()
        turn_B33 = turn_B33 @ plane_B33
    turn_B33 = turn_B33 * (1 + config.scale * scale_B3).unsqueeze(1)
    turn_B33 = turn_B33 * size_3.view(1, 1, 3) / size_3.view(1, 3, 1)
    offset_B31 = (2 * config.shift * shift_B3 / size_3).unsqueeze(-1)
    return torch.cat([turn_B33, offset_B31], dim=-1)
