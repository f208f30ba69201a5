"""Learned pools: V-JEPA's attentive probe, and a light cross-attention pool.

Both turn tokens into one vector by letting learned queries ask the tokens. The attentive probe
follows facebookresearch/vjepa2, src/models/attentive_pooler.py, and gives the numbers of
transformers' `VJEPA2ForVideoClassification` on the same weights (tests/heads/test_attentive.py).
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from oct_vjepa.heads.head import Head, check_dropout
from oct_vjepa.model.attention import attend
from oct_vjepa.model.blocks import INIT_STD, Attention, Mlp
from oct_vjepa.model.positions import Rotary

KERNEL = "sdpa"  # PyTorch's own: no head has been run with a TPU's kernel


class TokenBlock(Attention):
    """Pre-norm self-attention among tokens without positions, then an MLP.

    Not a `Block`, which has an attention: this is one, so that its maps are called `qkv` and `proj`
    in a saved head, beside those of `QueryBlock`.
    """

    def __init__(self, *, width: int, heads: int, mlp_ratio: float, layer_norm_eps: float) -> None:
        super().__init__(width, heads, KERNEL)
        self.norm1 = nn.LayerNorm(width, eps=layer_norm_eps)
        self.norm2 = nn.LayerNorm(width, eps=layer_norm_eps)
        self.mlp = Mlp(width, mlp_ratio)

    def forward(self, x_BND: Tensor, rotary: Rotary | None = None) -> Tensor:
        """Attend, then transform, both added to the input, (B, N, D)."""
        x_BND = x_BND + super().forward(self.norm1(x_BND), rotary)
        return x_BND + self.mlp(self.norm2(x_BND))


class QueryBlock(nn.Module):
    """Queries ask the tokens, then an MLP; no projection after the attention, as in V-JEPA 2."""

    def __init__(self, *, width: int, heads: int, mlp_ratio: float, layer_norm_eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, eps=layer_norm_eps)
        self.query = nn.Linear(width, width)
        self.keyvalue = nn.Linear(width, 2 * width)
        self.norm2 = nn.LayerNorm(width, eps=layer_norm_eps)
        self.mlp = Mlp(width, mlp_ratio)

    def forward(self, query_BMD: Tensor, x_BND: Tensor) -> Tensor:
        """What the queries become, (B, M, D)."""
        query = self.query(query_BMD).unflatten(-1, (self.heads, -1))
        keyvalue = self.keyvalue(self.norm1(x_BND)).unflatten(-1, (2, self.heads, -1))
        key, value = keyvalue.unbind(2)
        query_BMD = query_BMD + attend(query, key, value, KERNEL)
        return query_BMD + self.mlp(self.norm2(query_BMD))


class AttentivePool(nn.Module):
    """V-JEPA 2's attentive pooler: `depth - 1` self-attention blocks, then one learned query.

    Args:
        width: features of a token.
        heads: attention heads; V-JEPA 2 uses 16 for its evaluations.
        depth: blocks in all, the one with the query included; 4 in V-JEPA 2, 1 is the smallest.
        mlp_ratio: hidden width of an MLP over `width`; V-JEPA 2 fixes it at 4, also where the
            encoder has another.
        layer_norm_eps: 1e-6 in transformers; torch's own 1e-5 in the code of the paper.
        joined: width to which a linear map brings each token first, where those of several blocks
            lie side by side: a pool as wide as all of them would have the square of their number in
            weights; 0 for none.

    Raises:
        ValueError: the heads do not divide the width, or no block at all.
    """

    def __init__(
        self,
        *,
        width: int,
        heads: int = 16,
        depth: int = 4,
        mlp_ratio: float = 4.0,
        layer_norm_eps: float = 1e-6,
        joined: int = 0,
    ) -> None:
        super().__init__()
        self.join = nn.Linear(width, joined) if joined else nn.Identity()
        width = joined or width
        _check_heads(width, heads)
        if depth < 1:
            raise ValueError(f"head.depth ({depth}) must be at least 1")
        shape: dict[str, Any] = {"width": width, "heads": heads, "mlp_ratio": mlp_ratio}
        shape["layer_norm_eps"] = layer_norm_eps
        self.query = nn.Parameter(torch.empty(1, 1, width))
        self.blocks = nn.ModuleList(TokenBlock(**shape) for _ in range(depth - 1))
        self.cross = QueryBlock(**shape)
        _initialise(self)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        """One vector a volume, (B, D), of width `joined` if there is one."""
        tokens_BND = self.join(tokens_BND)
        for block in self.blocks:
            tokens_BND = block(tokens_BND)
        return self.cross(self.query.expand(tokens_BND.shape[0], -1, -1), tokens_BND).squeeze(1)


class CrossAttentionPool(nn.Module):
    """A light learned pool: one query over narrow keys and values, no MLP.

    At width 768 it has 0.3 million parameters, where one block of the attentive probe has 6.5:
    few labels are enough.

    Args:
        width: features of a token.
        inner: width of keys and values.
        heads: attention heads; each has its own weights over the patches.
        layer_norm_eps: of the norm before the attention.

    Raises:
        ValueError: the heads do not divide `inner`.
    """

    def __init__(
        self, *, width: int, inner: int = 128, heads: int = 4, layer_norm_eps: float = 1e-6
    ) -> None:
        super().__init__()
        _check_heads(inner, heads)
        self.heads = heads
        self.norm = nn.LayerNorm(width, eps=layer_norm_eps)
        self.query = nn.Parameter(torch.empty(1, 1, inner))
        self.keyvalue = nn.Linear(width, 2 * inner)
        self.proj = nn.Linear(inner, width)
        _initialise(self)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        """One vector a volume, (B, D)."""
        query = self.query.expand(tokens_BND.shape[0], -1, -1).unflatten(-1, (self.heads, -1))
        keyvalue = self.keyvalue(self.norm(tokens_BND)).unflatten(-1, (2, self.heads, -1))
        key, value = keyvalue.unbind(2)
        return self.proj(attend(query, key, value, KERNEL)).squeeze(1)


class TokenHead(Head):
    """A head that reads all tokens: a learned pool, dropout, then one linear layer."""

    pool: nn.Module
    linear: nn.Linear

    def __init__(
        self, pool: nn.Module, shape: dict[str, Any], classes: Sequence[str], dropout: float
    ) -> None:
        super().__init__()
        self.classes, self._shape = list(classes), shape
        self.dropout = check_dropout(dropout)
        self.pool = pool
        self.linear = nn.Linear(shape.get("joined") or shape["width"], len(self.classes))
        nn.init.trunc_normal_(self.linear.weight, std=INIT_STD)
        nn.init.zeros_(self.linear.bias)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        """Logits (B, classes)."""
        pooled = self.pool(tokens_BND)
        return self.linear(functional.dropout(pooled, self.dropout, self.training))

    def from_tokens(self, tokens_BND: Tensor, *, class_tokens: int = 0) -> Tensor:
        """Logits (B, classes); class tokens are asked like any other."""
        return self(tokens_BND)

    def settings(self) -> dict[str, Any]:
        """Keyword arguments that rebuild this head."""
        return self._shape | {"classes": self.classes, "dropout": self.dropout}


class AttentiveHead(TokenHead):
    """V-JEPA 2's attentive probe: `AttentivePool`, then one linear layer; same arguments."""

    kind = "attentive_head"

    def __init__(
        self, *, width: int, classes: Sequence[str], dropout: float = 0.0, **shape: Any
    ) -> None:
        shape = {"width": width} | shape
        super().__init__(AttentivePool(**shape), shape, classes, dropout)


class CrossAttentionHead(TokenHead):
    """`CrossAttentionPool`, then one linear layer; same arguments."""

    kind = "cross_attention_head"

    def __init__(
        self, *, width: int, classes: Sequence[str], dropout: float = 0.0, **shape: Any
    ) -> None:
        shape = {"width": width} | shape
        super().__init__(CrossAttentionPool(**shape), shape, classes, dropout)


def _check_heads(width: int, heads: int) -> None:
    if heads < 1 or width < 1 or width % heads:
        raise ValueError(f"head: width ({width}) must be a positive multiple of heads ({heads})")


def _initialise(module: nn.Module) -> None:
    """Draw truncated normal weights, biases 0; what writes to a residual stream shrinks with depth.

    As in the encoder, so that a deep probe starts as gently as a shallow one.
    """
    for name, weight in module.named_parameters():
        if weight.ndim >= 2:
            nn.init.trunc_normal_(weight, std=INIT_STD)
        elif name.endswith("bias"):
            nn.init.zeros_(weight)
    stack = [part for part in module.modules() if isinstance(part, TokenBlock | QueryBlock)]
    blocks = [part for part in stack if isinstance(part, TokenBlock)]
    with torch.no_grad():
        for index, block in enumerate(blocks):
            block.proj.weight.div_(math.sqrt(2.0 * (index + 1)))
            block.mlp.fc2.weight.div_(math.sqrt(2.0 * (index + 1)))
        for part in stack:
            if isinstance(part, QueryBlock):
                part.mlp.fc2.weight.div_(math.sqrt(2.0 * len(stack)))
