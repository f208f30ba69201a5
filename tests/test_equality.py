"""V-JEPA 2 by one process, by several and on XLA devices, whole or cut: the same twenty losses."""

import json
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "packages/oct-xla/tests"))

import torch
from oct_xla import read_rows
from programs import XLA

pytestmark = pytest.mark.drill

TOLERANCE = 1e-5  # of losses and cosines near 1 and of norms of gradients, float32
KEYS = ("loss", "loss_0", "loss_1", "prediction_cosine", "grad_norm", "lr", "momentum")
SETTINGS = (
    *("experiment=smoke", "runtime.precision=fp32", "encoder.depth=1"),
    *("objective.predictor.depth=1", "feed.batch_size=16", "loop.steps=20", "probe.columns=[]"),
    *("loop.evaluate_every=0", "loop.checkpoint_every=0"),
)
PLACES = [("gloo", 2), ("gloo", 4), ("xla", 1), ("xla", 2), ("xla", 4), ("xla", 8)]
GPU = (
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() == 0, reason="needs a CUDA GPU"),
)
WAYS = tuple(product(("ddp", "fsdp"), (1, 2)))
"""How parameters lie, and into how many micro-batches a device's part of the batch is cut."""


@pytest.fixture(scope="module")
def train(place, smoke, environment, torchrun):
    """Trains in one place each of the ways that are asked for; gives their rows."""

    @cache
    def train(backend, count, ways=WAYS):
        if backend == "xla" and find_spec("torch_xla") is None:
            pytest.skip("torch-xla is not installed; it has wheels for Linux x86_64 only")
        runtime = backend if backend in ("xla", "cuda") else "cpu"
        folders = {way: place / f"{backend}-{count}-{way[0]}-{way[1]}" for way in ways}
        runs = {
            str(way): [
                *SETTINGS, f"runtime={runtime}", f"runtime.parallel={way[0]}",
                f"loop.accumulate={way[1]}", f"data.root={smoke.data}", f"run_dir={folder}",
            ]
            for way, folder in folders.items()
        }  # fmt: skip
        launcher = torchrun(count) if backend == "gloo" else []
        devices = {**XLA, "CPU_NUM_DEVICES": str(count)} if backend == "xla" else {}
        program = Path(__file__).with_name("several_runs.py")
        done = subprocess.run(
            [sys.executable, *launcher, program, json.dumps(runs)],
            cwd=place, env=environment(**devices), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        for folder in folders.values():
            assert json.loads((folder / "provenance.json").read_text())["devices"] == count
        return {way: read_rows(folder / "metrics.jsonl") for way, folder in folders.items()}

    return train


@pytest.mark.parametrize(("parallel", "accumulate"), WAYS)
@pytest.mark.parametrize(("backend", "count"), [*PLACES, pytest.param("cuda", 1, marks=GPU)])
def test_many_devices_have_the_losses_of_one_process(
    train, backend, count, parallel, accumulate, record_property
):
    wanted = train("one", 1, WAYS[:1])[WAYS[0]]
    rows = train(backend, count)[parallel, accumulate]
    assert len(rows) == len(wanted) == 20
    assert len({row["loss"] for row in wanted}) == 20  # it moves
    pairs = list(zip(rows, wanted, strict=True))
    apart = {key: max(abs(row[key] - other[key]) for row, other in pairs) for key in KEYS}
    record_property("apart", apart)
    assert max(apart.values()) < TOLERANCE, apart
    compiled = [row["compilations"] for row in rows]
    assert (compiled[0] > 0) is (backend == "xla")
    assert compiled[2:] == [compiled[2]] * 18, compiled
