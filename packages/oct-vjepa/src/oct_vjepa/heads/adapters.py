"""Low-rank adapters on an encoder's linear maps, through PEFT: add, train, merge.

PEFT is loaded on first use: install `oct-vjepa[lora]`.
"""

import importlib
from typing import Any

import torch
from torch import nn

from oct_vjepa.heads.configuration import PARTS, LoraConfig
from oct_vjepa.model.encoder import Encoder


def has_lora(encoder: nn.Module) -> bool:
    """Whether `add_lora` was called on the encoder and `merge_lora` was not."""
    return any("lora_A" in name for name, _ in encoder.named_parameters())


def add_lora(encoder: Encoder, config: LoraConfig, *, seed: int) -> Encoder:
    """Freeze the encoder and put adapters into its blocks, in place; its output does not change.

    Args:
        encoder: changed and returned.
        config: see `LoraConfig`.
        seed: of the adapters' first weights.

    Raises:
        RuntimeError: PEFT is not installed.
        ValueError: the encoder has adapters already.
    """
    peft = _peft()
    if has_lora(encoder):
        raise ValueError("the encoder has LoRA adapters already; call merge_lora first")
    encoder.requires_grad_(False)
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=rf"blocks\.\d+\.({'|'.join(PARTS[one] for one in config.parts)})",
        bias="none",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(settings, encoder)
    return encoder


def merge_lora(encoder: Encoder) -> Encoder:
    """Add each adapter's change to its map and take the adapters out, in place.

    What is left is a plain encoder with the outputs that it had, all of whose parameters learn
    again; save it with `save_pretrained`.

    Raises:
        RuntimeError: PEFT is not installed.
        ValueError: the encoder has no adapters.
    """
    layer = _peft().tuners.lora.LoraLayer
    adapted = [(name, part) for name, part in encoder.named_modules() if isinstance(part, layer)]
    if not adapted:
        raise ValueError("the encoder has no LoRA adapters; call add_lora first")
    for name, part in adapted:
        part.merge(safe_merge=True)
        encoder.set_submodule(name, part.get_base_layer())
    encoder.requires_grad_(True)
    return encoder


def _peft() -> Any:
    try:
        return importlib.import_module("peft")
    except ImportError as error:
        raise RuntimeError("LoRA needs PEFT: install oct-vjepa[lora]") from error
