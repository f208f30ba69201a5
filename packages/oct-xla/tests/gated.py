"""Runs of the toy with steps whose gradients are not numbers; prints what they left as JSON."""

import json
import math
import sys
from itertools import pairwise
from pathlib import Path

import torch
from oct_xla import Checkpoints, Feed, FeedConfig, LoopConfig, NonFiniteError, fit, pick_runtime
from toy import Toy, draw, warm_up

SAMPLES = 8  # and as many in a batch, so that the epoch is the step
STEPS = 20


class Weighed(Toy):
    """Multiplies its loss by a number of the batch."""

    def loss(self, batch, generator):
        parts = super().loss(batch["toy"], generator)
        return {**parts, "loss": parts["loss"] * batch["factor"].mean()}


class Untold(Weighed):
    """Knows nothing of steps that are not applied, and so hears of the others only."""

    def __init__(self):
        super().__init__()
        self.after = []

    def after_step(self, step, steps):
        self.after.append(step)
        return super().after_step(step, steps)


class Told(Weighed):
    """Notes down in the loss what only a step that is applied may use, as a centre of scores."""

    def __init__(self):
        super().__init__()
        self.noted, self.used = 0, []

    def loss(self, batch, generator):
        self.noted += 1
        return super().loss(batch, generator)

    def after_step(self, step, steps, applied=None):
        if applied is None or bool(applied):
            self.used.append(self.noted)
        self.noted = 0
        return super().after_step(step, steps, applied)


class Rows(list):
    write = list.append

    def close(self):
        pass


class Device:
    """Trains on one runtime, and counts what it reads."""

    def __init__(self, kind, parallel):
        self.runtime = pick_runtime(kind, parallel=parallel)

    def reads(self):
        if self.runtime.name != "xla":
            return 0
        from torch_xla.debug import metrics

        return (metrics.metric_data("TransferFromDeviceTime") or [0])[0]

    def train(self, toy, bad=(), **options):
        """Rows, and how often the device was read while it trained."""

        def sample(index, epoch):
            factor = torch.tensor(math.nan if epoch in bad else 1.0)
            return {"toy": draw(index, epoch), "factor": factor}

        rows, before = Rows(), self.reads()
        run_dir = options.pop("run_dir", None)
        config = {"steps": STEPS, "log_every": 10, "hang_after_s": 0, **options}
        fit(
            toy,
            Feed(sample, SAMPLES, FeedConfig(batch_size=SAMPLES)),
            LoopConfig(**config),
            runtime=self.runtime,
            run_dir=run_dir,
            learning_rate=warm_up,
            sinks=[rows],
        )
        return rows, self.reads() - before


def same(one, other, ending=""):
    """Whether two checkpoints are equal in each tensor whose name ends so; NaN is no surprise."""
    names = [name for name in one if name.endswith(ending)]
    assert names, ending
    return all(torch.equal(one[name], other[name]) for name in names)


def save_each_step(device, folder):
    """Which checkpoints are those before them; and how the tensors of step 7 go on."""
    device.train(Weighed(), {7}, run_dir=folder, steps=10, checkpoint_every=1, keep_last=20)
    store = Checkpoints(folder / "checkpoints")
    saved = {step: dict(store.load(step).tensors) for step in store.steps()}
    return {
        "equal": [new for old, new in pairwise(sorted(saved)) if same(saved[old], saved[new])],
        "counts": [float(saved[n]["optimizer.slow.weight.step"]) for n in sorted(saved)],
        "teacher_moves": not same(saved[8], saved[9], "slow_teacher.weight"),
    }


def fail(device):
    """What a run says that should end at step 8, and whether it leaves what it was after step 5."""
    said, failed, held = "", Weighed(), Weighed()
    try:
        device.train(failed, {5, 6, 7}, max_skipped=3)
    except NonFiniteError as error:
        said = str(error)
    device.train(held, range(5, STEPS), max_skipped=STEPS)
    one, other = (
        {name: tensor.cpu() for name, tensor in toy.state_dict().items()} for toy in (failed, held)
    )
    return {"error": said, "left": same(one, other)}


def main(kind, parallel, folder):
    device, untold, told = Device(kind, parallel), Untold(), Told()
    rows, reads = device.train(Weighed(), {7, 12, 13})
    late, _ = device.train(untold, {7})
    device.train(told, {7}, accumulate=2)
    found = {
        "rows": rows,
        "reads": reads,
        "after": untold.after,
        "late": late,
        "used": told.used,
        **save_each_step(device, folder),
        **fail(device),
    }
    if device.runtime.rank == 0:
        print(json.dumps(found), flush=True)
    device.runtime.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
