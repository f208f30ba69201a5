"""Trains each rival for some steps on the CPU and on XLA; prints losses and compiled graphs."""

import json
import sys
from typing import Any

import torch
import torch_xla
import torch_xla.debug.metrics as met
from oct_vjepa import (
    Encoder,
    EncoderConfig,
    JepaBatch,
    MaskingConfig,
    Masks,
    PredictorConfig,
    sample_masks,
)
from oct_vjepa.objectives.registry import build_objective
from oct_vjepa.objectives.rivals.configuration import (
    DinoConfig,
    LeJepaConfig,
    MaeConfig,
    SaltConfig,
)

STEPS = 4
SHAPE = EncoderConfig(
    input_shape=(2, 16, 16), patch_size=(2, 4, 8), width=12, depth=1, heads=2, input_mean=100.0,
    input_std=50.0,
)  # fmt: skip
SMALL = PredictorConfig(width=12, depth=1, heads=2)


def compiled() -> int:
    """Graphs that were compiled so far."""
    data = met.metric_data("CompileTime")
    return int(data[0]) if data else 0


def train(config: Any, device: torch.device) -> tuple[list[float], list[int]]:
    """Loss and compiled graphs after each step."""
    torch.manual_seed(0)
    objective = build_objective(Encoder(SHAPE), config, MaskingConfig()).to(device)
    optimiser = torch.optim.SGD(objective.parameter_groups(0.0), lr=0.05)
    volume = torch.randint(
        0, 256, (4, 1, *SHAPE.input_shape), dtype=torch.uint8,
        generator=torch.Generator().manual_seed(0),
    ).to(device)  # fmt: skip
    losses, graphs = [], []
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        drawn = sample_masks(objective.masking, SHAPE.grid, 4, generator=generator)
        masks = tuple(Masks(*(ids.to(device) for ids in one)) for one in drawn)
        loss = objective.loss(JepaBatch(volume, masks), generator)["loss"]
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        objective.after_step(step, 100)
        torch_xla.sync()
        losses.append(loss.item())
        graphs.append(compiled())
    return losses, graphs


def main() -> None:
    """Ask every rival on both devices."""
    device = torch_xla.device()  # before any backward pass, or autograd does not know of it
    teacher = sys.argv[1]
    Encoder(SHAPE).save_pretrained(teacher)
    configs = {
        "mae": MaeConfig(decoder=SMALL, spectral_weight=1.0),
        "salt": SaltConfig(predictor=SMALL, teacher=teacher),
        "lejepa": LeJepaConfig(hidden=16, embedding=4, directions=8),
        "dino": DinoConfig(hidden=16, bottleneck=8, prototypes=6),
    }
    found = {}
    for name, config in configs.items():
        wanted, _ = train(config, torch.device("cpu"))
        losses, graphs = train(config, device)
        found[name] = {"cpu": wanted, "xla": losses, "graphs": graphs}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
