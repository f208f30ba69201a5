"""One run on one device or many, whole or cut: the same losses, and checkpoints that fit all."""

import json
import math
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from oct_xla import Checkpoints, objective_tensors, read_rows
from oct_xla.devices.sharding import units
from programs import QUIET, XLA, finish, forked, losses, start, train_here
from safetensors.torch import load_file
from spread import assert_cut
from toy import Blocks

pytestmark = pytest.mark.slow

TOLERANCE = 2e-6  # of losses between 0.1 and 3, float32, after 20 steps
STEPS = ("--blocks", "--steps", 20, "--every", 10, "--batch", 16)


def run(folder, *options, launcher=(), **environment):
    code, errors = finish(start(folder, *STEPS, *options, launcher=launcher, **environment))
    assert code == 0, errors
    return losses(folder)


def assert_close(one, other, tolerance=TOLERANCE):
    for (step, mine), (_, theirs) in zip(one, other, strict=True):
        assert math.isclose(mine, theirs, abs_tol=tolerance), (step, mine, theirs)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    code, errors = train_here(folder, *STEPS, "--evaluate-every", 10)
    assert code == 0, errors
    return folder


def tensors_of(folder, step):
    return dict(Checkpoints(folder / "checkpoints").load(step).tensors)


def assert_same_tensors(one, other, tolerance=2e-5):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert value.shape == other[name].shape, name
        assert torch.allclose(value, other[name], atol=tolerance, rtol=1e-4), name


def test_two_processes_that_hold_half_each_train_like_one_and_leave_the_whole(tmp_path, plain):
    folder = tmp_path / "cut"
    options = ("--parallel", "fsdp", "--accumulate", 2, "--given", tmp_path / "given.safetensors")
    found = run(folder, *options, "--evaluate-every", 10, launcher=forked(2))
    assert_close(found, losses(plain))
    scores, wanted = (
        [row["score"] for row in read_rows(where / "metrics.jsonl") if "score" in row]
        for where in (folder, plain)
    )
    assert scores == pytest.approx(wanted, abs=1e-4)
    parts = sorted(path.name for path in (folder / "checkpoints/step-00000020").iterdir())
    assert parts == [
        "state.json", "tensors-00001-of-00002.safetensors", "tensors-00002-of-00002.safetensors",
    ]  # fmt: skip
    sizes = [(folder / "checkpoints/step-00000020" / name).stat().st_size for name in parts[1:]]
    assert max(sizes) < 1.3 * min(sizes)
    whole = tensors_of(folder, 20)
    assert_same_tensors(whole, tensors_of(plain, 20))
    given = load_file(tmp_path / "given.safetensors")
    assert all(torch.equal(given[name], t) for name, t in objective_tensors(whole).items())


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_no_thread_of_the_group_outlives_a_run(tmp_path):
    # One that lets go of a tensor while Python ends kills the process: about 1 run in 100.
    options = ("--parallel", "fsdp", "--steps", 2, "--threads", tmp_path)
    run(tmp_path / "run", *options, launcher=forked(2))
    assert [(tmp_path / f"threads-{rank}").read_text() for rank in (0, 1)] == ["1", "1"]


@pytest.mark.drill
@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_processes_whole_or_cut_train_like_one(tmp_path, plain, processes, parallel, accumulate):
    options = ("--parallel", parallel, "--accumulate", accumulate)
    assert_close(run(tmp_path, *options, launcher=forked(processes)), losses(plain))
    assert_same_tensors(tensors_of(tmp_path, 20), tensors_of(plain, 20))


def on_xla(folder, devices, *options):
    if find_spec("torch_xla") is None:
        pytest.skip("torch-xla is not installed; it has wheels for Linux x86_64 only")
    environment = {**XLA, "CPU_NUM_DEVICES": str(devices)}
    return run(folder, "--runtime", "xla", *options, **environment)


@pytest.mark.drill
@pytest.mark.parametrize("devices", [1, 2, 4, 8])
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_xla_devices_whole_or_cut_train_like_one(tmp_path, plain, devices, parallel, accumulate):
    found = on_xla(tmp_path, devices, "--parallel", parallel, "--accumulate", accumulate)
    assert_close(found, losses(plain), 2e-5)
    compiled = [row["compilations"] for row in read_rows(tmp_path / "metrics.jsonl")]
    assert compiled[1:] == [compiled[1]] * 19, "a graph was compiled after warm-up"


@pytest.mark.drill  # tests/test_xla.py sees it in runs of the app
def test_xla_devices_still_hold_a_part_of_all_tensors_after_steps_in_place_and_a_resume(tmp_path):
    if find_spec("torch_xla") is None:
        pytest.skip("torch-xla is not installed; it has wheels for Linux x86_64 only")
    program = Path(__file__).parents[1] / "spread.py"
    for parallel in ("fsdp", "ddp"):
        done = subprocess.run(
            [sys.executable, program, parallel, tmp_path / parallel],
            env={**QUIET, **XLA},
            capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        starts, (one, other) = told["starts"], told["hosts"]
        assert len(starts) == 3
        assert (0.8 < other / one < 1.25) == (parallel == "fsdp")
        for found in starts:
            assert found.keys() == tensors_of(tmp_path / parallel, 9).keys()
            if parallel == "fsdp":
                assert_cut(found)
            else:
                assert {number for _, number in found.values()} == {1}


def kind(name):
    """Returns what runs the toy as "one", "ddp-4", "fsdp-2" or "xla-fsdp-8" say."""
    if name == "one":
        return run
    *backend, parallel, count = name.split("-")
    options = ("--parallel", parallel)
    if backend:
        return lambda folder, *more: on_xla(folder, int(count), *options, *more)
    launcher = forked(int(count))
    return lambda folder, *more: run(folder, *options, *more, launcher=launcher)


@pytest.mark.drill
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("fsdp-2", "one"),
        ("fsdp-2", "fsdp-4"),
        ("fsdp-4", "fsdp-2"),
        ("fsdp-4", "fsdp-8"),
        ("fsdp-2", "ddp-2"),
        ("fsdp-4", "ddp-8"),
        ("ddp-2", "fsdp-2"),
        ("one", "fsdp-2"),
        ("fsdp-2", "xla-fsdp-4"),
        ("xla-fsdp-4", "one"),
        ("xla-fsdp-4", "xla-ddp-8"),
        ("xla-ddp-4", "ddp-2"),
    ],
)
def test_a_run_goes_on_wherever_it_is_taken_up(tmp_path, plain, before, after):
    kind(before)(tmp_path, "--steps", 11)
    assert Checkpoints(tmp_path / "checkpoints").newest() == 11
    assert_close(kind(after)(tmp_path), losses(plain), 2e-5)
    assert_same_tensors(tensors_of(tmp_path, 20), tensors_of(plain, 20), 1e-4)


SAVED = ("one", "ddp-4", "fsdp-4", "xla-ddp-4", "xla-fsdp-4", "xla-ddp-1", "xla-fsdp-8")
TAKEN_UP = (
    *("one", "ddp-2", "ddp-8", "fsdp-2", "fsdp-8", "xla-ddp-4"),
    *(f"xla-{parallel}-{count}" for parallel in ("ddp", "fsdp") for count in (1, 2, 8)),
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with a run of each of `SAVED`, stopped after eleven steps."""
    folder = tmp_path_factory.mktemp("saved")
    for name in SAVED:
        kind(name)(folder / name, "--steps", 11)
    return folder


@pytest.mark.drill
@pytest.mark.parametrize("after", TAKEN_UP)
def test_what_some_devices_saved_is_bit_for_bit_what_any_others_take_up(tmp_path, saved, after):
    kind(after)(saved, "--moved", tmp_path)
    for before in SAVED:
        wanted = tensors_of(saved / before, 11)
        found = dict(Checkpoints(tmp_path / before).load(11).tensors)
        assert wanted.keys() == found.keys(), before
        parts = {name.split(".")[0] + name[name.rindex(".") :] for name in wanted}
        assert {"optimizer.exp_avg", "optimizer.exp_avg_sq", "optimizer.step"} <= parts
        assert any(name.startswith("objective.teacher.") for name in wanted)
        assert {float(t) for name, t in wanted.items() if name.endswith(".step")} == {11.0}
        for name, value in wanted.items():
            assert torch.equal(value, found[name]), (before, name)


def test_blocks_are_found_inner_ones_first_and_a_model_may_name_its_own():
    blocks = Blocks()
    assert set(units(blocks)) == {*blocks.blocks, *blocks.teacher}
    nested = torch.nn.ModuleList(
        [torch.nn.Sequential(torch.nn.ModuleList([torch.nn.Linear(2, 2)]))]
    )
    holder = torch.nn.Module()
    holder.outer = nested
    assert units(holder) == [nested[0][0][0], nested[0]]
    holder.sharding_units = lambda: [nested[0]]
    assert units(holder) == [nested[0]]
