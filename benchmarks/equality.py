"""How far do the losses of many devices lie from those of one, whole or cut, accumulated or not?

The toy of the tests (student, EMA teacher, AdamW, blocks of odd sizes) takes 20 steps of 16 samples
in float32 as one eager process, then as 2 and 4 gloo processes and on 1, 2, 4 and 8 virtual XLA
devices, with parameters whole (ddp) and cut (fsdp), with one and with two micro-batches. Told are
the largest difference of a loss, and of an element of anything that the last checkpoint holds:
parameters, EMA teacher and moments.

    python benchmarks/equality.py
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from oct_xla import Checkpoints
from writing import write_results

sys.path.insert(0, str(Path(__file__).parent.parent / "packages" / "oct-xla" / "tests"))

from programs import XLA, finish, losses, start, torchrun

OPTIONS = ("--blocks", "--steps", 20, "--every", 0, "--batch", 16)
PARALLEL, PARTS = ("ddp", "fsdp"), (1, 2)


def ways() -> Iterator[tuple[dict[str, Any], tuple[str, ...], dict[str, str]]]:
    """Facts of each way to train, how it is launched, and its environment."""
    for count, parallel, parts in product((2, 4), PARALLEL, PARTS):
        yield _facts("gloo processes", count, parallel, parts), torchrun(count), {}
    for count, parallel, parts in product((1, 2, 4, 8), PARALLEL, PARTS):
        environment = {**XLA, "CPU_NUM_DEVICES": str(count)}
        yield _facts("xla devices", count, parallel, parts), (), environment


def _facts(what: str, count: int, parallel: str, parts: int) -> dict[str, Any]:
    return {"what": what, "count": count, "parallel": parallel, "accumulate": parts}


def train(folder: Path, *options: object, launcher: tuple[str, ...] = (), **more: str) -> None:
    """Train the toy as a program of its own."""
    code, errors = finish(start(folder, *OPTIONS, *options, launcher=launcher, **more))
    if code:
        sys.exit(errors)


def compare(folder: Path, other: Path) -> dict[str, float]:
    """Largest differences between two runs, and how many losses were compared."""
    pairs = list(zip(losses(folder), losses(other), strict=True))
    one, two = (Checkpoints(where / "checkpoints").load(20).tensors for where in (folder, other))
    apart = [float((one[name].double() - two[name].double()).abs().max()) for name in one]
    return {
        "losses": len(pairs),
        "loss_difference": max(abs(mine - theirs) for (_, mine), (_, theirs) in pairs),
        "tensor_difference": max(apart),
    }


def main() -> None:
    """Measure, print and write down."""
    os.environ["OMP_NUM_THREADS"] = "1"
    rows = []
    with tempfile.TemporaryDirectory() as name:
        plain = Path(name) / "plain"
        train(plain)
        first, last = losses(plain)[0][1], losses(plain)[-1][1]
        for number, (facts, launcher, environment) in enumerate(ways()):
            folder = Path(name) / str(number)
            options = ["--parallel", facts["parallel"], "--accumulate", facts["accumulate"]]
            if environment:
                options += ["--runtime", "xla"]
            train(folder, *options, launcher=launcher, **environment)
            rows.append({**facts, **compare(plain, folder)})
            print(rows[-1], flush=True)
    facts = {"steps": 20, "first_loss": first, "last_loss": last, "ways": rows}
    write_results("equality", ("torch", "torch-xla", "oct-xla"), facts)


if __name__ == "__main__":
    main()
