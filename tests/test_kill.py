"""A run that is killed and started again is the run that was never killed, bit for bit."""

import json
import signal
import time

import numpy as np
import pytest
from oct_xla import Checkpoints

pytestmark = pytest.mark.slow

CLOCK = {"volumes_per_s", "data_wait_fraction", "seconds"}  # what a kill may change


def options(smoke, run_dir):
    return (
        "pretrain", "experiment=smoke", f"run_dir={run_dir}", f"data.root={smoke.data}",
        "loop.checkpoint_every=1", "probe.columns=[]",
    )  # fmt: skip


def computed(rows):
    return [{key: value for key, value in row.items() if key not in CLOCK} for row in rows]


def rows_of(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def unfinished(checkpoints):
    """Numbers of the checkpoints that are being written, or were when their writer died."""
    return [int(path.name[-8:]) for path in checkpoints.glob(".tmp-[0-9]*")]


def wait_for(process, condition):
    """Poll until `condition()` holds or the process has ended; tells which."""
    while process.poll() is None:
        if condition():
            return True
        time.sleep(0.0005)
    return False


def assert_equal_to_a_run_never_stopped(run_dir, smoke):
    for row, wanted in zip(computed(rows_of(run_dir)), computed(smoke.rows), strict=True):
        assert row == wanted, f"step {wanted['step']}"
    weights = [one / "encoder" / "model.safetensors" for one in (run_dir, smoke.path)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_run_killed_in_the_middle_of_saves_repeats_the_uninterrupted_one(
    place, smoke, start, finish
):
    run_dir, torn = place / "killed", []
    checkpoints = run_dir / "checkpoints"
    draws = np.random.default_rng(7)
    for first in (1, 4, 7):
        process = start(*options(smoke, run_dir))
        goal = first + int(draws.integers(0, 2))
        hit = wait_for(process, lambda goal=goal: max(unfinished(checkpoints), default=0) >= goal)
        time.sleep(draws.uniform(0, 0.01))
        process.send_signal(signal.SIGKILL)
        assert finish(process).code == -signal.SIGKILL
        torn += unfinished(checkpoints)
        assert hit
        assert (Checkpoints(checkpoints).newest() or 0) >= goal - 1
    assert torn, "no kill fell into a save"
    outcome = finish(start(*options(smoke, run_dir)))
    assert outcome.code == 0, outcome.errors
    assert_equal_to_a_run_never_stopped(run_dir, smoke)
    assert not unfinished(checkpoints), "what the kills left behind is gone"
    facts = json.loads((run_dir / "provenance.json").read_text())
    assert len(facts["earlier"]) == 3


def test_a_run_told_to_stop_saves_says_so_and_goes_on_later(place, smoke, start, finish):
    run_dir = place / "stopped"
    process = start(*options(smoke, run_dir), "loop.checkpoint_every=0")
    metrics = run_dir / "metrics.jsonl"
    assert wait_for(process, lambda: metrics.exists() and metrics.read_text().count("\n") >= 3)
    process.send_signal(signal.SIGTERM)
    outcome = finish(process)
    assert outcome.code == 143, outcome.errors
    step = rows_of(run_dir)[-1]["step"]
    assert 3 <= step < 12
    assert Checkpoints(run_dir / "checkpoints").newest() == step
    assert f"stopped at step {step}" in outcome.out
    assert not (run_dir / "encoder").exists(), "only a finished run leaves an encoder"
    outcome = finish(start(*options(smoke, run_dir), "loop.checkpoint_every=0"))
    assert outcome.code == 0, outcome.errors
    assert rows_of(run_dir)[step - 1]["step"] == step
    assert_equal_to_a_run_never_stopped(run_dir, smoke)
