"""What do 64 hosts cost one another? As 1, 4, 16, 64 processes that join by gloo on one machine.

The processes are forked from one that has imported torch, so that they share its memory, and share
the cores of the machine: times are those of so many processes on so few cores, an upper bound for
what waits for the network on hosts of their own. Each is told as the clock of the first process
and as CPU seconds of all. A median where a thing is done several times:

- joining the group; agreeing on a number; sharing a text of 1 kB;
- the first keys of each process's feed of 10^6 samples in the middle of a later epoch, undivided
  and in 64 subsets, and whether all are different;
- two steps of a small model with an EMA teacher;
- a save by the Checkpointer that is waited for, whole by the first process (`ddp`) or a part by
  each (`fsdp`); then taking it up, on each process.

    python benchmarks/many_processes.py
"""

import gc
import itertools
import json
import os
import shutil
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # which an optimiser imports, in seconds
import torch.distributed.fsdp
from oct_xla import Checkpoints, Feed, FeedConfig, LoopConfig, Runtime, pick_runtime
from oct_xla.checkpointer import Checkpointer, RunState
from oct_xla.devices.placing import Placed
from oct_xla.steps.learner import Learner
from oct_xla.steps.preemption import StopRequest
from oct_xla.telling.metrics import StepClock
from torch import Tensor, nn
from writing import write_results

COUNTS, WAYS = (1, 4, 16, 64), ("ddp", "fsdp")
WIDTH, DEPTH = 192, 12
SAMPLES, BATCH, SUBSETS = 10**6, 2048, 64
ENOUGH_S = 900  # for all that a process does
SAVES = 3


class Stack(nn.Module):
    """Some blocks, and a teacher of them."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.teacher = self._blocks(), self._blocks().requires_grad_(False)

    def _blocks(self) -> nn.ModuleList:
        wide = 2 * WIDTH
        return nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, wide), nn.GELU(), nn.Linear(wide, WIDTH))
            for _ in range(DEPTH)
        )

    def loss(self, batch: Tensor, generator: torch.Generator | None) -> dict[str, Tensor]:
        """Distance to the teacher."""
        del generator
        guess = goal = batch
        for mine, other in zip(self.blocks, self.teacher, strict=True):
            guess, goal = guess + mine(guess), goal + other(goal)
        return {"loss": (guess - goal.detach()).square().mean()}

    def after_step(self, step: int, steps: int, applied: Tensor | None = None) -> dict[str, float]:
        """Move the teacher."""
        del step, steps, applied
        with torch.no_grad():
            pairs = zip(self.teacher.parameters(), self.blocks.parameters(), strict=True)
            for own, new in pairs:
                own.lerp_(new, 0.05)
        return {}


def nothing(index: int, epoch: int) -> int:
    """Stand for a sample."""
    del epoch
    return index


class Clock:
    """Times what all processes do together."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    def time(self, work: Callable[[], Any], rounds: int = 1) -> dict[str, float]:
        """Median seconds on this process of `work` and all others having done it; CPU of all."""
        walls, cpus = [], []
        for _ in range(rounds):
            self.runtime.agree(0)
            start, used = time.perf_counter(), time.process_time()
            work()
            walls.append(time.perf_counter() - start)
            cpus.append(time.process_time() - used)
        every = self.runtime.share(json.dumps(statistics.median(cpus)))
        cpu_s = sum(json.loads(one) for one in every)
        return {"clock_s": round(statistics.median(walls), 5), "cpu_s": round(cpu_s, 5)}


def private_mb() -> float:
    """Memory that this process shares with none."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith("Private_")]
    return sum(kilobytes) / 1e3


def time_keys(clock: Clock, subsets: int) -> dict[str, Any]:
    """First keys in the middle of the third epoch."""
    runtime = clock.runtime
    feed = Feed(nothing, SAMPLES, FeedConfig(batch_size=BATCH, subsets=subsets))
    step, keys = 2 * feed.steps_per_epoch + feed.steps_per_epoch // 2, list[tuple[int, int]]()

    def draw() -> None:
        keys[:] = next(feed.keys(step, rank=runtime.rank, world=runtime.world))

    row: dict[str, Any] = clock.time(draw, 3)
    texts = runtime.share(json.dumps([index for index, _ in keys]))
    drawn = [index for text in texts for index in json.loads(text)]
    return row | {"all_different": len(set(drawn)) == len(drawn) == BATCH}


def measure(parallel: str, folder: Path, forked: float) -> dict[str, Any]:
    """Be one process."""
    runtime = pick_runtime("cpu", parallel=parallel)
    clock = Clock(runtime)
    runtime.agree(0)
    rows: dict[str, Any] = {"join": {"clock_s": round(time.perf_counter() - forked, 3)}}
    rows["agree"] = clock.time(lambda: runtime.agree(runtime.rank), 30)
    rows["share"] = clock.time(lambda: runtime.share("x" * 1000), 10)
    rows["keys"] = time_keys(clock, 1)
    rows["keys_in_subsets"] = time_keys(clock, SUBSETS)
    torch.manual_seed(0)
    learner = Learner(Stack(), runtime, LoopConfig(steps=2), seed=0)
    feed = Placed(itertools.repeat(torch.ones(1, WIDTH)), runtime, count=4)
    stop, told = StopRequest(), StepClock()
    learner.take(0, 1e-3, feed, told, stop)
    rows["step"] = clock.time(lambda: learner.take(1, 1e-3, feed, told, stop))
    store = Checkpoints(folder)
    saving = Checkpointer(store, runtime, {}, {})
    saving.find()
    steps = itertools.count(1)
    rows["save"] = clock.time(lambda: saving.save(RunState(step=next(steps)), learner), SAVES)
    saving.close()

    def take_up() -> None:
        again = Checkpointer(Checkpoints(folder), runtime, {}, {})
        assert again.restore(again.find(), learner).step == SAVES

    rows["take_up"] = clock.time(take_up)
    place = store.path(SAVES)
    rows["checkpoint"] = {
        "gb": round(sum(one.stat().st_size for one in place.iterdir()) / 1e9, 3),
        "files": len(list(place.iterdir())),
        "state_kb": round((place / "state.json").stat().st_size / 1e3, 1),
    }
    every = runtime.share(json.dumps(private_mb()))
    rows["private_mb_of_a_process"] = round(max(json.loads(one) for one in every), 1)
    runtime.agree(0)
    runtime.close()
    return rows


def child(rank: int, parallel: str, folder: Path, forked: float) -> int:
    """Measure in a process that was forked; the first one writes down what it found."""
    os.environ["RANK"] = os.environ["LOCAL_RANK"] = str(rank)
    signal.alarm(ENOUGH_S)
    rows = measure(parallel, folder / "checkpoints", forked)
    if rank == 0:
        (folder / "rows.json").write_text(json.dumps(rows))
    return 0


def together(count: int, parallel: str) -> dict[str, Any]:
    """Have `count` processes measure."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = str(taken.getsockname()[1])
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(count)}
    folder, forked, children = Path(tempfile.mkdtemp()), time.perf_counter(), []
    for rank in range(count):
        pid = os.fork()
        if not pid:
            code = 1
            try:
                code = child(rank, parallel, folder, forked)
            finally:
                sys.stderr.flush()
                os._exit(code)
        children.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    if any(codes):
        raise RuntimeError(f"{count} processes ended with {codes}")
    rows: dict[str, Any] = json.loads((folder / "rows.json").read_text())
    shutil.rmtree(folder)
    return {"processes": count, "parallel": parallel, **rows}


def main() -> None:
    """Measure, print and write down."""
    torch.set_num_threads(1)
    gc.freeze()  # what is collected is written to, and then shared no more
    found, load = [], round(os.getloadavg()[0], 1)
    for count, parallel in itertools.product(COUNTS, WAYS):
        if count == 1 and parallel == "fsdp":
            continue  # one process cuts nothing
        found.append(together(count, parallel))
        print(json.dumps(found[-1], indent=1), flush=True)
    facts = {"cores": os.cpu_count(), "load_before": load, "rows": found}
    write_results("many_processes", ("torch", "oct-xla"), facts)


if __name__ == "__main__":
    main()
