"""Memory that really runs out: the batch stays, micro-batches get smaller, losses go on."""

import json
import os
import re
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from oct_xla import Checkpoints, LoopConfig, RunFolderError, fit, pick_runtime, read_rows
from oct_xla.errors import FeedError, OutOfMemoryError
from oct_xla.folder.writing import Writing
from oct_xla.steps.memory import Shrinking, cut_batch, halved, out_of_memory, read_note, write_note
from programs import QUIET, XLA, finish, losses, start, torchrun
from toy import Toy, make_feed

linux = pytest.mark.skipif(sys.platform != "linux", reason="limits memory by what /proc says")
TOLERANCE = 1e-6  # of losses near 1, float32: sums of micro-batches have another order
STEPS = ("--hungry", "--steps", 8, "--every", 2)


def test_a_batch_is_cut_into_the_fewest_parts_that_fit():
    assert [cut_batch(8, 1, most) for most in (0, 8, 7, 4, 3, 1)] == [1, 1, 2, 2, 4, 8]
    assert cut_batch(6, 2, 2) == 3
    assert cut_batch(6, 2, 5) == 2
    assert [halved(size) for size in (8, 6, 3, 2)] == [4, 3, 1, 1]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm"),
        RuntimeError("Error preparing computation: Out of memory allocating 327680000 bytes."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("could not create a primitive"),
        RuntimeError("could not execute a primitive"),
        MemoryError("std::bad_alloc"),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_a_lack_of_memory_is_known_by_what_each_library_says(error):
    assert out_of_memory(error)
    told = FeedError("feed: sample 3 of epoch 0: it failed")
    told.__cause__ = error
    assert out_of_memory(told)
    assert not out_of_memory(RuntimeError("shapes do not match"))
    assert not out_of_memory(RuntimeError("could not create a primitive descriptor"))


def test_a_note_keeps_what_others_noted_and_a_damaged_one_is_named(tmp_path):
    assert read_note(None) == read_note(tmp_path) == {}
    write_note(tmp_path, at_once=4)
    write_note(tmp_path, smaller={"window": "tiny"})
    assert read_note(tmp_path) == {"at_once": 4, "smaller": {"window": "tiny"}}
    (tmp_path / "memory.json").write_text("{")
    with pytest.raises(RunFolderError, match=r"memory\.json: not a readable JSON file"):
        read_note(tmp_path)


def limited(folder, kind, *rooms_mb):
    program = Path(__file__).parents[1] / "limited.py"
    command = [sys.executable, program, folder, kind, *rooms_mb]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, timeout=900,
        env={**os.environ, **QUIET},  # where there are two, two samples take less than with one
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def said(folder, room_mb):
    return (folder / f"{room_mb}.err").read_text().splitlines()


def assert_close(folder, whole):
    for (step, one), (_, other) in zip(losses(folder), losses(whole), strict=True):
        assert one == pytest.approx(other, abs=TOLERANCE), step


@linux
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["DATA", pytest.param("AS", marks=pytest.mark.drill)])
def test_each_limit_of_memory_leads_to_the_micro_batch_that_fits_it(tmp_path, kind):
    assert limited(tmp_path, kind, 150, 46, 10) == [[0], [0], [0], [2]]
    stages = [
        f"out of memory with {size} samples at a time; going on with loop.accumulate"
        f" {8 // size} -> {16 // size}, the batch stays"
        for size in (8, 4, 2)
    ]

    def told(room_mb):
        """Without the step: how much a pass takes differs a little from one to the next."""
        return [re.sub(r"^step \d: ", "", line) for line in said(tmp_path, room_mb)]

    assert said(tmp_path, "whole") == []
    assert told(150) == stages[: len(told(150))]
    assert told(46) == stages
    assert told(10)[:-1] == stages
    assert said(tmp_path, 10)[-1] == (
        "error: step 1: out of memory with one sample at a time; take a smaller model or volume,"
        " let it compute blocks again in the backward pass, or cut it with parallel=fsdp"
    )
    for room_mb in (150, 46):
        assert said(tmp_path, room_mb)
        assert_close(tmp_path / str(room_mb), tmp_path / "whole")
    assert Checkpoints(tmp_path / "46/checkpoints").load(3).state["at_once"] == 1


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    code, errors = finish(start(folder, *STEPS))
    assert code == 0, errors
    return folder


@linux
@pytest.mark.drill
def test_two_processes_of_which_one_runs_out_cut_the_batch_alike(tmp_path, whole):
    limits = ("--limit-mb", 60, "--limit-at", 3, "--limit-rank", 1)
    code, errors = finish(start(tmp_path, *STEPS, *limits, launcher=torchrun(2)))
    assert code == 0, errors
    told = [line for line in errors.splitlines() if "out of memory" in line]
    assert told[0].startswith("step 4: out of memory with 4 samples at a time; going on with")
    assert len(told) in (1, 2)
    assert_close(tmp_path, whole)


@linux
@pytest.mark.drill
def test_one_of_two_that_runs_out_in_the_middle_of_a_collective_makes_all_start_again(
    tmp_path, whole
):
    limits = ("--limit-mb", 60, "--limit-at", 3, "--limit-rank", 1, "--parallel", "fsdp")
    launcher = (*torchrun(2), "--max-restarts", "4")
    code, errors = finish(start(tmp_path, *STEPS, *limits, launcher=launcher))
    assert code == 0, errors
    again = [line for line in errors.splitlines() if line.startswith("again: ")]
    assert again[0] == (
        "again: step 4: out of memory with 4 samples at a time, in the middle of it; the same"
        " command goes on from the newest checkpoint with loop.accumulate 1 -> 2, the batch stays"
    )
    assert "RuntimeError: another process of this run has ended; its own last line" in errors
    assert read_note(tmp_path)["at_once"] in (1, 2)
    assert_close(tmp_path, whole)


@linux
@pytest.mark.drill
def test_xla_leaves_a_note_and_its_next_start_takes_half(tmp_path, whole):
    # Of two virtual devices one runs out, and XLA ends the process that waits for it in vain.
    if find_spec("torch_xla") is None:
        pytest.skip("torch-xla is not installed; it has wheels for Linux x86_64 only")
    code, told = 75, []
    while code == 75 and len(told) < 5:
        # At the third step: compiling takes memory, too, and where it finds none XLA aborts.
        options = ("--runtime", "xla", "--limit-mb", 100, "--limit-at", 2)
        environment = {**XLA, "CPU_NUM_DEVICES": "1"}
        code, errors = finish(start(tmp_path, *STEPS, *options, **environment))
        told += re.findall(r"^again: (.*)$", errors, re.M)
    assert code == 0, errors
    assert told
    assert "in the middle of it; the same command goes on" in told[0]
    assert_close(tmp_path, whole)
    compiled = [row["compilations"] for row in read_rows(tmp_path / "metrics.jsonl")]
    last = compiled[2 * len(told) :]  # each start before it took two steps, and counts its own
    assert last[1:] == [last[1]] * (len(last) - 1), compiled


def test_a_save_that_gets_no_thread_is_made_at_once():
    saved = []
    before = threading.stack_size(2**54)  # more than any machine can give
    try:
        with pytest.raises(RuntimeError, match="can't start new thread"):
            threading.Thread(target=list).start()
        writing = Writing(lambda: saved.append("a checkpoint"))
    finally:
        threading.stack_size(before)
    assert saved == ["a checkpoint"]
    assert not writing.failed
    assert writing.wait() == ""


class Sizes(Toy):
    """Notes how many samples each micro-batch has."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def loss(self, batch, generator):
        self.sizes.append(len(batch.volume))
        return super().loss(batch, generator)


@pytest.mark.filterwarnings("ignore:std")  # of one sample, a metric of the toy
@pytest.mark.parametrize(("accumulate", "sizes"), [(1, {2}), (3, {2}), (6, {2}), (12, {1})])
def test_a_limit_that_was_found_holds_beside_any_loop_accumulate(tmp_path, accumulate, sizes):
    write_note(tmp_path, at_once=2)
    toy, config = Sizes(), LoopConfig(steps=2, accumulate=accumulate)
    fit(toy, make_feed(batch_size=12), config, runtime=pick_runtime("cpu"), run_dir=tmp_path)
    assert set(toy.sizes) == sizes


def test_what_is_computed_in_parts_is_asked_again_with_half_until_it_fits(capsys):
    asked = []

    def ask(size):
        asked.append(size)
        if size > 3:
            raise MemoryError("std::bad_alloc")
        return -size

    fitting = Shrinking(12, "volumes")
    assert fitting.again(ask) == -3
    assert asked == [12, 6, 3]
    assert fitting.again(ask) == -3
    assert asked[3:] == [3]
    told = capsys.readouterr().err.splitlines()
    assert told[-1] == "volumes: out of memory with 6 at a time; going on with 3"


def test_what_does_not_fit_one_at_a_time_or_fails_otherwise_is_raised(capsys):
    def no_room(size):
        raise MemoryError(f"no room for {size}")

    def wrong(size):
        raise RuntimeError("shapes do not match")

    with pytest.raises(MemoryError, match=r"no room for 1$"):
        Shrinking(3, "volumes").again(no_room)
    with pytest.raises(ValueError, match="must be at least 1"):
        Shrinking(0, "volumes")
    with pytest.raises(RuntimeError, match="shapes"):
        Shrinking(3, "volumes").again(wrong)
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_an_evaluation_that_runs_out_of_memory_ends_in_a_line_and_is_made_up_for(tmp_path):
    room = [False]

    def evaluate(step):
        if not room[0] and step == 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 38 GiB")
        return {"score": 1.0 / step}

    def run(folder):
        runtime, config = pick_runtime("cpu"), LoopConfig(steps=6, evaluate_every=2, log_every=1)
        fit(
            Toy(), make_feed(batch_size=4), config, runtime=runtime, run_dir=folder,
            evaluate=evaluate,
        )  # fmt: skip
        return [(row["step"], row["loss"], row.get("score")) for row in told(folder)]

    def told(folder):
        return read_rows(folder / "metrics.jsonl")

    with pytest.raises(OutOfMemoryError, match="the evaluation after step 4: out of mem") as found:
        run(tmp_path / "tight")
    assert not found.value.again, "a new start alone would run out again"
    assert found.value.evaluating
    assert "the step is saved" in str(found.value)
    room[0] = True
    assert run(tmp_path / "tight") == run(tmp_path / "roomy")
