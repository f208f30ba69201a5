"""Encoders of other projects beside ours: 2-D models of timm, averaged over B-scans.

    encoder = load_timm("vit_large_patch16_224", weights="RETFound_oct_weights.pth")
    features = embed_volumes(encoder, volumes, pools=["mean"])

timm is not a dependency: it is imported where a model is made. Weights are read from a file and
never as code; they are not ours, and their licences say what they may be used for.
"""

import hashlib
import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from oct_vjepa.convert.files import read_checkpoint, read_safetensors, tensors_of
from oct_vjepa.model.weights import WeightsError

AT_ONCE = 64
"""B-scans that go through a model together."""

INSIDE = ("model", "teacher", "state_dict")
"""Where checkpoints keep their weights: RETFound's MAE, RETFound's DINOv2, many others."""
PREFIXES = ("module.", "backbone.", "model.")
DROPPED = ("head.", "decoder", "mask_token", "dino_head.", "ibot_head.", "output_adapters.")
"""How names begin of what is only for pretraining or for another task."""
BSCAN = "input_adapters.bscan."
"""How names begin of MIRAGE's way from a B-scan to tokens; its others are for other images."""
WHITE = 255.0


class BscanModel(nn.Module):
    """A 2-D model over the B-scans of a volume, its vectors averaged.

    Args:
        model: takes (B, C, H, W) and gives (B, D).
        size: (H, W) that each B-scan is stretched to.
        mean: subtracted from grey levels of 0 to 1, one a channel; so many channels are made.
        std: divides what is left.
        every: takes one of so many B-scans, from the middle outwards.
        name: stands for the kind of model in the fingerprint.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        size: tuple[int, int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        every: int = 1,
        name: str = "",
    ) -> None:
        super().__init__()
        if every < 1:
            raise ValueError(f"every ({every}) must be at least 1")
        if len(mean) != len(std):
            raise ValueError(f"mean has {len(mean)} channels and std {len(std)}")
        self.model, self.size, self.every, self.name = model, size, every, name
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    @property
    def fingerprint(self) -> str:
        """16 hex characters for the weights and for what is done to B-scans."""
        shape = [self.name, self.size, self.every]
        levels = [self.get_buffer(one).flatten().tolist() for one in ("mean", "std")]
        digest = hashlib.sha256(json.dumps([*shape, *levels]).encode())
        for name, value in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()[:16]

    def embed(self, volumes: Tensor) -> Tensor:
        """One vector a volume, (B, D), of grey levels of 0 to 255, (B, Z, Y, X)."""
        batch, bscans = volumes.shape[:2]
        first = (bscans - 1) % self.every // 2
        chosen = volumes[:, first :: self.every]
        flat = chosen.flatten(0, 1).unsqueeze(1)
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        parts = []
        for some in flat.split(AT_ONCE):
            grey = functional.interpolate(
                some.float() / WHITE, self.size, mode="bilinear", antialias=True
            )
            parts.append(self.model((grey - mean) / std))
        return torch.cat(parts).unflatten(0, (batch, chosen.shape[1])).mean(dim=1)


def load_timm(
    name: str, *, weights: str | Path, every: int = 1, **settings: Any
) -> tuple[BscanModel, tuple[str, ...]]:
    """A model of timm with the weights of a file, and the names in the file that it has no use for.

    Layouts that are known by their names: timm's own; RETFound (MAE and DINOv2); MIRAGE, of whose
    images the B-scans are taken, for a vision transformer of its patch and image size.

    Args:
        name: of a model, as `timm.list_models` has them.
        weights: .safetensors, or what `torch.save` wrote, which is read without running any of it.
        every: takes one of so many B-scans.
        settings: for `timm.create_model`, such as img_size=512 or global_pool="avg".

    Raises:
        WeightsError: timm is not installed, or the file cannot be read or does not fit.
    """
    try:
        timm, timm_data = import_module("timm"), import_module("timm.data")
    except ImportError as error:
        reason = "2-D encoders need timm, which is not installed: pip install timm"
        raise WeightsError(reason) from error
    state, layout = rename_weights(read_weights(weights))
    if layout == "mirage":
        settings = {"in_chans": 1, "final_norm": False} | settings
    try:
        model = timm.create_model(name, pretrained=False, num_classes=0, **settings)
    except (RuntimeError, TypeError, ValueError) as error:
        raise WeightsError(f"timm makes no model {name!r} ({error})") from error
    unused = fit_weights(model, state, str(weights))
    data = timm_data.resolve_model_data_config(model)
    channels, *published = data["input_size"]
    rows, columns = getattr(getattr(model, "patch_embed", None), "img_size", None) or published
    return (
        BscanModel(
            model.eval(),
            size=(int(rows), int(columns)),
            mean=tuple(data["mean"])[:channels],
            std=tuple(data["std"])[:channels],
            every=every,
            name=name,
        ),
        unused,
    )


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file by their names in it, without the level that checkpoints put on top.

    Raises:
        WeightsError: it cannot be read, or holds no tensors.
    """
    file = Path(path)
    if file.suffix == ".safetensors":
        return read_safetensors([file])
    found: Mapping[str, Any] = read_checkpoint(file)
    for name in INSIDE:
        if isinstance(found.get(name), Mapping):
            found = found[name]
            break
    state = tensors_of(found)
    if not state:
        raise WeightsError(f"{path}: holds no tensors; looked under {', '.join(INSIDE)} too")
    return state


def rename_weights(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Weights under timm's names, and the layout they came in: "mirage" or "plain".

    What only pretraining needs is left out.
    """
    bare = {_without_prefix(name): value for name, value in state.items()}
    mirage = f"{BSCAN}proj.weight" in bare
    if mirage:
        bare = _from_mirage(bare)
    kept = {name: value for name, value in bare.items() if not name.startswith(DROPPED)}
    return kept, "mirage" if mirage else "plain"


def _without_prefix(name: str) -> str:
    found = next((one for one in PREFIXES if name.startswith(one)), "")
    return _without_prefix(name[len(found) :]) if found else name


def _from_mirage(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """MIRAGE's encoder as a vision transformer of B-scans alone.

    Its global token becomes the class token, which has no position; it stands behind the patches
    there and before them here, which attention does not notice.
    """
    token = state["global_tokens"][:, :1]
    places = state[f"{BSCAN}pos_emb"].flatten(2).transpose(1, 2)  # (1, N, D)
    found = {
        "cls_token": token,
        "pos_embed": torch.cat([torch.zeros_like(token), places], dim=1),
        "patch_embed.proj.weight": state[f"{BSCAN}proj.weight"],
        "patch_embed.proj.bias": state[f"{BSCAN}proj.bias"],
    }
    blocks = {name: value for name, value in state.items() if name.startswith("encoder.")}
    return found | {f"blocks.{name[len('encoder.') :]}": one for name, one in blocks.items()}


def fit_weights(model: nn.Module, state: Mapping[str, Tensor], where: str) -> tuple[str, ...]:
    """Give `model` its weights; returns the names in `state` that it has no use for.

    Raises:
        WeightsError: a weight of the model is missing, or has another shape.
    """
    wanted = model.state_dict()
    renamed = dict(state)
    for part in ("weight", "bias"):  # MAE's last norm, where timm's pool comes before it
        if f"fc_norm.{part}" in wanted and f"fc_norm.{part}" not in renamed:
            renamed[f"fc_norm.{part}"] = renamed.pop(f"norm.{part}", torch.empty(0))
    missing = sorted(wanted.keys() - renamed.keys())
    odd = [one for one in wanted.keys() & renamed.keys() if wanted[one].shape != renamed[one].shape]
    if missing or odd:
        lacks = f"lacks {missing[:3]}" if missing else ""
        shaped = "; ".join(
            f"{one} is {tuple(renamed[one].shape)}, wanted {tuple(wanted[one].shape)}"
            for one in sorted(odd)[:3]
        )
        said = "; ".join(filter(None, (lacks, shaped)))
        raise WeightsError(f"{where}: does not fit the model: {said}")
    model.load_state_dict({name: renamed[name] for name in wanted})
    return tuple(sorted(renamed.keys() - wanted.keys()))
