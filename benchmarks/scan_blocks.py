"""Does a scan over the blocks shorten the first step on XLA, and does it give the same numbers?

The blocks of a ViT, forward and backward, once as they stand, each of them in the graph, and once
by `torch_xla.experimental.scan_layers`, which has the graph of one block in a loop. Each round is a
process of its own on torch-xla's CPU, with the flags that our tests have; told are seconds of each
step (tracing, compiling, running) on the clock and of processors, seconds of compiling in it, and
how far losses and norms of gradients are apart between the two ways. A TPU compiles by another
compiler: there the same program is to be run with PJRT_DEVICE=TPU. A file for each depth is written
after each round.

    python benchmarks/scan_blocks.py
    python benchmarks/scan_blocks.py --rounds 1 --depths 12
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

from writing import write_results

WIDTH, HEADS, BATCH, GRID = 192, 3, 2, (2, 4, 4)
WAYS = ("plain", "scan")
STEPS = 3
TOLD = ("steps_s", "steps_cpu_s", "compiling_s")
FLAGS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
CPU = {
    **{"PJRT_DEVICE": "CPU", "XLA_FLAGS": FLAGS},
    **{"OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "2"},
}
LIMIT_S = 1800


def measure(depth: int, way: str) -> dict[str, Any]:
    """Step some times in this process."""
    import torch
    import torch_xla
    import torch_xla.debug.metrics as met
    from oct_vjepa.model.blocks import initialise, stack_blocks
    from oct_vjepa.model.configuration import EncoderConfig
    from oct_vjepa.model.positions import Rotary, rotary_at
    from torch import Tensor, nn
    from torch_xla.experimental.scan_layers import scan_layers

    class Carrying(nn.Module):
        """A block that hands the tables of positions on: what a scan carries keeps its shape."""

        def __init__(self, block: nn.Module) -> None:
            super().__init__()
            self.block = block

        def forward(self, tokens_BND: Tensor, *tables: Tensor) -> tuple[Tensor, ...]:
            return (self.block(tokens_BND, Rotary(*tables)), *tables)

    device = torch_xla.device()
    torch.manual_seed(0)
    shape = (2 * GRID[0], 16 * GRID[1], 16 * GRID[2])
    config = EncoderConfig(
        input_shape=shape, patch_size=(2, 16, 16), width=WIDTH, depth=depth, heads=HEADS
    )
    blocks = stack_blocks(config, layer_norm_eps=config.layer_norm_eps, attention="sdpa")
    initialise(blocks)
    tokens = torch.randn(BATCH, GRID[0] * GRID[1] * GRID[2], WIDTH).to(device)
    layers = nn.ModuleList(Carrying(one) for one in blocks).to(device)
    rotary = rotary_at(
        config.placement, GRID, None, device, None, head_width=WIDTH // HEADS, form=config.rotary
    )
    torch_xla.sync(wait=True)

    def step() -> tuple[float, list[float]]:
        layers.zero_grad(set_to_none=True)
        found: Any = (tokens, *rotary)
        if way == "scan":
            found = scan_layers(layers, found, is_layer_pure=True)
        else:
            for layer in layers:
                found = layer(*found)
        loss = found[0].square().mean()
        loss.backward()
        norms = torch.stack([one.grad.norm() for one in layers.parameters()])
        torch_xla.sync(wait=True)
        return float(loss.detach()), norms.cpu().tolist()

    found: dict[str, Any] = {"steps_s": [], "steps_cpu_s": [], "compiling_s": []}
    for _ in range(STEPS):
        began = time.perf_counter(), time.process_time(), compiled_s(met)
        found["loss"], found["norms"] = step()
        ended = time.perf_counter(), time.process_time(), compiled_s(met)
        took = (round(late - early, 3) for early, late in zip(began, ended, strict=True))
        for key, seconds in zip(TOLD, took, strict=True):
            found[key].append(seconds)
    return found


def compiled_s(met: Any) -> float:
    """Seconds that the compiler has taken so far."""
    data = met.metric_data("CompileTime")
    return data[1] / 1e9 if data else 0.0


def start(depth: int, way: str) -> dict[str, Any]:
    """What a process of its own measures.

    Raises:
        CalledProcessError: it has failed.
    """
    command = [sys.executable, __file__, "--child", str(depth), way]
    done = subprocess.run(
        command, env={**CPU, **os.environ}, stdout=subprocess.PIPE, check=True, timeout=LIMIT_S
    )
    return json.loads(done.stdout.splitlines()[-1])


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians, and each round."""
    medians = {
        key: [statistics.median(one[key][number] for one in rounds) for number in range(STEPS)]
        for key in TOLD
    }
    return {**medians, "rounds": [{key: one[key] for key in TOLD} for one in rounds]}


def apart(one: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    """Relative distance of the losses, and the largest of the norms of gradients."""
    pairs = zip(one["norms"], other["norms"], strict=True)
    return {
        "loss": abs(one["loss"] - other["loss"]) / abs(one["loss"]),
        "gradient_norms": max(abs(a - b) / max(abs(a), 1e-12) for a, b in pairs),
    }


def read_options(description: str) -> argparse.Namespace:
    """What to measure; `child` is the depth and way of a process that measures one round."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--depths", type=int, nargs="+", default=[12, 24])
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure, print and write down."""
    options = read_options("First step on XLA with and without a scan.")
    if options.child:
        print(json.dumps(measure(int(options.child[0]), options.child[1])))
        return
    for depth in options.depths:
        rounds: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
        for number in range(options.rounds):
            for way in WAYS:
                rounds[way].append(start(depth, way))
                seconds = rounds[way][-1]["steps_cpu_s"]
                print(f"depth {depth}, round {number + 1}, {way}: {seconds}", flush=True)
            write(depth, rounds)


def write(depth: int, rounds: dict[str, list[dict[str, Any]]]) -> None:
    """Write what is known of a depth so far, in a file of its own."""
    told = {way: summary(some) for way, some in rounds.items()}
    firsts = [told[way]["steps_cpu_s"][0] for way in WAYS]
    facts = {
        "command": f"python benchmarks/scan_blocks.py --depths {depth}",
        **{"width": WIDTH, "tokens": GRID[0] * GRID[1] * GRID[2], "batch": BATCH},
        **{"depth": depth, "flags": FLAGS, **told},
        "first_times_less_cpu": round(firsts[0] / firsts[1], 2),
        "apart": apart(rounds["plain"][0], rounds["scan"][0]),
    }
    write_results(f"scan_blocks_{depth}", ("torch", "torch-xla"), facts)


if __name__ == "__main__":
    main()
