"""Turn the tokens of a volume into one vector."""

import torch
from torch import Tensor

POOLS = ("mean", "mean_std", "max")


def pool_tokens(tokens_BND: Tensor, pool: str) -> Tensor:
    """One vector a volume: (B, D) for `mean` and `max`, (B, 2D) for `mean_std`.

    Which one is best depends on the question: `max` keeps what is small and rare, `mean_std` what
    is spread out. The standard deviation divides by N, and stops at 1e-6: one token or equal
    tokens give no NaN, nor does their gradient.

    Raises:
        ValueError: the pool is unknown.
    """
    if pool == "mean":
        return tokens_BND.mean(dim=1)
    if pool == "max":
        return tokens_BND.amax(dim=1)
    if pool == "mean_std":
        spread = tokens_BND.var(dim=1, correction=0).clamp_min(1e-12).sqrt()
        return torch.cat([tokens_BND.mean(dim=1), spread], dim=-1)
    raise ValueError(f"pool ({pool!r}) must be one of {POOLS}")
