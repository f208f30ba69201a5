"""A vision transformer over patches of a volume; it computes the kept patches only."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn

from oct_vjepa.blocks import Block, initialise
from oct_vjepa.patches import PatchEmbedding, grid_of
from oct_vjepa.pooling import pool_tokens
from oct_vjepa.positions import ROTARY_FORMS, check_head_width, grid_positions, make_rotary
from oct_vjepa.weights import WeightsError, load_weights, read_config, write_weights

SIZES: dict[str, tuple[int, int, int]] = {
    "cpu_smoke": (96, 4, 3),  # ours: trains in minutes on two CPU cores
    "tiny": (192, 12, 3),  # this and the rest: V-JEPA 2, vision_transformer.py
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
}
"""Width, depth and heads by name."""


@dataclass(kw_only=True, slots=True)
class EncoderConfig:
    """Shape of an encoder, and the fixed numbers that normalise its input."""

    input_shape: tuple[int, int, int] = (8, 64, 64)
    """Voxels along (Z, Y, X) in pretraining; other sizes work too if the patches divide them."""
    patch_size: tuple[int, int, int] = (2, 8, 16)
    """Voxels of a patch along (Z, Y, X); 2 slices a patch as in V-JEPA 2."""
    channels: int = 1
    """Channels of a volume; one, since most 3-D scanners measure one intensity."""
    width: int = 96
    """Features of a token; the default trains in minutes on a CPU."""
    depth: int = 4
    """Number of transformer blocks."""
    heads: int = 3
    """Attention heads; width / heads must be even and at least 6."""
    mlp_ratio: float = 4.0
    """Hidden width of a block's MLP over its width, as in V-JEPA 2."""
    rotary: str = "vjepa2"
    """Rotary form: "vjepa2" fits V-JEPA 2 weights, "interleaved" is the textbook form."""
    layer_norm_eps: float = 1e-6
    """As in V-JEPA 2; torch's own default is 1e-5."""
    input_mean: float = 0.0
    """Subtracted from each voxel, in input units. One number for all volumes: statistics of the
    volume itself would tell the context encoder about the voxels it must predict."""
    input_std: float = 1.0
    """Divides each voxel, in input units; it stands here so that fine-tuning cannot differ."""

    def __post_init__(self) -> None:
        for name in ("input_shape", "patch_size"):
            value = tuple(int(size) for size in getattr(self, name))  # OmegaConf gives a list
            if len(value) != 3 or min(value) < 1:
                raise ValueError(f"encoder.{name} ({value}) must be three positive sizes (Z, Y, X)")
            setattr(self, name, value)
        for name in ("channels", "depth", "mlp_ratio", "input_std", "layer_norm_eps"):
            if not getattr(self, name) > 0:
                raise ValueError(f"encoder.{name} ({getattr(self, name)}) must be positive")
        if self.rotary not in ROTARY_FORMS:
            raise ValueError(f"encoder.rotary ({self.rotary!r}) must be one of {ROTARY_FORMS}")
        check_head_width("encoder", width=self.width, heads=self.heads)
        try:
            grid_of(self.input_shape, self.patch_size)
        except ValueError as error:
            raise ValueError(f"encoder.input_shape: {error}") from error

    @property
    def grid(self) -> tuple[int, int, int]:
        """Patches along (Z, Y, X) of a volume of `input_shape`."""
        return grid_of(self.input_shape, self.patch_size)

    @property
    def tokens(self) -> int:
        """Patches of a volume of `input_shape`."""
        z, y, x = self.grid
        return z * y * x


def encoder_config(size: str, **settings: Any) -> EncoderConfig:
    """Configuration of a named size: cpu_smoke, tiny, small, base or large.

    Args:
        size: key of `SIZES`.
        settings: further fields of `EncoderConfig`; they win over the size.

    Raises:
        ValueError: the size is unknown.
    """
    if size not in SIZES:
        raise ValueError(f"encoder size ({size!r}) must be one of {sorted(SIZES)}")
    width, depth, heads = SIZES[size]
    return EncoderConfig(**({"width": width, "depth": depth, "heads": heads} | settings))


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
        self.blocks = nn.ModuleList(
            Block(
                width=config.width,
                heads=config.heads,
                mlp_ratio=config.mlp_ratio,
                layer_norm_eps=config.layer_norm_eps,
            )
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        initialise(self)

    def forward(self, x_BCZYX: Tensor, ids_BK: Tensor | None = None) -> Tensor:
        """Tokens of all patches, (B, N, D), or of the listed ones only, (B, K, D).

        Dropped patches are dropped before the first block: no kept token can see them.

        Args:
            x_BCZYX: uint8 or floating voxels, not normalised; any size the patches divide.
            ids_BK: int64 patch ids in raster order, X fastest.

        Raises:
            ValueError: the volume's axes, channels or sizes do not fit.
        """
        tokens = self.patches(x_BCZYX, ids_BK)
        shape = x_BCZYX.shape[2], x_BCZYX.shape[3], x_BCZYX.shape[4]
        positions = grid_positions(grid_of(shape, self.config.patch_size), ids_BK, x_BCZYX.device)
        head_width = self.config.width // self.config.heads
        rotary = make_rotary(positions, head_width, self.config.rotary)
        for block in self.blocks:
            tokens = block(tokens, rotary)
        return self.norm(tokens)

    def embed(self, x_BCZYX: Tensor, pool: str = "mean") -> Tensor:
        """One vector a volume: (B, D), or (B, 2D) for the pool "mean_std"."""
        return pool_tokens(self(x_BCZYX), pool)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors to `folder`."""
        write_weights(folder, "encoder", asdict(self.config), self)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Read an encoder from a folder, in evaluation mode and on the CPU.

        Raises:
            WeightsError: files missing or damaged, settings unknown, or keys that do not fit.
        """
        settings = read_config(folder, "encoder")
        known = {field.name for field in fields(EncoderConfig)}
        if unknown := sorted(settings.keys() - known):
            raise WeightsError(f"{folder}: config.json has unknown encoder settings {unknown}")
        try:
            config = EncoderConfig(**settings)
        except (TypeError, ValueError) as error:
            raise WeightsError(f"{folder}: config.json is not valid: {error}") from error
        encoder = cls(config)
        load_weights(encoder, folder)
        return encoder.eval()
