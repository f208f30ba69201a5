"""What `oct_xla.fit` costs over a bare loop, with and without a run folder.

A toy whose step takes some 2, 5 and 50 ms on one thread (--goals), trained by `fit`, by `fit` with
a `run_dir` (a row each ten steps, a lease, a watcher; saves fall outside of what is timed) and by
the fewest lines that do the same arithmetic (loss, backward, clipping, AdamW), on the same feed.
The three take turns; a round gives a ratio of CPU seconds for each of the former, first and last
steps left out, and the median of the ratios counts. With --device cuda it is the clock that counts,
once the GPU is through. With --ranks 2 two gloo processes on one machine train, and `fit` alone is
timed: what a second process costs. --keep writes results/loop_overhead.json, or
results/loop_overhead_cuda.json.

    python benchmarks/loop_overhead.py --keep
    python benchmarks/loop_overhead.py --device cuda --keep
"""

import argparse
import itertools
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from oct_xla import DeviceError, Feed, FeedConfig, LoopConfig, fit, pick_runtime
from torch import Tensor, nn
from writing import write_results

STEPS, LEAST, WINDOW_MS = 360, 60, 4000.0
"""Most and fewest steps of one run, and what its steps take together if their number lies between;
a sixth of them warms up."""


class Toy(nn.Module):
    """Five linear maps; the width sets what a step takes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        sizes = [64, width, width, width, width, 8]
        layers: list[nn.Module] = []
        for fan_in, fan_out in itertools.pairwise(sizes):
            layers += [nn.Linear(fan_in, fan_out), nn.GELU()]
        self.layers = nn.Sequential(*layers)

    def loss(self, batch: Tensor, generator: torch.Generator | None) -> dict[str, Tensor]:
        """Reconstruct eight numbers; two metrics beside the loss, as our objectives have."""
        guess = self.layers(batch)
        loss = (guess - batch[:, :8]).square().mean()
        return {"loss": loss, "a": guess.detach().mean(), "b": guess.detach().std()}


SAMPLES = torch.randn(512, 64, generator=torch.Generator().manual_seed(0))


def take(index: int, epoch: int) -> Tensor:
    """A sample out of memory: the feed is not what is measured."""
    del epoch
    return SAMPLES[index]


def make_feed() -> Feed:
    """Batches of 16."""
    return Feed(take, len(SAMPLES), FeedConfig(batch_size=16))


class Window:
    """Seconds of a clock between the end of the warm-up and the last step."""

    def __init__(self, clock: Callable[[], float], steps: int) -> None:
        self.clock, self.steps, self.warm_up = clock, steps, steps // 6
        self.start, self.end = 0.0, 0.0

    def __call__(self, step: int) -> float:
        """Note the time at the beginning of a step; returns the learning rate."""
        if step == self.warm_up:
            self.start = self.clock()
        if step == self.steps - 1:
            self.end = self.clock()
        return 1e-3

    @property
    def step_ms(self) -> float:
        """Milliseconds a step."""
        return 1e3 * (self.end - self.start) / (self.steps - 1 - self.warm_up)


def gpu_clock() -> float:
    """Seconds on the clock, once the GPU has done all that it was given."""
    torch.cuda.synchronize()
    return time.perf_counter()


CLOCKS: dict[str, Callable[[], float]] = {"cpu": time.process_time, "cuda": gpu_clock}
"""What counts on each device."""


def run_bare(width: int, steps: int, device: str = "cpu") -> float:
    """Milliseconds a step of the bare loop."""
    torch.manual_seed(0)
    toy, window = Toy(width).to(device), Window(CLOCKS[device], steps)
    optimizer = torch.optim.AdamW(toy.parameters(), lr=1e-3, weight_decay=0.04, fused=True)
    batches: Iterator[Any] = make_feed().batches()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = window(step)
        loss = toy.loss(next(batches).to(device), None)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(toy.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return window.step_ms


def run_fit(
    width: int,
    steps: int,
    device: str = "cpu",
    *,
    clock: Callable[[], float] | None = None,
    run_dir: Path | None = None,
) -> float:
    """Milliseconds a step of `fit`."""
    torch.manual_seed(0)
    runtime, window = pick_runtime(device), Window(clock or CLOCKS[device], steps)
    config = LoopConfig(steps=steps)
    fit(Toy(width), make_feed(), config, runtime=runtime, run_dir=run_dir, learning_rate=window)
    runtime.close()
    return window.step_ms


def run_in_folder(width: int, steps: int, device: str = "cpu") -> float:
    """Milliseconds a step of `fit` that keeps a run folder."""
    with tempfile.TemporaryDirectory() as name:
        return run_fit(width, steps, device, run_dir=Path(name) / "run")


def find_width(goal_ms: float, device: str) -> int:
    """The width at which the bare loop takes `goal_ms` a step here."""
    width = 64
    while run_bare(width, LEAST // 2, device) < goal_ms:
        width += max(32, width // 4 // 32 * 32)
    return width


WAYS = {"bare": run_bare, "fit": run_fit, "run_dir": run_in_folder}


def compare(goal_ms: float, count: int, device: str = "cpu") -> dict[str, Any]:
    """Ratios of `count` rounds of runs whose bare step takes some `goal_ms`."""
    width = find_width(goal_ms, device)
    steps = int(min(STEPS, max(LEAST, WINDOW_MS / goal_ms)))
    rounds = []
    for number in range(count):
        turn = number % len(WAYS)
        order = [*WAYS][turn:] + [*WAYS][:turn]
        rounds.append({way: WAYS[way](width, steps, device) for way in order})
    middle = {way: statistics.median(one[way] for one in rounds) for way in WAYS}
    found = {"goal_ms": goal_ms, "width": width, "steps": steps, "pairs": count}
    found |= {f"{way}_ms": round(value, 3) for way, value in middle.items()}
    return found | over_bare(rounds, "fit", "") | over_bare(rounds, "run_dir", "run_dir_")


def over_bare(rounds: list[dict[str, float]], way: str, prefix: str) -> dict[str, Any]:
    """Median and quartiles of the ratios of one way to the bare loop."""
    ratios = sorted(one[way] / one["bare"] for one in rounds)
    quartiles = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
    return {
        f"{prefix}ratio": round(statistics.median(ratios), 3),
        f"{prefix}ratio_quartiles": [round(one, 3) for one in quartiles],
    }


def time_ranks(count: int) -> list[float]:
    """Milliseconds a step of `fit` on the clock, on each of `count` processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    command = [sys.executable, *launcher, __file__, "--ranks", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [float(found) for found in re.findall(r"^ms (\S+)$", done.stdout, re.M)]


def main() -> None:
    """Measure and write down."""
    parser = argparse.ArgumentParser(description="What `fit` costs over a bare loop.")
    parser.add_argument("--device", choices=sorted(CLOCKS), default="cpu")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--goals", type=float, nargs="+", default=[1.9, 5.0, 50.0])
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="write down what was measured")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.ranks == 0:  # one of several processes
        print(f"ms {run_fit(8, STEPS, clock=time.perf_counter):.4f}", flush=True)
        return
    try:
        pick_runtime(options.device).close()
    except DeviceError as error:
        sys.exit(f"error: {error}")
    points, load = [], round(os.getloadavg()[0], 1)
    for goal_ms in options.goals:
        points.append(compare(goal_ms, options.pairs, options.device))
        print(points[-1], flush=True)
    on_gpu = options.device == "cuda"
    device = torch.cuda.get_device_name() if on_gpu else "cpu"
    unit = "ms a step" if on_gpu else "CPU ms a step"
    facts: dict[str, Any] = {"device": device, "unit": unit, "load_before": load}
    facts["points"] = points
    if options.ranks > 1:
        facts |= {"ranks": options.ranks, "ranks_step_ms": time_ranks(options.ranks)}
        print(facts["ranks_step_ms"])
    if options.keep:
        write_results(
            "loop_overhead_cuda" if on_gpu else "loop_overhead", ("torch", "oct-xla"), facts
        )


if __name__ == "__main__":
    main()
