"""The rivals on XLA: the losses of the CPU, and no graph is compiled after the first steps."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

FLAGS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What rivals_on_xla.py prints; one process, as torch-xla takes long to import."""
    if find_spec("torch_xla") is None:
        pytest.skip("torch-xla is not installed; it has wheels for Linux x86_64 only")
    program = Path(__file__).with_name("rivals_on_xla.py")
    done = subprocess.run(
        [sys.executable, program, str(tmp_path_factory.mktemp("teacher") / "encoder")],
        capture_output=True, text=True, check=False,
        env={**os.environ, "PJRT_DEVICE": "CPU", "XLA_FLAGS": FLAGS},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mae", "salt", "lejepa", "dino"])
def test_a_rival_trains_on_xla_as_on_the_cpu_and_compiles_at_first_only(found, name):
    rows = found[name]
    assert rows["xla"] == pytest.approx(rows["cpu"], rel=1e-4, abs=1e-5)
    assert len(set(rows["cpu"])) == len(rows["cpu"])  # it moves
    assert rows["graphs"][0] > 0
    assert rows["graphs"][1:] == [rows["graphs"][1]] * (len(rows["graphs"]) - 1), rows["graphs"]
