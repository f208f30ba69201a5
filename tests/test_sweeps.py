"""Several runs of one command line: a folder each, one after the other, and a table at the end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from oct_launch import Mistake
from oct_launch.processes import IMPATIENT_S, run_process, signals
from oct_launch.sweep import split_jobs

sys.path.insert(0, str(Path(__file__).parent))
from squaring import squaring, table


@pytest.fixture
def start(tmp_path):
    """Starts an app that squares numbers, in a repository of its own."""
    with squaring(tmp_path) as start:
        yield start


def test_a_bad_job_is_told_in_a_line_the_rest_go_on_and_what_is_done_is_not_run_again(
    start, tmp_path
):
    process = start("-m", "number=1,2,3")
    out, errors = process.communicate()
    assert process.returncode == 2, errors
    assert errors == "number=2: exit code 2: two is not liked\n"
    place = tmp_path / "runs" / "square"
    assert sorted(path.name for path in place.iterdir()) == [
        "finished", "number=1", "number=3", "sweep.json",
    ]  # fmt: skip
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


def test_a_job_that_is_given_or_brings_another_setting_than_before_is_run_again(start, tmp_path):
    for more in (["wait_s=0"], [], ["wait_s=0.01"]):
        process = start("-m", "number=3,100", *more)
        out, errors = process.communicate()
        assert process.returncode == 0, errors
    assert out.count("not run again") == 1, "what is typed is what was brought along before"
    assert "number=100: done before" in out
    starts = {name: f"runs/square/number={name}/starts" for name in (3, 100)}
    assert {name: (tmp_path / path).read_text() for name, path in starts.items()} == {
        3: "xx", 100: "xx",
    }  # fmt: skip


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


def test_a_job_whose_files_have_changed_is_run_again_and_the_others_are_not(start, tmp_path):
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.txt").write_text("two")
    for _ in range(2):
        out, errors = start("-m", "reads=a.txt,b.txt").communicate()
        assert errors == ""
        (tmp_path / "b.txt").write_text("three")
    assert out.count("not run again") == 1
    place = tmp_path / "runs" / "square"
    assert (place / "reads=a.txt" / "starts").read_text() == "x"
    assert (place / "reads=b.txt" / "starts").read_text() == "xx"
    assert table(place / "sweep.json")["reads=b.txt"]["read"] == "three"


def test_jobs_side_by_side_leave_what_jobs_in_a_row_leave(start, tmp_path):
    found = {}
    for jobs in (1, 3):
        process = start("-m", "number=2,3,4", f"sweep.jobs={jobs}", f"run_dir=runs/by{jobs}")
        out, errors = process.communicate()
        assert process.returncode == 2
        assert errors == "number=2: exit code 2: two is not liked\n"
        place = tmp_path / "runs" / f"by{jobs}"
        found[jobs] = {
            name: (job["exit_code"], job["headline"], job["reason"])
            for name, job in table(place / "sweep.json").items()
        }
        assert (place / "finished").read_text() == (
            "number=2 2 two is not liked; number=3 0 ; number=4 0 "
        )
    assert found[1] == found[3]
    assert "\n[3] squared 4\n" in out, "each line says which job speaks"


def test_two_jobs_run_at_the_same_time_and_a_signal_ends_both(start, tmp_path):
    process = start("-m", "number=1,3,4", "wait_s=30", "sweep.jobs=2")
    place = tmp_path / "runs" / "square"
    while not all((place / f"number={one}" / "starts").exists() for one in (1, 3)):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == 143, errors
    assert "Traceback" not in errors
    assert not (place / "number=4").exists()
    assert not (place / "finished").exists()
    codes = {name: job["exit_code"] for name, job in table(place / "sweep.json").items()}
    assert codes == {"number=1": 143, "number=3": 143}


def test_jobs_save_and_end_with_a_sweep_that_is_killed(start, tmp_path):
    process = start("-m", "number=1,3", "wait_s=60", "sweep.jobs=2")
    jobs = [tmp_path / "runs" / "square" / f"number={one}" for one in (1, 3)]
    while not all((job / "starts").exists() for job in jobs):
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    until = time.monotonic() + 30  # half of what they would take
    while not all((job / "square").exists() for job in jobs):
        assert time.monotonic() < until, "a job goes on, or could not say that it has squared"
        time.sleep(0.05)
    process.communicate(timeout=30)  # whose pipes the jobs hold as long as they live


def test_a_job_that_is_killed_ends_alone_and_is_run_again(start, tmp_path):
    process = start("-m", "number=1,3", "wait_s=2", "sweep.jobs=2")
    place = tmp_path / "runs" / "square"
    while not all((place / f"number={one}" / "starts").exists() for one in (1, 3)):
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(int((place / "number=3" / "pid").read_text()), signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == 137
    assert errors == "number=3: exit code 137\n"
    assert (place / "finished").read_text() == "number=1 0 ; number=3 137 "
    process = start("-m", "number=1,3", "wait_s=2")
    out, _ = process.communicate()
    assert process.returncode == 0
    assert out.count("not run again") == 1
    assert (place / "number=3" / "square").read_text() == "9"


def test_what_a_run_leaves_behind_does_not_hold_the_sweep(capfd):
    code = (
        "import subprocess, sys\n"
        "print(subprocess.Popen(['sleep', '60']).pid, flush=True)\n"
        "sys.exit('error: no')\n"
    )
    began = time.monotonic()
    with signals() as stop:
        ended = run_process([sys.executable, "-c", code], stop)
    took_s = time.monotonic() - began
    os.kill(int(capfd.readouterr().out), signal.SIGKILL)
    assert ended == (1, "no")
    assert took_s < 40


def test_a_second_ctrl_c_ends_a_run_that_does_not_hear_the_first():
    deaf = (
        "import signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('deaf', flush=True)\n"
        "time.sleep(600)\n"
    )
    code = (
        "import sys\n"
        "from oct_launch.processes import run_process, signals\n"
        "with signals() as stop:\n"
        f"    print(run_process([sys.executable, '-c', {deaf!r}], stop))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True, text=True
    ) as process:
        try:
            assert process.stdout.readline() == "deaf\n"
            process.send_signal(signal.SIGINT)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(IMPATIENT_S + 1)
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=60)[0] == "(137, '')\n"
        finally:
            process.kill()


def test_a_job_whose_numbers_cannot_be_read_is_told_in_a_line_and_the_rest_go_on(start, tmp_path):
    process = start("-m", "number=7,3")
    _, errors = process.communicate()
    assert process.returncode == 1
    assert errors.startswith("number=7: exit code 1: runs/square/number=7: what it left cannot be ")
    assert errors.count("\n") == 1
    jobs = table(tmp_path / "runs/square/sweep.json")
    assert {name: job["exit_code"] for name, job in jobs.items()} == {"number=7": 1, "number=3": 0}


def test_a_table_that_cannot_be_written_ends_a_sweep_before_its_other_jobs(start, tmp_path):
    place = tmp_path / "runs" / "square"
    (place / ".sweep.json").mkdir(parents=True)
    process = start("-m", "number=1,3,4,5", "wait_s=1.5")
    _, errors = process.communicate(timeout=100)
    assert "IsADirectoryError" in errors.splitlines()[-1]
    assert not (place / "number=5").exists()


@pytest.mark.parametrize("jobs", ["0", "many"])
def test_a_number_of_jobs_that_is_none_is_refused(start, jobs):
    process = start("-m", "number=1,3", f"sweep.jobs={jobs}")
    _, errors = process.communicate()
    assert process.returncode == 2
    assert errors == f"error: sweep.jobs={jobs}: must be a number of runs, 1 or more\n"


def test_a_sweep_of_one_takes_the_number_of_jobs_as_well_and_brings_no_torch(start, tmp_path):
    process = start("-m", "number=3", "sweep.jobs=2")
    _, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
    run = tmp_path / "runs" / "square"
    assert (run / "square").read_text() == "9"
    imported = (run / "imported").read_text().split()
    assert "oct_vjepa" in imported
    assert "torch" not in imported, "who computes nothing does not wait seconds for it"


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


def test_a_sweep_over_modes_of_masks_ends_in_a_leaderboard_for_each(tmp_path, capsys):
    import pyarrow as pa
    import pyarrow.parquet as pq
    from oct_judge.board.finish import write_leaderboards
    from oct_launch import Job

    jobs = [Job("mode=full", [], run_dir=str(tmp_path / "full"), exit_code=1)]
    for kind, headline in (("segmentation", "dice"), ("patches", "auroc")):
        folder = tmp_path / kind
        folder.mkdir()
        question = {"name": "masks", "kind": kind, "names": ["background", "IRF"], "unit": ""}
        entry = {"encoder": "runs/a/encoder", "fingerprint": "a", "settings": {"mode": kind}}
        document = {"made_up_data": False, "question": question, "entry": entry}
        (folder / "results.json").write_text(json.dumps(document | {"headline": headline}))
        rows = {"candidate": "pretrained", "seed": 0, "round": "test"}
        people = {"participant": list("abcd"), headline: [0.5, 0.6, 0.7, 0.8]}
        table = pa.table({name: [one] * 4 for name, one in rows.items()} | people)
        pq.write_table(table, folder / "measures.parquet")
        jobs.append(Job(f"mode={kind}", [], run_dir=str(folder), exit_code=0))
    write_leaderboards(tmp_path, jobs)
    said = capsys.readouterr().out
    assert "is ahead with Dice 0.650" in said
    assert "is ahead with AUROC 0.650" in said
    for kind in ("segmentation", "patches"):
        assert "failed" in (tmp_path / f"leaderboard-masks-{kind}.csv").read_text()
