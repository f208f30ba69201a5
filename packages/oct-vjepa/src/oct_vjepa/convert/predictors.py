"""The predictor of V-JEPA 2 or 2.1, to go on training where its authors stopped.

That of 2.1 (app/vjepa_2_1/models/predictor.py) takes in and says four levels through two linear
maps, says something of the context through a map of its own, and adds a vector to every token.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from oct_vjepa.convert.files import read_checkpoint, read_document, read_safetensors, tensors_of
from oct_vjepa.convert.layout import fill
from oct_vjepa.convert.report import LoadReport
from oct_vjepa.convert.transformers import OUTSIDE_PREDICTOR, from_transformers
from oct_vjepa.convert.vjepa2 import our_name, repeated_token, strip
from oct_vjepa.model.configuration import EncoderConfig, PredictorConfig
from oct_vjepa.model.predictor import Predictor
from oct_vjepa.model.weights import WeightsError

OUTSIDE_HUB = {
    "predictor_norm": "norm",
    "predictor_embed": "embed",
    "predictor_embed.0": "embed.0",  # 2.1: two linear maps, with a GELU between them
    "predictor_embed.2": "embed.2",
    "predictor_proj": "proj",
    "predictor_proj_context": "proj_context",
}
OF_VIDEO = "video_mod_embed"


def read_predictor(
    source: str | Path, encoder: EncoderConfig, *, mask_sets: int = 2, heads: int = 12
) -> tuple[Predictor, LoadReport]:
    """The predictor of a V-JEPA 2 or 2.1 file, or of a VJEPA2Model folder, for our mask sets.

    Args:
        source: a local file or folder.
        encoder: configuration of the encoder beside it; its width must be the file's.
        mask_sets: how many mask tokens are wanted.
        heads: 12 in all of V-JEPA 2; no tensor tells.

    Raises:
        WeightsError: no predictor in it, or one that does not fit.
    """
    path = Path(source)
    if path.is_dir():
        state, unexpected, tokens = _of_folder(path)
        heads = int(read_document(path).get("pred_num_attention_heads", heads))
    else:
        state, unexpected, tokens = _of_file(path)
    entry = "embed.2" if "embed.2.weight" in state else "embed"
    if f"{entry}.weight" not in state or tokens is None:
        raise WeightsError(f"{path}: has no predictor of V-JEPA 2 with mask tokens")
    state["mask_tokens"], how = repeated_token(tokens, mask_sets)
    done = {"mask_tokens": how} | _fold_video(state, f"{entry}.bias")
    width = state[f"{entry}.weight"].shape[0]
    config = PredictorConfig(
        width=width,
        depth=1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks.")),
        heads=heads,
        mlp_ratio=state["blocks.0.mlp.fc1.weight"].shape[0] / width,
    )
    levels = state["embed.0.weight"].shape[1] // encoder.width if entry == "embed.2" else 1
    dense = "proj_context.weight" in state
    predictor = Predictor(config, encoder, mask_tokens=mask_sets, levels=levels, dense=dense)
    report = fill(predictor, state, done, source=str(path), layout="predictor of vjepa2")
    report.unexpected += unexpected
    report.check()
    return predictor, report


def _fold_video(state: dict[str, Tensor], bias: str) -> dict[str, str]:
    """Add what 2.1 adds to every token of a video to what each kind of token begins with."""
    if OF_VIDEO not in state:
        return {}
    added = state.pop(OF_VIDEO).flatten()
    state[bias] = state[bias] + added.to(state[bias])
    state["mask_tokens"] = state["mask_tokens"] + added.to(state["mask_tokens"])
    return {bias: f"{OF_VIDEO} added", "mask_tokens": f"a mask token each, {OF_VIDEO} added"}


def _of_folder(folder: Path) -> tuple[dict[str, Tensor], list[str], Tensor | None]:
    tensors = read_safetensors(sorted(folder.glob("*.safetensors")))
    mine = {
        name.removeprefix("vjepa2.").removeprefix("predictor."): value
        for name, value in tensors.items()
        if name.removeprefix("vjepa2.").startswith("predictor.")
    }
    tokens = mine.pop("embeddings.mask_tokens", None)
    state, unexpected = from_transformers(mine, OUTSIDE_PREDICTOR)
    return state, unexpected, None if tokens is None else tokens.flatten(1)


def _of_file(path: Path) -> tuple[dict[str, Tensor], list[str], Tensor | None]:
    found = read_checkpoint(path).get("predictor")
    if not isinstance(found, Mapping):
        return {}, [], None
    state: dict[str, Tensor] = {}
    unexpected: list[str] = []
    tokens: dict[int, Tensor] = {}
    for long, value in tensors_of(found).items():
        name = strip(long)
        stem, _, kind = name.rpartition(".")
        if token := re.fullmatch(r"mask_tokens\.(\d+)", name):
            tokens[int(token[1])] = value.flatten()
        elif name == OF_VIDEO:
            state[name] = value
        elif stem in OUTSIDE_HUB:
            state[f"{OUTSIDE_HUB[stem]}.{kind}"] = value
        elif ours := our_name(name.removeprefix("predictor_")):
            state[ours] = value
        else:
            unexpected.append(name)
    ordered = [tokens[index] for index in sorted(tokens)]
    return state, unexpected, torch.stack(ordered) if ordered else None
