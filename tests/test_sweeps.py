"""Several runs of one command line: a folder each, one after the other, and a table at the end."""

import json
import signal
import subprocess
import sys
import time

import pytest
from oct_launch import Mistake
from oct_launch.sweep import split_jobs

APP = '''
"""Squares a number."""

import signal
import time
from dataclasses import dataclass
from pathlib import Path

from oct_launch import EXIT_STOPPED, Mistake, app


@dataclass(kw_only=True, slots=True)
class SquareConfig:
    """What is squared."""

    run_dir: str = "runs/square"
    """Where the square is written."""

    number: int = 1
    """What is squared."""

    wait_s: float = 0.0
    """Seconds that it takes."""


def headline(run_dir):
    return {"square": (run_dir / "square").read_text()}


@app("square", SquareConfig, headline=headline)
def square(config, launch):
    if config.number == 2:
        raise Mistake("two is not liked")
    folder = Path(config.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
    with (folder / "starts").open("a") as file:
        file.write("x")
    until = time.monotonic() + config.wait_s
    while time.monotonic() < until and not stopped:
        time.sleep(0.02)
    (folder / "square").write_text(str(config.number**2))
    return EXIT_STOPPED if stopped else 0


if __name__ == "__main__":
    square()
'''
CONFIG = """
defaults:
  - square_schema
  - _self_
  - override hydra/job_logging: none
  - override hydra/hydra_logging: none
hydra: {run: {dir: .}, output_subdir: null}
"""


@pytest.fixture
def start(tmp_path):
    """Starts an app that squares numbers, in a repository of its own."""
    (tmp_path / "apps" / "square").mkdir(parents=True)
    (tmp_path / "apps" / "square" / "__main__.py").write_text(APP)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "square.yaml").write_text(CONFIG)

    def start(*arguments):
        return subprocess.Popen(
            [sys.executable, "apps/square", *arguments],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def table(path):
    return {job["name"]: job for job in json.loads(path.read_text())["jobs"]}


def test_a_bad_job_is_told_in_a_line_the_rest_go_on_and_what_is_done_is_not_run_again(
    start, tmp_path
):
    process = start("-m", "number=1,2,3")
    out, errors = process.communicate()
    assert process.returncode == 2, errors
    assert errors == "number=2: exit code 2: two is not liked\n"
    place = tmp_path / "runs" / "square"
    assert sorted(path.name for path in place.iterdir()) == ["number=1", "number=3", "sweep.json"]
    jobs = table(place / "sweep.json")
    assert {name: job["exit_code"] for name, job in jobs.items()} == {
        "number=1": 0, "number=2": 2, "number=3": 0,
    }  # fmt: skip
    assert jobs["number=3"]["headline"] == {"square": "9"}
    assert jobs["number=2"]["reason"] == "two is not liked"
    rows = [line.split() for line in out.splitlines()]
    assert ["number=3", "0", "9"] in rows
    assert ["number=2", "2"] in rows

    process = start("-m", "number=1,3")
    out, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
    assert out.count("not run again") == 2
    assert (place / "number=1" / "starts").read_text() == "x"
    assert table(place / "sweep.json").keys() == jobs.keys(), "other jobs stay in the table"


def test_a_job_with_other_settings_than_before_is_run_again(start, tmp_path):
    for more in ("wait_s=0", "wait_s=0.01"):
        process = start("-m", "number=1,3", more)
        process.communicate()
        assert process.returncode == 0
    assert (tmp_path / "runs" / "square" / "number=3" / "starts").read_text() == "xx"


@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_sweep_once_the_job_in_progress_has_saved(start, tmp_path, asked):
    process = start("-m", "number=1,3", "wait_s=30")
    place = tmp_path / "runs" / "square"
    while not (place / "number=1" / "starts").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(asked)
    out, errors = process.communicate()
    assert process.returncode == 143, errors
    assert "Traceback" not in errors
    assert "stopped; the same command goes on" in out
    assert (place / "number=1" / "square").exists(), "it has saved"
    assert not (place / "number=3").exists()
    assert table(place / "sweep.json")["number=1"]["exit_code"] == 143


def test_run_folders_that_the_swept_key_names_stay_and_the_table_lies_beside_them(start, tmp_path):
    process = start("-m", "number=1,3", "run_dir=runs/of-${number}")
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    runs = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert runs == ["of-1", "of-3", "sweep-of"]


def test_settings_that_no_job_can_have_are_refused_once(start, tmp_path):
    process = start("-m", "number=1,3", "wiat_s=3")
    out, errors = process.communicate()
    assert (process.returncode, out) == (2, "")
    assert errors == "error: wiat_s: there is no such setting; did you mean wait_s?\n"
    assert not (tmp_path / "runs").exists()


def test_jobs_are_named_after_what_is_swept_alone_in_short_and_without_slashes():
    fixed, jobs = split_jobs(["data.root=/a/b,/c/d", "seed=0,1", "loop.steps=3"])
    assert fixed == ["loop.steps=3"]
    assert [job.name for job in jobs] == [
        "root=_a_b,seed=0", "root=_a_b,seed=1", "root=_c_d,seed=0", "root=_c_d,seed=1",
    ]  # fmt: skip
    assert jobs[1].overrides == ["data.root=/a/b", "seed=1"]


def test_names_that_would_be_equal_or_too_long_are_kept_apart():
    _, jobs = split_jobs(["x=a/b,a:b,a_b", f"y={'z' * 300},w"])
    assert len({job.name for job in jobs}) == 6
    assert all(len(job.name) < 100 for job in jobs)


def test_two_keys_with_one_last_word_are_named_in_full():
    _, jobs = split_jobs(["encoder.width=96,192", "objective.predictor.width=24,48"])
    assert jobs[0].name == "encoder.width=96,objective.predictor.width=24"


def test_a_sweep_over_names_of_files_asks_for_the_values():
    with pytest.raises(Mistake, match="list the values"):
        split_jobs(["encoder=glob(*)"])
