"""The next batch is on its way to the device before the host waits for the numbers of this one."""

import gzip
import json
import subprocess
import sys
from importlib.util import find_spec
from itertools import count

import pytest
from oct_xla import FeedError, pick_runtime
from oct_xla.devices.placing import Placed
from programs import QUIET, XLA

PROGRAM = """
import sys
sys.path.insert(0, {folder!r})
from oct_xla import LoopConfig, fit, pick_runtime
from oct_xla.steps.learner import Learner
from toy import Toy, make_feed, warm_up

runtime, told = pick_runtime("xla"), []
send, read = runtime.send, Learner.read
runtime.send = lambda batch: (told.append("send"), send(batch))[1]
Learner.read = lambda *given: (told.append("read"), read(*given))[1]
loop = LoopConfig(steps=3, accumulate=2, log_every=1, hang_after_s=0, profile="2:3")
fit(Toy(), make_feed(), loop, runtime=runtime, learning_rate=warm_up, run_dir={run_dir!r})
print(*told)
"""


@pytest.mark.slow
def test_the_next_batch_is_sent_before_the_numbers_are_read_and_a_trace_shows_xla(
    request, tmp_path
):
    if find_spec("torch_xla") is None:
        pytest.skip("torch-xla is not installed; it has wheels for Linux x86_64 only")
    folder = str(request.path.parents[1])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(folder=folder, run_dir=str(tmp_path))],
        env={**QUIET, **XLA, "CPU_NUM_DEVICES": "2"},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    wanted = "send send send read send send read send read"
    assert " ".join(done.stdout.split()) == wanted
    (trace,) = tmp_path.glob("profile/rank-0/plugins/profile/*/*.trace.json.gz")
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    assert any("Execute" in str(event.get("name")) for event in events)
    assert (tmp_path / "profile/rank-0.json").exists()


class Sending:
    """What a device that is not the host does, on the host."""

    def __init__(self, kind):
        self.device = pick_runtime("cpu").device if kind == "cpu" else type("D", (), {"type": kind})
        self.sent = []

    def send(self, batch):
        self.sent.append(batch)
        return lambda: batch


def test_on_a_cpu_nothing_is_asked_for_before_it_is_needed():
    runtime = Sending("cpu")
    placed = Placed(count(), runtime, count=3)
    assert placed.take() == 0
    placed.send_next()
    assert runtime.sent == [0]


def test_a_sample_that_fails_fails_the_step_that_it_belongs_to():
    def batches():
        yield 0
        raise FeedError("feed: sample 1 is gone")

    placed = Placed(batches(), Sending("cuda"), count=3)
    assert placed.take() == 0
    placed.send_next()  # of the step after
    with pytest.raises(FeedError, match="sample 1 is gone"):
        placed.take()


def test_what_is_used_is_all_that_is_asked_for():
    runtime = Sending("cuda")
    placed = Placed(count(), runtime, count=2)
    placed.send_next()
    placed.send_next()
    assert (placed.take(), runtime.sent) == (0, [0])
    placed.send_next()
    assert placed.take() == 1
    placed.send_next()
    assert runtime.sent == [0, 1]
