"""The predictor of V-JEPA 2, to go on training where its authors stopped."""

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

OUTSIDE_HUB = {"predictor_norm": "norm", "predictor_embed": "embed", "predictor_proj": "proj"}


def read_predictor(
    source: str | Path, encoder: EncoderConfig, *, mask_sets: int = 2, heads: int = 12
) -> tuple[Predictor, LoadReport]:
    """The predictor of a V-JEPA 2 file or of a VJEPA2Model folder, for our mask sets.

    Version 2 only: that of 2.1 predicts four levels at once.

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
    if "embed.weight" not in state or tokens is None:
        raise WeightsError(f"{path}: has no predictor of V-JEPA 2 with mask tokens")
    state["mask_tokens"], how = repeated_token(tokens, mask_sets)
    config = PredictorConfig(
        width=state["embed.weight"].shape[0],
        depth=1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks.")),
        heads=heads,
        mlp_ratio=state["blocks.0.mlp.fc1.weight"].shape[0] / state["embed.weight"].shape[0],
    )
    predictor = Predictor(config, encoder, mask_tokens=mask_sets)
    done = {"mask_tokens": how}
    report = fill(predictor, state, done, source=str(path), layout="predictor of vjepa2")
    report.unexpected += unexpected
    report.check()
    return predictor, report


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
        elif stem in OUTSIDE_HUB:
            state[f"{OUTSIDE_HUB[stem]}.{kind}"] = value
        elif ours := our_name(name.removeprefix("predictor_")):
            state[ours] = value
        else:
            unexpected.append(name)
    ordered = [tokens[index] for index in sorted(tokens)]
    return state, unexpected, torch.stack(ordered) if ordered else None
