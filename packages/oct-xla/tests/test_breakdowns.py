"""What a program says, and how it ends, when something breaks around it."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from oct_xla import Checkpoints, WandbSink, read_rows
from programs import (
    TORCHRUN,
    XLA,
    error_lines,
    finish,
    forked,
    losses,
    start,
    train_here,
    wait_for_rows,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 600 KB that can be made read-only."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a file system can be mounted by root only")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def steps_of(run_dir):
    return [row["step"] for row in read_rows(run_dir / "metrics.jsonl")]


def test_a_disk_that_fills_up_is_one_line_a_save_and_an_error_at_the_end(small_disk):
    run_dir = small_disk / "run"
    process = start(run_dir, "--steps", 200, "--every", 5, "--pause", 0.01)
    wait_for_rows(process, run_dir, 12)
    (small_disk / "others").write_bytes(bytes(os.statvfs(small_disk).f_bavail * 4096))
    code, errors = finish(process)
    assert code == 2
    assert "Traceback" not in errors
    assert "is not saved, the run goes on: " in errors
    assert "No space left on device" in errors
    assert re.search(r"^error: .*step-00000200: cannot be written: .*No space", errors, re.M)
    store = Checkpoints(run_dir / "checkpoints")
    assert len(store.steps()) == 2
    assert not list(store.root.glob(".tmp*"))
    (small_disk / "others").unlink()
    code, errors = train_here(run_dir, "--steps", 200, "--every", 5)
    assert code == 0, errors
    assert steps_of(run_dir) == list(range(1, 201))


def test_a_disk_that_has_room_again_ends_well(small_disk):
    run_dir, others = small_disk / "run", small_disk / "others"
    process = start(run_dir, "--steps", 400, "--every", 5, "--pause", 0.01)
    wait_for_rows(process, run_dir, 12)
    others.write_bytes(bytes(os.statvfs(small_disk).f_bavail * 4096))
    time.sleep(1)
    others.unlink()
    code, errors = finish(process)
    assert code == 0, errors
    assert "No space left on device" in errors
    assert steps_of(run_dir) == list(range(1, 401))
    assert Checkpoints(run_dir / "checkpoints").newest() == 400


def test_a_checkpoint_folder_that_turns_read_only_is_told_and_the_run_ends_with_2(small_disk):
    run_dir, checkpoints = small_disk.parent / "run", small_disk
    run_dir.mkdir()
    (run_dir / "checkpoints").symlink_to(checkpoints)
    process = start(run_dir, "--steps", 60, "--every", 5, "--pause", 0.05)
    wait_for_rows(process, run_dir, 12)
    process.send_signal(signal.SIGSTOP)
    subprocess.run(["mount", "-o", "remount,ro", str(checkpoints)], check=True)
    process.send_signal(signal.SIGCONT)
    code, errors = finish(process)
    assert code == 2
    assert "is not saved, the run goes on: " in errors
    assert re.search(r"^error: .*step-00000060: cannot be written: Read-only file", errors, re.M)
    subprocess.run(["mount", "-o", "remount,rw", str(checkpoints)], check=True)
    code, errors = train_here(run_dir, "--steps", 60, "--every", 5)
    assert code == 0, errors
    assert steps_of(run_dir) == list(range(1, 61))


def test_a_folder_that_cannot_be_written_is_refused_before_the_first_step(small_disk):
    (small_disk / "run").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    code, errors = train_here(small_disk / "run")
    assert code == 2
    assert error_lines(errors) == [
        f"error: {small_disk}/run: cannot be made or written: Read-only file system; set run_dir"
        " to another folder"
    ]


def bound():
    """What has a program obey permissions, though root starts it."""
    if os.getuid():
        return []
    without = "-dac_override,-dac_read_search"
    command = ["setpriv", f"--inh-caps={without}", f"--bounding-set={without}"]
    able = (
        shutil.which("setpriv") and not subprocess.run([*command, "true"], check=False).returncode
    )
    if not able:
        pytest.skip("root may write everywhere, and nothing here can hinder it")
    return command


@pytest.fixture
def forbid():
    """Takes the right to write a folder away, and gives it back in the end."""
    taken = []

    def forbid(folder):
        taken.append(folder)
        folder.chmod(0o555)

    yield forbid
    for folder in taken:
        folder.chmod(0o755)


def test_a_folder_of_others_is_refused_before_the_first_step(tmp_path, forbid):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    forbid(run_dir)
    code, errors = finish(start(run_dir, before=bound()))
    assert code == 2
    assert error_lines(errors) == [
        f"error: {run_dir}: cannot be made or written: Permission denied; set run_dir to another"
        " folder"
    ]


def test_a_checkpoint_folder_that_may_not_be_written_any_more_is_told_and_mended(tmp_path, forbid):
    checkpoints = tmp_path / "checkpoints"
    process = start(tmp_path, "--steps", 60, "--every", 5, "--pause", 0.05, before=bound())
    wait_for_rows(process, tmp_path, 12)
    forbid(checkpoints)
    code, errors = finish(process)
    assert code == 2
    assert "Traceback" not in errors
    assert "is not saved, the run goes on: " in errors
    assert re.search(r"^error: .*step-00000060: cannot be written: Permission denied", errors, re.M)
    checkpoints.chmod(0o755)
    code, errors = train_here(tmp_path, "--steps", 60, "--every", 5)
    assert code == 0, errors
    assert steps_of(tmp_path) == list(range(1, 61))


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_in_a_long_step_saves_that_step_and_ends_with_143(tmp_path, name):
    process = start(tmp_path, "--steps", 20, "--every", 0, "--pause", 1)
    wait_for_rows(process, tmp_path, 2)
    process.send_signal(getattr(signal, name))
    code, errors = finish(process)
    assert (code, errors) == (143, "")
    step = steps_of(tmp_path)[-1]
    assert Checkpoints(tmp_path / "checkpoints").steps() == [step]
    assert 2 <= step <= 4


@pytest.mark.drill
def test_a_signal_in_an_evaluation_leaves_it_and_the_resume_makes_it(tmp_path):
    options = ("--steps", 12, "--every", 0, "--evaluate-every", 6)
    process = start(tmp_path, *options, "--evaluate-for", 600)  # of items of a second each
    wait_for_rows(process, tmp_path, 5)
    time.sleep(1)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 143
    assert time.monotonic() - began < 60
    assert Checkpoints(tmp_path / "checkpoints").newest() == 6
    assert finish(start(tmp_path, *options))[0] == 0
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows if "score" in row] == [6, 12]
    assert len(rows) == 12


@pytest.mark.parametrize("name", ["SIGTERM", pytest.param("SIGINT", marks=pytest.mark.drill)])
def test_torchrun_passes_a_signal_on_and_each_process_saves_and_ends_with_143(tmp_path, name):
    logs = ("--log-dir", str(tmp_path / "logs"), "--redirects", "3")
    run_dir, code_dir = tmp_path / "run", tmp_path / "codes"
    code_dir.mkdir()
    process = start(
        run_dir, "--steps", 400, "--every", 0, "--pause", 0.2, "--codes", code_dir,
        launcher=(*TORCHRUN, *logs),
    )  # fmt: skip
    wait_for_rows(process, run_dir, 3)
    process.send_signal(getattr(signal, name))
    code, errors = finish(process)
    assert code == 1, errors  # torchrun's own
    codes = {path.name: path.read_text() for path in code_dir.iterdir()}
    assert codes == {"0": "143", "1": "143"}
    assert Checkpoints(run_dir / "checkpoints").newest() == steps_of(run_dir)[-1]


def test_two_programs_on_one_folder_the_second_is_refused(tmp_path):
    first = start(tmp_path, "--steps", 2000, "--pause", 0.05)
    wait_for_rows(first, tmp_path, 1)
    code, errors = train_here(tmp_path)
    first.kill()
    first.communicate()
    assert code == 2
    assert error_lines(errors) == [
        f"error: {tmp_path}: another process is writing this run; wait for it, stop it, or set"
        " run_dir"
    ]


def test_xla_by_torchrun_is_refused_as_two_runs_would_write_one_folder(tmp_path):
    code, errors = finish(start(tmp_path, "--runtime", "xla", launcher=TORCHRUN, **XLA))
    assert code == 1
    lines = error_lines(errors)
    assert lines
    assert set(lines) == {
        "error: runtime xla: torchrun started 2 processes on this host, XLA takes one for all its"
        " devices; start the command without torchrun"
    }
    assert not list(tmp_path.iterdir())


def test_processes_with_feeds_of_two_lengths_are_refused_by_name(tmp_path):
    code, errors = finish(start(tmp_path, "--wrong", "length", launcher=forked(2)))
    assert code == 2
    lines = error_lines(errors)
    assert lines
    assert set(lines) == {
        "error: feed.length is 40 on process 0 and 48 on process 1; all processes of a run must be"
        " given the same"
    }
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.drill
def test_subsets_that_the_processes_do_not_divide_are_refused_before_a_step(tmp_path):
    code, errors = finish(start(tmp_path, "--subsets", 3, "--batch", 6, launcher=forked(2)))
    assert code == 2
    assert set(error_lines(errors)) == {
        "error: feed.subsets (3) must be a multiple of the processes (2), each of which takes whole"
        " ones; or 1, for none"
    }
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.drill
def test_a_metric_that_one_process_lacks_does_not_hang(tmp_path):
    plain, wrong = tmp_path / "plain", tmp_path / "wrong"
    assert finish(start(plain, launcher=TORCHRUN))[0] == 0
    code, errors = finish(start(wrong, "--wrong", "keys", launcher=TORCHRUN))
    assert code == 0, errors
    assert losses(wrong) == losses(plain)
    rows = read_rows(wrong / "metrics.jsonl")
    assert {row["step"]: row["sometimes"] for row in rows if "sometimes" in row} == {
        3: 7.0, 6: 7.0, 9: 7.0, 12: 7.0,
    }  # fmt: skip


@pytest.mark.drill
def test_wandb_out_of_reach_is_one_line_and_an_offline_run(tmp_path, monkeypatch, capfd):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    began = time.monotonic()
    sink = WandbSink(run_id="0123456789ab", project="p", name="n", folder=tmp_path, config={})
    sink.write({"step": 1, "loss": 0.5})
    sink.close()
    assert time.monotonic() - began < 60
    said = [line for line in capfd.readouterr().err.splitlines() if "tracking:" in line]
    assert len(said) == 1
    assert "kept offline" in said[0]
    assert list(tmp_path.glob("wandb/offline-run-*-0123456789ab/*.wandb"))


def test_an_installed_package_has_no_commit_and_a_checkout_has_its_own(tmp_path):
    import oct_xla

    here = os.path.dirname(oct_xla.__file__)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "another repository"]):
        subprocess.run([*git, *words], check=True)
    (tmp_path / "lib").mkdir()
    subprocess.run(["cp", "-r", here, str(tmp_path / "lib/oct_xla")], check=True)
    code = "import oct_xla.folder.runfolder as r; print(r._git()['git_commit'])"

    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "lib")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "None"
    head = ["git", "-C", here, "rev-parse", "HEAD"]
    wanted = subprocess.run(head, capture_output=True, text=True, check=False).stdout.strip()
    if wanted:
        assert oct_xla.folder.runfolder._git()["git_commit"] == wanted


def test_a_signal_shows_the_stack_of_every_thread_and_the_run_goes_on(tmp_path):
    process = start(tmp_path, "--steps", 30, "--pause", 0.1)
    wait_for_rows(process, tmp_path, 2)
    process.send_signal(signal.SIGUSR1)
    code, errors = finish(process)
    assert code == 0
    assert "most recent call first" in errors
    assert re.search(r'File ".*trainer\.py", line \d+ in train', errors)
