"""Patch tokens as pictures."""

import torch
from torch import Tensor

CLIPPED = 0.01  # share of the tokens at either end that may saturate


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
