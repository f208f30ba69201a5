"""The shapes of encoder and predictor: settings with the reason for each value, the named sizes.

Nothing here needs torch, so that settings can be read and refused before it is imported.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from oct_vjepa.rules import FROM_0_BELOW_1, POSITIVE, check_choices, check_numbers

AXES = ("Z", "Y", "X")
POSITIONS = ("rotary", "learned", "sincos")
ROTARY_FORMS = ("vjepa2", "interleaved")
POSITION_UNITS = ("index", "length", "span")
ATTENTION_KERNELS = ("auto", "sdpa")
POOLS = ("mean", "mean_std", "max", "tails")
"""Pools that a pass over a data set computes unless told otherwise."""
CELLS = "cells"
"""Name of `pool_cells` where pools are listed; it needs the grid, and is for the last block."""


class Placement(NamedTuple):
    """How the place of a patch becomes a number to rotate by."""

    unit: str = "index"  # one of POSITION_UNITS
    scale: tuple[float, float, float] = (1.0, 1.0, 1.0)  # "length": voxel spacing that is index
    span: int = 16  # "span": rows and columns of the grid whose positions are index


class Size(NamedTuple):
    """What a name of the encoder family stands for."""

    width: int
    depth: int
    heads: int
    mlp_ratio: float = 4.0


class PredictorShape(NamedTuple):
    """A `PredictorConfig` beside an encoder."""

    width: int
    depth: int
    heads: int
    mlp_ratio: float


SIZES: dict[str, Size] = {
    "cpu_smoke": Size(96, 4, 3),  # ours: trains in minutes on two CPU cores
    "bscan_tiny": Size(192, 6, 3),  # ours: single B-scans on a CPU
    "tiny": Size(192, 12, 3),  # this and the rest: V-JEPA 2, src/models/vision_transformer.py
    "small": Size(384, 12, 6),
    "base": Size(768, 12, 12),
    "large": Size(1024, 24, 16),
    "huge": Size(1280, 32, 16),
    "giant": Size(1408, 40, 22, 48 / 11),  # vit_giant_xformers: the one whose weights are published
}
"""The encoder family by name."""


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
    positions: str = "rotary"
    """"rotary" (V-JEPA 2; no parameters), or a table added to the patches: "learned", "sincos".
    A table is resized along all three axes when a volume has another grid."""
    rotary: str = "vjepa2"
    """Rotary form: "vjepa2" fits V-JEPA 2 weights, "interleaved" is the textbook form and fits
    V-JEPA 2.1."""
    position_unit: str = "index"
    """What rotary positions count: "index" (patches, as V-JEPA 2), "length" (distances, so that
    scans of different spacing agree on what is far), "span" (V-JEPA 2.1: rows and columns
    stretched to a grid of `position_span`)."""
    position_scale: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Voxel spacing (Z, Y, X) at which "length" positions equal "index" positions; in whatever
    unit the spacing of the volumes comes in."""
    position_span: int = 16
    """Rows and columns of the grid that "span" stretches to; 256 / 16 in V-JEPA 2.1."""
    layer_norm_eps: float = 1e-6
    """As in V-JEPA 2; torch's own default is 1e-5."""
    level_norms: list[int] = field(default_factory=list)
    """Blocks before the last, from 0 and ascending, whose tokens have a norm of their own when they
    are asked for; all others share the last one. V-JEPA 2.1 has them for 2, 5 and 8 of 12."""
    drop_path: float = 0.0
    """Probability that a sample skips a branch of the last block in training, less in earlier ones
    (linear from 0). V-JEPA 2 pretrains with 0; 0.1 to 0.2 are usual in fine-tuning."""
    recompute: bool = False
    """Keep only each block's input for the backward pass and compute the rest again: about a third
    more time, a fraction of the memory. V-JEPA 2 trains its large models so."""
    attention: str = "auto"
    """"auto": PyTorch's fused attention, torch-xla's flash kernel on a TPU where it fits (not run
    on a TPU yet); "sdpa": PyTorch's everywhere."""
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
        positive = ("channels", "depth", "mlp_ratio", "input_std", "layer_norm_eps")
        check_numbers(self, "encoder", POSITIVE, *positive)
        check_numbers(self, "encoder", FROM_0_BELOW_1, "drop_path")
        check_choices(
            self,
            "encoder",
            rotary=ROTARY_FORMS,
            positions=POSITIONS,
            position_unit=POSITION_UNITS,
            attention=ATTENTION_KERNELS,
        )
        self._check_positions()
        self.level_norms = [int(block) for block in self.level_norms]
        norms = self.level_norms
        if norms != sorted(set(norms)) or not set(norms) <= set(range(self.depth - 1)):
            raise ValueError(
                f"encoder.level_norms ({norms}) must be ascending, from 0 and below the last block "
                f"({self.depth - 1}), whose norm every encoder has"
            )
        try:
            grid_of(self.input_shape, self.patch_size)
        except ValueError as error:
            raise ValueError(f"encoder.input_shape: {error}") from error

    def _check_positions(self) -> None:
        z, y, x = (float(size) for size in self.position_scale)
        self.position_scale = (z, y, x)
        if not min(self.position_scale) > 0:
            raise ValueError(f"encoder.position_scale ({self.position_scale}) must be positive")
        if self.position_span < 2:
            raise ValueError(f"encoder.position_span ({self.position_span}) must be at least 2")
        if self.positions != "rotary" and self.position_unit != "index":
            raise ValueError(
                f"encoder.position_unit ({self.position_unit!r}) needs encoder.positions 'rotary', "
                f"not {self.positions!r}: a table knows patches only"
            )
        if self.positions == "sincos" and self.width % 8:
            raise ValueError(
                f"encoder.width ({self.width}) must be a multiple of 8 for sin-cos positions"
            )
        check_head_width("encoder", width=self.width, heads=self.heads)

    @property
    def grid(self) -> tuple[int, int, int]:
        """Patches along (Z, Y, X) of a volume of `input_shape`."""
        return grid_of(self.input_shape, self.patch_size)

    @property
    def tokens(self) -> int:
        """Patches of a volume of `input_shape`."""
        z, y, x = self.grid
        return z * y * x

    @property
    def placement(self) -> Placement:
        """How rotary positions are made; the predictor's are made alike."""
        return Placement(self.position_unit, self.position_scale, self.position_span)


@dataclass(kw_only=True, slots=True)
class PredictorConfig:
    """Shape of the predictor; narrower than the encoder, so that the encoder does the work."""

    width: int | None = None
    """Features inside; None: half of the encoder's. V-JEPA 2 has 384."""
    depth: int = 3
    """Number of blocks; V-JEPA 2 has 12. It attends to context and targets, so it costs much."""
    heads: int | None = None
    """Attention heads; None: as many as the encoder. V-JEPA 2 has 12."""
    mlp_ratio: float = 4.0
    """Hidden width of a block's MLP over its width, as in V-JEPA 2."""

    def __post_init__(self) -> None:
        if self.width is not None and self.heads is not None:
            check_head_width("predictor", width=self.width, heads=self.heads)
        check_numbers(self, "predictor", POSITIVE, "depth", "mlp_ratio")

    def beside(self, encoder: EncoderConfig) -> "PredictorShape":
        """The shape beside an encoder: what is None follows from it.

        Raises:
            ValueError: width and heads do not fit each other.
        """
        width = encoder.width // 2 if self.width is None else self.width
        heads = encoder.heads if self.heads is None else self.heads
        check_head_width("predictor", width=width, heads=heads)
        return PredictorShape(width, self.depth, heads, self.mlp_ratio)


def encoder_config(size: str, **settings: Any) -> EncoderConfig:
    """Configuration of a named size: a key of `SIZES`, such as cpu_smoke, tiny, base or giant.

    Args:
        size: key of `SIZES`.
        settings: further fields of `EncoderConfig`; they win over the size.

    Raises:
        ValueError: the size is unknown.
    """
    if size not in SIZES:
        raise ValueError(f"encoder size ({size!r}) must be one of {sorted(SIZES)}")
    return EncoderConfig(**(SIZES[size]._asdict() | settings))


def grid_of(shape: tuple[int, int, int], patch_size: tuple[int, int, int]) -> tuple[int, int, int]:
    """Number of patches along (Z, Y, X).

    Raises:
        ValueError: an axis is not a whole, positive number of patches; the axis is named.
    """
    for axis, voxels, patch in zip(AXES, shape, patch_size, strict=True):
        if voxels < patch or voxels % patch:
            raise ValueError(
                f"axis {axis} has {voxels} voxels, not a multiple of its patch size {patch}; "
                f"crop or pad the volume {tuple(shape)} or change patch_size {tuple(patch_size)}"
            )
    z, y, x = (voxels // patch for voxels, patch in zip(shape, patch_size, strict=True))
    return z, y, x


def check_head_width(name: str, *, width: int, heads: int) -> None:
    """Refuse widths that cannot be split into heads with three rotary axes.

    Raises:
        ValueError: names `name` (the configuration), the values and the rule.
    """
    if heads < 1 or width < 1 or width % heads:
        raise ValueError(f"{name}.width ({width}) must be a positive multiple of heads ({heads})")
    if (width // heads) % 2 or width // heads < 6:
        raise ValueError(
            f"{name}.width / heads ({width // heads}) must be even and at least 6: "
            "rotary positions need a pair of features for each of the three axes"
        )
