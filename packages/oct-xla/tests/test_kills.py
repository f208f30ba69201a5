"""Runs that are killed, again and again: rows, tensors and best.json are those of a whole run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

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
