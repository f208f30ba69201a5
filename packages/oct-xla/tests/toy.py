"""A small objective with a student, a teacher moved by EMA, and a run of it as a program."""

import argparse
import copy
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from oct_xla import (
    Checkpoints,
    Feed,
    FeedConfig,
    LoopConfig,
    OctXlaError,
    Runtime,
    fit,
    pick_runtime,
    sample_seed,
)
from oct_xla.checkpointer import Checkpointer, RunState
from oct_xla.errors import OutOfMemoryError
from oct_xla.folder import lease
from oct_xla.steps.learner import Learner
from safetensors.torch import save_file
from torch import Tensor, nn


def number(index: int, epoch: int) -> dict[str, object]:
    """A sample that says who it is; here, because workers import this module by name."""
    return {"index": index, "draw": torch.tensor(sample_seed(0, epoch, index) % 1000)}


def worker_pid(index: int, epoch: int) -> torch.Tensor:
    """Who made the sample."""
    del index, epoch
    return torch.tensor(os.getpid())


def endless(index: int, epoch: int) -> dict[str, object]:
    """The same, but sample 30 never comes: its store does not answer."""
    while index == 30:
        time.sleep(1)
    return number(index, epoch)


def deadly(index: int, epoch: int) -> dict[str, object]:
    """The same, until the kernel takes the worker away for its memory."""
    if index == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return number(index, epoch)


def broken(index: int, epoch: int) -> dict[str, object]:
    """The same, until a disk fails."""
    if index == 7 and epoch > 3:
        raise OSError("the disk\nis gone")
    return number(index, epoch)


class Batch(NamedTuple):
    volume: Tensor
    masks: tuple[Tensor, ...]


class Toy(nn.Module):
    """Predicts the teacher's view of the whole from a part."""

    def __init__(self, width: int = 16, dropout: float = 0.0) -> None:
        super().__init__()
        weights = torch.Generator().manual_seed(5)
        self.student = nn.Sequential(
            nn.Linear(12, width), nn.Tanh(), nn.Dropout(dropout), nn.Linear(width, 4)
        )
        self.teacher = nn.Linear(12, 4).requires_grad_(False)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=weights) * 0.3)
        self.slow = nn.Linear(4, 4)
        with torch.no_grad():
            self.slow.weight.copy_(torch.eye(4))
            self.slow.bias.zero_()
        self.slow_teacher = nn.Linear(4, 4).requires_grad_(False)
        self.slow_teacher.load_state_dict(self.slow.state_dict())

    def loss(self, batch: Batch, generator: torch.Generator | None) -> dict[str, Tensor]:
        x = batch.volume.float() / 255
        keep = batch.masks[0]
        seen = torch.zeros_like(x).scatter(1, keep, x.gather(1, keep))
        goal = self.slow_teacher(self.teacher(x)).detach()
        guess = self.slow(self.student(seen))
        loss = (guess - goal).pow(2).mean()
        return {"loss": loss, "target_std": goal.std(dim=0).mean().detach()}

    def after_step(self, step: int, steps: int, applied: Tensor | None = None) -> dict[str, float]:
        momentum = 0.9 + 0.09 * step / steps
        with torch.no_grad():
            for old, new in zip(
                self.slow_teacher.parameters(), self.slow.parameters(), strict=True
            ):
                moved = old * momentum + new * (1 - momentum)
                old.copy_(moved if applied is None else torch.where(applied, moved, old))
        return {"momentum": momentum}


def draw(index: int, epoch: int) -> Batch:
    """One sample: 12 voxels and a mask that depends on the epoch."""
    voxels = torch.Generator().manual_seed(sample_seed(1, 0, index))
    masks = torch.Generator().manual_seed(sample_seed(2, epoch, index))
    volume = torch.randint(0, 256, (12,), generator=voxels, dtype=torch.uint8)
    return Batch(volume, (torch.randperm(12, generator=masks)[:7],))


def draw_slowly(index: int, epoch: int) -> Batch:
    """The same sample, from a tired disk."""
    time.sleep(0.025)
    return draw(index, epoch)


class Stuck:
    """Draws the same samples, until one never comes; makes a file then."""

    def __init__(self, file: Path) -> None:
        self.file, self.drawn = file, 0

    def __call__(self, index: int, epoch: int) -> Batch:
        self.drawn += 1
        while self.drawn > 40:
            self.file.touch()
            time.sleep(1)
        return draw(index, epoch)


def warm_up(step: int) -> float:
    return 5e-3 * min(1.0, (step + 1) / 5)


def make_feed(batch_size: int = 8, length: int = 40, workers: int = 0, subsets: int = 1) -> Feed:
    config = FeedConfig(batch_size=batch_size, workers=workers, subsets=subsets)
    return Feed(draw, length, config)


class Blocks(nn.Module):
    """Student and EMA teacher with blocks that can be gathered one at a time; odd sizes."""

    separable = True

    def __init__(self, width: int = 10, depth: int = 3) -> None:
        super().__init__()
        draws = torch.Generator().manual_seed(7)
        self.first, self.last = nn.Linear(12, width), nn.Linear(width, 4)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Linear(width, 2 * width + 1), nn.GELU(), nn.Linear(2 * width + 1, width)
            )
            for _ in range(depth)
        )
        self.scale = nn.Parameter(torch.ones(()))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=draws) * 0.2 + 0.02)
        self.teacher = copy.deepcopy(self.blocks).requires_grad_(False)
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def through(self, blocks: nn.ModuleList, x: Tensor) -> Tensor:
        for block in blocks:
            x = x + block(x)
        return x

    def loss(self, batch: Batch, generator: torch.Generator | None) -> dict[str, Tensor]:
        x, keep = batch.volume.float() / 255, batch.masks[0]
        part = torch.zeros_like(x).scatter(1, keep, x.gather(1, keep))
        with torch.no_grad():
            goal = self.through(self.teacher, self.first(x))
        guess = self.scale * self.through(self.blocks, self.first(part))
        loss = (guess - goal).pow(2).mean() + (self.last(guess) - x[:, :4]).pow(2).mean()
        return {"loss": loss, "goal": goal.mean().detach()}

    def after_step(self, step: int, steps: int, applied: Tensor | None = None) -> dict[str, float]:
        mine, theirs = list(self.teacher.parameters()), list(self.blocks.parameters())
        with torch.no_grad():
            if applied is not None:
                for own, new in zip(mine, theirs, strict=True):
                    own.lerp_(new, 0.05 * applied)
                self.seen += applied
                return {"momentum": 0.95}
            torch._foreach_mul_(mine, 0.95)
            torch._foreach_add_(mine, [p.detach() for p in theirs], alpha=0.05)
            self.seen += 1
        return {"momentum": 0.95}


class KeysByRank(Toy):
    """Has a metric on every second process only, and on every third step."""

    def loss(self, batch: Batch, generator: torch.Generator | None) -> dict[str, Tensor]:
        parts = super().loss(batch, generator)
        self.calls = getattr(self, "calls", 0) + 1
        if int(os.environ.get("RANK", "0")) % 2 and self.calls % 3 == 0:
            parts["sometimes"] = torch.tensor(7.0)
        return parts


class Hungry(Blocks):
    """Keeps some 30 MB for the backward pass of each sample, on XLA too: products are not fused."""

    def __init__(self, rows: int = 8192) -> None:
        super().__init__()
        self.register_buffer("ramp", torch.linspace(-1, 1, rows)[:, None], persistent=False)
        draws = torch.Generator().manual_seed(9)
        self.wide = nn.Parameter(torch.randn(12, 256, generator=draws) * 0.1)

    def loss(self, batch: Batch, generator: torch.Generator | None) -> dict[str, Tensor]:
        parts = super().loss(batch, generator)
        x = batch.volume.float() / 255
        kept = torch.tanh((x[:, None] * self.ramp) @ self.wide)
        parts["loss"] = parts["loss"] + torch.tanh(kept @ self.wide.T).square().mean()
        return parts


LIMITS = {"DATA": (resource.RLIMIT_DATA, "VmData"), "AS": (resource.RLIMIT_AS, "VmSize")}


def limit_memory(kind: str, more_mb: int) -> None:
    """Let this process take so much more memory than it has now, and nothing beyond.

    Of its GPU if `kind` is that, else of the host.
    """
    if kind == "GPU":
        torch.cuda.empty_cache()
        least = torch.cuda.memory_allocated() + more_mb * 1_000_000
        total = torch.cuda.get_device_properties("cuda").total_memory
        torch.cuda.set_per_process_memory_fraction(least / total)
        return
    limit, name = LIMITS[kind]
    lines = Path("/proc/self/status").read_text().splitlines()
    now = next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))
    resource.setrlimit(limit, (now + more_mb * 1_000_000,) * 2)


def score(toy: Any, step: int) -> dict[str, float]:
    """A number that goes up and down as training goes on, and draws nothing."""
    with torch.no_grad():
        if isinstance(toy, Blocks):
            return {"score": float(toy.through(toy.blocks, torch.ones(1, 10)).sum())}
        given = torch.ones(12, device=next(toy.parameters()).device)
        return {"score": float(toy.student(given).sum()) * (-1) ** (step // 3)}


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("run_dir", type=lambda text: text if "://" in text else Path(text))
    for name, default in (
        *(("steps", 12), ("accumulate", 1), ("every", 4), ("width", 16), ("batch", 8)),
        ("subsets", 1),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--runtime", default="cpu")
    parser.add_argument("--parallel", default="ddp")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--blocks", action="store_true", help="train Blocks instead of Toy")
    parser.add_argument("--given", type=Path, help="where the first process saves what fit leaves")
    parser.add_argument("--threads", type=Path, help="where each says how many threads are left")
    parser.add_argument("--term-at", type=int, default=-1)
    parser.add_argument("--signal", default="SIGTERM")
    parser.add_argument("--evaluate-every", type=int, default=0)
    parser.add_argument("--evaluate-for", type=float, default=0.0)
    parser.add_argument("--codes", type=Path, help="each process writes its exit code there")
    parser.add_argument("--blocking", action="store_true", help="wait for each save")
    parser.add_argument("--beat", type=float, default=0.0, help="seconds, of a run in a bucket")
    parser.add_argument("--hang-after", type=float, default=0.0)
    parser.add_argument("--slow-rank", type=int, default=-1, help="takes 0.1 s for each batch")
    parser.add_argument("--stuck-rank", type=int, default=-1, help="its 41st sample never comes")
    parser.add_argument("--stuck-file", type=Path, help="which it makes then")
    parser.add_argument("--wrong", default="", choices=("", "length", "keys"))
    parser.add_argument("--hungry", action="store_true", help="train Hungry instead of Toy")
    parser.add_argument("--limit", default="DATA", choices=sorted([*LIMITS, "GPU"]))
    parser.add_argument("--limit-mb", type=int, default=0, help="more than there is at the step")
    parser.add_argument("--limit-at", type=int, default=0, help="step of this start, from 0")
    parser.add_argument("--limit-rank", type=int, default=-1, help="the one process it is for")
    parser.add_argument("--moved", type=Path, help="save what lies below run_dir there, as it is")
    return parser.parse_args(arguments)


def move(options: argparse.Namespace, runtime: Runtime) -> None:
    """Take up the newest checkpoint of each run below run_dir, and save it again as it is."""
    for run_dir in sorted(options.run_dir.iterdir()):
        store = Checkpoints(run_dir / "checkpoints")
        step = store.newest()
        assert step is not None
        learner = Learner(Blocks(), runtime, LoopConfig(), seed=3)
        learner.restore(store.load(step).tensors, str(run_dir))
        again = Checkpointer(Checkpoints(options.moved / run_dir.name), runtime, {}, {})
        again.save(RunState(step=step), learner)
        again.close()


def train(options: argparse.Namespace) -> int:
    """Train as the options say; returns the exit code, as our apps choose it."""
    toy: Any = Hungry() if options.hungry else Blocks() if options.blocks else None
    toy = toy or (KeysByRank if options.wrong == "keys" else Toy)(options.width, options.dropout)

    def rate(step: int) -> float:
        time.sleep(options.pause)
        if step == options.term_at:
            os.kill(os.getpid(), getattr(signal, options.signal))
        here = options.limit_rank in (-1, runtime.rank)
        if options.limit_mb and here and options.limit_at == 0:
            limit_memory(options.limit, options.limit_mb)
        options.limit_at -= 1
        return warm_up(step)

    def evaluate(step: int) -> Iterator[dict[str, float] | None]:
        items = max(10, round(options.evaluate_for))
        for _ in range(items):
            time.sleep(options.evaluate_for / items)
            yield None
        yield score(toy, step)

    if options.beat:  # nobody waits a minute in a test
        lease.BEAT_S, lease.SILENT_S = options.beat, 4 * options.beat
    try:
        runtime = pick_runtime(options.runtime, options.precision, options.parallel)
        if options.moved:
            move(options, runtime)
            runtime.close()
            return 0
        config = LoopConfig(
            steps=options.steps,
            accumulate=options.accumulate,
            log_every=1,
            checkpoint_every=options.every,
            save_in_background=not options.blocking,
            evaluate_every=options.evaluate_every,
            hang_after_s=options.hang_after,
            best_metric="score" if options.evaluate_every else "",
        )
        length = 40 + 8 * runtime.rank if options.wrong == "length" else 40
        feed = make_feed(options.batch, length, subsets=options.subsets)
        if runtime.rank == options.slow_rank:
            feed.sample = draw_slowly
        if runtime.rank == options.stuck_rank:
            feed.sample = Stuck(options.stuck_file)
        result = fit(
            toy,
            feed,
            config,
            runtime=runtime,
            run_dir=options.run_dir,
            learning_rate=rate,
            seed=3,
            evaluate=evaluate if options.evaluate_every else None,
        )
        runtime.close()
        if options.threads:
            left = len(os.listdir("/proc/self/task"))
            (options.threads / f"threads-{os.environ['RANK']}").write_text(str(left))
        if options.given and runtime.rank == 0:
            save_file({k: v.contiguous() for k, v in toy.state_dict().items()}, options.given)
    except OutOfMemoryError as error:
        sys.stderr.write(f"{'again' if error.again else 'error'}: {error}\n")
        return 75 if error.again else 2
    except OctXlaError as error:
        sys.stderr.write(f"error: {error}\n")  # at once, or lines of several processes mix
        return 2
    return 143 if result.reason == "stopped" else 0


if __name__ == "__main__":
    given = options_of()
    code = train(given)
    if given.codes:  # torchrun tells nobody
        (given.codes / os.environ.get("RANK", "0")).write_text(str(code))
    sys.exit(code)
