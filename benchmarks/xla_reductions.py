"""What do XLA devices send one another in an optimiser step, and does accumulating spare it?

A small V-JEPA 2 trains 20 steps of 16 volumes on four virtual devices of a CPU, cut into 1, 2 and 4
micro-batches: with passes that are programs of the global batch, and with passes of one device each
(`separable`); each way in a process of its own, as torch-xla keeps graphs. Told are the bytes that
collectives make on each device in a step, from the graphs as XLA has compiled them; the largest
buffers that a pass needs; the processor's seconds; and how far the 20 losses lie from those of an
eager run on the CPU.

    python benchmarks/xla_reductions.py
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from writing import write_results

sys.path.insert(0, str(Path(__file__).parent.parent / "packages" / "oct-xla" / "tests"))

from collectives import collectives
from programs import QUIET, XLA

WAYS = ((True, 1), (True, 2), (False, 2), (True, 4))  # separable, micro-batches
STEPS, BATCH = 20, 16


def make_objective(*, separable: bool) -> Any:
    """A V-JEPA 2 with two blocks and a predictor of one, always with the same weights."""
    import torch
    from oct_vjepa import Encoder, EncoderConfig, Jepa, JepaConfig, PredictorConfig

    class Chosen(Jepa):
        """Whose passes are programs of one device where we say so."""

        separable = False

    Chosen.separable = separable
    torch.manual_seed(0)
    shape = EncoderConfig(
        input_shape=(4, 32, 64), patch_size=(2, 8, 16), width=48, depth=2, heads=4
    )
    predictor = PredictorConfig(width=24, depth=1, heads=2)
    return Chosen(Encoder(shape), JepaConfig(predictor=predictor))


def train(runtime: Any, *, separable: bool, accumulate: int) -> tuple[list[float], Any]:
    """Losses of a run, and the objective."""
    import torch
    from oct_vjepa import JepaBatch, sample_masks
    from oct_xla import Feed, FeedConfig, LoopConfig, fit

    objective = make_objective(separable=separable)
    shape = objective.encoder.config

    def sample(index: int, epoch: int) -> JepaBatch:
        draws = torch.Generator().manual_seed(1000 * epoch + index)
        (one,) = torch.randint(0, 256, (1, 1, *shape.input_shape), generator=draws)
        masks = sample_masks(objective.masking, shape.grid, 1, generator=draws)
        return JepaBatch(one.to(torch.uint8), tuple(type(m)(*(i[0] for i in m)) for m in masks))

    class Losses(list[float]):
        def write(self, row: Mapping[str, float]) -> None:
            self.append(row["loss"])

        def close(self) -> None:
            """Nothing is open."""

    losses = Losses()
    feed = Feed(sample, 4 * BATCH, FeedConfig(batch_size=BATCH))
    loop = LoopConfig(steps=STEPS, accumulate=accumulate, log_every=1, hang_after_s=0)
    fit(objective, feed, loop, runtime=runtime, sinks=[losses])
    return losses, objective


class Watched:
    """Notes which graph each pass of the first step, and its optimiser, were compiled to."""

    def __init__(self, runtime: Any, dumped: Path) -> None:
        self.graphs: list[int] = []
        self._dumped, self._passing, self._cut = dumped, runtime.passing, runtime.cut
        self._steps = 0
        runtime.passing, runtime.cut = self.passing, self.cut

    def passing(self, *given: Any, number: int, count: int) -> AbstractContextManager[Any]:
        """In place of the runtime's own."""
        self._steps += number == 0
        found: AbstractContextManager[Any] = self._passing(*given, number=number, count=count)
        return found

    def cut(self) -> None:
        """In place of the runtime's own; a pass that compiles nothing is the one before again."""
        self._cut()
        if self._steps == 1:
            self.graphs.append(len(list(self._dumped.glob("*after_optimizations.txt"))) - 1)


def buffers(dumped: Path, graph: int) -> int:
    """Bytes that a device holds for a graph while it runs."""
    texts = sorted(dumped.glob("*after_optimizations-buffer-assignment.txt"))
    found = re.search(r"Total bytes used: (\d+)", texts[graph].read_text())
    return int(found[1]) if found else 0


def measure(dumped: Path, *, separable: bool, accumulate: int) -> dict[str, Any]:
    """Facts of one way, and its losses."""
    from oct_xla import pick_runtime

    runtime = pick_runtime("xla")
    watched, started = Watched(runtime, dumped), time.process_time()
    losses, objective = train(runtime, separable=separable, accumulate=accumulate)
    sent = [collectives(dumped)[graph] for graph in watched.graphs]
    trained = [one for one in objective.parameters() if one.requires_grad]
    return {
        "separable": separable,
        "accumulate": accumulate,
        "gradient_bytes": sum(4 * one.numel() for one in trained),
        "bytes_a_step": sum(sum(names.values()) for names in sent),
        "collectives": sorted({name for names in sent for name in names}),
        "largest_pass_bytes": max(buffers(dumped, graph) for graph in watched.graphs[:-1]),
        "graphs": runtime.compilations(),
        "cpu_s": round(time.process_time() - started, 1),
        "losses": losses,
    }


def ask(number: int) -> dict[str, Any]:
    """The same from a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        flags = f"{XLA['XLA_FLAGS']} --xla_dump_to={name}"
        done = subprocess.run(
            [sys.executable, __file__, str(number), name],
            env={**os.environ, **QUIET, **XLA, "XLA_FLAGS": flags},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Measure, print and write down."""
    if len(sys.argv) > 1:
        separable, accumulate = WAYS[int(sys.argv[1])]
        print(json.dumps(measure(Path(sys.argv[2]), separable=separable, accumulate=accumulate)))
        return
    from oct_xla import pick_runtime

    wanted, _ = train(pick_runtime("cpu"), separable=True, accumulate=1)
    rows: list[dict[str, Any]] = []
    for number in range(len(WAYS)):
        row = ask(number)
        losses = row.pop("losses")
        apart = [abs(one - other) for one, other in zip(losses, wanted, strict=True)]
        rows.append({**row, "loss_difference": max(apart)})
        print(rows[-1], flush=True)
        facts = {"devices": 4, "batch": BATCH, "steps": STEPS, "ways": rows}
        write_results("xla_reductions", ("torch", "torch-xla", "oct-xla", "oct-vjepa"), facts)


if __name__ == "__main__":
    main()
