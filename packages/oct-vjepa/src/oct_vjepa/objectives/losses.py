"""What is predicted, and how far off a prediction is."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from oct_vjepa.model.configuration import EncoderConfig
from oct_vjepa.model.patches import split_patches


def normalise_targets(features_BND: Tensor) -> Tensor:
    """Each token to mean 0 and variance 1 over its features, float32, (B, N, D).

    Without this the teacher could shrink its features and the loss with them (V-JEPA 2, train.py).
    """
    features = features_BND.to(torch.float32)
    return functional.layer_norm(features, features.shape[-1:])


def normalise_levels(levels: Sequence[Tensor]) -> Tensor:
    """Features of several blocks, each normalised by itself, side by side, (B, N, levels * D).

    V-JEPA 2.1 (app/vjepa_2_1/train.py): no level outweighs another by its scale.
    """
    return torch.cat([normalise_targets(one_BND) for one_BND in levels], dim=-1)


def prediction_loss(prediction_BMD: Tensor, target_BMD: Tensor) -> Tensor:
    """Mean absolute difference, 0-dim, float32 (V-JEPA 2: loss_exp 1)."""
    return (prediction_BMD.to(torch.float32) - target_BMD).abs().mean()


def context_loss(prediction_BKD: Tensor, target_BKD: Tensor, distance_BK: Tensor | None) -> Tensor:
    """Mean absolute difference on context tokens, each divided by the root of its distance, 0-dim.

    Near the targets the context must describe its own place; far off it may serve as a notepad
    (V-JEPA 2.1, arXiv 2603.14482, app/vjepa_2_1/train.py). The weights are not made to add up to
    one, as in the reference.

    Args:
        prediction_BKD: what the predictor says of each context token.
        target_BKD: what the teacher says of it.
        distance_BK: to the nearest target, at least 1; None weighs all alike.
    """
    error_BKD = (prediction_BKD.to(torch.float32) - target_BKD).abs()
    if distance_BK is not None:
        error_BKD = error_BKD * distance_BK.rsqrt().unsqueeze(-1)
    return error_BKD.mean()


def target_distance(target_BM: Tensor, context_BK: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """Distance of each context patch to the nearest target, in patches, (B, K), float32.

    Exact, one axis after the other: a minimum over squared offsets along Z, then Y, then X. A
    table of all pairs would hold 15 million entries a volume at 9,216 patches; this holds 220,000.

    Args:
        target_BM: ids of the targets.
        context_BK: ids of the patches to measure from.
        grid: patches along (Z, Y, X).
    """
    patches = grid[0] * grid[1] * grid[2]
    far = float(sum(edge * edge for edge in grid))
    square = torch.full((target_BM.shape[0], patches), far, device=target_BM.device)
    square = square.scatter(1, target_BM, 0.0).view(-1, *grid)
    for axis, edge in enumerate(grid, start=1):
        place = torch.arange(edge, device=target_BM.device, dtype=torch.float32)
        offset = (place.unsqueeze(1) - place).square()  # (to, from)
        square = (square.movedim(axis, -1).unsqueeze(-2) + offset).amin(dim=-1).movedim(-1, axis)
    return square.flatten(1).gather(1, context_BK).sqrt()


def standardise(voxels: Tensor, encoder: EncoderConfig) -> Tensor:
    """Voxels less the mean and over the spread of all volumes, of the same shape, float32."""
    return (voxels.to(torch.float32) - encoder.input_mean) / encoder.input_std


def standard_voxels(volume_BCZYX: Tensor, encoder: EncoderConfig) -> Tensor:
    """Voxels of every patch as the encoder sees them, (B, N, C * pz * py * px), float32.

    Less the mean and over the spread of all volumes, so that brightness and contrast of a patch,
    which normalising each patch would take away, are part of what is asked.
    """
    return standardise(split_patches(volume_BCZYX, encoder.patch_size), encoder)


def smooth_loss(prediction_BMV: Tensor, value_BMV: Tensor) -> Tensor:
    """Mean smooth L1 difference, 0-dim, float32: one bright speckle must not rule a patch."""
    return functional.smooth_l1_loss(prediction_BMV.to(torch.float32), value_BMV)


def cosine_loss(prediction_BMD: Tensor, target_BMD: Tensor) -> Tensor:
    """Mean square difference of unit vectors over all features, 0-dim: 2 (1 - cosine) / D.

    The predecessor's loss. The division by D makes it, and its gradients, small: 2 / D means that
    predictions and targets are unrelated.
    """
    prediction = functional.normalize(prediction_BMD.to(torch.float32), dim=-1, eps=1e-8)
    target = functional.normalize(target_BMD.to(torch.float32), dim=-1, eps=1e-8)
    return (prediction - target).square().mean()


def variance_hinge(features_BND: Tensor) -> Tensor:
    """How far the spread of each feature over all tokens falls short of 1, 0-dim.

    The variance term of VICReg (arXiv 2105.04906, equation 1): mean of max(0, 1 - std).
    """
    rows_ND = features_BND.to(torch.float32).flatten(0, -2)
    std_D = (rows_ND.var(dim=0, correction=0) + 1e-4).sqrt()
    return functional.relu(1.0 - std_D).mean()
