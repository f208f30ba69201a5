"""Trains on XLA devices, goes on, and prints what each device holds of every tensor, as JSON.

python spread.py PARALLEL RUN_DIR

A list for each of three starts: five steps, the same taken up without a step, four steps more.
"""

import json
import sys
from pathlib import Path

from oct_xla import LoopConfig, fit, pick_runtime
from oct_xla.steps.learner import Learner
from toy import Blocks, make_feed, warm_up


def parts(tensor):
    """In how many parts the devices hold a tensor, as their buffers tell."""
    from torch_xla.distributed.spmd import XLAShardedTensor, wrap_if_sharded

    found = wrap_if_sharded(tensor)
    if not isinstance(found, XLAShardedTensor):
        return 1  # nobody has said how it is to lie
    sizes = {shard.data.numel() for shard in found.local_shards}
    assert len(sizes) == 1
    return tensor.numel() / sizes.pop()


def held(learner):
    """Shape and number of parts of all that training changes, by its name in a checkpoint."""
    tensors = {f"objective.{name}": one for name, one in learner.objective.state_dict().items()}
    for name, parameter in learner.objective.named_parameters():
        for key, value in learner.optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{name}.{key}"] = value
    return {name: [list(one.shape), parts(one)] for name, one in tensors.items()}


def assert_cut(found, devices=4):
    """All that training changes is cut over the devices, where they divide one of its edges."""
    for name, (shape, number) in found.items():
        able = any(size % devices == 0 for size in shape)
        assert number == (devices if able else 1), (name, shape, number)
    cut = [name for name, (_, number) in found.items() if number > 1]
    for kind in ("objective.teacher.", ".exp_avg", ".exp_avg_sq", ".weight"):
        assert any(name.startswith(kind) or name.endswith(kind) for name in cut), kind


def watched():
    """A list that gets what XLA devices hold at the end of each `fit` from now on."""
    found, hand_back = [], Learner.hand_back

    def note(learner):
        if learner.runtime.name == "xla":
            found.append(held(learner))
        hand_back(learner)

    Learner.hand_back = note
    return found


def main(parallel, run_dir):
    found, runtime = watched(), pick_runtime("xla", parallel=parallel)
    for steps in (5, 5, 9):
        loop = LoopConfig(steps=steps, accumulate=2, log_every=1, hang_after_s=0)
        toy = Blocks(width=12, depth=1)
        fit(toy, make_feed(16), loop, runtime=runtime, run_dir=run_dir, learning_rate=warm_up)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
