"""What does a process hold of a ViT-S and its teacher, with parameters whole and cut?

1, 2 and 4 gloo processes on one machine take two steps of one small volume each with `ddp` and with
`fsdp`. Told of the process that holds most: bytes of parameters, buffers and the EMA teacher, of
the moments of AdamW, and the peak of its resident memory, over what it had once all was imported.
With `fsdp` a process holds a whole copy of the objective in host memory besides, for evaluations;
on a CPU it is in the peak, on a GPU it lies on the device during an evaluation alone.

    python benchmarks/shard_memory.py
"""

import itertools
import json
import os
import subprocess
import sys
from typing import Any

import torch
from oct_vjepa import JepaBatch
from oct_xla import LoopConfig, pick_runtime
from oct_xla.devices.placing import Placed
from oct_xla.devices.sharding import local
from oct_xla.steps.learner import Learner
from oct_xla.steps.preemption import StopRequest
from oct_xla.telling.metrics import StepClock, peak_memory_gb
from step_arms import Shape, make_objective
from torch import Tensor
from writing import write_results

SHAPE = Shape(
    size="small", volume=(8, 64, 64), patch=(2, 8, 8), batch=1, predictor=(384, 6, 6), device="cpu"
)
STEPS = 2


def megabytes(tensors: list[Tensor]) -> float:
    """Of this process's parts of tensors."""
    parts = [local(tensor) for tensor in tensors]
    return sum(part.numel() * part.element_size() for part in parts) / 1e6


def measure(parallel: str) -> None:
    """Be one process; prints a line of JSON."""
    torch.set_num_threads(1)
    runtime = pick_runtime("cpu", parallel=parallel)
    before_gb = peak_memory_gb(runtime.device)
    learner = Learner(make_objective(SHAPE), runtime, LoopConfig(steps=STEPS), seed=0)
    batch = JepaBatch(SHAPE.draw_volume(), SHAPE.draw_masks(learner.objective.masking))
    feed, stop = Placed(itertools.repeat(batch), runtime, count=STEPS), StopRequest()
    clock = StepClock()
    steps = [learner.take(n, 1e-4, feed, clock, stop) for n in range(STEPS)]
    moments = [value for state in learner.optimizer.state.values() for value in state.values()]
    found = {
        "states_mb": megabytes(list(learner.objective.state_dict().values())),
        "moments_mb": megabytes(moments),
        "peak_mb": 1000 * (peak_memory_gb(runtime.device) - before_gb),
        "loss": learner.read(steps[-1], clock).numbers["loss"],
    }
    sys.stdout.write(json.dumps(found) + "\n")
    runtime.close()


def start(processes: int, parallel: str) -> dict[str, Any]:
    """Measure with so many processes; the largest of each number counts."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *launcher, __file__, parallel]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(rows) == processes, done.stderr
    most = {name: max(row[name] for row in rows) for name in rows[0]}
    return {"processes": processes, "parallel": parallel, **most}


def main() -> None:
    """Measure, print and write down."""
    if len(sys.argv) > 1:
        measure(sys.argv[1])
        return
    rows = []
    for processes, parallel in ((1, "ddp"), (2, "ddp"), (2, "fsdp"), (4, "ddp"), (4, "fsdp")):
        rows.append(start(processes, parallel))
        print(rows[-1], flush=True)
    write_results("shard_memory", ("torch", "oct-xla", "oct-vjepa"), {"processes": rows})


if __name__ == "__main__":
    main()
