"""Checkpoints of the predecessor (Laynzzz/3d-oct-foundation-model).

One dict: `model_state_dict` with `context_encoder.*`, `target_encoder.encoder.*` and
`predictor.net.*`, and `config` with OmegaConf values. Its encoder has learned positions, qkv
biases and layer norms of torch's own epsilon (models/vjepa_3d.py). Its target encoder was never
moved by training (pretraining/train.py does not call the update), so the context encoder is taken.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from oct_vjepa.convert.files import tensors_of
from oct_vjepa.convert.layout import ConversionConfig, Foreign
from oct_vjepa.convert.vjepa2 import rename, strip
from oct_vjepa.model.configuration import EncoderConfig
from oct_vjepa.model.weights import WeightsError

STATES = ("model_state_dict", "state_dict")
PREFIXES = {
    "context": ("context_encoder.", "encoder.", ""),
    "target": ("target_encoder.encoder.", "target_encoder."),
}
SHAPE_KEYS = ("image_size", "img_size")  # its training wrote the first, its loader reads the second
SHAPE = (64, 384, 384)  # of all its large configurations
HEADS = 12  # models/vjepa_3d.py; its configurations may leave it out
LAYER_NORM_EPS = 1e-5  # nn.LayerNorm without an argument


def matches(checkpoint: Mapping[str, Any]) -> bool:
    """Whether a file has the predecessor's names."""
    names = _state(checkpoint)
    encoders = ("context_encoder.", "target_encoder.encoder.")
    return any(strip(name).startswith(encoders) or strip(name) == "pos_embed" for name in names)


def read(checkpoint: Mapping[str, Any], config: ConversionConfig) -> Foreign:
    """The encoder in a checkpoint.

    Raises:
        WeightsError: no encoder of that part, or sizes that contradict each other.
    """
    part = "context" if config.part == "auto" else config.part
    state = _take({strip(name): value for name, value in _state(checkpoint).items()}, part)
    table = state.pop("pos_embed", None)
    renamed = rename(state)
    if table is not None:
        renamed.state["positions.table"] = table.reshape(-1, table.shape[-1])
    if "patches.proj.weight" not in renamed.state:
        raise WeightsError(f"no weights of the {part} encoder in the file")
    settings = checkpoint.get("config")
    settings = settings if isinstance(settings, Mapping) else {}
    shape, notes = _shape(settings, config)
    return Foreign(
        layout=f"predecessor ({part} encoder)",
        config=_config(renamed.state, settings, config, shape),
        state=renamed.state,
        unexpected=sorted(renamed.unexpected),
        folded={},
        notes=[*notes, "every volume must be standardised by itself first, as its training did"],
    )


def _state(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    for key in STATES:
        if isinstance(checkpoint.get(key), Mapping):
            return tensors_of(checkpoint[key])
    return tensors_of(checkpoint)


def _take(state: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """Tensors of one encoder without its prefix; the predictor and the other one stay behind."""
    for prefix in PREFIXES[part]:
        if f"{prefix}patch_embed.proj.weight" in state:
            taken = {
                name.removeprefix(prefix): value
                for name, value in state.items()
                if name.startswith(prefix)
            }
            return taken
    there = sorted({name.split(".")[0] for name in state})
    raise WeightsError(f"no weights of the {part} encoder in the file; it has {there}")


def _shape(
    settings: Mapping[str, Any], config: ConversionConfig
) -> tuple[tuple[int, int, int], list[str]]:
    if config.source_shape is not None:
        return config.source_shape, []
    for key in SHAPE_KEYS:
        if key in settings:
            value = settings[key]
            sizes = [value] * 3 if isinstance(value, int) else [int(size) for size in value]
            if len(sizes) != 3:
                raise WeightsError(f"config.{key} in the file is {value}, not three sizes")
            return (sizes[0], sizes[1], sizes[2]), []
    return SHAPE, [f"the file does not say its volume size; assumed {SHAPE}"]


def _config(
    state: Mapping[str, Tensor],
    settings: Mapping[str, Any],
    config: ConversionConfig,
    shape: tuple[int, int, int],
) -> EncoderConfig:
    width, channels, *patch = state["patches.proj.weight"].shape
    blocks = {int(name.split(".")[1]) for name in state if name.startswith("blocks.")}
    hidden = state["blocks.0.mlp.fc1.weight"].shape[0] if blocks else 4 * width
    try:
        return EncoderConfig(
            input_shape=shape,
            patch_size=(patch[0], patch[1], patch[2]),
            channels=channels,
            width=width,
            depth=max(blocks, default=0) + 1,
            heads=config.heads or int(settings.get("num_heads", HEADS)),
            mlp_ratio=hidden / width,
            positions="learned",
            layer_norm_eps=LAYER_NORM_EPS,
        )
    except ValueError as error:
        raise WeightsError(f"the sizes in the file do not fit together: {error}") from error
