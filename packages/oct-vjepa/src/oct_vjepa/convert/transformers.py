"""The folders of transformers' VJEPA2Model: config.json and model.safetensors, both ways."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from oct_vjepa.convert.files import read_document, read_safetensors
from oct_vjepa.convert.layout import ConversionConfig, Foreign
from oct_vjepa.convert.vjepa2 import INPUT_MEAN, INPUT_STD
from oct_vjepa.model.configuration import EncoderConfig
from oct_vjepa.model.encoder import Encoder
from oct_vjepa.model.predictor import Predictor
from oct_vjepa.model.weights import CONFIG_NAME, WEIGHTS_NAME, WeightsError

MODEL_TYPE = "vjepa2"
PIECES = ("query", "key", "value")
OUTSIDE = {"layernorm": "norm", "embeddings.patch_embeddings.proj": "patches.proj"}
OUTSIDE_PREDICTOR = {
    "layernorm": "norm",
    "embeddings.predictor_embeddings": "embed",
    "proj": "proj",
}


def matches(folder: Path) -> bool:
    """Whether a folder is one of a VJEPA2Model."""
    try:
        return read_document(folder).get("model_type") == MODEL_TYPE
    except WeightsError:
        return False


def read(folder: Path, config: ConversionConfig) -> Foreign:
    """The encoder in a folder.

    Raises:
        WeightsError: files that cannot be read, or settings that are not those of a VJEPA2Model.
    """
    document = read_document(folder)
    tensors = read_safetensors(sorted(folder.glob("*.safetensors")))
    if not tensors:
        raise WeightsError(f"{folder}: has no *.safetensors")
    tensors = {name.removeprefix("vjepa2."): value for name, value in tensors.items()}
    mine = {
        name.removeprefix("encoder."): value
        for name, value in tensors.items()
        if name.startswith("encoder.")
    }
    state, unexpected = from_transformers(mine, OUTSIDE)
    notes = [
        f"input_mean {INPUT_MEAN} and input_std {INPUT_STD} are for voxels from 0 to 255",
        "the other parts of the folder (predictor, classifier) were not read",
    ]
    given = config.input_mean is not None and config.input_std is not None
    given = given or "input_mean" in document
    return Foreign(
        layout="transformers (VJEPA2Model)",
        config=_config_from(document, config),
        state=state,
        unexpected=unexpected,
        folded={},
        notes=notes[1:] if given else notes,
    )


def _config_from(document: Mapping[str, Any], config: ConversionConfig) -> EncoderConfig:
    try:
        side, patch = int(document["crop_size"]), int(document["patch_size"])
        return EncoderConfig(
            input_shape=(int(document["frames_per_clip"]), side, side),
            patch_size=(int(document["tubelet_size"]), patch, patch),
            channels=int(document["in_chans"]),
            width=int(document["hidden_size"]),
            depth=int(document["num_hidden_layers"]),
            heads=config.heads or int(document["num_attention_heads"]),
            mlp_ratio=float(document["mlp_ratio"]),
            layer_norm_eps=float(document["layer_norm_eps"]),
            # Only a folder that `write` made says them; its patch embedding wants raw voxels.
            input_mean=float(document.get("input_mean", INPUT_MEAN)),
            input_std=float(document.get("input_std", INPUT_STD)),
        )
    except (KeyError, ValueError) as error:
        raise WeightsError(f"{CONFIG_NAME} is not that of a VJEPA2Model: {error}") from error


def from_transformers(
    theirs: Mapping[str, Tensor], outside: Mapping[str, str]
) -> tuple[dict[str, Tensor], list[str]]:
    """Their state under our names, and the names that are not ours."""
    state: dict[str, Tensor] = {}
    unexpected: list[str] = []
    for name, value in theirs.items():
        stem, _, kind = name.rpartition(".")
        if found := re.fullmatch(r"layer\.(\d+)\.attention\.(query|key|value)", stem):
            if found[2] == PIECES[0]:
                pieces = [theirs.get(name.replace("query", piece)) for piece in PIECES]
                if all(piece is not None for piece in pieces):
                    whole = torch.cat([piece for piece in pieces if piece is not None])
                    state[f"blocks.{found[1]}.attention.qkv.{kind}"] = whole
        elif found := re.fullmatch(r"layer\.(\d+)\.(attention\.proj|norm[12]|mlp\.fc[12])", stem):
            state[f"blocks.{found[1]}.{found[2]}.{kind}"] = value
        elif stem in outside:
            state[f"{outside[stem]}.{kind}"] = value
        else:
            unexpected.append(name)
    return state, sorted(unexpected)


def to_transformers(module: nn.Module, outside: Mapping[str, str]) -> dict[str, Tensor]:
    """Our state of blocks and what is around them under their names."""
    back = {ours: theirs for theirs, ours in outside.items()}
    state: dict[str, Tensor] = {}
    for name, value in module.state_dict().items():
        stem, _, kind = name.rpartition(".")
        if found := re.fullmatch(r"blocks\.(\d+)\.attention\.qkv", stem):
            for piece, part in zip(PIECES, value.chunk(3), strict=True):
                state[f"layer.{found[1]}.attention.{piece}.{kind}"] = part.clone()
        elif found := re.fullmatch(r"blocks\.(\d+)\.(.+)", stem):
            state[f"layer.{found[1]}.{found[2]}.{kind}"] = value.clone()
        elif stem in back:
            state[f"{back[stem]}.{kind}"] = value.clone()
    return state


def write(encoder: Encoder, folder: Path, predictor: Predictor | None = None) -> dict[str, Any]:
    """Write what `VJEPA2Model.from_pretrained` reads; returns its configuration.

    The numbers that normalise voxels become part of the patch embedding, so the model wants raw
    voxels; config.json says so, in two keys of ours that transformers passes over. Without a
    predictor transformers draws one; call the model with `skip_predictor=True`.

    Raises:
        WeightsError: an encoder that their model cannot express.
    """
    document = _document(encoder.config, predictor)
    plain = Encoder(replace(encoder.config, input_mean=0.0, input_std=1.0))
    plain.load_state_dict(encoder.state_dict())
    fold_normalisation(plain, encoder.config.input_mean, encoder.config.input_std)
    state = {f"encoder.{name}": one for name, one in to_transformers(plain, OUTSIDE).items()}
    if predictor is not None:
        theirs = to_transformers(predictor, OUTSIDE_PREDICTOR)
        theirs["embeddings.mask_tokens"] = predictor.mask_tokens.detach()[:, None, None]
        state |= {f"predictor.{name}": one for name, one in theirs.items()}
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: one.detach().cpu().float().contiguous() for name, one in state.items()}
    save_file(state, folder / WEIGHTS_NAME, metadata={"format": "pt"})
    (folder / CONFIG_NAME).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return document


@torch.no_grad()
def fold_normalisation(encoder: Encoder, mean: float, std: float) -> None:
    """Let the patch embedding do what subtracting `mean` and dividing by `std` did before it."""
    proj = encoder.patches.proj
    weight = proj.weight.double() / std
    shift = mean * weight.flatten(1).sum(dim=1)
    if proj.bias is None:
        raise WeightsError("the patch embedding has no bias to fold the mean into")
    proj.bias.copy_(proj.bias.double() - shift)
    proj.weight.copy_(weight)


def _document(config: EncoderConfig, predictor: Predictor | None) -> dict[str, Any]:
    slices, height, width = config.input_shape
    tubelet, rows, columns = config.patch_size
    if height != width or rows != columns:
        raise WeightsError(
            "a VJEPA2Model knows square planes and patches only, not input_shape "
            f"{config.input_shape} with patch_size {config.patch_size}"
        )
    if (config.positions, config.rotary, config.position_unit) != ("rotary", "vjepa2", "index"):
        raise WeightsError(
            "a VJEPA2Model has rotary positions of the form vjepa2 in patch index, not "
            f"{config.positions}, {config.rotary}, {config.position_unit}"
        )
    document: dict[str, Any] = {
        "architectures": ["VJEPA2Model"],
        "model_type": MODEL_TYPE,
        "crop_size": height,
        "patch_size": rows,
        "frames_per_clip": slices,
        "tubelet_size": tubelet,
        "in_chans": config.channels,
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "mlp_ratio": config.mlp_ratio,
        "layer_norm_eps": config.layer_norm_eps,
        "qkv_bias": True,
        "hidden_act": "gelu",
        "drop_path_rate": 0.0,
        "input_mean": 0.0,
        "input_std": 1.0,
    }
    if predictor is not None:
        document |= {
            "pred_hidden_size": predictor.config.width,
            "pred_num_hidden_layers": predictor.config.depth,
            "pred_num_attention_heads": predictor.config.heads,
            "pred_mlp_ratio": predictor.config.mlp_ratio,
            "pred_num_mask_tokens": len(predictor.mask_tokens),
            "pred_zero_init_mask_tokens": False,
        }
    return document
