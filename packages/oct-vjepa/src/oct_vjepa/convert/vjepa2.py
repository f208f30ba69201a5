"""Checkpoints of facebookresearch/vjepa2, versions 2 and 2.1, as torch.hub loads them.

Version 2 (src/models/vision_transformer.py): {"encoder", "predictor", "target_encoder", ...}, each
a state with the prefixes "module." and "backbone." of the wrappers it was trained in. Version 2.1
(app/vjepa_2_1/models/vision_transformer.py) has a norm for each of four blocks, the last among
them, a vector added to every patch of a video, textbook rotary positions whose rows and columns are
stretched, and "ema_encoder" in its distilled files.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from oct_vjepa.convert.files import tensors_of
from oct_vjepa.convert.layout import ConversionConfig, Foreign, Renamed
from oct_vjepa.model.configuration import SIZES, EncoderConfig
from oct_vjepa.model.weights import WeightsError

WRAPPERS = ("module.", "backbone.", "_orig_mod.")  # DDP, the clip wrapper, torch.compile
PARTS = {"target": ("target_encoder", "ema_encoder"), "context": ("encoder",)}
INPUT_MEAN, INPUT_STD = 114.5, 57.6
"""ImageNet's mean and spread on 0 to 255, over the three channels; what V-JEPA 2 was fed with."""
SHAPE_YX, SLICES = 256, 64  # vjepa2-vit*-fpc64-256; rotary positions take any other size as well
IN_BLOCK = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attn.qkv": "attention.qkv",
    "attn.proj": "attention.proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
BLOCK = re.compile(r"blocks\.(\d+)\.(.+)\.(weight|bias)")


def strip(name: str) -> str:
    """A name without the prefixes of wrappers."""
    for prefix in WRAPPERS:
        name = name.removeprefix(prefix)
    return strip(name) if name.startswith(WRAPPERS) else name


def our_name(name: str) -> str | None:
    """Our name of a tensor of V-JEPA 2 or of the predecessor; None if we have no such tensor."""
    found = BLOCK.fullmatch(name)
    if found and found[2] in IN_BLOCK:
        return f"blocks.{found[1]}.{IN_BLOCK[found[2]]}.{found[3]}"
    if name in ("norm.weight", "norm.bias") or name.startswith("level_norms."):
        return name
    if name in ("patch_embed.proj.weight", "patch_embed.proj.bias"):
        return name.replace("patch_embed", "patches")
    return None


def rename(state: Mapping[str, Tensor]) -> Renamed:
    """The state under our names; what has none is listed."""
    found = Renamed()
    for name, value in state.items():
        ours = our_name(name)
        if ours is None:
            found.unexpected.append(name)
        else:
            found.state[ours] = value
    return found


def matches(checkpoint: Mapping[str, Any]) -> bool:
    """Whether a file looks like one of V-JEPA 2: a dict of states, or one state with its names."""
    if any(isinstance(checkpoint.get(key), dict) for keys in PARTS.values() for key in keys):
        return True
    return any(strip(name).startswith("patch_embed.proj") for name in checkpoint)


def read(checkpoint: Mapping[str, Any], config: ConversionConfig) -> Foreign:
    """The encoder in a checkpoint.

    Raises:
        WeightsError: the part is not there, or has no patch embedding.
    """
    part, state = _part(checkpoint, config.part)
    state = {strip(name): value for name, value in tensors_of(state).items()}
    dense = any(name.startswith("norms_block.") for name in state)
    folded: dict[str, str] = {}
    norms: list[int] = []
    if dense:
        folded, norms = _fold_dense(state)
    renamed = rename(state)
    version = "2.1" if dense else "2"
    found = _config(renamed.state, config, dense=dense, level_norms=norms)
    notes = []
    if config.input_mean is None or config.input_std is None:
        notes.append(
            f"input_mean {found.input_mean} and input_std {found.input_std} are for voxels from 0 "
            "to 255"
        )
    return Foreign(
        layout=f"vjepa2 (version {version}, {part})",
        config=found,
        state=renamed.state,
        unexpected=sorted(renamed.unexpected),
        folded=folded,
        notes=notes,
    )


def _part(checkpoint: Mapping[str, Any], part: str) -> tuple[str, Mapping[str, Any]]:
    order = [*PARTS["target"], *PARTS["context"]] if part == "auto" else list(PARTS[part])
    for key in order:
        if isinstance(checkpoint.get(key), Mapping):
            return key, checkpoint[key]
    if any(strip(name).startswith("patch_embed.") for name in checkpoint):
        return "the only state", checkpoint
    there = sorted(key for key, value in checkpoint.items() if isinstance(value, Mapping))
    raise WeightsError(f"part {part!r} is not in the file: it has {there}, not {order}")


def levels_of(depth: int, levels: int) -> list[int]:
    """The blocks that have a norm in V-JEPA 2.1: evenly spread, but for its largest encoder.

    Raises:
        WeightsError: fewer blocks than norms.
    """
    if (depth, levels) == (48, 4):
        return [11, 23, 37, 47]  # app/vjepa_2_1/models/vision_transformer.py, as all the others
    if levels > depth:
        raise WeightsError(f"{levels} norms of levels do not belong to {depth} blocks")
    return [(level + 1) * depth // levels - 1 for level in range(levels)]


def _fold_dense(state: dict[str, Tensor]) -> tuple[dict[str, str], list[int]]:
    """Move what only version 2.1 has to where we keep it.

    Returns:
        What was done, by our names, and the blocks before the last that have a norm.
    """
    done = {}
    last = max(int(name.split(".")[1]) for name in state if name.startswith("norms_block."))
    depth = 1 + max((int(found[1]) for found in map(BLOCK.fullmatch, state) if found), default=0)
    blocks = levels_of(depth, last + 1)
    for level, block in enumerate(blocks):
        ours = "norm" if level == last else f"level_norms.{block}"
        for kind in ("weight", "bias"):
            state[f"{ours}.{kind}"] = state.pop(f"norms_block.{level}.{kind}")
            done[f"{ours}.{kind}"] = f"norms_block.{level}, the norm of block {block}"
    if "video_mod_embed" in state and "patch_embed.proj.bias" in state:
        bias = state["patch_embed.proj.bias"]
        state["patch_embed.proj.bias"] = bias + state.pop("video_mod_embed").flatten().to(bias)
        done["patches.proj.bias"] = "video_mod_embed added"
    return done, blocks[:-1]


def _config(
    state: Mapping[str, Tensor],
    config: ConversionConfig,
    *,
    dense: bool,
    level_norms: list[int],
) -> EncoderConfig:
    if "patches.proj.weight" not in state:
        raise WeightsError("no patch_embed.proj.weight in the file, so it is not such an encoder")
    width, channels, *patch = state["patches.proj.weight"].shape
    blocks = [int(found[1]) for found in map(re.compile(r"blocks\.(\d+)\.").match, state) if found]
    hidden = state["blocks.0.mlp.fc1.weight"].shape[0] if blocks else 4 * width
    return EncoderConfig(
        input_shape=(SLICES, SHAPE_YX, SHAPE_YX),
        patch_size=(patch[0], patch[1], patch[2]),
        channels=channels,
        width=width,
        depth=max(blocks, default=0) + 1,
        heads=heads_of(width, config.heads),
        mlp_ratio=hidden / width,
        rotary="interleaved" if dense else "vjepa2",
        position_unit="span" if dense else "index",
        position_span=max(2, SHAPE_YX // patch[1]),
        level_norms=level_norms,
        input_mean=INPUT_MEAN,
        input_std=INPUT_STD,
    )


def heads_of(width: int, given: int | None) -> int:
    """Heads of an encoder of this width; no tensor tells.

    Raises:
        WeightsError: the width is not one of the family, and no number was given.
    """
    if given is not None:
        return given
    known = {size.width: size.heads for size in SIZES.values()} | {1664: 26}  # vit_gigantic
    if width not in known:
        raise WeightsError(
            f"the file does not say how many heads a width of {width} has: set heads"
        )
    return known[width]


def repeated_token(tokens_MD: Tensor, count: int) -> tuple[Tensor, str]:
    """Mask tokens for `count` mask sets, and what was done.

    V-JEPA 2 learns the first of ten only (src/utils/wrappers.py passes the number of the clip
    length, not of the mask); one that is still zero is replaced by it.
    """
    taken = torch.stack([tokens_MD[min(index, len(tokens_MD) - 1)] for index in range(count)])
    zero_M1 = (taken == 0).all(dim=1, keepdim=True)
    how = f"{count} of {len(tokens_MD)} mask tokens"
    if bool(zero_M1.any()):
        how += ", untrained ones replaced by the first"
    return torch.where(zero_M1, tokens_MD[0], taken), how
