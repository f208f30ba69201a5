"""The same run on XLA, spread over four devices: the same numbers, and no late compilation."""

import json
from importlib.util import find_spec

import pytest

pytestmark = pytest.mark.slow

XLA = {
    "PJRT_DEVICE": "CPU",
    "CPU_NUM_DEVICES": "4",
    # The same results to 1e-7, and an eighth of the compile time.
    "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
}


@pytest.fixture(scope="module")
def rows(place, smoke, run_app):
    if find_spec("torch_xla") is None:
        pytest.skip("torch-xla is not installed; it has wheels for Linux x86_64 only")
    run_dir = place / "xla"
    outcome = run_app(
        "pretrain", "experiment=smoke", "runtime=xla", "runtime.precision=fp32",
        f"run_dir={run_dir}", f"data.root={smoke.data}", "probe.columns=[]",
        "loop.evaluate_every=0", **XLA,
    )  # fmt: skip
    assert outcome.code == 0, outcome.errors
    facts = json.loads((run_dir / "provenance.json").read_text())
    assert (facts["runtime"], facts["devices"]) == ("xla", 4)
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_four_xla_devices_give_the_losses_of_the_cpu(rows, smoke):
    for row, wanted in zip(rows, smoke.rows, strict=True):
        for key in ("loss", "loss_0", "loss_1", "target_std", "grad_norm"):
            assert abs(row[key] - wanted[key]) < 1e-4, (row["step"], key)


def test_nothing_is_compiled_after_the_warm_up(rows):
    compiled = [row["compilations"] for row in rows]
    assert compiled[0] > 0
    assert compiled[2:] == [compiled[2]] * (len(rows) - 2), compiled
