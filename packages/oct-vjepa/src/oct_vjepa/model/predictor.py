"""Fill in what is missing at the target patches from the tokens of the context patches."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from oct_vjepa.model.blocks import INIT_STD, initialise, run_block, stack_blocks
from oct_vjepa.model.configuration import EncoderConfig, PredictorConfig
from oct_vjepa.model.linear import Linear
from oct_vjepa.model.positions import rotary_at


class PatchIds(Protocol):
    """Which patches are given and which are asked for; `oct_vjepa.Masks` is one."""

    @property
    def context_BK(self) -> Tensor:
        """Ids of the patches whose tokens come in, int64."""

    @property
    def target_BM(self) -> Tensor:
        """Ids of the patches to fill in, int64."""


class Mixed(NamedTuple):
    """Tokens after the last norm of the predictor, as wide as it is inside."""

    target_BMP: Tensor
    context_BKP: Tensor


class Predictor(nn.Module):
    """A narrow transformer over context tokens and mask tokens.

    Attention with rotary positions does not care in which order tokens stand, because each brings
    its own position. V-JEPA 2 sorts them; leaving that out changes nothing but the time it takes.

    Args:
        config: shape of the predictor.
        encoder: configuration of the encoder whose tokens come in and go out; positions, attention
            kernel and recomputing are as there.
        mask_tokens: how many mask sets there are; each learns its own mask token.
        levels: how many blocks of the encoder come in, side by side. With more than one, two linear
            maps bring them down to the width, as in V-JEPA 2.1.
        out: numbers that are said of a patch. None: as many as come in.
        dense: whether it can say something of the context tokens too, through a map of their own.
        voxels: voxels of a patch, if it can say those too, through a third map; 0: it cannot.
        units: fixed units of a patch, likewise, through a fourth.
        filters: values of classical filters in a patch, likewise, through a fifth.
    """

    def __init__(
        self,
        config: PredictorConfig,
        encoder: EncoderConfig,
        mask_tokens: int,
        *,
        levels: int = 1,
        out: int | None = None,
        dense: bool = False,
        voxels: int = 0,
        units: int = 0,
        filters: int = 0,
    ) -> None:
        super().__init__()
        shape = config.beside(encoder)
        self.config, self.encoder_config, self.grid = shape, encoder, encoder.grid
        out = levels * encoder.width if out is None else out
        self.embed: nn.Module = Linear(encoder.width, shape.width)
        if levels > 1:
            self.embed = nn.Sequential(
                Linear(levels * encoder.width, encoder.width),
                nn.GELU(),
                Linear(encoder.width, shape.width),
            )
        self.mask_tokens = nn.Parameter(torch.empty(mask_tokens, shape.width))
        self.blocks = stack_blocks(
            shape, layer_norm_eps=encoder.layer_norm_eps, attention=encoder.attention
        )
        self.norm = nn.LayerNorm(shape.width, eps=encoder.layer_norm_eps)
        self.proj = Linear(shape.width, out)
        if dense:
            self.proj_context = Linear(shape.width, out)
        if voxels:
            self.proj_voxels = Linear(shape.width, voxels)
        if units:
            self.proj_units = Linear(shape.width, units)
        if filters:
            self.proj_filters = Linear(shape.width, filters)
        initialise(self)
        # Not zero as in V-JEPA 2: the first block's queries would be zero, and positions unused.
        nn.init.trunc_normal_(self.mask_tokens, std=INIT_STD)

    def forward(
        self,
        context_BKD: Tensor,
        masks: PatchIds,
        mask_index: int,
        spacing_B3: Tensor | None = None,
    ) -> Tensor:
        """What is said of the target patches, (B, M, out), in the order of `masks.target_BM`.

        Args:
            context_BKD: encoder tokens of `masks.context_BK`.
            masks: patch ids of one mask set.
            mask_index: which mask set, and so which mask token.
            spacing_B3: distance between voxels along (Z, Y, X), if positions are lengths.
        """
        return self.proj(self.mix(context_BKD, masks, mask_index, spacing_B3).target_BMP)

    def mix(
        self,
        context_BKD: Tensor,
        masks: PatchIds,
        mask_index: int,
        spacing_B3: Tensor | None = None,
    ) -> Mixed:
        """Normed tokens of both, from which the maps speak."""
        # A student in bfloat16 may stand beside a predictor in float32; autocast needs no cast.
        context = self.embed(context_BKD.to(self.mask_tokens.dtype))
        batch, targets = masks.target_BM.shape
        token = self.mask_tokens[mask_index].to(context.dtype).expand(batch, targets, -1)
        tokens = torch.cat([context, token], dim=1)
        ids = torch.cat([masks.context_BK, masks.target_BM], dim=1)
        encoder, given = self.encoder_config, masks.context_BK.shape[1]
        rotary = rotary_at(
            encoder.placement,
            self.grid,
            ids,
            ids.device,
            spacing_B3,
            head_width=self.config.width // self.config.heads,
            form=encoder.rotary,
        )
        for block in self.blocks:
            tokens = run_block(block, tokens, rotary, recomputed=encoder.recompute)
        return Mixed(self.norm(tokens[:, given:]), self.norm(tokens[:, :given]))
