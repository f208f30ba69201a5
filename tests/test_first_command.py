"""The benchmark of the first command: whose code it runs, what it tells, and that it goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent.parent / "benchmarks" / "first_command.py"
APP = """
import sys, time
from pathlib import Path

place = Path(__file__).parent
with (place / "starts").open("a") as file:
    file.write(sys.argv[1])
until = time.process_time() + 0.3
while time.process_time() < until:
    pass
while (place / "held").exists():
    time.sleep(0.02)
Path("runs/one").mkdir(parents=True)
Path("runs/one/report.html").write_text("said")
"""

JUDGE = """
from pathlib import Path

assert Path("runs/one/report.html").exists(), "in the folder of the first"
Path("runs/two").mkdir()
Path("runs/two/report.html").write_text("said")
"""


@pytest.fixture
def trees(tmp_path):
    """Two work trees, each with an app that takes 0.3 s of a processor, and its interpreter."""
    for name in ("now", "earlier"):
        (tmp_path / name / "apps" / "pretrain").mkdir(parents=True)
        (tmp_path / name / "apps" / "pretrain" / "__main__.py").write_text(APP)
        (tmp_path / name / "apps" / "finetune").mkdir()
        (tmp_path / name / "apps" / "finetune" / "__main__.py").write_text(JUDGE)
        (tmp_path / name / ".venv" / "bin").mkdir(parents=True)
        (tmp_path / name / ".venv" / "bin" / "python").symlink_to(sys.executable)
    return tmp_path


@pytest.fixture
def start(trees):
    def start(*arguments):
        command = [sys.executable, str(PROGRAM), "--now", "now", "--before", "earlier"]
        command += ["--given", "x", "--out", "found.json", *arguments]
        return subprocess.Popen(
            command, cwd=trees, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    return start


def starts(trees, name):
    return (trees / name / "apps" / "pretrain" / "starts").read_text()


def test_two_trees_take_turns_and_clock_and_processor_are_told(start, trees):
    out, errors = (process := start("--rounds", "2")).communicate()
    assert process.returncode == 0, errors
    assert [line.split()[2] for line in out.splitlines()] == ["now", "before"] * 2
    found = json.loads((trees / "found.json").read_text())
    for name in ("now", "before"):
        assert found[name]["clock_s"] >= found[name]["cpu_s"] * 0.9 >= 0.27
        assert all(one["load_before"] >= 0 for one in found[name]["rounds"])
    ratio = found["before"]["cpu_s"] / found["now"]["cpu_s"]
    assert found["times_less_cpu"] == pytest.approx(ratio, abs=0.006)
    assert found["cpus"] == os.cpu_count()


def test_a_tree_without_an_environment_of_its_own_is_refused_before_anything_runs(start, trees):
    (trees / "earlier" / ".venv" / "bin" / "python").unlink()
    _, errors = (process := start("--rounds", "1")).communicate()
    assert process.returncode == 1
    assert "earlier: no environment in .venv; uv sync" in errors
    assert not (trees / "now" / "apps" / "pretrain" / "starts").exists()


@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_measurement_goes_on_and_other_code_begins_anew(start, trees, asked):
    held = trees / "earlier" / "apps" / "pretrain" / "held"
    held.touch()
    process = start("--rounds", "1")
    while not (trees / "earlier" / "apps" / "pretrain" / "starts").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(asked)
    out, errors = process.communicate()
    assert process.returncode == 143, errors
    assert "stopped; the same command goes on" in out
    held.unlink()
    for rounds, known in (("1", "xx"), ("2", "xxx")):
        _, errors = (process := start("--rounds", rounds)).communicate()
        assert process.returncode == 0, errors
        assert starts(trees, "earlier") == known, "the one that was cut is run again"
    assert starts(trees, "now") == "xx", "what was done is kept"
    _, errors = (process := start("--rounds", "1", "--given", "y")).communicate()
    assert process.returncode == 0, errors
    assert starts(trees, "now") == "xxy"


def test_who_judges_follows_in_the_same_folder_and_both_are_timed_as_one(start, trees):
    _, errors = (process := start("--rounds", "1", "--judged")).communicate()
    assert process.returncode == 0, errors
    found = json.loads((trees / "found.json").read_text())
    assert found["timed"] == "uv run apps/pretrain x && uv run apps/finetune"
    assert found["now"]["cpu_s"] > 0.3
    (trees / "now" / "apps" / "finetune" / "__main__.py").write_text("")
    (trees / "found.json").unlink()
    _, errors = (process := start("--rounds", "1", "--judged")).communicate()
    assert process.returncode == 1
    assert "left no report" in errors
