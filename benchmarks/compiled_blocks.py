"""Does torch.compile of each block shorten the first step against one graph of the whole encoder?

An encoder of many narrow blocks, forward and backward, as it stands (eager), compiled whole and
compiled block by block, where all blocks share what is compiled for the first. Each round is a
process of its own with an empty cache of compiled code, on one thread; `again` is a second process
with the cache of the first. Told are seconds of the first step and the median of later ones, on the
clock and of processors with the compilers that are started, and how far loss and norms of gradients
lie from those of eager.

    python benchmarks/compiled_blocks.py
    python benchmarks/compiled_blocks.py --rounds 1 --depths 12
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from scan_blocks import BATCH, GRID, HEADS, WIDTH, apart, read_options
from writing import write_results

WAYS = ("eager", "whole", "blocks")
STEPS = 21
"""The first one, and those of which the median is told."""

ALONE = {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
TOLD = ("first_s", "first_cpu_s", "later_s")


def cpu_s() -> float:
    """Seconds of processors of this process and of those that it has waited for."""
    return sum(os.times()[:4])


def measure(depth: int, way: str) -> dict[str, Any]:
    """Step some times in this process."""
    import torch
    from oct_vjepa import Encoder, EncoderConfig

    torch.manual_seed(0)
    shape = (2 * GRID[0], 16 * GRID[1], 16 * GRID[2])
    config = EncoderConfig(
        input_shape=shape, patch_size=(2, 16, 16), width=WIDTH, depth=depth, heads=HEADS
    )
    encoder = Encoder(config)
    volumes = torch.rand(BATCH, 1, *shape)
    if way == "whole":
        encoder.compile()
    if way == "blocks":
        for block in encoder.blocks:
            block.compile()
    clock, cpu = [], []
    for _ in range(STEPS):
        began, before = time.perf_counter(), cpu_s()
        encoder.zero_grad(set_to_none=True)
        loss = encoder(volumes).square().mean()
        loss.backward()
        clock.append(time.perf_counter() - began)
        cpu.append(cpu_s() - before)
    norms = [float(one.grad.norm()) for one in encoder.parameters() if one.grad is not None]
    return {
        "first_s": round(clock[0], 3),
        "first_cpu_s": round(cpu[0], 2),
        "later_s": round(statistics.median(clock[1:]), 4),
        "loss": float(loss.detach()),
        "norms": norms,
    }


def start(depth: int, way: str, cache: str) -> dict[str, Any]:
    """What a process of its own measures, with a folder for compiled code.

    Raises:
        CalledProcessError: it has failed.
    """
    command = [sys.executable, __file__, "--child", str(depth), way]
    environment = {**os.environ, **ALONE, "TORCHINDUCTOR_CACHE_DIR": cache}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def compare(depth: int, rounds: int) -> dict[str, Any]:
    """Medians of each way at one depth, and each round."""
    found: dict[str, list[dict[str, Any]]] = {}
    for _ in range(rounds):
        for way in WAYS:
            with tempfile.TemporaryDirectory() as cache:
                found.setdefault(way, []).append(start(depth, way, cache))
                if way != "eager":
                    found.setdefault(f"{way} again", []).append(start(depth, way, cache))
            print(depth, way, [found[way][-1][key] for key in TOLD], flush=True)
    exact = found["eager"][0]
    told: dict[str, Any] = {"depth": depth}
    for way, some in found.items():
        told[way] = {key: statistics.median(one[key] for one in some) for key in TOLD}
        told[way]["rounds_first_s"] = [one["first_s"] for one in some]
        if way != "eager":
            far = apart(exact, some[0])
            told[way] |= {"loss_apart": far["loss"], "norms_apart": far["gradient_norms"]}
    return told


def main() -> None:
    """Measure, print and write down."""
    options = read_options("First step compiled whole and block by block.")
    if options.child:
        print(json.dumps(measure(int(options.child[0]), options.child[1])))
        return
    facts = {
        **{"width": WIDTH, "tokens": GRID[0] * GRID[1] * GRID[2], "batch": BATCH},
        **{"threads": 1, "rounds": options.rounds},
        "depths": [compare(depth, options.rounds) for depth in options.depths],
    }
    write_results("compiled_blocks", ("torch", "oct-vjepa"), facts)


if __name__ == "__main__":
    main()
