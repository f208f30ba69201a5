"""DINO in two processes: as a program, the second one of them, which prints its centre."""

import json
import sys
from datetime import timedelta

import torch
import torch.distributed as dist
from oct_vjepa.masking.configuration import MaskingConfig
from oct_vjepa.model.configuration import EncoderConfig
from oct_vjepa.model.encoder import Encoder
from oct_vjepa.objectives.registry import build_objective
from oct_vjepa.objectives.rivals.configuration import DinoConfig

SHAPE = EncoderConfig(
    input_shape=(4, 16, 24), patch_size=(2, 4, 8), width=12, depth=1, heads=1,
    input_mean=0.0, input_std=1.0,
)  # fmt: skip


def step(rank: int) -> list[float]:
    """The centre of DINO after a step on volumes of one's own."""
    torch.manual_seed(0)
    config = DinoConfig(hidden=8, bottleneck=4, prototypes=5)
    dino = build_objective(Encoder(SHAPE), config, MaskingConfig())
    volume = torch.randn(2, 1, 4, 16, 24, generator=torch.Generator().manual_seed(rank))
    dino.loss(volume, torch.Generator().manual_seed(rank))
    dino.after_step(0, 10)
    return dino.center.tolist()


def join(rank: int, meeting: str) -> list[float]:
    """The centre after the same step, taken with another process."""
    limit = timedelta(seconds=100)
    dist.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=2, timeout=limit)
    try:
        return step(rank)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    print(json.dumps(join(1, sys.argv[1])))
