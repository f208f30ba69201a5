"""Runs that are killed, again and again: rows, tensors and best.json are those of a whole run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from killed import OPTIONS, outcome
from programs import finish, start, torchrun, wait_for_rows

pytestmark = pytest.mark.slow


def killed(*arguments):
    program = Path(__file__).with_name("killed.py")
    command = [sys.executable, program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def assert_all_equal(runs):
    for run in runs:
        assert run.pop("kills") in (0, 1, 2, 3)
        assert run == {"rows": True, "tensors": True, "best": True, "kept": True, "left": []}


@pytest.mark.drill
@pytest.mark.parametrize("saves", [(), ("--blocking",)])
def test_fifty_runs_killed_at_random_end_bit_for_bit_like_one_that_was_not(tmp_path, saves):
    runs = killed("random", tmp_path, 50, *saves)
    assert len(runs) == 50
    assert all(run["kills"] >= 1 for run in runs)
    assert_all_equal(runs)


def test_a_kill_between_any_two_file_operations_loses_nothing(tmp_path):
    runs = killed("between", tmp_path)
    assert sum(run["kills"] for run in runs) > 50
    assert_all_equal(runs)


def assert_the_others_ended(run):
    """Who was left alone ended by itself, and said why, unless it was through or had met nobody."""
    alone = run.pop("alone")
    assert set(alone) <= {0, 1, -signal.SIGTERM}
    assert run.pop("said") == alone.count(1)


def assert_pairs_end_alike(folder, count, *options):
    """So many runs of two processes, killed at random, end like one that was not."""
    runs = killed("ranks", folder, count, *options)
    assert len(runs) == count
    for run in runs:
        assert_the_others_ended(run)
        assert run["kills"] >= 1
    assert_all_equal(runs)


def test_two_processes_of_which_one_or_both_are_killed_end_like_two_that_were_not(tmp_path):
    assert_pairs_end_alike(tmp_path, 1, "--parallel", "fsdp")


def test_who_is_left_alone_waits_for_no_part_of_a_process_that_was_killed(tmp_path):
    runs = killed("parts", tmp_path)
    assert [run["alone"] for run in runs] == [[1]] * 4
    for run in runs:
        assert_the_others_ended(run)
    assert_all_equal(runs)


@pytest.mark.drill
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize("saves", [(), ("--blocking",)])
def test_sixteen_runs_of_two_processes_killed_at_random_end_bit_for_bit_like_one_that_was_not(
    tmp_path, parallel, saves
):
    assert_pairs_end_alike(tmp_path, 16, "--parallel", parallel, *saves)


def workers_of(process):
    """Process ids of what torchrun has started."""
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(number) for number in path.read_text().split()]


@pytest.mark.drill
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_torchrun_starts_all_again_when_one_is_killed_and_the_same_command_when_all_are(
    tmp_path, parallel
):
    options, launcher = (*OPTIONS, "--parallel", parallel), torchrun(2)
    code, errors = finish(start(tmp_path / "whole", *options, launcher=launcher))
    assert code == 0, errors
    again, run_dir = (*launcher[:2], "--max-restarts", "8", *launcher[2:]), tmp_path / "run"
    draws = np.random.default_rng(4)
    process = start(run_dir, *options, "--pause", 0.1, launcher=again)
    for number, rows in enumerate((5, 14, 23, 32)):
        wait_for_rows(process, run_dir, rows)
        time.sleep(draws.uniform(0, 0.3))
        workers = workers_of(process)
        assert len(workers) == 2
        victims = (process.pid, *workers) if number == 3 else workers[number % 2 :][:1]
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
    code, errors = finish(process)
    assert code == -signal.SIGKILL, errors
    assert errors.count("RuntimeError: another process of this run has ended; ") >= 3, errors
    code, errors = finish(start(run_dir, *options, launcher=again))
    assert code == 0, errors
    assert outcome(run_dir, 40) == outcome(tmp_path / "whole", 40)
