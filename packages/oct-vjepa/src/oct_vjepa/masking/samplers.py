"""Ways to split the patches of a grid into context and targets; randomness comes from a generator.

Each function returns `(context_BK, target_BM)`: int64 ids in raster order, ascending in each row.
A sampler ranks what it splits: the highest ranks become targets, the lowest become context. So the
sizes are arguments, never an outcome, except in `draw_vjepa2`.
"""

from typing import NamedTuple

import torch
from torch import Tensor

Grid = tuple[int, int, int]


class Blocks(NamedTuple):
    """Rectangles in the (Y, X) plane."""

    number: int  # rectangles a volume; they may overlap
    scale: float  # area of one over the area of the plane
    aspect_low: float  # height over width, in patches
    aspect_high: float


def draw_tubes(
    blocks: Blocks, grid: Grid, batch: int, columns: tuple[int, int], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Columns of the plane through all of Z; those under the union of the blocks come first.

    Args:
        blocks: whose union suggests the targets.
        grid: patches along (Z, Y, X).
        batch: number of volumes.
        columns: how many become (targets, context).
        generator: on the CPU.
    """
    union_BP = draw_union(blocks, grid, batch, generator)
    # Inside the blocks ranks lie above 1, outside below; the noise settles who comes first.
    rank_BP = union_BP + torch.rand(union_BP.shape, generator=generator)
    context_BP, target_BP = _split(rank_BP, *columns)
    return tubes(context_BP, grid), tubes(target_BP, grid)


def draw_foreground_tubes(
    blocks: Blocks,
    grid: Grid,
    foreground_BN: Tensor,
    columns: tuple[int, int, int, int],
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Tubes whose targets lie on the foreground, with a share of the foreground left as context.

    The columns of the largest mean weight along Z are the foreground columns. Those of them that
    the blocks leave free are kept for the context first; then ranks count blocks and foreground
    alike: a foreground column under a block comes first, background outside the blocks last.

    Args:
        blocks: whose union suggests the targets.
        grid: patches along (Z, Y, X).
        foreground_BN: weight of each patch, any scale, larger is more foreground.
        columns: how many become (targets, context), how many are foreground, and how many of those
            the context keeps.
        generator: on the CPU.
    """
    targets, contexts, bright, kept = columns
    batch, plane = foreground_BN.shape[0], grid[1] * grid[2]
    union_BP = draw_union(blocks, grid, batch, generator)
    rank_BP = union_BP + torch.rand(batch, plane, generator=generator)
    weight_BP = foreground_BN.detach().to("cpu", torch.float32).view(batch, grid[0], plane).mean(1)
    bright_BP = _highest(weight_BP, bright, torch.rand(batch, plane, generator=generator))
    spare_BP = torch.where(bright_BP, -rank_BP, -torch.inf)
    kept_BP = torch.zeros_like(bright_BP).scatter_(1, spare_BP.topk(kept, dim=1).indices, True)
    score_BP = rank_BP + bright_BP.float() - 10.0 * kept_BP.float()  # 10: below every other rank
    context_BP, target_BP = _split(score_BP, targets, contexts)
    return tubes(context_BP, grid), tubes(target_BP, grid)


def draw_patches(
    grid: Grid, batch: int, patches: tuple[int, int], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Independent patches, `patches` of them (targets, context), as the predecessor drew them."""
    rank_BN = torch.rand(batch, grid[0] * grid[1] * grid[2], generator=generator)
    return _split(rank_BN, *patches)


def draw_cubes(
    cube: Grid, grid: Grid, batch: int, patches: tuple[int, int], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Cubes of `cube` patches on a lattice with a random origin.

    Sizes are exact, so one cube may be cut where the targets end, and one where the context ends.

    Args:
        cube: patches of a cube along (Z, Y, X).
        grid: patches along (Z, Y, X).
        batch: number of volumes.
        patches: how many become (targets, context).
        generator: on the CPU.
    """
    cells, index_BZYX = 1, torch.zeros(batch, 1, 1, 1, dtype=torch.int64)
    for axis, (patch_count, edge) in enumerate(zip(grid, cube, strict=True)):
        origin_B1 = torch.randint(0, edge, (batch, 1), generator=generator)
        along = (torch.arange(patch_count) + origin_B1) // edge  # (B, patches of the axis)
        count = (patch_count + edge - 2) // edge + 1
        shape = [batch, 1, 1, 1]
        shape[axis + 1] = patch_count
        index_BZYX = index_BZYX * count + along.view(shape)
        cells *= count
    place_BC = torch.rand(batch, cells, generator=generator).argsort(dim=1).float()
    index_BN = index_BZYX.flatten(1)
    noise_BN = torch.rand(index_BN.shape, generator=generator)
    return _split(place_BC.gather(1, index_BN) + noise_BN, *patches)


def draw_vjepa2(
    blocks: Blocks, grid: Grid, batch: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """V-JEPA 2's own sampler, for comparison: its sizes change from call to call.

    The block size is drawn once for the batch, places for each volume; targets are the union,
    context is the rest, and both are cut to the smallest of the batch, which drops the last slices
    (src/masks/multiseq_multiblock3d.py). Every new size compiles anew on XLA: not for training.
    """
    plane = grid[1] * grid[2]
    low, high = blocks.aspect_low, blocks.aspect_high
    aspect = low + float(torch.rand(1, generator=generator)) * (high - low)
    area = int(plane * blocks.scale)
    height = min(max(round((area * aspect) ** 0.5), 1), grid[1])
    width = min(max(round((area / aspect) ** 0.5), 1), grid[2])
    union_BP = torch.ones(batch, plane)
    for _ in range(1000):
        full_B = union_BP.all(dim=1)
        if not full_B.any():
            break
        fresh = _place(blocks.number, height, width, grid, batch, generator)
        union_BP = torch.where(full_B.unsqueeze(1), fresh, union_BP)
    else:
        raise ValueError(
            f"masking.sets: blocks of {height} x {width} patches cover the whole plane of "
            f"{grid[1]} x {grid[2]}; use a smaller scale"
        )
    union_BN = union_BP.unsqueeze(1).expand(-1, grid[0], -1).flatten(1)
    counts_B = union_BN.sum(dim=1).long()
    first_BN = union_BN.argsort(dim=1, descending=True, stable=True)
    rest_BN = union_BN.argsort(dim=1, stable=True)
    context = rest_BN[:, : int((union_BN.shape[1] - counts_B).min())]
    return context, first_BN[:, : int(counts_B.min())]


def draw_union(blocks: Blocks, grid: Grid, batch: int, generator: torch.Generator) -> Tensor:
    """Union of the blocks on the plane as 0 and 1, (B, Y * X), float32; own shapes a volume.

    A block that the plane cuts along one side grows along the other, so that its area stays what
    `scale` says on long planes, too.
    """
    rows, columns = grid[1], grid[2]
    aspect, top, left = torch.rand(3, batch, blocks.number, 1, generator=generator)
    aspect = blocks.aspect_low + aspect * (blocks.aspect_high - blocks.aspect_low)
    area = blocks.scale * rows * columns
    tall, wide = (area * aspect).sqrt(), (area / aspect).sqrt()
    height = torch.where(wide > columns, area / columns, tall).round().clamp(1, rows)
    width = torch.where(tall > rows, area / rows, wide).round().clamp(1, columns)
    top, left = (top * (rows - height + 1)).floor(), (left * (columns - width + 1)).floor()
    return _cover(top, left, height, width, grid)


def thin_out(ids_BM: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` random ids of each row, ascending; every id is as likely as any other."""
    rank_BM = torch.rand(ids_BM.shape, generator=generator)
    chosen_BM = rank_BM.topk(count, dim=1).indices
    return ids_BM.gather(1, chosen_BM).sort(dim=1).values


def tubes(columns_BP: Tensor, grid: Grid) -> Tensor:
    """Ids of the columns in all slices, ascending, (B, grid Z * P)."""
    slices = torch.arange(grid[0]).view(1, -1, 1) * (grid[1] * grid[2])
    return (slices + columns_BP.sort(dim=1).values.unsqueeze(1)).flatten(1)


def _place(
    count: int, height: int, width: int, grid: Grid, batch: int, generator: torch.Generator
) -> Tensor:
    top = torch.randint(0, grid[1] - height + 1, (batch, count, 1), generator=generator)
    left = torch.randint(0, grid[2] - width + 1, (batch, count, 1), generator=generator)
    return _cover(top, left, torch.tensor(height), torch.tensor(width), grid)


def _cover(top: Tensor, left: Tensor, height: Tensor, width: Tensor, grid: Grid) -> Tensor:
    """Which places of the plane any of the rectangles covers, (B, Y * X), float32."""
    y, x = torch.arange(grid[1]), torch.arange(grid[2])
    inside_y = (y >= top) & (y < top + height)  # (B, blocks, Y)
    inside_x = (x >= left) & (x < left + width)  # (B, blocks, X)
    return (inside_y.unsqueeze(-1) & inside_x.unsqueeze(-2)).any(dim=1).float().flatten(1)


def _split(rank_BP: Tensor, targets: int, contexts: int) -> tuple[Tensor, Tensor]:
    """The lowest ranks as context, the highest as targets, each ascending by id."""
    order_BP = rank_BP.argsort(dim=1, descending=True)
    context = order_BP[:, order_BP.shape[1] - contexts :]
    return context.sort(dim=1).values, order_BP[:, :targets].sort(dim=1).values


def _highest(value_BP: Tensor, count: int, noise_BP: Tensor) -> Tensor:
    """True for the `count` largest values of each row; the noise decides between equal ones."""
    shuffled = noise_BP.argsort(dim=1)
    order = value_BP.gather(1, shuffled).argsort(dim=1, descending=True, stable=True)
    chosen = torch.zeros(value_BP.shape, dtype=torch.bool)
    return chosen.scatter_(1, shuffled.gather(1, order[:, :count]), True)
