"""What XLA devices tell one another: gradients once a step, and no activations."""

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from collectives import collectives
from oct_xla.devices.norms import PlainNorms
from programs import QUIET, TORCHRUN, XLA

PROGRAM = """
import json, sys
sys.path.insert(0, {folder!r})
import torch
from oct_xla import LoopConfig, fit, pick_runtime
from toy import Blocks, make_feed, warm_up

class Normed(Blocks):
    def __init__(self, separable):
        super().__init__()
        self.separable, self.norm, self.drew = separable, torch.nn.LayerNorm(12), set()

    def loss(self, batch, generator):
        self.drew.add(generator is not None)
        return super().loss(batch._replace(volume=255 * self.norm(batch.volume / 255)), generator)

class Rows(list):
    write, close = list.append, lambda self: None

runtime = pick_runtime(sys.argv[1])
for separable, accumulate in ((True, 2), (False, 1)):
    rows, toy = Rows(), Normed(separable)
    loop = LoopConfig(steps=3, accumulate=accumulate, log_every=1, hang_after_s=0)
    fit(toy, make_feed(16), loop, runtime=runtime, learning_rate=warm_up, sinks=[rows])
    size = sum(p.numel() for p in toy.parameters() if p.requires_grad)
    print(json.dumps({{"rows": rows, "bytes": 4 * size, "drew": list(toy.drew)}}))
"""


COUNT = """
import json, sys
sys.path.insert(0, {folder!r})
from pathlib import Path
from oct_xla import LoopConfig, fit, pick_runtime
from toy import Blocks, make_feed, warm_up
from torch.profiler import ProfilerActivity, profile

runtime, found = pick_runtime("cpu", parallel=sys.argv[1]), []
for accumulate in (1, 2, 4):
    loop = LoopConfig(steps=2, accumulate=accumulate, log_every=1, hang_after_s=0)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        fit(Blocks(), make_feed(16), loop, runtime=runtime, learning_rate=warm_up)
    found.append({{one.key: one.count for one in seen.key_averages() if "c10d" in one.key}})
Path(sys.argv[2], str(runtime.rank)).write_text(json.dumps(found))
"""


@pytest.mark.drill
@pytest.mark.parametrize(
    ("parallel", "reducing"), [("ddp", "c10d::allreduce_"), ("fsdp", "c10d::_reduce_scatter_base_")]
)
def test_processes_reduce_as_often_whatever_the_number_of_micro_batches(
    request, tmp_path, parallel, reducing
):
    program = tmp_path / "program.py"
    program.write_text(COUNT.format(folder=str(request.path.parents[1])))
    command = [sys.executable, *TORCHRUN, program, parallel, tmp_path]
    subprocess.run(command, env=QUIET, capture_output=True, check=True, timeout=300)
    for rank in "01":
        counts = [one[reducing] for one in json.loads((tmp_path / rank).read_text())]
        assert counts[0] >= counts[1] == counts[2] > 0  # the first looks at its settings, once more


def run(request, runtime, **environment):
    program = PROGRAM.format(folder=str(request.path.parents[1]))
    done = subprocess.run(
        [sys.executable, "-c", program, runtime],
        env={**QUIET, **environment},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_an_accumulated_step_on_xla_reduces_each_gradient_once_and_gathers_nothing(
    request, tmp_path
):
    if find_spec("torch_xla") is None:
        pytest.skip("torch-xla is not installed; it has wheels for Linux x86_64 only")
    flags = f"{XLA['XLA_FLAGS']} --xla_dump_to={tmp_path}"
    once, plain = run(request, "xla", **{**XLA, "XLA_FLAGS": flags, "CPU_NUM_DEVICES": "2"})
    graphs = collectives(tmp_path)
    assert not [names for names in graphs if names.keys() - {"all-reduce"}]
    reduced = [names["all-reduce"] for names in graphs if names]
    metrics = [size for size in reduced if size < 100]
    assert metrics == [8, 8], "the two passes of a step tell loss and goal, and nothing else"
    first, *others = (size for size in reduced if size >= 100)
    assert first == once["bytes"]
    assert others
    assert min(others) >= plain["bytes"]
    assert (once["drew"], plain["drew"]) == ([False], [True])
    for found, wanted in zip((once, plain), run(request, "cpu"), strict=True):
        for row, other in zip(found["rows"], wanted["rows"], strict=True):
            for key in ("loss", "goal", "grad_norm"):
                assert row[key] == pytest.approx(other[key], abs=2e-6), (row["step"], key)


def test_a_plain_layer_norm_gives_what_pytorch_gives_and_its_gradients():
    draws = torch.Generator().manual_seed(0)
    for norm in (torch.nn.LayerNorm(8), torch.nn.LayerNorm((3, 8), bias=False)):
        values = torch.randn(4, 3, 8, generator=draws).requires_grad_()
        weights = torch.randn(4, 3, 8, generator=draws)
        wanted = norm(values)
        with PlainNorms():
            found = norm(values)
        assert torch.allclose(found, wanted, atol=1e-6)
        gradients = [torch.autograd.grad((y * weights).sum(), values)[0] for y in (found, wanted)]
        assert torch.allclose(*gradients, atol=1e-5)
