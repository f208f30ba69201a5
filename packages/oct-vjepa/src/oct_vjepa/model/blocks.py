"""The transformer block that the encoder and the predictor share, and how it is initialised."""

import math
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from oct_vjepa.model.attention import attend, recompute
from oct_vjepa.model.linear import Linear
from oct_vjepa.model.positions import Rotary, apply_rotary

INIT_STD = 0.02  # V-JEPA 2, vision_transformer.py


class Attention(nn.Module):
    """Self-attention over all tokens, with rotary positions on queries and keys if given."""

    def __init__(self, width: int, heads: int, kernel: str = "auto") -> None:
        super().__init__()
        self.heads, self.kernel = heads, kernel
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width)

    def forward(self, x_BND: Tensor, rotary: Rotary | None) -> Tensor:
        """Mix the tokens, (B, N, D)."""
        qkv = self.qkv(x_BND).unflatten(-1, (3, self.heads, -1))  # (B, N, 3, H, D/H)
        pair = qkv[:, :, :2]
        query, key = (pair if rotary is None else apply_rotary(pair, rotary)).unbind(2)
        return self.proj(attend(query, key, qkv[:, :, 2], self.kernel))


class Mlp(nn.Module):
    """Two linear maps with an exact GELU between them."""

    def __init__(self, width: int, ratio: float) -> None:
        super().__init__()
        hidden = int(width * ratio)
        self.fc1 = Linear(width, hidden)
        self.fc2 = Linear(hidden, width)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Transform each token by itself, (B, N, D)."""
        return self.fc2(functional.gelu(self.fc1(x_BND)))


class Block(nn.Module):
    """Pre-norm transformer block.

    Args:
        width: features of a token.
        heads: attention heads.
        mlp_ratio: hidden width of the MLP over `width`.
        layer_norm_eps: see `EncoderConfig`.
        drop_path: probability that a sample skips a branch in training; drawn, as dropout is, from
            torch's generator of the device.
        attention: one of `oct_vjepa.model.configuration.ATTENTION_KERNELS`.
    """

    def __init__(
        self,
        *,
        width: int,
        heads: int,
        mlp_ratio: float,
        layer_norm_eps: float,
        drop_path: float = 0.0,
        attention: str = "auto",
    ) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(width, eps=layer_norm_eps)
        self.attention = Attention(width, heads, attention)
        self.norm2 = nn.LayerNorm(width, eps=layer_norm_eps)
        self.mlp = Mlp(width, mlp_ratio)

    def forward(self, x_BND: Tensor, rotary: Rotary | None) -> Tensor:
        """Attend, then transform, both added to the input, (B, N, D)."""
        x_BND = x_BND + self._dropped(self.attention(self.norm1(x_BND), rotary))
        return x_BND + self._dropped(self.mlp(self.norm2(x_BND)))

    def _dropped(self, branch_BND: Tensor) -> Tensor:
        """The branch, or 0 for some samples; the others grow, so that the mean stays."""
        if self.drop_path == 0.0 or not self.training:
            return branch_BND
        keep = 1.0 - self.drop_path
        shape = (branch_BND.shape[0], 1, 1)
        kept_B11 = torch.rand(shape, device=branch_BND.device) < keep
        return branch_BND * (kept_B11 / keep).to(branch_BND.dtype)


class StackShape(Protocol):
    """What `stack_blocks` reads of a configuration."""

    @property
    def width(self) -> int:
        """Features of a token."""

    @property
    def depth(self) -> int:
        """Number of blocks."""

    @property
    def heads(self) -> int:
        """Attention heads."""

    @property
    def mlp_ratio(self) -> float:
        """Hidden width of a block's MLP over `width`."""


def stack_blocks(
    shape: StackShape, *, layer_norm_eps: float, attention: str, drop_path: float = 0.0
) -> nn.ModuleList:
    """The blocks of a transformer, first to last; further arguments are those of `Block`.

    The last block drops a branch with the probability `drop_path`, the others less, linear from 0.
    """
    return nn.ModuleList(
        Block(
            width=shape.width,
            heads=shape.heads,
            mlp_ratio=shape.mlp_ratio,
            layer_norm_eps=layer_norm_eps,
            drop_path=drop_path * index / max(shape.depth - 1, 1),
            attention=attention,
        )
        for index in range(shape.depth)
    )


def run_block(
    block: nn.Module, tokens_BND: Tensor, rotary: Rotary | None, *, recomputed: bool
) -> Tensor:
    """What a block makes of the tokens; if `recomputed`, it keeps its input only until backward."""
    if not recomputed:
        return block(tokens_BND, rotary)

    def run(x_BND: Tensor, *tables: Tensor) -> Tensor:
        return block(x_BND, Rotary(*tables) if tables else None)

    return recompute(run, tokens_BND, *(rotary or ()))


def initialise(module: nn.Module) -> None:
    """Draw fresh weights as V-JEPA 2 does, from torch's default generator.

    Linear maps and convolutions are truncated normal, biases 0. The maps that write to the residual
    stream are divided by sqrt(2 (l + 1)) in block l, so that its variance does not grow with depth.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv3d):
            nn.init.trunc_normal_(part.weight, std=INIT_STD)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    blocks = [part for part in module.modules() if isinstance(part, Block)]
    for index, block in enumerate(blocks):
        scale = math.sqrt(2.0 * (index + 1))
        block.attention.proj.weight.data.div_(scale)
        block.mlp.fc2.weight.data.div_(scale)
