"""The loop on a GPU beside the same on the CPU; where there is no GPU, with the CPU in its place.

uv run pytest -m gpu packages/oct-xla/tests/devices/test_gpu.py     on a machine with a GPU
"""

import pytest
import torch
from oct_xla import Checkpoints, LoopConfig, fit, pick_runtime, read_rows
from oct_xla.tree import tensors_of
from programs import finish, losses, start, train_here, wait_for_rows
from toy import Blocks, make_feed, warm_up

GPU = pytest.param(
    "cuda",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(torch.cuda.device_count() == 0, reason="needs a CUDA GPU"),
    ],
)
DEVICES = ["cpu", GPU]
LONG = [pytest.param("cpu", marks=pytest.mark.drill), GPU]
"""Of tests that start programs or compile; other tests show the same of a CPU in every run."""

TOLERANCE = 1e-5  # of losses between 0.1 and 3, float32, after 20 steps
STEPS = ("--blocks", "--steps", 20, "--every", 10, "--batch", 16)


def run_here(folder, *options):
    code, errors = train_here(folder, *options)
    assert code == 0, errors
    return [loss for _, loss in losses(folder)]


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("device", DEVICES)
def test_losses_and_all_that_is_saved_are_those_of_the_cpu(tmp_path, device, accumulate):
    wanted = run_here(tmp_path / "cpu", *STEPS)
    options = ("--runtime", device, "--accumulate", accumulate)
    assert run_here(tmp_path / "run", *STEPS, *options) == pytest.approx(wanted, abs=TOLERANCE)
    one, other = (
        Checkpoints(tmp_path / name / "checkpoints").load(20).tensors for name in ("run", "cpu")
    )
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.allclose(value, other[name], atol=1e-4, rtol=1e-3), name


@pytest.mark.parametrize("device", DEVICES)
def test_bf16_is_that_of_the_cpu_and_what_is_kept_is_float32(tmp_path, device):
    precise = run_here(tmp_path / "fp32", *STEPS, "--runtime", device)
    wanted = run_here(tmp_path / "cpu", *STEPS, "--precision", "bf16")
    rough = ("--runtime", device, "--precision", "bf16")
    found = run_here(tmp_path / "run", *STEPS, *rough)
    assert found == pytest.approx(wanted, abs=0.02)
    assert found != pytest.approx(precise, abs=1e-6), "it was asked for"
    kept = Checkpoints(tmp_path / "run/checkpoints").load(20).tensors
    assert {one.dtype for one in kept.values() if one.is_floating_point()} == {torch.float32}


@pytest.mark.parametrize("device", DEVICES)
def test_batches_come_from_pinned_memory_and_arrive_as_they_were(device):
    runtime = pick_runtime(device)
    batches = make_feed(16).batches(pinned=device == "cuda")
    wanted = make_feed(16).batches()
    for _ in range(4):
        given = next(batches)
        assert {one.is_pinned() for one in tensors_of(given)} == {device == "cuda"}
        arrived = tensors_of(runtime.send(given)())
        assert {one.device.type for one in arrived} == {device}
        pairs = zip(arrived, tensors_of(next(wanted)), strict=True)
        assert all(torch.equal(one.cpu(), other) for one, other in pairs)
    runtime.close()


COMPILERS = {"cpu": "aot_eager", "cuda": "inductor"}
"""Of torch.compile; a CPU's inductor wants a C++ compiler."""


@pytest.mark.parametrize("device", LONG)
def test_blocks_that_are_compiled_train_as_they_do_eagerly(tmp_path, device):
    for way in ("eager", "compiled"):
        toy, runtime = Blocks(), pick_runtime(device)
        if way == "compiled":
            for block in toy.blocks:
                block.compile(backend=COMPILERS[device])
        config = LoopConfig(steps=8, log_every=1, hang_after_s=0)
        folder = tmp_path / way
        fit(toy, make_feed(), config, runtime=runtime, run_dir=folder, learning_rate=warm_up)
        runtime.close()
    one, other = (
        [row["loss"] for row in read_rows(tmp_path / way / "metrics.jsonl")]
        for way in ("eager", "compiled")
    )
    assert len(one) == 8
    assert one == pytest.approx(other, abs=TOLERANCE)


def run(folder, *options):
    code, errors = finish(start(folder, *options))
    assert code == 0, errors
    return errors


@pytest.mark.slow
@pytest.mark.parametrize("device", LONG)
def test_a_run_that_is_killed_goes_on_as_if_it_had_not_been(tmp_path, device):
    options = ("--steps", 30, "--every", 3, "--dropout", 0.1, "--runtime", device)
    run(tmp_path / "whole", *options)
    process = start(tmp_path / "killed", *options, "--pause", 0.05)
    wait_for_rows(process, tmp_path / "killed", 10)
    process.kill()
    process.wait()
    assert 3 <= (Checkpoints(tmp_path / "killed/checkpoints").newest() or 0) < 30
    run(tmp_path / "killed", *options)
    one, other = ([loss for _, loss in losses(tmp_path / name)] for name in ("killed", "whole"))
    assert one == pytest.approx(other, abs=0.0 if device == "cpu" else TOLERANCE)


LIMITS = {"cpu": "DATA", "cuda": "GPU"}


@pytest.mark.slow
@pytest.mark.parametrize("device", LONG)
def test_where_memory_runs_out_micro_batches_get_smaller_and_losses_go_on(tmp_path, device):
    options = ("--hungry", "--steps", 8, "--every", 2, "--runtime", device)
    run(tmp_path / "whole", *options)
    limits = ("--limit", LIMITS[device], "--limit-mb", 60, "--limit-at", 3)
    errors = run(tmp_path / "tight", *options, *limits)
    told = [line for line in errors.splitlines() if "out of memory" in line]
    assert told[0] == (
        "step 4: out of memory with 8 samples at a time; going on with loop.accumulate 1 -> 2,"
        " the batch stays"
    )
    assert len(told) in (2, 3)
    one, other = ([loss for _, loss in losses(tmp_path / name)] for name in ("tight", "whole"))
    assert len(one) == 8
    assert one == pytest.approx(other, abs=TOLERANCE)
