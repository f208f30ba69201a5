"""Which patches are context and which are targets: blocks in the plane, tubes along Z, fixed sizes.

V-JEPA 2 cuts every batch to its smallest mask, so the sizes change at each step and the last slices
are seldom context. Here the sizes follow from the configuration: the union of random blocks ranks
the columns of the (Y, X) plane, the highest ranks become targets, the lowest become context. Each
column runs through all of Z, because neighbouring slices are so alike that a shorter target could
be copied from the slice beside it.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor


class Masks(NamedTuple):
    """Patch ids of one mask set, int64, ascending in each row."""

    context_BK: Tensor  # what the context encoder sees
    target_BM: Tensor  # what the predictor must fill in; disjoint from the context


@dataclass(kw_only=True, slots=True)
class MaskSetConfig:
    """One way to mask: how many blocks, how large, and how much becomes target and context."""

    blocks: int = 8
    """Rectangles whose union suggests the targets; they may overlap."""
    scale: float = 0.15
    """Area of one block over the area of the (Y, X) plane."""
    aspect_low: float = 0.75
    """Smallest height over width of a block, in patches (V-JEPA 2)."""
    aspect_high: float = 1.5
    """Largest height over width of a block, in patches (V-JEPA 2)."""
    target_fraction: float = 0.60
    """Share of the columns that become targets; near the mean union of the blocks."""
    context_fraction: float = 0.30
    """Share of the columns that become context; what is in neither is not used."""

    def __post_init__(self) -> None:
        if self.blocks < 1:
            raise ValueError(f"masking.sets.blocks ({self.blocks}) must be at least 1")
        if not 0 < self.scale <= 1:
            raise ValueError(f"masking.sets.scale ({self.scale}) must be above 0 and at most 1")
        if not 0 < self.aspect_low <= self.aspect_high:
            raise ValueError(
                f"masking.sets.aspect_low ({self.aspect_low}) must be above 0 and at most "
                f"aspect_high ({self.aspect_high})"
            )
        target, context = self.target_fraction, self.context_fraction
        if not (target > 0 and context > 0 and target + context <= 1 + 1e-9):
            raise ValueError(
                f"masking.sets.target_fraction ({target}) and context_fraction ({context}) must be "
                "positive and add up to at most 1"
            )

    def columns(self, grid: tuple[int, int, int]) -> tuple[int, int]:
        """Columns of the (Y, X) plane that become (target, context).

        Raises:
            ValueError: the grid is so small that one of them would be empty.
        """
        plane = grid[1] * grid[2]
        targets = round(plane * self.target_fraction)
        contexts = min(round(plane * self.context_fraction), plane - targets)
        if targets < 1 or contexts < 1:
            raise ValueError(
                f"masking.sets: a grid of {tuple(grid)} patches leaves {targets} target and "
                f"{contexts} context columns; use smaller patches or other fractions"
            )
        return targets, contexts


def _vjepa2_sets() -> list[MaskSetConfig]:
    # V-JEPA 2's short- and long-range sets; with these fractions 96 % of the targets lie in blocks.
    return [
        MaskSetConfig(blocks=8, scale=0.15, target_fraction=0.60, context_fraction=0.30),
        MaskSetConfig(blocks=2, scale=0.70, target_fraction=0.80, context_fraction=0.15),
    ]


@dataclass(kw_only=True, slots=True)
class MaskingConfig:
    """The mask sets; every volume goes through each of them at every step."""

    sets: list[MaskSetConfig] = field(default_factory=_vjepa2_sets)
    """Small scattered blocks and a few large ones, as in V-JEPA 2."""

    def __post_init__(self) -> None:
        if not self.sets:
            raise ValueError("masking.sets ([]) must hold at least one mask set")


def sample_masks(
    config: MaskingConfig, grid: tuple[int, int, int], batch: int, *, generator: torch.Generator
) -> tuple[Masks, ...]:
    """Draw the masks of `batch` volumes, one `Masks` per mask set.

    Sizes depend on `config` and `grid` alone: grid Z times the columns of the set. Drawing one
    volume at a time is cheap, so that masks can be made in a data worker.

    Args:
        config: the mask sets.
        grid: patches along (Z, Y, X).
        batch: number of volumes.
        generator: on the CPU; equal states give equal masks.

    Raises:
        ValueError: the grid is too small for a set.
    """
    return tuple(_sample_set(one, grid, batch, generator) for one in config.sets)


def _sample_set(
    config: MaskSetConfig, grid: tuple[int, int, int], batch: int, generator: torch.Generator
) -> Masks:
    targets, contexts = config.columns(grid)
    union_BYX = _draw_blocks(config, grid[1], grid[2], batch, generator)
    # Inside the blocks ranks lie above 1, outside below; the noise settles who comes first.
    rank_BP = union_BYX.flatten(1) + torch.rand(batch, grid[1] * grid[2], generator=generator)
    order_BP = rank_BP.argsort(dim=1, descending=True)
    return Masks(
        context_BK=_tubes(order_BP[:, order_BP.shape[1] - contexts :], grid),
        target_BM=_tubes(order_BP[:, :targets], grid),
    )


def _draw_blocks(
    config: MaskSetConfig, rows: int, columns: int, batch: int, generator: torch.Generator
) -> Tensor:
    """Union of the blocks as 0 and 1, (B, Y, X), float32."""
    aspect, top, left = torch.rand(3, batch, config.blocks, 1, generator=generator)
    aspect = config.aspect_low + aspect * (config.aspect_high - config.aspect_low)
    area = config.scale * rows * columns
    height = (area * aspect).sqrt().round().clamp(1, rows)
    width = (area / aspect).sqrt().round().clamp(1, columns)
    top, left = (top * (rows - height + 1)).floor(), (left * (columns - width + 1)).floor()
    y, x = torch.arange(rows), torch.arange(columns)
    inside_y = (y >= top) & (y < top + height)  # (B, blocks, Y)
    inside_x = (x >= left) & (x < left + width)  # (B, blocks, X)
    return (inside_y.unsqueeze(-1) & inside_x.unsqueeze(-2)).any(dim=1).float()


def _tubes(columns_BP: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """Ids of the columns in all slices, ascending, (B, grid Z * P)."""
    slices = torch.arange(grid[0]).view(1, -1, 1) * (grid[1] * grid[2])
    return (slices + columns_BP.sort(dim=1).values.unsqueeze(1)).flatten(1)
