"""What the loop promises, in one run: each figure beside the bound it is held to.

- overhead: CPU seconds of a step of `fit` over those of a bare loop, at some 5 and 50 ms a step
  (`loop_overhead.py`)
- saves: what a save holds the training up, beside it over waited for, on a disk and into S3
  (`saves.py`)
- feed: share of a step of 100 ms that waits for two workers (`bucket_shards.py`)
- start: seconds of the app before the end of its first step (`start_up.py`)
- memory: what a process holds of weights, teacher and moments, with `fsdp` on two over `ddp`
  (`shard_memory.py`)

One after the other, on a machine that should have nothing else to do: its load is written down.

    python benchmarks/ratios.py           --keep writes results/ratios.json
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import bucket_shards
import loop_overhead
import saves
import shard_memory
import start_up
import torch
from writing import write_results

GOALS = {50.0: 1.02, 5.0: 1.10}
"""Milliseconds of a step, and the most that `fit` may take over a bare loop."""

RUNS, STARTS = 3, 3
ROUNDS, EVERY = 2, 40
STALL = 0.02


def overhead() -> list[dict[str, Any]]:
    """Of `fit` over a bare loop."""
    points = [loop_overhead.compare(goal_ms, RUNS) for goal_ms in GOALS]
    return [{**point, "bound": GOALS[point["goal_ms"]]} for point in points]


def saving(folder: Path) -> dict[str, Any]:
    """Beside the training over waited for."""
    options = argparse.Namespace(rounds=ROUNDS, every=EVERY)
    with saves.bucket() as url:
        arms = saves.run(options, folder, url)
    return {
        place: {
            **{name: round(arms[f"{place} {name}"]["stall_s"], 3) for name in saves.WAYS},
            "ratio": round(
                arms[f"{place} beside"]["stall_s"] / arms[f"{place} waited for"]["stall_s"], 3
            ),
            "step_s": round(arms[f"{place} beside"]["step_s"], 3),
        }
        for place in ("disk", "s3")
    }


def feeding(folder: Path) -> dict[str, Any]:
    """Share of a step that waits."""
    return {**bucket_shards.stall(bucket_shards.make_cache(folder)), "bound": STALL}


def starting(folder: Path) -> dict[str, Any]:
    """Seconds of the app before its first step is over; data drawn and cached before."""
    start_up.start_app(folder, 0)
    return start_up.middle([start_up.start_app(folder, n) for n in range(1, STARTS + 1)])


def holding() -> dict[str, Any]:
    """Megabytes of a process."""
    whole, cut = (shard_memory.start(2, parallel) for parallel in ("ddp", "fsdp"))
    found = {
        f"{name}_mb": [round(one[f"{name}_mb"], 1) for one in (whole, cut)]
        for name in ("states", "moments")
    }
    sums = [sum(one) for one in zip(*found.values(), strict=True)]
    return {"ddp, fsdp": found, "ratio": round(sums[1] / sums[0], 3)}


def main() -> None:
    """Measure, print and write down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="write results/ratios.json")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        measures = {
            "overhead": overhead,
            "saves": lambda: saving(Path(name) / "saves"),
            "feed": lambda: feeding(Path(name) / "feed"),
            "start": lambda: starting(Path(name)),
            "memory": holding,
        }
        for what, measure in measures.items():
            before, began = os.getloadavg()[0], time.perf_counter()
            found[what] = measure()
            print(what, found[what], flush=True)
            found[f"{what}, load before and seconds"] = [
                round(before, 1), round(time.perf_counter() - began)
            ]  # fmt: skip
    if options.keep:
        write_results("ratios", ("torch", "oct-xla", "oct-vjepa", "oct-io", "moto"), found)


if __name__ == "__main__":
    main()
