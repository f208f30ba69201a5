"""Turn the tokens of a volume into one vector."""

from typing import Any

import torch
from torch import Tensor

from oct_vjepa.model.configuration import POOLS

FURTHER_POOLS = ("min", "max_min", "cls")
"""Pools that must be asked for by name."""
CELL_COUNTS = (2, 8, 4)
"""Cells along (Z, Y, X): most along the beam, because tissue comes in layers."""
TAIL = 0.05
"""Share of the tokens in each tail of the pool `tails`."""
_WIDTHS = {"mean_std": 2, "max_min": 2, "tails": 4}


def check_pools(pools: tuple[str, ...] | list[str], name: str = "pool") -> None:
    """Refuse names that `pool_tokens` does not know.

    Raises:
        ValueError: names the setting, the value and the choice.
    """
    every = POOLS + FURTHER_POOLS
    if unknown := [one for one in pools if one not in every]:
        raise ValueError(f"{name} ({unknown[0]!r}) must be one of {every}")


def pooled_width(width: int, pool: str) -> int:
    """Features of a volume after `pool`, where a token has `width`."""
    check_pools((pool,))
    return width * _WIDTHS.get(pool, 1)


def class_tokens_of(encoder: Any) -> int:
    """Tokens that `encoder` puts before those of the patches; 0 for V-JEPA, which has none."""
    return int(getattr(encoder.config, "class_tokens", 0))


def pool_tokens(tokens_BND: Tensor, pool: str, *, class_tokens: int = 0) -> Tensor:
    """One vector a volume: (B, D), or (B, 2D) for `mean_std` and `max_min`, (B, 4D) for `tails`.

    Which one is best depends on the question: `max` and `min` keep what is small and rare,
    `mean_std` what is spread out. `tails` keeps both: beside mean and standard deviation, the mean
    of the highest and that of the lowest twentieth of the tokens, of each feature by itself (the
    highest and lowest instances of WELDON, Durand et al., CVPR 2016, here of features instead of a
    class's scores). A finding that fills a few patches moves a tail by much and a mean by little,
    and a mean over some tokens is less of an accident than the one that `max` takes. The standard
    deviation divides by N, and stops at 1e-6: one token or equal tokens give no NaN, nor does their
    gradient.

    Args:
        tokens_BND: class tokens, if any, then those of the patches.
        pool: one of `POOLS` or `FURTHER_POOLS`.
        class_tokens: how many tokens at the front stand for the whole volume; only `cls` reads
            them, all other pools leave them out.

    Raises:
        ValueError: the pool is unknown, or it is `cls` and there is no class token.
    """
    check_pools((pool,))
    if pool == "cls":
        if class_tokens < 1:
            raise ValueError(
                "pool ('cls') needs an encoder with a class token, and this one has none; use "
                "mean, mean_std or max, or train an attentive head"
            )
        return tokens_BND[:, 0]
    patches = tokens_BND[:, class_tokens:] if class_tokens else tokens_BND
    if pool == "mean":
        return patches.mean(dim=1)
    if pool == "max":
        return patches.amax(dim=1)
    if pool == "min":
        return patches.amin(dim=1)
    if pool == "max_min":
        return torch.cat([patches.amax(dim=1), patches.amin(dim=1)], dim=-1)
    spread = patches.var(dim=1, correction=0).clamp_min(1e-12).sqrt()
    parts = [patches.mean(dim=1), spread]
    if pool == "tails":
        count = max(1, round(TAIL * patches.shape[1]))
        for largest in (True, False):
            tail = patches.topk(count, dim=1, largest=largest).values
            parts.append(tail.mean(dim=1))
    return torch.cat(parts, dim=-1)


def pool_cells(tokens_BND: Tensor, grid: tuple[int, int, int], *, class_tokens: int = 0) -> Tensor:
    """Means over a coarse grid, (B, cells * D): what is where, which means over all tokens forget.

    A thumbnail of features. It is worth most where a place means the same in every volume, as it
    does in flattened scans. An axis with fewer patches than `CELL_COUNTS` keeps its patches apart;
    one that does not divide evenly has cells that differ by a patch.

    Args:
        tokens_BND: class tokens, if any, then those of the patches, X fastest.
        grid: patches along (Z, Y, X).
        class_tokens: how many tokens at the front are no patch.

    Raises:
        ValueError: the grid is of another number of patches.
    """
    patches = tokens_BND[:, class_tokens:]
    if patches.shape[1] != grid[0] * grid[1] * grid[2]:
        raise ValueError(f"{patches.shape[1]} tokens are not those of a grid of {grid}")
    cells_BZYXD = patches.reshape(len(patches), *grid, -1)
    for axis, count in enumerate(CELL_COUNTS, start=1):
        parts = cells_BZYXD.tensor_split(min(count, cells_BZYXD.shape[axis]), dim=axis)
        cells_BZYXD = torch.stack([part.mean(dim=axis) for part in parts], dim=axis)
    return cells_BZYXD.flatten(1)
