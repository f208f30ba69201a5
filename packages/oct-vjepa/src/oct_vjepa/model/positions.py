"""Three-dimensional rotary positions for any grid and spacing, made once for a set of patch ids.

Each head's features are split in three equal parts, one per axis (Z, Y, X); a remainder is not
rotated. Positions have no parameters, so weights trained on one grid run on another.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from oct_vjepa.model.configuration import ROTARY_FORMS, Placement

THETA = 10_000.0  # V-JEPA 2, src/models/utils/modules.py


class Rotary(NamedTuple):
    """Tables shared by all blocks and heads; the first axis is 1 when all samples agree."""

    cos_BND: Tensor  # (B or 1, N, head width), float32
    sin_BND: Tensor  # same shape; the sign of the rotation is in it


def grid_positions(
    grid: tuple[int, int, int], ids_BK: Tensor | None, device: torch.device
) -> Tensor:
    """Patch coordinates (z, y, x) of the ids, or of the whole grid, (B or 1, N, 3), float32."""
    _, rows, columns = grid
    if ids_BK is None:
        ids_BK = torch.arange(grid[0] * rows * columns, device=device).unsqueeze(0)
    z, rest = ids_BK // (rows * columns), ids_BK % (rows * columns)
    return torch.stack([z, rest // columns, rest % columns], dim=-1).to(torch.float32)


def patch_positions(
    placement: Placement,
    grid: tuple[int, int, int],
    ids_BK: Tensor | None,
    device: torch.device,
    spacing_B3: Tensor | None = None,
) -> Tensor:
    """Coordinates (z, y, x) to rotate by, (B or 1, N, 3), float32.

    With the unit "index" patch i lies at i. With "length" its centre lies at (i + 0.5) patches of
    the volume's own spacing, counted in patches of the reference spacing and moved by half a patch:
    volumes that begin at the same edge agree on every place, and at the reference spacing the two
    units are the same to the last bit. Along an axis of one patch, as a B-scan has, the spacing may
    be NaN: the patch then lies where it does at the reference spacing. With "span" rows and columns
    are stretched to those of a square grid, the `interpolate_rope` of V-JEPA 2.1
    (app/vjepa_2_1/models/utils/modules.py).

    Args:
        placement: the unit and its numbers.
        grid: patches along (Z, Y, X).
        ids_BK: int64 patch ids; None for all.
        device: where to compute.
        spacing_B3: distance of neighbouring voxels along (Z, Y, X), in the unit of
            `placement.scale`; used by "length" only.

    Raises:
        ValueError: "length" without a spacing, or one that is not (B, 3).
    """
    positions = grid_positions(grid, ids_BK, device)
    if placement.unit == "span":
        steps = [1.0, *((placement.span - 1) / max(size - 1, 1) for size in grid[1:])]
        return positions * positions.new_tensor(steps)
    if placement.unit != "length":
        return positions
    if spacing_B3 is None or spacing_B3.ndim != 2 or spacing_B3.shape[1] != 3:
        got = "nothing" if spacing_B3 is None else str(tuple(spacing_B3.shape))
        raise ValueError(
            f'encoder.position_unit is "length": spacing_B3 must be (B, 3) along (Z, Y, X), got '
            f'{got}; pass the spacing of each volume, or train with position_unit "index"'
        )
    ratio_B3 = spacing_B3.to(torch.float32) / positions.new_tensor(placement.scale)
    if 1 in grid:  # the one distance that nobody can know
        alone = torch.tensor([size == 1 for size in grid], device=device)
        ratio_B3 = torch.where(alone & ratio_B3.isnan(), 1.0, ratio_B3)
    ratio_B13 = ratio_B3.unsqueeze(1)
    return (positions + 0.5) * ratio_B13 - 0.5


def rotary_at(
    placement: Placement,
    grid: tuple[int, int, int],
    ids_BK: Tensor | None,
    device: torch.device,
    spacing_B3: Tensor | None,
    *,
    head_width: int,
    form: str,
) -> Rotary:
    """Tables for the patches of the ids; arguments are those of `patch_positions`, `make_rotary`.

    Where all volumes have their patches in the same places, sines and cosines are taken once for
    the grid and looked up for each volume.
    """
    if ids_BK is None or placement.unit == "length":
        positions = patch_positions(placement, grid, ids_BK, device, spacing_B3)
        return make_rotary(positions, head_width, form)
    whole = make_rotary(patch_positions(placement, grid, None, device), head_width, form)
    cos, sin = (table_1ND[0][ids_BK] for table_1ND in whole)
    return Rotary(cos, sin)


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
    swapped = x_BNSHD.unflatten(-1, (-1, 2)).roll(1, -1).flatten(-2)  # faster than flip
    return torch.addcmul(x_BNSHD * cos, swapped, sin).to(x_BNSHD.dtype)
