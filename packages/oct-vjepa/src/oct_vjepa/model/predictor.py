"""Fill in the features of the target patches from those of the context patches."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from oct_vjepa.model.blocks import INIT_STD, initialise, run_block, stack_blocks
from oct_vjepa.model.configuration import EncoderConfig, PredictorConfig
from oct_vjepa.model.positions import make_rotary, patch_positions


class PatchIds(Protocol):
    """Which patches are given and which are asked for; `oct_vjepa.Masks` is one."""

    @property
    def context_BK(self) -> Tensor:
        """Ids of the patches whose tokens come in, int64."""

    @property
    def target_BM(self) -> Tensor:
        """Ids of the patches to fill in, int64."""


class DensePrediction(NamedTuple):
    """What the predictor says of the patches it had to guess, and of those it was given."""

    target_BMD: Tensor
    context_BKD: Tensor


class Predictor(nn.Module):
    """A narrow transformer over context tokens and mask tokens.

    Attention with rotary positions does not care in which order tokens stand, because each brings
    its own position. V-JEPA 2 sorts them; leaving that out changes nothing but the time it takes.

    Args:
        config: shape of the predictor.
        encoder: configuration of the encoder whose tokens come in and go out; positions, attention
            kernel and recomputing are as there.
        mask_tokens: how many mask sets there are; each learns its own mask token.
        levels: how many blocks of the encoder come in and go out, side by side. With more than one,
            two linear maps bring them down to the width, as in V-JEPA 2.1.
        dense: whether it can say something of the context tokens too, through a map of their own.
    """

    def __init__(
        self,
        config: PredictorConfig,
        encoder: EncoderConfig,
        mask_tokens: int,
        *,
        levels: int = 1,
        dense: bool = False,
    ) -> None:
        super().__init__()
        self.config, self.encoder_config, self.grid = config, encoder, encoder.grid
        self.embed: nn.Module = nn.Linear(encoder.width, config.width)
        if levels > 1:
            self.embed = nn.Sequential(
                nn.Linear(levels * encoder.width, encoder.width),
                nn.GELU(),
                nn.Linear(encoder.width, config.width),
            )
        self.mask_tokens = nn.Parameter(torch.empty(mask_tokens, config.width))
        self.blocks = stack_blocks(
            config, layer_norm_eps=encoder.layer_norm_eps, attention=encoder.attention
        )
        self.norm = nn.LayerNorm(config.width, eps=encoder.layer_norm_eps)
        self.proj = nn.Linear(config.width, levels * encoder.width)
        if dense:
            self.proj_context = nn.Linear(config.width, levels * encoder.width)
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
        """Predicted features of the target patches, (B, M, D), in the order of `masks.target_BM`.

        Args:
            context_BKD: encoder tokens of `masks.context_BK`.
            masks: patch ids of one mask set.
            mask_index: which mask set, and so which mask token.
            spacing_B3: distance between voxels along (Z, Y, X), if positions are lengths.
        """
        tokens = self._mix(context_BKD, masks, mask_index, spacing_B3)
        return self.proj(self.norm(tokens[:, masks.context_BK.shape[1] :]))

    def dense(
        self,
        context_BKD: Tensor,
        masks: PatchIds,
        mask_index: int,
        spacing_B3: Tensor | None = None,
    ) -> DensePrediction:
        """Predicted features of target and context patches; for a predictor made `dense`."""
        tokens = self.norm(self._mix(context_BKD, masks, mask_index, spacing_B3))
        given = masks.context_BK.shape[1]
        return DensePrediction(self.proj(tokens[:, given:]), self.proj_context(tokens[:, :given]))

    def _mix(
        self, context_BKD: Tensor, masks: PatchIds, mask_index: int, spacing_B3: Tensor | None
    ) -> Tensor:
        """Context tokens, then mask tokens, after the blocks, (B, K + M, width)."""
        context = self.embed(context_BKD)
        batch, targets = masks.target_BM.shape
        token = self.mask_tokens[mask_index].to(context.dtype).expand(batch, targets, -1)
        tokens = torch.cat([context, token], dim=1)
        ids = torch.cat([masks.context_BK, masks.target_BM], dim=1)
        encoder = self.encoder_config
        positions = patch_positions(encoder.placement, self.grid, ids, ids.device, spacing_B3)
        rotary = make_rotary(positions, self.config.width // self.config.heads, encoder.rotary)
        for block in self.blocks:
            tokens = run_block(block, tokens, rotary, recomputed=encoder.recompute)
        return tokens
