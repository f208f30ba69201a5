"""Heads by name: make one for an encoder, read one from disk."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from oct_vjepa.heads.answer import Answer
from oct_vjepa.heads.attentive import AttentiveHead, CrossAttentionHead
from oct_vjepa.heads.configuration import HeadConfig
from oct_vjepa.heads.head import Head
from oct_vjepa.heads.linear import LinearHead
from oct_vjepa.heads.mlp import MlpHead
from oct_vjepa.heads.multivolume import MultiVolumeHead
from oct_vjepa.model.pooling import pooled_width
from oct_vjepa.model.weights import WeightsError, read_config

HEADS: dict[str, type[Head]] = {
    one.kind: one
    for one in (LinearHead, MlpHead, AttentiveHead, CrossAttentionHead, MultiVolumeHead)
}
"""Heads by the name under which they are saved."""


def build_head(
    config: HeadConfig, *, width: int, names: Sequence[str], answer: Answer, seed: int
) -> Head:
    """A fresh head for tokens of `width` features.

    Args:
        config: see `HeadConfig`.
        width: of the encoder.
        names: of the classes or labels, in the order of the outputs; of the one quantity.
        answer: what the outputs mean.
        seed: of the first weights; torch's generator stays where it is.

    Raises:
        ValueError: a pool that does not exist, or heads that do not divide the width.
    """
    shared: dict[str, Any] = {"classes": names, "dropout": config.dropout}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head: Head
        if config.kind == "attentive":
            head = AttentiveHead(width=width, heads=config.heads, depth=config.depth, **shared)
        elif config.kind == "cross_attention":
            shared |= {"inner": config.inner, "heads": config.heads}
            head = CrossAttentionHead(width=width, **shared)
        else:
            shared |= {"width": pooled_width(width, config.pool), "pool": config.pool}
            if config.kind == "linear":
                head = LinearHead(**shared)
            else:
                head = MlpHead(hidden=config.hidden, activation=config.activation, **shared)
    head.answer = answer
    return head


def load_head(folder: str | Path) -> Head:
    """Read a saved head of any kind.

    Raises:
        WeightsError: no head there, or one that is damaged.
    """
    for kind, head in HEADS.items():
        try:
            read_config(folder, kind)
        except WeightsError as error:
            if "has no section" not in str(error):
                raise
        else:
            return head.from_pretrained(folder)
    raise WeightsError(f"{folder}: config.json is not that of a head ({', '.join(HEADS)})")
