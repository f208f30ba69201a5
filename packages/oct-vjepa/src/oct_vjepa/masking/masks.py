"""Which patches are context and which are targets, in sizes that the configuration fixes.

V-JEPA 2 cuts every batch to its smallest mask, so the sizes change at each step and the last slices
are seldom context. Here the sizes follow from the configuration: the union of random blocks ranks
the columns of the (Y, X) plane, the highest ranks become targets, the lowest become context. Each
column runs through all of Z, because neighbouring slices are so alike that a shorter target could
be copied from the slice beside it.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from oct_vjepa.masking import samplers
from oct_vjepa.masking.configuration import MaskingConfig, MaskSetConfig


class Masks(NamedTuple):
    """Patch ids of one mask set, int64, ascending in each row."""

    context_BK: Tensor  # what the context encoder sees
    target_BM: Tensor  # what the predictor must fill in; disjoint from the context


def sample_masks(
    config: MaskingConfig,
    grid: tuple[int, int, int],
    batch: int,
    *,
    generator: torch.Generator,
    foreground_BN: Tensor | None = None,
) -> tuple[Masks, ...]:
    """Draw the masks of `batch` volumes, one `Masks` per mask set.

    Sizes depend on `config` and `grid` alone, except for the kind "vjepa2". Drawing one volume at a
    time is cheap, so that masks can be made in a data worker.

    Args:
        config: the mask sets.
        grid: patches along (Z, Y, X).
        batch: number of volumes.
        generator: on the CPU; equal states give equal masks.
        foreground_BN: weight of each patch, for sets of the kind "foreground"; see
            `oct_vjepa.masking.foreground.foreground_patches`.

    Raises:
        ValueError: the grid is too small for a set, or the foreground is missing or of another
            shape.
    """
    patches = grid[0] * grid[1] * grid[2]
    if config.needs_foreground:
        if foreground_BN is None:
            raise ValueError(
                "masking.sets.kind 'foreground' needs foreground_BN, a weight for each patch; make "
                "it with oct_vjepa.masking.foreground.foreground_patches"
            )
        if tuple(foreground_BN.shape) != (batch, patches):
            raise ValueError(
                f"foreground_BN must be {(batch, patches)}, not {tuple(foreground_BN.shape)}"
            )
    return tuple(_sample_set(one, grid, batch, generator, foreground_BN) for one in config.sets)


def _sample_set(
    config: MaskSetConfig,
    grid: tuple[int, int, int],
    batch: int,
    generator: torch.Generator,
    foreground_BN: Tensor | None,
) -> Masks:
    blocks = samplers.Blocks(config.blocks, config.scale, config.aspect_low, config.aspect_high)
    if config.kind == "vjepa2":
        context, target = samplers.draw_vjepa2(blocks, grid, batch, generator)
    elif config.kind == "patches":
        context, target = samplers.draw_patches(grid, batch, config._split(grid), generator)
    elif config.kind == "cubes":
        counts, cube = config._split(grid), config.cube_size
        context, target = samplers.draw_cubes(cube, grid, batch, counts, generator)
    elif config.kind == "foreground" and foreground_BN is not None:
        columns = _foreground_columns(config, grid)
        context, target = samplers.draw_foreground_tubes(
            blocks, grid, foreground_BN, columns, generator
        )
    else:
        context, target = samplers.draw_tubes(blocks, grid, batch, config.columns(grid), generator)
    limit = config.max_targets
    if limit is not None and limit < target.shape[1]:
        target = samplers.thin_out(target, limit, generator)
    return Masks(context, target)


def _foreground_columns(
    config: MaskSetConfig, grid: tuple[int, int, int]
) -> tuple[int, int, int, int]:
    """Columns that are (targets, context, foreground, foreground kept for the context)."""
    targets, contexts = config.columns(grid)
    plane = grid[1] * grid[2]
    bright = max(round(config.foreground_fraction * plane), 1)
    kept = min(round(config.context_foreground * bright), contexts)
    return targets, contexts, bright, kept
