"""A start that died in its first steps, aborted or killed for memory: the next one takes less."""

import faulthandler
import os
import re
import signal
import sys
from importlib.util import find_spec

import pytest
from oct_xla import Checkpoints, LoopConfig, fit, pick_runtime
from oct_xla.errors import OutOfMemoryError
from oct_xla.folder.remote import _travels
from oct_xla.steps import deaths
from oct_xla.steps.deaths import Death, Mark
from oct_xla.steps.failures import TooLarge, told_apart
from oct_xla.steps.memory import prove, read_note, withdraw, write_note
from programs import XLA, error_lines, finish, losses, start
from toy import Toy, make_feed

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks /proc what Linux killed")
STEPS = ("--hungry", "--steps", 8, "--every", 2)


@pytest.fixture
def linux(tmp_path, monkeypatch):
    """What Linux counts, in a file of our own; call it to have one more process killed."""
    counts = tmp_path / "vmstat"
    monkeypatch.setattr(deaths, "COUNTS", counts)
    killed = iter(range(100))

    def kill_one():
        counts.write_text(f"pgfault 12\noom_kill {next(killed)}\noom_kill_other 7\n")

    kill_one()
    return kill_one


def die(folder, step, at_once, signum, *, faults=True):
    """Have a process mark a step and die in it."""
    child = os.fork()
    if not child:
        faulthandler.disable()  # that of pytest, which would tell of it
        Mark(folder, 0, faults=faults).set(step - 1, at_once)
        Mark(folder, 0, faults=faults).set(step, at_once)
        os.kill(os.getpid(), signum)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signum


def test_an_abort_and_a_kill_by_linux_are_known_and_other_deaths_are_none_of_memory(
    tmp_path, linux, monkeypatch
):
    def found(*, faults=True):
        mark = Mark(tmp_path, 0, faults=faults)
        first, again = mark.read(), mark.read()
        assert again is None
        return first

    assert found() is None
    die(tmp_path, 3, 4, signal.SIGABRT)
    assert found() == Death(3, 4, "aborted (SIGABRT, 134)")
    die(tmp_path, 3, 4, signal.SIGSEGV)
    assert found() == Death(3, 4, "ended by a segmentation fault (SIGSEGV, 139)")
    die(tmp_path, 3, 4, signal.SIGSEGV)
    assert found() == Death(3, 4, "ended by a segmentation fault (SIGSEGV, 139)")
    die(tmp_path, 3, 4, signal.SIGABRT, faults=False)  # as NCCL may, where another process hangs
    assert found(faults=False) is None
    die(tmp_path, 3, 4, signal.SIGKILL)
    assert found() is None
    die(tmp_path, 2, 8, signal.SIGKILL)
    linux()
    assert found() == Death(2, 8, "killed as the machine had no memory left (SIGKILL, 137)")
    die(tmp_path, 2, 8, signal.SIGKILL)
    linux()
    (tmp_path / "boot").write_text("another\n")
    monkeypatch.setattr(deaths, "BOOT", tmp_path / "boot")
    assert found() is None, "counts of another boot, or machine, say nothing"
    (tmp_path / ".first-steps-0.tmp").write_text('{"step": 3, "at_')
    assert found() is None


def test_a_mark_that_is_cleared_leaves_nothing_and_the_fault_handler_as_it_was(tmp_path):
    before = faulthandler.is_enabled()
    mark = Mark(tmp_path / "new", 2, faults=True)
    mark.set(1, 8)
    assert [one.name for one in (tmp_path / "new").iterdir()] == [".first-steps-2.tmp"]
    assert not _travels((".first-steps-2.tmp",)), "it says nothing to another machine"
    mark.clear()
    mark.clear()
    assert list((tmp_path / "new").iterdir()) == []
    assert faulthandler.is_enabled() == before
    Mark(None, 0, faults=True).set(1, 8)


def test_a_disk_that_takes_no_mark_is_told_and_costs_no_run(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    mark = Mark(tmp_path / "file", 0, faults=True)
    mark.set(1, 8)
    mark.set(2, 8)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("should memory run out now, nobody will know")


def test_guesses_are_taken_back_or_become_sure(tmp_path):
    write_note(tmp_path, smaller={"window": "tiny"})
    write_note(tmp_path, guessed=True, at_once=4)
    write_note(tmp_path, guessed=True, at_once=2)
    withdraw(tmp_path)
    withdraw(tmp_path)
    assert read_note(tmp_path) == {"smaller": {"window": "tiny"}}
    write_note(tmp_path, guessed=True, at_once=4)
    prove(tmp_path)
    withdraw(tmp_path)
    assert read_note(tmp_path) == {"smaller": {"window": "tiny"}, "at_once": 4}


class Sizes(Toy):
    """Notes how many samples its micro-batches have."""

    def loss(self, batch, generator):
        self.sizes = {*getattr(self, "sizes", ()), len(batch.volume)}
        return super().loss(batch, generator)

    def after_step(self, step, steps, applied=None):
        return super().after_step(step, 10, applied)  # the same however long a start is to go on


def go_on(folder, steps, *, coupled=False):
    """Train up to a step; returns the sizes of micro-batches."""
    toy, config = Sizes(), LoopConfig(steps=steps, log_every=1, checkpoint_every=1)
    toy.coupled = coupled
    fit(toy, make_feed(), config, runtime=pick_runtime("cpu"), run_dir=folder, seed=3)
    return toy.sizes


@pytest.mark.filterwarnings("ignore:std")  # of one sample, a metric of the toy
def test_deaths_halve_the_micro_batch_down_to_one_and_then_all_is_as_it_was(
    tmp_path, linux, capsys
):
    run = tmp_path / "run"
    assert go_on(run, 1) == {8}
    for step, size in ((2, 8), (3, 4), (4, 2)):
        die(run, step, size, signal.SIGKILL)
        linux()
        assert go_on(run, step) == {size // 2}
        assert read_note(run) == {"at_once": size // 2, "before": {}}
        assert capsys.readouterr().err.splitlines()[1:] == [
            "the last start was killed as the machine had no memory left (SIGKILL, 137) in step"
            f" {step}, with {size} samples at a time, perhaps for lack of memory; going on with"
            f" loop.accumulate {8 // size} -> {16 // size}, the batch stays"
        ]
    die(run, 5, 1, signal.SIGKILL)
    linux()
    with pytest.raises(OutOfMemoryError, match="in step 5, with one sample at a time; if") as told:
        go_on(run, 5)
    assert told.value.guessed
    assert not told.value.again
    assert read_note(run) == {}
    assert go_on(run, 5) == {8}, "neither the note nor a checkpoint has kept a guess"
    go_on(tmp_path / "whole", 5)
    for (step, one), (_, other) in zip(losses(run), losses(tmp_path / "whole"), strict=True):
        assert one == pytest.approx(other, abs=1e-6), step


def test_a_death_halves_no_micro_batch_whose_samples_are_compared(tmp_path, linux):
    die(tmp_path, 1, 8, signal.SIGKILL)
    linux()
    with pytest.raises(OutOfMemoryError, match=r"with 8 samples .*=2, or take a") as told:
        go_on(tmp_path, 1, coupled=True)
    assert told.value.guessed
    assert read_note(tmp_path) == {}
    assert go_on(tmp_path, 1, coupled=True) == {8}


def test_what_was_guessed_is_kept_once_the_first_steps_have_ended(tmp_path, linux):
    die(tmp_path, 1, 8, signal.SIGKILL)
    linux()
    assert go_on(tmp_path, 4) == {4}
    assert read_note(tmp_path) == {"at_once": 4}
    assert Checkpoints(tmp_path / "checkpoints").load(4).state["at_once"] == 4
    die(tmp_path, 5, 8, signal.SIGKILL)  # of a start that took more than is known to fit
    linux()
    assert go_on(tmp_path, 5) == {4}


def test_a_compiler_without_memory_is_told_apart_from_a_wrong_value():
    runtime = pick_runtime("cpu")
    with pytest.raises(TooLarge), told_apart(runtime):
        raise ValueError("std::bad_alloc")  # as XLA's compiler has it
    with pytest.raises(ValueError, match="must divide"), told_apart(runtime):
        raise ValueError("4 must divide 6")


def start_until_it_ends(folder, *options):
    """Start on two XLA devices again and again; returns the last exit code, deaths and lines."""
    if find_spec("torch_xla") is None:
        pytest.skip("torch-xla is not installed; it has wheels for Linux x86_64 only")
    codes, told = [], []
    while codes[-1:] not in ([0], [2]):
        assert len(codes) < 5, told
        environment = {**XLA, "CPU_NUM_DEVICES": "2"}
        code, errors = finish(start(folder, *STEPS, "--runtime", "xla", *options, **environment))
        codes.append(code)
        told.append([line for line in errors.splitlines() if "at a time" in line])
        if code == 2:
            assert len(error_lines(errors)) == 1
    return codes, told


@pytest.mark.drill
def test_a_start_that_xla_ends_is_followed_by_one_with_half(tmp_path):
    code, errors = finish(start(tmp_path / "whole", *STEPS))
    assert code == 0, errors
    # Of two virtual devices one finds no room, and XLA aborts the process that waits for it.
    limits = ("--limit-mb", 200, "--limit-at", 2)
    codes, told = start_until_it_ends(tmp_path / "run", *limits)
    assert codes[0] == -signal.SIGABRT
    assert re.match(
        r"the last start was aborted \(SIGABRT, 134\) in step [34], with 4 samples at a time,"
        r" perhaps for lack of memory; going on with loop\.accumulate 1 -> 2, the batch stays",
        told[1][0],
    )
    assert codes[-1] == 0
    assert read_note(tmp_path / "run") == {"at_once": 2 if len(codes) == 2 else 1}
    for (step, one), (_, other) in zip(
        losses(tmp_path / "run"), losses(tmp_path / "whole"), strict=True
    ):
        assert one == pytest.approx(other, abs=1e-6), step


@pytest.mark.drill
def test_starts_that_xla_ends_whatever_they_take_end_in_one_line(tmp_path):
    # The compiler finds no room: it aborts, runs into a segmentation fault, or tells of it.
    codes, told = start_until_it_ends(tmp_path, "--limit-mb", 30, "--limit-at", 0)
    assert codes[-1] == 2, told
    assert {-signal.SIGABRT, -signal.SIGSEGV}.intersection(codes), told
    assert len(codes) <= 4, "of 4, 2 and 1 samples, and of the line"
    assert "with one sample at a time" in told[-1][-1]
    assert not list(tmp_path.glob(".first-steps-*"))


def test_processes_that_note_the_same_at_once_are_in_nobodys_way(tmp_path):
    children = []
    for _ in range(4):
        child = os.fork()
        if not child:
            code = 1
            try:
                for _ in range(40):
                    write_note(tmp_path, guessed=True, at_once=2)
                    prove(tmp_path)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    assert {os.waitpid(child, 0)[1] for child in children} == {0}
    assert read_note(tmp_path) == {"at_once": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["memory.json"]
