"""Whole programs: killed, terminated, started twice at once, and run on XLA."""

import math
import signal
import subprocess
import sys
import time
from importlib.util import find_spec

import numpy as np
import pytest
from killed import outcome
from oct_xla import Checkpoints, LoopConfig, fit, pick_runtime, read_rows
from programs import (
    TORCHRUN,
    XLA,
    finish,
    forked,
    losses,
    rows_of,
    start,
    train_here,
    wait_for_rows,
)
from toy import Toy, make_feed, warm_up


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("plain")
    config = LoopConfig(steps=12, log_every=1)
    runtime = pick_runtime("cpu")
    fit(Toy(), make_feed(), config, runtime=runtime, run_dir=run_dir, learning_rate=warm_up, seed=3)
    return run_dir


ONE_AFTER_ANOTHER = """
import sys
from pathlib import Path

from oct_xla import pick_runtime

for _ in range(8):
    runtime = pick_runtime("cpu")
    with Path(sys.argv[1], str(runtime.rank)).open("a") as file:
        file.write("".join(runtime.share(str(runtime.rank))) + " ")
    runtime.close()
"""


@pytest.mark.slow
def test_a_program_joins_its_processes_as_often_as_it_likes(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(ONE_AFTER_ANOTHER)
    command = [sys.executable, *TORCHRUN, program, tmp_path]
    subprocess.run(command, capture_output=True, check=True, timeout=120)
    for rank in "01":
        assert (tmp_path / rank).read_text().split() == ["01"] * 8


@pytest.mark.slow
def test_a_run_killed_while_saving_repeats_the_uninterrupted_one_bit_for_bit(tmp_path):
    options = ("--steps", 60, "--every", 1, "--dropout", 0.1)
    draws, killed = np.random.default_rng(1), 0
    for _ in range(3):
        process = start(tmp_path / "torn", *options, "--pause", 0.002)
        before = Checkpoints(tmp_path / "torn/checkpoints").newest()
        while (
            process.poll() is None and Checkpoints(tmp_path / "torn/checkpoints").newest() == before
        ):
            time.sleep(0.01)
        time.sleep(draws.uniform(0.0, 0.15))
        killed += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert killed >= 2
    assert train_here(tmp_path / "whole", *options)[0] == 0
    assert train_here(tmp_path / "torn", *options)[0] == 0
    assert losses(tmp_path / "torn") == losses(tmp_path / "whole")
    one, other = (
        Checkpoints(tmp_path / name / "checkpoints").load(60) for name in ("whole", "torn")
    )
    assert all(np.array_equal(one.tensors[n], other.tensors[n]) for n in one.tensors)


@pytest.mark.slow
def test_two_processes_train_like_one_stop_together_and_resume_as_one(tmp_path, plain):
    first = start(tmp_path, "--steps", 12, "--accumulate", 2, "--term-at", 5, launcher=TORCHRUN)
    code, errors = finish(first)
    assert code != 0, errors
    assert losses(tmp_path)[-1][0] == 6, errors
    assert Checkpoints(tmp_path / "checkpoints").newest() == 6
    code, errors = train_here(tmp_path, "--steps", 12, "--accumulate", 2)
    assert code == 0, errors
    for (step, one), (_, other) in zip(losses(plain), losses(tmp_path), strict=True):
        assert math.isclose(one, other, abs_tol=1e-6), step


@pytest.mark.drill
def test_a_run_on_subsets_is_the_same_one_on_four_processes_two_and_one(tmp_path):
    options, each = ("--subsets", 4), ((4, 3, 1), (2, 7, 2), (1, -1, 4))
    assert train_here(tmp_path / "whole", *options)[0] == 0
    for processes, until, accumulate in each:
        more = (*options, "--term-at", until, "--accumulate", accumulate)
        code, errors = finish(start(tmp_path / "moved", *more, launcher=forked(processes)))
        assert code == (0 if until < 0 else 143), errors
    for (step, one), (_, other) in zip(
        losses(tmp_path / "whole"), losses(tmp_path / "moved"), strict=True
    ):
        assert math.isclose(one, other, abs_tol=1e-6), step


@pytest.mark.slow
def test_four_xla_devices_train_like_the_cpu_and_their_checkpoint_resumes_on_it(tmp_path, plain):
    if find_spec("torch_xla") is None:
        pytest.skip("torch-xla is not installed; it has wheels for Linux x86_64 only")
    options = ("--steps", 12, "--runtime", "xla", "--accumulate", 2, "--term-at", 9)
    code, errors = finish(start(tmp_path, *options, **XLA))
    assert code == 143, errors
    assert Checkpoints(tmp_path / "checkpoints").newest() == 10
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert len(rows) == 10
    compiled = [row["compilations"] for row in rows]
    assert compiled[2] > 0
    assert compiled[2:] == [compiled[2]] * 8, "a graph was compiled after warm-up"
    code, errors = train_here(tmp_path, "--steps", 12, "--accumulate", 2)
    assert code == 0, errors
    for (step, one), (_, other) in zip(losses(plain), losses(tmp_path), strict=True):
        assert math.isclose(one, other, abs_tol=1e-4), step


@pytest.mark.drill
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize("saves", [(), ("--blocking",)])
def test_a_run_on_xla_killed_at_thirteen_moments_is_bit_for_bit_the_one_that_was_not(
    tmp_path, parallel, saves
):
    if find_spec("torch_xla") is None:
        pytest.skip("torch-xla is not installed; it has wheels for Linux x86_64 only")
    options = ("--runtime", "xla", "--parallel", parallel, "--steps", 80, "--every", 3, *saves)
    options = (*options, "--evaluate-every", 4, "--dropout", 0.1, "--pause", 0.1)
    whole, killed, draws = tmp_path / "whole", tmp_path / "killed", np.random.default_rng(13)
    code, errors = finish(start(whole, *options, **XLA))
    assert code == 0, errors
    for kills in range(13):
        process = start(killed, *options, **XLA)
        if kills > 1:  # the first two may meet it while it imports or compiles
            wait_for_rows(process, killed, rows_of(killed) + 1)
        time.sleep(draws.uniform(0, 8 if kills < 2 else 0.8))
        process.kill()
        assert finish(process)[0] == -signal.SIGKILL, kills
    code, errors = finish(start(killed, *options, **XLA))
    assert code == 0, errors
    assert outcome(killed, 80) == outcome(whole, 80)
