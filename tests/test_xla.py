"""The same run on XLA, spread over four devices: the same numbers, and no late compilation."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

XLA = {
    "PJRT_DEVICE": "CPU",
    "CPU_NUM_DEVICES": "4",
    # The same results to 1e-7, and an eighth of the compile time.
    "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
}
OTHERS = {
    "vjepa21": ["objective=vjepa21_smoke"],
    "predecessor": ["objective=predecessor_fixed", "masking=predecessor"],
    "recompute": ["encoder.recompute=true"],
}
SHORT = [
    "experiment=smoke", "runtime.precision=fp32", "loop.steps=5", "probe.columns=[]",
    "loop.evaluate_every=0", "loop.checkpoint_every=0",
]  # fmt: skip


@pytest.fixture(scope="module")
def rows(place, smoke, run_app):
    if find_spec("torch_xla") is None:
        pytest.skip("torch-xla is not installed; it has wheels for Linux x86_64 only")
    run_dir = place / "xla"
    outcome = run_app(
        "pretrain", "experiment=smoke", "runtime=xla", "runtime.precision=fp32",
        f"run_dir={run_dir}", f"data.root={smoke.data}", "probe.columns=[thin]",
        f"probe.features={place / 'kept' / 'features'}", "probe.baselines=[]",
        "loop.evaluate_every=0", **XLA,
    )  # fmt: skip
    assert outcome.code == 0, outcome.errors
    facts = json.loads((run_dir / "provenance.json").read_text())
    assert (facts["runtime"], facts["devices"]) == ("xla", 4)
    (asked,) = json.loads((run_dir / "probes.json").read_text())
    assert [one["name"] for one in asked["candidates"]] == ["pretrained", "random init"]
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_four_xla_devices_give_the_losses_of_the_cpu(rows, smoke):
    for row, wanted in zip(rows, smoke.rows, strict=True):
        for key in ("loss", "loss_0", "loss_1", "target_std", "grad_norm"):
            assert abs(row[key] - wanted[key]) < 1e-4, (row["step"], key)


def test_nothing_is_compiled_after_the_warm_up(rows):
    compiled = [row["compilations"] for row in rows]
    assert compiled[0] > 0
    assert compiled[2:] == [compiled[2]] * (len(rows) - 2), compiled


@pytest.mark.drill
def test_nothing_is_compiled_in_200_steps_but_by_the_first_evaluation(place, smoke, start):
    if find_spec("torch_xla") is None:
        pytest.skip("torch-xla is not installed; it has wheels for Linux x86_64 only")
    run_dir = place / "long"
    process = start(
        "pretrain", "experiment=smoke", "runtime=xla", f"run_dir={run_dir}",
        f"data.root={smoke.data}", "probe.columns=[thin]", "probe.baselines=[]",
        f"probe.features={place / 'kept' / 'features'}", "loop.steps=200", "loop.log_every=5",
        "loop.evaluate_every=50", "loop.checkpoint_every=20", **XLA,
    )  # fmt: skip
    _, errors = process.communicate(timeout=2400)
    assert process.returncode == 0, errors
    compiled = {row["step"]: row["compilations"] for row in rows_of(run_dir)}
    assert max(compiled) == 200
    before = {count for step, count in compiled.items() if 5 <= step <= 50}
    after = {count for step, count in compiled.items() if step > 50}
    assert len(before) == 1, compiled
    assert len(after) == 1, compiled


def rows_of(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def others(place, smoke, environment):
    """Rows of short runs of each kind, on the CPU and on XLA; one process for each of the two."""
    if find_spec("torch_xla") is None:
        pytest.skip("torch-xla is not installed; it has wheels for Linux x86_64 only")
    found = {}
    for runtime, more in (("cpu", {}), ("xla", XLA)):
        runs = {
            name: [
                *SHORT, *overrides, f"runtime={runtime}", f"data.root={smoke.data}",
                f"run_dir={place / f'{name}-{runtime}'}",
            ]
            for name, overrides in OTHERS.items()
        }  # fmt: skip
        program = Path(__file__).with_name("several_runs.py")
        done = subprocess.run(
            [sys.executable, program, json.dumps(runs)],
            cwd=place, env=environment(**more), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found[runtime] = {name: rows_of(place / f"{name}-{runtime}") for name in OTHERS}
    return found


@pytest.mark.parametrize("name", OTHERS)
def test_other_objectives_and_recomputing_give_the_losses_of_the_cpu(others, name):
    assert len(others["cpu"][name]) == 5
    for row, wanted in zip(others["xla"][name], others["cpu"][name], strict=True):
        for key in ("loss", "target_std", "prediction_cosine", "grad_norm"):
            assert abs(row[key] - wanted[key]) < 1e-4, (row["step"], key)


@pytest.mark.parametrize("name", OTHERS)
def test_other_objectives_and_recomputing_compile_nothing_after_the_warm_up(others, name):
    compiled = [row["compilations"] for row in others["xla"][name]]
    assert compiled[0] > 0
    assert compiled[2:] == [compiled[2]] * 3, compiled
