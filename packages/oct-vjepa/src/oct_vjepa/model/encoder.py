"""A vision transformer over patches of a volume; it computes the kept patches only."""

from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from oct_vjepa.model.absolute import AbsolutePositions
from oct_vjepa.model.attention import recompute
from oct_vjepa.model.blocks import Block, initialise
from oct_vjepa.model.configuration import SIZES, EncoderConfig, encoder_config
from oct_vjepa.model.patches import PatchEmbedding, grid_of
from oct_vjepa.model.pooling import pool_tokens
from oct_vjepa.model.positions import Rotary, make_rotary, patch_positions
from oct_vjepa.model.weights import (
    WeightsError,
    load_weights,
    local_copy,
    read_config,
    write_weights,
)

__all__ = ["SIZES", "Encoder", "EncoderConfig", "encoder_config"]


class Encoder(nn.Module):
    """Volume in, one token a patch out."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.patches = PatchEmbedding(
            channels=config.channels,
            patch_size=config.patch_size,
            width=config.width,
            mean=config.input_mean,
            std=config.input_std,
        )
        self.positions: AbsolutePositions | None = None
        if config.positions != "rotary":
            self.positions = AbsolutePositions(config.positions, config.grid, config.width)
        self.blocks = nn.ModuleList(
            Block(
                width=config.width,
                heads=config.heads,
                mlp_ratio=config.mlp_ratio,
                layer_norm_eps=config.layer_norm_eps,
                drop_path=config.drop_path * index / max(config.depth - 1, 1),
                attention=config.attention,
            )
            for index in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        initialise(self)

    def forward(
        self,
        x_BCZYX: Tensor,
        ids_BK: Tensor | None = None,
        *,
        spacing_B3: Tensor | None = None,
        layers: Sequence[int] | None = None,
    ) -> Tensor | tuple[Tensor, ...]:
        """Tokens of all patches, (B, N, D), or of the listed ones only, (B, K, D).

        Dropped patches are dropped before the first block: no kept token can see them.

        Args:
            x_BCZYX: uint8 or floating voxels, not normalised; any size the patches divide.
            ids_BK: int64 patch ids in raster order, X fastest.
            spacing_B3: distance of neighbouring voxels along (Z, Y, X); only read, and then
                needed, when `position_unit` is "length".
            layers: numbers of blocks, from 0 and ascending. If given, the answer is a tuple: the
                tokens after each of them, through the last norm, as V-JEPA 2's `out_layers`.

        Raises:
            ValueError: the volume's axes, channels or sizes do not fit, a spacing that is needed is
                missing, or there are no such layers.
        """
        wanted = self._check_layers(layers)
        tokens = self.patches(x_BCZYX, ids_BK)
        grid = self._grid_of(x_BCZYX)
        if self.positions is not None:
            tokens = self.positions(tokens, grid, ids_BK)
        rotary = self._rotary(grid, ids_BK, x_BCZYX.device, spacing_B3)
        found: list[Tensor] = []
        for index, block in enumerate(self.blocks[: wanted[-1] + 1] if wanted else self.blocks):
            tokens = self._run(block, tokens, rotary)
            if index in wanted:
                found.append(self.norm(tokens))
        return tuple(found) if wanted else self.norm(tokens)

    def _check_layers(self, layers: Sequence[int] | None) -> list[int]:
        if layers is None:
            return []
        wanted = [int(layer) for layer in layers]
        depth = len(self.blocks)
        inside = all(0 <= layer < depth for layer in wanted)
        if not wanted or not inside or wanted != sorted(set(wanted)):
            raise ValueError(f"layers ({wanted}) must be ascending numbers from 0 to {depth - 1}")
        return wanted

    def _grid_of(self, x_BCZYX: Tensor) -> tuple[int, int, int]:
        shape = x_BCZYX.shape[2], x_BCZYX.shape[3], x_BCZYX.shape[4]
        return grid_of(shape, self.config.patch_size)

    def _rotary(
        self,
        grid: tuple[int, int, int],
        ids_BK: Tensor | None,
        device: torch.device,
        spacing_B3: Tensor | None,
    ) -> Rotary | None:
        if self.positions is not None:
            return None
        config = self.config
        positions = patch_positions(config.placement, grid, ids_BK, device, spacing_B3)
        return make_rotary(positions, config.width // config.heads, config.rotary)

    def _run(self, block: nn.Module, tokens_BND: Tensor, rotary: Rotary | None) -> Tensor:
        if not self.config.recompute:
            return block(tokens_BND, rotary)

        def run(x_BND: Tensor, *tables: Tensor) -> Tensor:
            return block(x_BND, Rotary(*tables) if tables else None)

        return recompute(run, tokens_BND, *(rotary or ()))

    def embed(
        self, x_BCZYX: Tensor, pool: str = "mean", *, spacing_B3: Tensor | None = None
    ) -> Tensor:
        """One vector a volume: (B, D), or (B, 2D) for the pool "mean_std"."""
        return pool_tokens(self(x_BCZYX, spacing_B3=spacing_B3), pool)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors to `folder`, a path or a URL."""
        write_weights(folder, "encoder", asdict(self.config), self)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Read an encoder from a folder, in evaluation mode and on the CPU.

        Weights of other projects are read by `oct_vjepa.convert`.

        Args:
            folder: a path, or a URL that fsspec knows (needs `oct-vjepa[urls]`).

        Raises:
            WeightsError: files missing or damaged, settings unknown, or keys that do not fit.
        """
        with local_copy(folder) as local:
            settings = read_config(local, "encoder")
            known = {field.name for field in fields(EncoderConfig)}
            if unknown := sorted(settings.keys() - known):
                raise WeightsError(f"{folder}: config.json has unknown encoder settings {unknown}")
            try:
                config = EncoderConfig(**settings)
            except (TypeError, ValueError) as error:
                raise WeightsError(f"{folder}: config.json is not valid: {error}") from error
            encoder = cls(config)
            load_weights(encoder, local)
        return encoder.eval()
