"""Sweeps in the queue of a cluster: submitit's own, and a stand-in for Slurm that runs its jobs."""

import os
import signal
import sys
import time
from pathlib import Path
from threading import Timer

import pytest
from oct_launch import queues
from oct_launch.processes import Stop

sys.path.insert(0, str(Path(__file__).parent))
import standin_slurm
from squaring import squaring, table

JOBS = "runs/square/sweep-jobs"


@pytest.fixture
def start(tmp_path):
    """Starts an app that squares numbers, in a repository of its own."""
    with squaring(tmp_path) as start:
        yield start


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A folder of jobs, with commands of Slurm on the path that run them."""
    place, commands = tmp_path / "slurm", tmp_path / "bin"
    place.mkdir()
    commands.mkdir()
    for name in standin_slurm.COMMANDS:
        file = commands / name
        file.write_text(f'#!/bin/sh\nexec {sys.executable} {standin_slurm.__file__} {name} "$@"\n')
        file.chmod(0o755)
    monkeypatch.setenv("STANDIN", str(place))
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.setattr(standin_slurm, "PLACE", place)
    return place


def wait_for(path, process=None):
    until = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < until, path
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.05)


@pytest.mark.slow
def test_jobs_in_a_queue_leave_what_jobs_on_this_machine_leave(start, tmp_path):
    process = start("-m", "number=2,3,4", "sweep.on=local", "sweep.timeout_min=5")
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 2, errors
    assert errors == "number=2: exit code 2: two is not liked\n"
    place = tmp_path / "runs/square"
    jobs = table(place / "sweep.json")
    assert {name: (job["exit_code"], job["headline"]) for name, job in jobs.items()} == {
        "number=2": (2, {}), "number=3": (0, {"square": "9"}), "number=4": (0, {"square": "16"}),
    }  # fmt: skip
    assert (place / "finished").read_text() == (
        "number=2 2 two is not liked; number=3 0 ; number=4 0 "
    )
    told = [line for line in out.splitlines() if line.startswith("job 2 of 3: number=3: in the")]
    assert "squared 3\n" in Path(tmp_path, told[0].rpartition(" says ")[2]).read_text()
    failed = (tmp_path / JOBS / jobs["number=2"]["queued"].partition(":")[2]).glob("*.err")
    assert "error: two is not liked\n" in next(failed).read_text()


@pytest.mark.drill
def test_who_stops_a_sweep_cancels_its_jobs_which_save(start, tmp_path, slurm):
    for cluster in ("local", "slurm"):
        run_dir = f"runs/{cluster}"
        process = start(
            "-m", "number=1,3", "wait_s=60", f"sweep.on={cluster}", "sweep.timeout_min=5",
            f"run_dir={run_dir}",
        )  # fmt: skip
        for one in (1, 3):
            wait_for(tmp_path / run_dir / f"number={one}" / "starts", process)
        process.send_signal(signal.SIGTERM)
        out, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (143, "")
        assert "stopped; the same command goes on" in out
        for one in (1, 3):
            assert (tmp_path / run_dir / f"number={one}" / "square").exists(), "it has saved"
        jobs = table(tmp_path / run_dir / "sweep.json")
        assert {job["exit_code"] for job in jobs.values()} == {143}
    assert {path.read_text() for path in slurm.glob("*.state")} == {"CANCELLED"}


@pytest.mark.slow
def test_who_stops_a_sweep_whose_jobs_have_not_begun_is_not_kept_waiting(start, tmp_path, slurm):
    (slurm / "hold").touch()
    process = start("-m", "number=1,3", "sweep.on=slurm", "sweep.timeout_min=5")
    wait_for(slurm / "2.state", process)
    wait_for(tmp_path / "runs/square/sweep.json", process)
    process.send_signal(signal.SIGTERM)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (143, ""), out
    assert {path.read_text() for path in slurm.glob("*.state")} == {"CANCELLED"}
    jobs = table(tmp_path / "runs/square/sweep.json")
    assert {job["exit_code"] for job in jobs.values()} == {143}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_a_job_near_its_time_limit_saves_and_goes_on_in_its_next_turn(start, tmp_path, slurm):
    process = start("-m", "number=3,5", "wait_s=4", "sweep.on=slurm", "sweep.timeout_min=60")
    run = tmp_path / "runs/square/number=3"
    wait_for(run / "starts", process)
    number = table(tmp_path / "runs/square/sweep.json")["number=3"]["queued"].partition(":")[2]
    script = next((tmp_path / JOBS).rglob(f"{number}_submission.sh")).read_text()
    assert "#SBATCH --time=60" in script
    standin_slurm.send(number, "USR2")
    out, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, ""), out
    assert (run / "starts").read_text() == "xx"
    assert (tmp_path / "runs/square/number=5/starts").read_text() == "x"


@pytest.mark.drill
@pytest.mark.parametrize("cluster", ["local", "slurm"])
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_jobs_outlive_a_sweep_that_is_killed_and_the_same_command_waits_for_them(
    start, tmp_path, slurm, cluster
):
    command = ("-m", "number=3,5", "wait_s=8", f"sweep.on={cluster}", "sweep.timeout_min=5")
    process = start(*command)
    runs = [tmp_path / f"runs/square/number={one}" for one in (3, 5)]
    for run in runs:
        wait_for(run / "starts", process)
    process.kill()
    process.wait()
    assert not (runs[0] / "square").exists()
    process = start(*command)
    out, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, ""), out
    assert [(run / "starts").read_text() for run in runs] == ["x", "x"]
    assert [(run / "square").read_text() for run in runs] == ["9", "25"]
    assert start(*command).communicate(timeout=60)[0].count("not run again") == 2


@pytest.mark.drill
def test_a_job_that_leaves_no_outcome_is_told_with_its_state(start, tmp_path, slurm):
    process = start("-m", "number=3", "wait_s=60", "sweep.on=slurm", "sweep.timeout_min=5")
    wait_for(tmp_path / "runs/square/job/starts", process)  # one job, which nothing is swept for
    standin_slurm.send("1", "KILL")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert errors.startswith("job: exit code 1: job 1 left no outcome (FAILED); ")
    assert errors.count("\n") == 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_a_job_of_which_nobody_keeps_account_is_waited_for_until_the_queue_has_forgotten_it(
    tmp_path, slurm, monkeypatch
):
    (slurm / "no-accounts").touch()
    monkeypatch.setattr(queues, "LOST_S", 0.2)
    monkeypatch.setattr(queues, "SEEN_S", 0.2)
    queue = queues.Queued(queues.Queue("slurm", {"timeout_min": 5}), tmp_path / "jobs")
    begun, noted = tmp_path / "begun", []

    def run(*command):
        return queue.run(command, Stop(), "", lambda name, said: noted.append(name))

    assert run("sh", "-c", "sleep 2") == (0, "")
    kill = Timer(0.0, lambda: (wait_for(begun), standin_slurm.send("2", "KILL")))
    kill.start()
    code, reason = run("sh", "-c", f"touch {begun}; sleep 60")
    kill.join()
    assert (code, noted) == (1, ["slurm:1", "slurm:2"])
    assert reason.startswith("job 2 left no outcome (UNKNOWN); ")


def test_a_job_that_the_queue_does_not_take_is_told_and_the_rest_go_on(start, tmp_path, slurm):
    process = start(
        "-m", "number=1,3", "sweep.on=slurm", "sweep.timeout_min=5", "sweep.slurm_partition=nowhere"
    )
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2, errors
    # Between them stands what sbatch itself has said.
    lines = sorted(line for line in errors.splitlines() if line.startswith("number="))
    assert [line.partition(":")[0] for line in lines] == ["number=1", "number=3"]
    assert all("the queue does not take it: " in line for line in lines)
    assert all("invalid partition specified: nowhere" in line for line in lines)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["sweep.on=pbs"], "sweep.on=pbs: must be slurm or local"),
        (["sweep.on=slurm"], "sweep.on=slurm needs sweep.timeout_min, the minutes"),
        (["sweep.on=slurm", "sweep.timeout_min=5"], 'sweep.on=slurm: Could not detect "srun"'),
        (["sweep.on=local", "sweep.timeout_min=5", "sweep.gpu=1"], "sweep.on=local: "),
        (["sweep.on=local", "sweep.timeout_min=5", "sweep.nodes=2"], "sweep.nodes: a job of a"),
        (["sweep.timeout_min=5"], "sweep.timeout_min is asked of the queue of a cluster"),
    ],
)
def test_what_no_queue_knows_is_refused_in_a_line(start, tmp_path, monkeypatch, given, said):
    monkeypatch.setenv("PATH", str(tmp_path))  # no Slurm, wherever this runs
    _, errors = start("-m", "number=1,3", *given).communicate()
    assert errors.startswith(f"error: {said}")
    assert errors.count("\n") == 1
    assert not list((tmp_path / "runs").rglob("starts"))
