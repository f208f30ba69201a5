"""A vision transformer over patches of a volume; it computes the kept patches only."""

from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from oct_vjepa.model.absolute import AbsolutePositions
from oct_vjepa.model.blocks import initialise, run_block, stack_blocks
from oct_vjepa.model.configuration import SIZES, EncoderConfig, encoder_config, grid_of
from oct_vjepa.model.patches import PatchEmbedding
from oct_vjepa.model.pooling import pool_tokens
from oct_vjepa.model.positions import Rotary, rotary_at
from oct_vjepa.model.weights import (
    WeightsError,
    load_weights,
    local_copy,
    read_config,
    without_numbers,
    write_weights,
)

__all__ = ["SIZES", "Encoder", "EncoderConfig", "encoder_config"]

FREE = ("input_shape", "drop_path", "recompute", "attention", "input_mean", "input_std")
"""Settings that the weights do not depend on; those of a new run stand above those of the file."""


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
        self.blocks = stack_blocks(
            config,
            layer_norm_eps=config.layer_norm_eps,
            attention=config.attention,
            drop_path=config.drop_path,
        )
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.level_norms = nn.ModuleDict(
            {
                str(block): nn.LayerNorm(config.width, eps=config.layer_norm_eps)
                for block in config.level_norms
            }
        )
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
                tokens after each of them, through the block's own norm if it has one (V-JEPA 2.1),
                else through the last (V-JEPA 2's `out_layers`).

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
            tokens = run_block(block, tokens, rotary, recomputed=self.config.recompute)
            if index in wanted:
                found.append(self._norm_of(index)(tokens))
        return tuple(found) if wanted else self.norm(tokens)

    def _norm_of(self, block: int) -> nn.Module:
        own = block in self.config.level_norms
        return self.level_norms[str(block)] if own else self.norm

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
        return rotary_at(
            config.placement,
            grid,
            ids_BK,
            device,
            spacing_B3,
            head_width=config.width // config.heads,
            form=config.rotary,
        )

    def embed(
        self, x_BCZYX: Tensor, pool: str = "mean", *, spacing_B3: Tensor | None = None
    ) -> Tensor:
        """One vector a volume: (B, D), or as wide as `pool_tokens` says."""
        return pool_tokens(self(x_BCZYX, spacing_B3=spacing_B3), pool)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors to `folder`, a path or a URL."""
        write_weights(folder, "encoder", asdict(self.config), self)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        config: EncoderConfig | None = None,
        *,
        device: torch.device | str = "cpu",
    ) -> Self:
        """Read an encoder from a folder, in evaluation mode; nothing is drawn on the way.

        Weights of other projects are read by `oct_vjepa.convert`.

        Args:
            folder: a path, or a URL that fsspec knows (needs `oct-vjepa[urls]`).
            config: of the encoder that is wanted, where a run has settings of its own; it must be
                what is in the folder, except for the settings in `FREE`. None: that of the folder.
            device: where its weights shall be.

        Raises:
            WeightsError: files missing or damaged, settings unknown, keys that do not fit, or a
                setting that is not the wanted one; it is named with both values.
        """
        with local_copy(folder) as local:
            found = _read_settings(folder, local)
            if config is not None:
                _check_settings(folder, found, config)
            with without_numbers():  # all of them are in the file
                encoder = cls(found if config is None else config)
            load_weights(encoder, local)
        return encoder.to(device).eval()


def _read_settings(folder: str | Path, local: Path) -> EncoderConfig:
    settings = read_config(local, "encoder")
    known = {field.name for field in fields(EncoderConfig)}
    if unknown := sorted(settings.keys() - known):
        raise WeightsError(f"{folder}: config.json has unknown encoder settings {unknown}")
    try:
        return EncoderConfig(**settings)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{folder}: config.json is not valid: {error}") from error


def _check_settings(folder: str | Path, found: EncoderConfig, wanted: EncoderConfig) -> None:
    """Refuse what the weights depend on and is not alike."""
    free = FREE if wanted.positions == "rotary" else FREE[1:]  # a table has a row for each place
    for one in fields(EncoderConfig):
        there, here = getattr(found, one.name), getattr(wanted, one.name)
        if one.name not in free and there != here:
            raise WeightsError(
                f"{folder}: was made with encoder.{one.name}={there}, and this run has {here}; "
                "make them equal"
            )
