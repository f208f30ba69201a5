"""Apps whose memory runs out: started again by themselves, and with a smaller window if allowed."""

import importlib
import json
import re
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from oct_xla import Checkpoints
from oct_xla.errors import OutOfMemoryError
from oct_xla.steps.memory import read_note, withdraw

sys.path.insert(0, str(Path(__file__).parent.parent / "packages/oct-xla/tests"))
from programs import XLA

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits what Linux calls data")

ROOT = Path(__file__).parent.parent
TIME_LIMIT = 1500
BIG = "16x256x256"  # keeps some 140 MB a volume for the backward pass; 8x64x64 keeps 7
ROOMY = 10_000
SHORT = [
    "experiment=smoke", "runtime.precision=fp32", "loop.steps=3", "loop.evaluate_every=0",
    "loop.checkpoint_every=1", "probe.columns=[]", "data.phantom.participants=10",
    f"data.window={BIG}", "encoder.input_shape=[16,256,256]", "feed.batch_size=4",
]  # fmt: skip
AFTER_IMPORTS = """
import sys
sys.path.insert(0, sys.argv[1] + "/apps/pretrain")
import pretraining, oct_xla, torch._dynamo
oct_xla.pick_runtime(sys.argv[2])
lines = open("/proc/self/status").read().splitlines()
print(next(line.split()[1] for line in lines if line.startswith("VmData")))
"""


@pytest.fixture
def limited(place, environment):
    """Runs the app with so many megabytes more than it has once all is imported."""

    def run(room_mb, runtime, *overrides, **more):
        names = environment(ARROW_DEFAULT_MEMORY_POOL="system", **more)  # mimalloc maps 1 GB ahead
        command = [sys.executable, "-c", AFTER_IMPORTS, str(ROOT), runtime]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=names)
        kilobytes = int(done.stdout) + 1000 * room_mb
        shell = ["bash", "-c", f'ulimit -d {kilobytes}; exec "$@"', "limited"]
        return subprocess.run(
            [*shell, sys.executable, str(ROOT / "apps" / "pretrain"), *SHORT, f"runtime={runtime}",
             f"data.root={place / 'ten'}", *overrides],
            cwd=place, env=names, capture_output=True, text=True, check=False, timeout=TIME_LIMIT,
        )  # fmt: skip

    return run


def rows_of(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def assert_equal(run_dir, other, step):
    """Two runs have the same losses, weights, teacher and moments, bit for bit."""
    rows, others = rows_of(run_dir), rows_of(other)
    assert len(rows) == len(others) == step
    for row, wanted in zip(rows, others, strict=True):
        for key in ("loss", "grad_norm", "target_std", "lr"):
            assert row[key] == wanted[key], (row["step"], key)
    found, wanted = (
        dict(Checkpoints(one / "checkpoints").load(step).tensors) for one in (run_dir, other)
    )
    assert found.keys() == wanted.keys()
    assert [name for name, value in wanted.items() if not torch.equal(value, found[name])] == []


@pytest.mark.drill
def test_a_run_goes_on_with_the_smaller_window_that_it_was_allowed(tmp_path, limited):
    options = (f"run_dir={tmp_path / 'run'}", "smaller_window=8x64x64")
    done = limited(180, "cpu", *options)
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stderr.splitlines() if "out of memory" in line]
    assert [re.findall(r"(\d+|one) (?:samples|volume) at a time", line) for line in told] == [
        ["4"], ["2"], ["one"],
    ]  # fmt: skip
    assert told[-1] == (
        "out of memory with one volume at a time; the same command goes on with the smaller window"
        " 8x64x64 (smaller_window), batch, steps and schedules stay; starting again"
    )
    assert [row["step"] for row in rows_of(tmp_path / "run")] == [1, 2, 3]
    config = json.loads((tmp_path / "run/encoder/config.json").read_text())
    assert config["encoder"]["input_shape"] == [8, 64, 64]
    facts = json.loads((tmp_path / "run/provenance.json").read_text())
    assert facts["smaller"]["window"] == "8x64x64"

    # One that was given this window, and what was measured of the larger one, is the same run.
    small = ("data.window=8x64x64", "encoder.input_shape=[8,64,64]")
    measured = config["encoder"]["input_mean"], config["encoder"]["input_std"]
    known = [
        f"encoder.input_{name}={one!r}" for name, one in zip(("mean", "std"), measured, strict=True)
    ]
    options = (f"run_dir={tmp_path / 'small'}", *small, "measure_input=false", *known)
    done = limited(ROOMY, "cpu", *options)
    assert done.returncode == 0, done.stderr
    assert_equal(tmp_path / "run", tmp_path / "small", step=3)


@pytest.mark.drill
def test_a_run_that_gets_a_smaller_window_in_its_middle_goes_on_as_if_it_had_room(
    tmp_path, limited
):
    run, other = tmp_path / "run", tmp_path / "other"
    done = limited(ROOMY, "cpu", f"run_dir={run}", "loop.steps=2")
    assert done.returncode == 0, done.stderr
    shutil.copytree(run, other)
    further = ("loop.steps=5", "smaller_window=8x64x64")
    done = limited(180, "cpu", f"run_dir={run}", *further)
    assert done.returncode == 0, done.stderr
    assert "the smaller window 8x64x64" in done.stderr
    shutil.copy(run / "memory.json", other / "memory.json")
    done = limited(ROOMY, "cpu", f"run_dir={other}", *further)
    assert done.returncode == 0, done.stderr
    assert "out of memory" not in done.stderr
    assert [row["step"] for row in rows_of(run)] == [1, 2, 3, 4, 5]
    assert_equal(run, other, step=5)


@pytest.mark.drill
def test_where_a_batch_has_no_room_its_half_has_and_an_evaluation_looks_at_less(tmp_path, limited):
    more = ("loop.steps=2", "loop.evaluate_every=2", "feed.batch_size=8")
    rows, told = {}, {}
    for name, room_mb, first in (
        ("roomy", 20_000, True), ("half", 900, False), ("tight", 150, True),
    ):  # fmt: skip
        given = (*more, f"loop.evaluate_first={str(first).lower()}", f"run_dir={tmp_path / name}")
        done = limited(room_mb, "cpu", *given)
        assert done.returncode == (2 if name == "tight" else 0), done.stderr
        told[name] = [line for line in done.stderr.splitlines() if "out of memory" in line]
        rows[name] = {row["step"]: row for row in rows_of(tmp_path / name)}
    assert told["roomy"] == []
    assert told["half"] == [
        "step 1: out of memory with 8 samples at a time; going on with loop.accumulate 1 -> 2, the"
        " batch stays"
    ]
    less = "volumes of an evaluation: out of memory with 8 at a time; going on with 4"
    assert told["tight"][0] == less
    assert told["tight"][-1].startswith("error: step 1: out of memory with one sample at a time")
    for name, step in (("half", 1), ("half", 2), ("tight", 0)):
        for key in ("loss", "effective_rank", "token_rank"):
            if key in rows[name][step]:
                found, wanted = rows[name][step][key], rows["roomy"][step][key]
                assert found == pytest.approx(wanted, rel=1e-4), (name, step, key)
    assert {"effective_rank", "token_rank"} <= rows["tight"][0].keys()


@pytest.mark.drill
def test_an_encoder_whose_positions_are_a_table_is_not_allowed_a_smaller_window(call_app):
    outcome = call_app("pretrain", "smaller_window=8x48x48", "encoder.positions=learned")
    assert outcome.code == 2
    assert "needs encoder.positions=rotary" in outcome.errors


TIGHT = 2600
"""Megabytes in which XLA finds no room for the step of one large volume on each of two devices."""
ON_XLA = [
    "data.window=8x128x128", "encoder.input_shape=[8,128,128]", "encoder.depth=2",
    "objective.predictor.depth=1", "data.phantom.participants=48", "feed.batch_size=48",
    "loop.steps=2",
]  # fmt: skip
"""A pass asks for 22 MB a volume in one piece, and is told if there is no room. Compiling takes
500 MB in small ones; where one of those fails XLA ends the process."""


def xla_devices(number):
    """The environment of a program on so many XLA devices of this CPU."""
    if find_spec("torch_xla") is None:
        pytest.skip("torch-xla is not installed; it has wheels for Linux x86_64 only")
    return {**XLA, "CPU_NUM_DEVICES": str(number)}


@pytest.mark.drill
def test_a_run_on_xla_starts_itself_again_with_half_and_ends_like_one_with_room(
    tmp_path, place, limited
):
    xla = xla_devices(1)
    given = (*ON_XLA, f"data.root={place / 'forty-eight'}")
    done = limited(1270, "xla", f"run_dir={tmp_path / 'run'}", *given, **xla)
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stderr.splitlines() if line.endswith("; starting again")]
    assert [re.sub(r"^step \d: ", "", line) for line in told] == [
        f"out of memory with {48 // parts} samples at a time, in the middle of it; the same"
        " command goes on from the newest checkpoint with loop.accumulate"
        f" {parts} -> {2 * parts}, the batch stays; starting again"
        for parts in (1, 2, 4)[: len(told)]
    ]
    assert told
    at_once = 48 >> len(told)
    assert json.loads((tmp_path / "run/memory.json").read_text())["at_once"] == at_once
    saved = tmp_path / "run/checkpoints/step-00000002/state.json"
    assert json.loads(saved.read_text())["state"]["at_once"] == at_once
    roomy = limited(ROOMY, "cpu", f"run_dir={tmp_path / 'roomy'}", *given)
    assert roomy.returncode == 0, roomy.stderr
    rows, others = rows_of(tmp_path / "run"), rows_of(tmp_path / "roomy")
    assert [row["step"] for row in rows] == [1, 2]
    for row, wanted in zip(rows, others, strict=True):
        assert row["loss"] == pytest.approx(wanted["loss"], abs=1e-4), row["step"]


@pytest.mark.drill
def test_a_run_that_xla_aborts_with_one_volume_goes_on_with_the_smaller_window(
    tmp_path, place, limited
):
    xla = xla_devices(2)
    given = (
        "smaller_window=8x64x64", "encoder.depth=2", "objective.predictor.depth=1",
        "feed.batch_size=2", f"run_dir={tmp_path / 'run'}",
    )  # fmt: skip
    codes, told = [], []
    while codes[-1:] not in ([0], [2]):
        assert len(codes) < 5, told
        done = limited(TIGHT, "xla", *given, **xla)
        codes.append(done.returncode)
        told += [line for line in done.stderr.splitlines() if "volume at a time" in line]
    assert -signal.SIGABRT in codes
    assert codes[-1] == 0, told
    assert told == [
        "the last start died, perhaps out of memory, with one volume at a time; the same command"
        " goes on with the smaller window 8x64x64 (smaller_window), batch, steps and schedules"
        " stay; starting again"
    ]
    note = json.loads((tmp_path / "run/memory.json").read_text())
    assert note["at_once"] == 1
    assert note["smaller"]["window"] == "8x64x64"
    assert note.keys() == {"at_once", "smaller"}, "three steps have shown that it was right"
    assert [row["step"] for row in rows_of(tmp_path / "run")] == [1, 2, 3]


def test_an_evaluation_without_memory_is_no_reason_for_a_smaller_window(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "apps" / "pretrain"))
    smaller = importlib.import_module("smaller")
    config = SimpleNamespace(smaller_window="tiny", data=SimpleNamespace(window="small"))
    encoder = SimpleNamespace(input_mean=60.0, input_std=40.0)
    for evaluating in (True, False):
        error = OutOfMemoryError("out of memory", again=False, evaluating=evaluating)
        found = smaller.next_start(config, tmp_path, encoder, "abc", error)
        assert (found is error) == evaluating
        assert found.again != evaluating
        assert (tmp_path / "memory.json").exists() != evaluating


def test_a_smaller_window_that_is_only_guessed_at_can_be_taken_back(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "apps" / "pretrain"))
    smaller = importlib.import_module("smaller")
    data = SimpleNamespace(window="small")
    config = SimpleNamespace(smaller_window="tiny", data=data)
    encoder = SimpleNamespace(input_mean=60.0, input_std=40.0)
    error = OutOfMemoryError("the last start was aborted", again=False, guessed=True)
    found = smaller.next_start(config, tmp_path, encoder, "abc", error)
    assert found.again
    assert str(found).startswith("the last start died, perhaps out of memory, with one volume at")
    note = read_note(tmp_path)
    assert (note["at_once"], note["smaller"]["window"], note["before"]) == (1, "tiny", {})
    data.window = "tiny"
    assert smaller.next_start(config, tmp_path, encoder, "abc", error) is error
    withdraw(tmp_path)
    assert read_note(tmp_path) == {}
