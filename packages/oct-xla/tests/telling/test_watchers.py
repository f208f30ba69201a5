"""A run that hangs ends with stacks and a line, one process that is slow is named, and MFU."""

import os
import re
import signal
import time
from pathlib import Path

import pytest
import torch
from oct_xla import LoopConfig, fit, pick_runtime, read_rows
from oct_xla.telling.watchers import EXIT_HUNG, HangWatch
from oct_xla.telling.work import Work, measure_peak
from programs import TORCHRUN, error_lines, finish, forked, start, torchrun, wait_for_rows
from toy import Toy, make_feed, warm_up


def wait_until(told, seconds=10.0):
    until = time.monotonic() + seconds
    while not told() and time.monotonic() < until:
        time.sleep(0.01)
    return told()


def test_standing_still_ends_with_stacks_and_one_line(capfd):
    codes = []
    with HangWatch(0.2, rank=3, leave=codes.append) as watch:
        watch.beat("step 7")
        assert wait_until(lambda: codes)
    assert codes == [EXIT_HUNG]
    said = capfd.readouterr().err
    (line,) = error_lines(said)
    assert line.startswith("error: process 3: step 7 has not ended in 0.2 s (loop.hang_after_s)")
    assert "test_standing_still_ends_with_stacks_and_one_line" in said.split("error: ")[0]


def test_progress_and_pauses_are_no_hang_and_a_first_step_may_take_longer():
    codes = []
    with HangWatch(0.4, rank=0, leave=codes.append) as watch:
        for _ in range(12):
            watch.beat("a step")
            time.sleep(0.05)
        with watch.paused():
            time.sleep(0.6)
        watch.beat("the first step", first=True)
        time.sleep(0.6)
        assert codes == []
        assert wait_until(lambda: codes)


@pytest.mark.parametrize("ending", [False, True])
def test_who_goes_on_or_ends_while_others_tell_their_stacks_is_not_killed(capfd, ending):
    codes = []
    with HangWatch(1.0, rank=0, leave=codes.append) as watch:
        watch.beat("step 7")
        assert wait_until(lambda: watch._turns > watch._allowed)
        if not ending:
            watch.beat("step 8")
            time.sleep(0.3)
    time.sleep(0.2)
    assert codes == []
    assert "step 7 has not ended" in capfd.readouterr().err


def test_no_watch_is_kept_where_none_is_asked_for():
    with HangWatch(0, rank=0) as watch:
        watch.beat("step 1")
        assert not watch._thread.is_alive()
    with pytest.raises(ValueError, match=r"loop\.hang_after_s"):
        LoopConfig(hang_after_s=-1)


def children(pid):
    """Processes by their RANK that were started by `pid`."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            given = (stat.parent / "environ").read_bytes().split(b"\0")
        except (OSError, IndexError):
            continue
        ranks = [one[5:] for one in given if one.startswith(b"RANK=")]
        if parent == pid and ranks:
            found[int(ranks[0])] = int(stat.parent.name)
    return found


@pytest.mark.drill
def test_a_process_that_hangs_makes_the_others_end(tmp_path):
    options = ("--steps", 100_000, "--every", 5, "--pause", 0.01, "--hang-after", 2)
    process = start(tmp_path, *options, launcher=TORCHRUN)
    wait_for_rows(process, tmp_path, 10)
    ranks = children(process.pid)
    os.kill(ranks[1], signal.SIGSTOP)
    stat = Path(f"/proc/{ranks[0]}/stat")
    try:
        ended = wait_until(lambda: not stat.exists() or ") Z " in stat.read_text(), 60)
    finally:
        os.kill(ranks[1], signal.SIGKILL)  # or torchrun waits 30 s for it
    code, errors = finish(process)
    assert ended
    assert code != 0
    (line,) = error_lines(errors)
    assert re.match(r"error: process 0: step \d+ has not ended in 2 s", line)
    assert "in agree" in errors  # the stack of who waited
    kept = sorted(path.name for path in (tmp_path / "checkpoints").glob("step-*"))
    assert kept  # the same command goes on from there


@pytest.mark.drill
def test_of_four_processes_every_one_that_lives_tells_where_it_hangs(tmp_path):
    logs, stuck = tmp_path / "logs", tmp_path / "stuck"
    launcher = (*torchrun(4), "--redirects", "2", "--log-dir", str(logs))
    options = ("--steps", 100_000, "--every", 5, "--hang-after", 4)
    options += ("--stuck-rank", 1, "--stuck-file", stuck)
    process = start(tmp_path / "run", *options, launcher=launcher)
    assert wait_until(stuck.exists, 120), process.communicate()
    began = time.monotonic()
    os.kill(children(process.pid)[2], signal.SIGSTOP)
    code, _ = finish(process)  # torchrun waits 30 s for the one that is stopped, and kills it
    assert code != 0
    assert time.monotonic() - began < 90
    told = {int(log.parent.name): log.read_text() for log in logs.glob("*/attempt_0/*/stderr.log")}
    assert told.keys() == {0, 1, 2, 3}
    assert told.pop(2) == ""
    for rank, errors in told.items():
        (line,) = error_lines(errors)
        assert re.match(rf"error: process {rank}: step \d+ has not ended in 4 s", line)
        stacks = errors.split("error: ")[0]
        assert "most recent call first" in stacks
        assert ("toy.py" in stacks and "in __call__" in stacks) == (rank == 1)
        assert ("in agree" in stacks) == (rank != 1)


@pytest.mark.slow
def test_a_process_that_is_slower_than_the_others_is_named(tmp_path):
    options = ("--steps", 8, "--every", 1000, "--slow-rank", 1)
    code, errors = finish(start(tmp_path, *options, launcher=forked(2)))
    assert code == 0, errors
    told = [line for line in errors.splitlines() if "process 1 takes" in line]
    assert len(told) == 1, errors
    assert re.search(r"takes 0\.[1-9]\d* s of its own for a step, the median is 0\.\d+ s", told[0])
    rows = read_rows(tmp_path / "metrics.jsonl")[1:]
    assert {row["slowest_process"] for row in rows} == {1}
    assert all(row["slowest_over_median"] > 1.3 for row in rows)


def test_mfu_is_the_share_of_the_peak_that_volumes_make_use_of(tmp_path):
    work = Work(flops_per_volume=2e6, peak_flops_per_s=1e9)
    assert work.mfu(100.0) == pytest.approx(0.2)
    config = LoopConfig(steps=2, log_every=1)
    fit(Toy(), make_feed(), config, runtime=pick_runtime("cpu"), run_dir=tmp_path,
        learning_rate=warm_up, work=work)  # fmt: skip
    for row in read_rows(tmp_path / "metrics.jsonl"):
        assert row["mfu"] == pytest.approx(work.mfu(row["volumes_per_s"]))


def test_the_peak_is_what_a_product_of_matrices_reaches():
    peak = measure_peak(pick_runtime("cpu"), edges=(256,))
    matrix = torch.ones(256, 256)
    start_s = time.perf_counter()
    for _ in range(20):
        matrix @ matrix
    once = 20 * 2 * 256**3 / (time.perf_counter() - start_s)
    assert once / 20 < peak < once * 20  # the machine may be busy with other things
