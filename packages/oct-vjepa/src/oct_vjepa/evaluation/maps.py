"""Patch tokens as pictures: colours, similarity to a patch, and where attention goes."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from oct_vjepa.model.encoder import Encoder
from oct_vjepa.model.positions import apply_rotary

CLIPPED = 0.01  # share of the tokens at either end that may saturate
_QUERIES = 512  # rows of the attention matrix held at once
RESIZES = ("nearest", "trilinear")


def principal_colours(tokens_ND: Tensor) -> Tensor:
    """The first three principal components of tokens as colours, (N, 3) in 0..1, on the CPU.

    Tokens of like colour are alike to the encoder. The sign of a component is chosen so that its
    largest weight is positive, which makes equal tokens give equal pictures.

    Raises:
        ValueError: fewer than four tokens, or tokens narrower than three.
    """
    if tokens_ND.shape[0] < 4 or tokens_ND.shape[1] < 3:
        raise ValueError(f"colours need at least 4 tokens of width 3, not {tuple(tokens_ND.shape)}")
    tokens = tokens_ND.detach().cpu().double()
    centred = tokens - tokens.mean(dim=0)
    axes_3D = torch.linalg.svd(centred, full_matrices=False).Vh[:3]
    strongest = axes_3D.gather(1, axes_3D.abs().argmax(dim=1, keepdim=True))
    parts_N3 = centred @ (axes_3D * strongest.sign()).T
    low, high = torch.quantile(
        parts_N3, torch.tensor([CLIPPED, 1 - CLIPPED], dtype=torch.float64), dim=0
    )
    return ((parts_N3 - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)


def similarity_map(
    tokens_ND: Tensor, grid: tuple[int, int, int], patch: tuple[int, int, int]
) -> Tensor:
    """Cosine between the token of `patch` and every token, (z, y, x) of the grid, on the CPU.

    Tokens are centred first: what all of them share would make everything alike.

    Args:
        tokens_ND: of one volume, in raster order.
        grid: patches along (Z, Y, X).
        patch: place of the patch in the grid.

    Raises:
        ValueError: tokens that do not fill the grid, or a patch outside of it.
    """
    number = patch_number(grid, patch)
    _check_grid(tokens_ND.shape[0], grid)
    tokens = tokens_ND.detach().cpu().double()
    unit = functional.normalize(tokens - tokens.mean(dim=0), dim=1)
    return (unit @ unit[number]).reshape(grid).float()


@torch.no_grad()
def attention_map(
    encoder: Encoder,
    x_CZYX: Tensor,
    *,
    patch: tuple[int, int, int] | None = None,
    block: int = -1,
    spacing: Sequence[float] | None = None,
) -> Tensor:
    """Where each head of a block looks, (heads, z, y, x) of the patch grid, float32 on the CPU.

    The fused attention of the encoder keeps no weights, so they are computed from the block's own
    queries and keys, some rows at a time. Each head's map adds up to 1.

    Args:
        encoder: whose attention; left as it was.
        x_CZYX: one volume (C, Z, Y, X), or (Z, Y, X) with one channel.
        patch: place in the grid of the patch that asks; none: the average over all that ask, which
            shows what the volume as a whole attends to.
        block: number of the block; -1 is the last.
        spacing: (z, y, x) between voxel centres, for encoders whose positions are lengths.

    Raises:
        ValueError: no such block or patch, or a volume that does not fit.
    """
    query_HND, key_HND = _queries_and_keys(encoder, x_CZYX, block, spacing)
    volume = x_CZYX.shape[-3:]
    z, y, x = (size // step for size, step in zip(volume, encoder.config.patch_size, strict=True))
    extra = key_HND.shape[1] - z * y * x  # class tokens, if the encoder has any, come first
    rows = torch.arange(extra, key_HND.shape[1])
    if patch is not None:
        rows = rows[patch_number((z, y, x), patch)].unsqueeze(0)
    total = torch.zeros(key_HND.shape[0], key_HND.shape[1])
    for some in rows.split(_QUERIES):
        total += attention_weights(query_HND[:, some], key_HND).sum(dim=1).cpu()
    return (total / len(rows))[:, extra:].reshape(-1, z, y, x)


def attention_weights(query_HMD: Tensor, key_HND: Tensor) -> Tensor:
    """Softmax of scaled products, (H, M, N), float32: what SDPA multiplies the values with."""
    scale = query_HMD.shape[-1] ** -0.5
    scores = query_HMD.float() @ key_HND.float().transpose(1, 2)
    return (scores * scale).softmax(dim=-1)


def to_voxels(map_ZYX: Tensor, shape: tuple[int, int, int], resize: str = "nearest") -> Tensor:
    """Stretch a map in the patch grid to the voxels of its volume.

    Args:
        map_ZYX: (..., z, y, x); leading axes, such as heads, stay.
        shape: voxels along (Z, Y, X).
        resize: "nearest" shows the patches; "trilinear" is smooth.

    Raises:
        ValueError: an unknown way to resize, or fewer than three axes.
    """
    if resize not in RESIZES:
        raise ValueError(f"resize ({resize!r}) must be one of {RESIZES}")
    if map_ZYX.ndim < 3:
        raise ValueError(f"a map needs the axes (z, y, x), not {tuple(map_ZYX.shape)}")
    lead = map_ZYX.shape[:-3]
    flat = map_ZYX.reshape(1, -1, *map_ZYX.shape[-3:])
    if resize == "nearest":
        # nearest-exact: plain nearest is off by one voxel for sizes that do not divide.
        stretched = functional.interpolate(flat, size=shape, mode="nearest-exact")
    else:
        stretched = functional.interpolate(flat, size=shape, mode=resize, align_corners=False)
    return stretched.reshape(*lead, *shape)


def patch_number(grid: tuple[int, int, int], patch: tuple[int, int, int]) -> int:
    """Number of a patch in raster order, X fastest.

    Raises:
        ValueError: the patch is outside the grid.
    """
    if len(patch) != 3 or not all(0 <= one < size for one, size in zip(patch, grid, strict=True)):
        raise ValueError(
            f"patch {tuple(patch)} is outside the grid {tuple(grid)}; it counts from 0"
        )
    return (patch[0] * grid[1] + patch[1]) * grid[2] + patch[2]


def _check_grid(tokens: int, grid: tuple[int, int, int]) -> None:
    if tokens != grid[0] * grid[1] * grid[2]:
        raise ValueError(f"{tokens} tokens do not fill the grid {tuple(grid)}")


def _queries_and_keys(
    encoder: Encoder, x_CZYX: Tensor, block: int, spacing: Sequence[float] | None
) -> tuple[Tensor, Tensor]:
    """Rotated queries and keys of one block for one volume, each (heads, N, D / heads)."""
    depth = len(encoder.blocks)
    if not -depth <= block < depth:
        raise ValueError(f"block ({block}) must be from 0 to {depth - 1}, or -1 for the last")
    seen: list[Tensor] = []
    attention = cast(nn.Module, encoder.blocks[block].attention)
    hook = attention.register_forward_pre_hook(
        lambda module, inputs: seen.extend(_rotated(module, *inputs))
    )
    device = next(encoder.parameters()).device
    was_training = encoder.training
    encoder.eval()
    try:
        volume = x_CZYX if x_CZYX.ndim == 4 else x_CZYX.unsqueeze(0)
        extra = {}
        if spacing is not None:
            extra["spacing_B3"] = torch.tensor([list(spacing)], device=device)
        encoder(volume.unsqueeze(0).to(device), **extra)
    finally:
        hook.remove()
        encoder.train(was_training)
    return seen[0], seen[1]


def _rotated(attention: nn.Module, x_1ND: Tensor, rotary: object) -> tuple[Tensor, Tensor]:
    qkv = attention.qkv(x_1ND).unflatten(-1, (3, attention.heads, -1))  # type: ignore[operator]
    pair = qkv[:, :, :2]
    if rotary is not None:  # learned positions are in the tokens already
        pair = apply_rotary(pair, rotary)  # type: ignore[arg-type]
    query, key = pair.unbind(2)
    return query[0].transpose(0, 1), key[0].transpose(0, 1)
