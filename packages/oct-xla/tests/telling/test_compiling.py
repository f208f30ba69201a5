"""A graph that is compiled after the warm-up is told with the shape that made it."""

import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from oct_xla.tree import named_tensors
from programs import QUIET, XLA
from toy import draw

pytestmark = pytest.mark.slow

PROGRAM = """
import torch
from oct_xla import Feed, FeedConfig, LoopConfig, fit, pick_runtime

class Line(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale, self.calls = torch.nn.Parameter(torch.ones(())), 0

    def loss(self, batch, generator):
        self.calls += 1
        weight = 1.0 if self.calls == 5 else 0.5
        return {"loss": weight * (self.scale * batch["volume"] - 2).square().mean()}

def sample(index, epoch):
    return {"volume": torch.ones(5 if epoch == 6 else 4)}

def evaluate(step):
    with torch.no_grad():
        return {"score": float(line.scale.exp() + (line.scale.sin() if step == 8 else 0))}

line = Line()
fit(line, Feed(sample, 4, FeedConfig(batch_size=4)),
    LoopConfig(steps=10, evaluate_every=4, log_every=5, hang_after_s=0),
    runtime=pick_runtime("xla"), evaluate=evaluate,
    learning_rate=lambda step: 0.0 if step == 5 else 0.1)
"""


def test_a_late_graph_is_told_with_the_step_and_the_shape_that_made_it():
    if find_spec("torch_xla") is None:
        pytest.skip("torch-xla is not installed; it has wheels for Linux x86_64 only")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**QUIET, **XLA, "CPU_NUM_DEVICES": "2"},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stderr.splitlines() if "more graphs" in line]
    assert [line.partition(":")[0] for line in told] == [
        "step 5", "step 7", "the evaluation after step 8",
    ]  # fmt: skip
    assert "no tensor of the batch has another shape; a number of Python" in told[0]
    assert "volume is (4, 5) float32, was (4, 4) float32" in told[1]
    assert "no tensor of the batch" in told[2]


def test_tensors_of_a_batch_have_the_names_of_their_places():
    batch = {"one": draw(0, 0), "two": [torch.ones(1)], "three": None}
    names = [name for name, _ in named_tensors(batch)]
    assert names == ["one.volume", "one.masks.0", "two.0"]
    assert [name for name, _ in named_tensors(torch.ones(1))] == ["batch"]
