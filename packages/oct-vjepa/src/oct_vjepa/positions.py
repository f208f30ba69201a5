"""Three-dimensional rotary positions for any grid, made once for a set of patch ids.

Each head's features are split in three equal parts, one per axis (Z, Y, X); a remainder is not
rotated. Positions have no parameters, so weights trained on one grid run on another.
"""

from typing import NamedTuple

import torch
from torch import Tensor

ROTARY_FORMS = ("vjepa2", "interleaved")
THETA = 10_000.0  # V-JEPA 2, src/models/utils/modules.py


class Rotary(NamedTuple):
    """Tables shared by all blocks and heads; the first axis is 1 when all samples agree."""

    cos_BND: Tensor  # (B or 1, N, head width), float32
    sin_BND: Tensor  # same shape; the sign of the rotation is in it


def check_head_width(name: str, *, width: int, heads: int) -> None:
    """Refuse widths that cannot be split into heads with three rotary axes.

    Raises:
        ValueError: names `name` (the configuration), the values and the rule.
    """
    if heads < 1 or width < 1 or width % heads:
        raise ValueError(f"{name}.width ({width}) must be a positive multiple of heads ({heads})")
    if (width // heads) % 2 or width // heads < 6:
        raise ValueError(
            f"{name}.width / heads ({width // heads}) must be even and at least 6: "
            "rotary positions need a pair of features for each of the three axes"
        )


def grid_positions(
    grid: tuple[int, int, int], ids_BK: Tensor | None, device: torch.device
) -> Tensor:
    """Patch coordinates (z, y, x) of the ids, or of the whole grid, (B or 1, N, 3), float32."""
    _, rows, columns = grid
    if ids_BK is None:
        ids_BK = torch.arange(grid[0] * rows * columns, device=device).unsqueeze(0)
    z, rest = ids_BK // (rows * columns), ids_BK % (rows * columns)
    return torch.stack([z, rest // columns, rest % columns], dim=-1).to(torch.float32)


def make_rotary(positions_BN3: Tensor, head_width: int, form: str) -> Rotary:
    """Cosine and sine tables for `apply_rotary`.

    Features rotate in neighbouring pairs (2i, 2i + 1). In the form `interleaved` both features of a
    pair share one frequency, and attention depends on relative positions only. In the form `vjepa2`
    the frequencies are repeated as a block instead: a slip in V-JEPA 2, part of its weights.

    Raises:
        ValueError: the form is unknown.
    """
    if form not in ROTARY_FORMS:
        raise ValueError(f"rotary ({form!r}) must be one of {ROTARY_FORMS}")
    pairs = head_width // 3 // 2
    exponent = torch.arange(pairs, dtype=torch.float32, device=positions_BN3.device) / pairs
    angle_BN3P = positions_BN3.unsqueeze(-1) * (1.0 / THETA**exponent)
    if form == "vjepa2":
        angle = torch.cat([angle_BN3P, angle_BN3P], dim=-1)
    else:
        angle = angle_BN3P.repeat_interleave(2, dim=-1)
    angle_BND = angle.flatten(-2)
    sign = torch.ones(3 * pairs, 2, device=angle.device)
    sign[:, 0] = -1.0
    rest = (*angle_BND.shape[:-1], head_width - 6 * pairs)
    cos = torch.cat([angle_BND.cos(), angle_BND.new_ones(rest)], dim=-1)
    sin = torch.cat([angle_BND.sin() * sign.flatten(), angle_BND.new_zeros(rest)], dim=-1)
    return Rotary(cos, sin)


def apply_rotary(x_BNSHD: Tensor, rotary: Rotary) -> Tensor:
    """Rotate the last axis of queries and keys, stacked on the third; keeps their type."""
    cos, sin = rotary.cos_BND[:, :, None, None], rotary.sin_BND[:, :, None, None]
    swapped = x_BNSHD.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return torch.addcmul(x_BNSHD * cos, swapped, sin).to(x_BNSHD.dtype)
