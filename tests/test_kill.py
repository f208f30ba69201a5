"""A run that is killed and started again is the run that was never killed, bit for bit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from oct_xla import Checkpoints
from oct_xla.telling.metrics import CLOCKS  # what a kill may change

pytestmark = pytest.mark.slow


def options(smoke, run_dir):
    return (
        "pretrain", "experiment=smoke", f"run_dir={run_dir}", f"data.root={smoke.data}",
        "loop.checkpoint_every=1",
    )  # fmt: skip


def computed(rows):
    return [{key: value for key, value in row.items() if key not in CLOCKS} for row in rows]


def rows_of(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def unfinished(checkpoints):
    """Numbers of the checkpoints that are being written, or were when their writer died."""
    return [int(path.name[-8:]) for path in checkpoints.glob(".tmp-[0-9]*")]


def freeze(process):
    """Stop a process where it is, and return once it has stopped or ended."""
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)


def kill_in_a_save(process, checkpoints, first, wait_s):
    """Kill a run while it writes a checkpoint from `first` on; returns the one left unfinished."""
    while wait_for(process, lambda: max(unfinished(checkpoints), default=0) >= first):
        time.sleep(wait_s)
        freeze(process)
        torn = max(unfinished(checkpoints), default=0)
        if torn >= first:
            process.send_signal(signal.SIGKILL)
            return torn
        process.send_signal(signal.SIGCONT)  # this save was over; sooner in the next one
        wait_s /= 2
    raise AssertionError(f"the run ended, {process.poll()}, before it was caught in a save")


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
    place, smoke, start, finish, call_app
):
    """The second kill is of a run that goes on after the first."""
    run_dir, torn = place / "killed", []
    checkpoints = run_dir / "checkpoints"
    draws = np.random.default_rng(7)
    for wait_s in draws.uniform(0, 0.005, 2):
        process = start(*options(smoke, run_dir))
        first = 1 + max(torn, default=0)
        torn.append(kill_in_a_save(process, checkpoints, first, wait_s))
        assert finish(process).code == -signal.SIGKILL
        assert (Checkpoints(checkpoints).newest() or 0) == torn[-1] - 1
    outcome = call_app(*options(smoke, run_dir))
    assert outcome.code == 0, outcome.errors
    assert_equal_to_a_run_never_stopped(run_dir, smoke)
    assert not unfinished(checkpoints), "what the kills left behind is gone"
    facts = json.loads((run_dir / "provenance.json").read_text())
    assert len(facts["earlier"]) == 2


def test_a_run_told_to_stop_saves_says_so_and_goes_on_later(place, smoke, start, finish, call_app):
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
    outcome = call_app(*options(smoke, run_dir), "loop.checkpoint_every=0")
    assert outcome.code == 0, outcome.errors
    assert rows_of(run_dir)[step - 1]["step"] == step
    assert_equal_to_a_run_never_stopped(run_dir, smoke)


@pytest.mark.drill
@pytest.mark.parametrize("background", [True, False])
def test_fifty_kills_in_steps_saves_evaluations_and_reads_of_the_cache_change_nothing(
    smoke, tmp_path, environment, background
):
    overrides = (
        "experiment=smoke", "runtime=cpu", "encoder.depth=1", "probe.columns=[]",
        f"data.root={smoke.data}", "loop.checkpoint_every=1",
        f"loop.save_in_background={str(background).lower()}",
    )  # fmt: skip
    program = Path(__file__).with_name("killed_app.py")
    done = subprocess.run(
        [sys.executable, program, tmp_path, "50", json.dumps(overrides)],
        env=environment(), capture_output=True, text=True, check=False, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    runs = [json.loads(line) for line in done.stdout.splitlines()]
    kills = [doing for run in runs for doing in run.pop("doing")]
    assert len(kills) >= 50
    for run in runs:
        assert run == {"rows": True, "encoder": True, "probes": True}
    assert {one for doing in kills for one in doing} == {"step", "reading", "saving", "evaluating"}
    assert sum("reading" in doing for doing in kills) > 5
