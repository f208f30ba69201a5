"""What `oct_xla.fit` costs over a bare loop, with and without a run folder.

A toy whose step takes some 2, 5 and 50 ms on one thread (--goals), trained by `fit` and by the
fewest lines that do the same arithmetic (loss, backward, clipping, AdamW) on the same feed, in one
process and in turns: a step of `fit`, a step of the bare loop. So what else the machine does, its
clock and its caches meet both alike; runs one after the other differed by 5 % for the same code. A
pair of steps gives a ratio of CPU seconds, the first sixth left out, and the median of all pairs of
a run counts; of the runs, their median, lowest and highest. Four arms: `fit`, `fit` with a
`run_dir` (a row each ten steps, a lease, a watcher; saves fall outside of what is timed), `fit` by
the clock of the wall, and a second bare loop, which says what the measure itself is worth.

With --device cuda turns have ten steps and it is the clock that counts, once the GPU is through.
With --ranks 2 two gloo processes on one machine train, and `fit` alone is timed: what a second
process costs. --keep writes results/loop_overhead.json, or results/loop_overhead_cuda.json.

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
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from oct_xla import DeviceError, Feed, FeedConfig, LoopConfig, fit, pick_runtime
from torch import Tensor, nn
from writing import write_results

STEPS, LEAST, WINDOW_MS = 360, 60, 6000.0
"""Most and fewest steps of one run, and what its steps take together if their number lies between;
a sixth of them warms up."""

TURNS = {"cpu": 1, "cuda": 10}
"""Steps of a turn: a GPU is waited for after each, and would have nothing queued by single ones."""


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


class Bare:
    """The fewest lines that do the arithmetic of a step."""

    def __init__(self, width: int, device: str) -> None:
        torch.manual_seed(0)
        self.toy, self.device = Toy(width).to(device), device
        self.optimizer = torch.optim.AdamW(
            self.toy.parameters(), lr=1e-3, weight_decay=0.04, fused=True
        )
        self.batches: Iterator[Any] = make_feed().batches()

    def step(self) -> None:
        """One update."""
        for group in self.optimizer.param_groups:
            group["lr"] = 1e-3
        loss = self.toy.loss(next(self.batches).to(self.device), None)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.toy.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def gpu_clock() -> float:
    """Seconds on the clock, once the GPU has done all that it was given."""
    torch.cuda.synchronize()
    return time.perf_counter()


CLOCKS: dict[str, Callable[[], float]] = {"cpu": time.process_time, "cuda": gpu_clock}
"""What counts on each device."""


class Turns:
    """The learning rate of a loop, asked for once a step; a bare loop has a turn before each."""

    def __init__(self, bare: Bare, clock: Callable[[], float]) -> None:
        self.bare, self.clock, self.size = bare, clock, TURNS[bare.device]
        self.looped: list[float] = []
        self.bared: list[float] = []
        self.since: float | None = None

    def __call__(self, step: int) -> float:
        """Note what the turn of the loop took, take one of the bare loop; the learning rate."""
        if step % self.size == 0:
            began = self.clock()
            if self.since is not None:
                self.looped.append(began - self.since)
            for _ in range(self.size):
                self.bare.step()
            self.since = self.clock()
            self.bared.append(self.since - began)
        return 1e-3

    def found(self) -> dict[str, float]:
        """Milliseconds a step of both, and the median of the ratios, the warm-up left out."""
        pairs = list(zip(self.looped, self.bared, strict=False))[len(self.looped) // 6 :]
        looped, bared = (statistics.median(one) for one in zip(*pairs, strict=True))
        ratio = statistics.median(loop / bare for loop, bare in pairs)
        each = 1e3 / self.size
        return {"loop_ms": each * looped, "bare_ms": each * bared, "ratio": ratio}


def run_fit(
    width: int,
    steps: int,
    device: str = "cpu",
    *,
    clock: Callable[[], float] | None = None,
    in_folder: bool = False,
) -> dict[str, float]:
    """`fit` in turns with a bare loop."""
    turns = Turns(Bare(width, device), clock or CLOCKS[device])
    torch.manual_seed(0)
    runtime, config = pick_runtime(device), LoopConfig(steps=steps)
    folder: AbstractContextManager[str | None]
    folder = tempfile.TemporaryDirectory() if in_folder else nullcontext()
    with folder as name:
        run_dir = None if name is None else Path(name) / "run"
        fit(Toy(width), make_feed(), config, runtime=runtime, run_dir=run_dir, learning_rate=turns)
    runtime.close()
    return turns.found()


def run_on_clock(width: int, steps: int, device: str = "cpu") -> dict[str, float]:
    """`fit` by the clock of the wall."""
    return run_fit(width, steps, device, clock=time.perf_counter)


def run_in_folder(width: int, steps: int, device: str = "cpu") -> dict[str, float]:
    """`fit` that keeps a run folder."""
    return run_fit(width, steps, device, in_folder=True)


def run_bare(width: int, steps: int, device: str = "cpu") -> dict[str, float]:
    """A bare loop in turns with another."""
    turns, loop = Turns(Bare(width, device), CLOCKS[device]), Bare(width, device)
    for step in range(steps):
        turns(step)
        loop.step()
    return turns.found()


ARMS = {"fit": run_fit, "run_dir": run_in_folder, "wall": run_on_clock, "bare": run_bare}
"""By name; on a GPU the clock of the wall counts in all of them."""


def find_width(goal_ms: float, device: str) -> int:
    """The width at which the bare loop takes `goal_ms` a step here."""
    width = 64
    while run_bare(width, LEAST // 2, device)["bare_ms"] < goal_ms:
        width += max(32, width // 4 // 32 * 32)
    return width


def compare(goal_ms: float, count: int, device: str = "cpu") -> dict[str, Any]:
    """`count` runs of each arm, in turns, whose bare step takes some `goal_ms`."""
    width = find_width(goal_ms, device)
    steps = TURNS[device] * int(min(STEPS, max(LEAST, WINDOW_MS / goal_ms)))
    arms = {name: arm for name, arm in ARMS.items() if device == "cpu" or name != "wall"}
    runs = [{name: arm(width, steps, device) for name, arm in arms.items()} for _ in range(count)]
    bare_ms = statistics.median(one["fit"]["bare_ms"] for one in runs)
    found: dict[str, Any] = {"goal_ms": goal_ms, "width": width, "steps": steps, "runs": count}
    found["bare_ms"] = round(bare_ms, 3)
    for name in arms:
        ratios = [one[name]["ratio"] for one in runs]
        found[name] = [round(of(ratios), 4) for of in (statistics.median, min, max)]
    return found


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
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--goals", type=float, nargs="+", default=[1.9, 5.0, 50.0])
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="write down what was measured")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.ranks == 0:  # one of several processes
        print(f"ms {run_on_clock(8, STEPS)['loop_ms']:.4f}", flush=True)
        return
    try:
        pick_runtime(options.device).close()
    except DeviceError as error:
        sys.exit(f"error: {error}")
    points, load = [], round(os.getloadavg()[0], 1)
    for goal_ms in options.goals:
        points.append(compare(goal_ms, options.runs, options.device))
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
