"""Trains on XLA devices, goes on, and prints what each device holds of every tensor, as JSON.

python spread.py PARALLEL RUN_DIR

Under "starts" a list for each of three: five steps, the same taken up without a step, four steps
more; under "hosts" the bytes that each of two hosts saves that have half of the devices each.
"""

import json
import sys
from pathlib import Path

import torch
from oct_xla import Checkpoints, LoopConfig, fit, pick_runtime
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


def save_as_hosts(learner, folder, hosts=2):
    """Save as hosts would that have a share of the devices each; gives what was saved, and by whom.

    The tensors are real ones of four devices, of which each host is shown its own.
    """
    from oct_xla.devices import xla

    runtime, real, written = learner.runtime, xla.local_parts, []
    store, each = Checkpoints(folder), runtime.devices // hosts
    whole = learner.pieces()
    store.open(1)
    for host in range(hosts):
        xla.local_parts = lambda t, h=host: (real(t) or [])[h * each : (h + 1) * each] or None
        runtime.rank, runtime._writers = host, hosts
        written.append(store.write(1, learner.pieces(), part=host, parts=hosts))
    xla.local_parts, runtime.rank, runtime._writers = real, 0, 1
    store.commit(1, written[0], {}, parts=hosts)
    saved = store.load(1).tensors
    assert saved.keys() == whole.keys()
    assert all(torch.equal(saved[name], piece.tensor) for name, piece in whole.items())
    return [one.facts["size"] for one in written]


def main(parallel, run_dir):
    found, runtime = watched(), pick_runtime("xla", parallel=parallel)
    hosts = run_dir.with_name(f"{run_dir.name}-hosts")
    for steps in (5, 5, 9):
        loop = LoopConfig(steps=steps, accumulate=2, log_every=1, hang_after_s=0)
        toy = Blocks(width=12, depth=1)
        fit(toy, make_feed(16), loop, runtime=runtime, run_dir=run_dir, learning_rate=warm_up)
    learner = Learner(toy, runtime, loop, 0)
    learner.restore(Checkpoints(run_dir / "checkpoints").load(9).tensors, "")
    print(json.dumps({"starts": found, "hosts": save_as_hosts(learner, hosts)}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
