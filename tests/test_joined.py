"""Pretraining by two processes, whole or cut, with all that saves memory: as by one alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from oct_xla import Checkpoints
from safetensors.torch import load_file

pytestmark = pytest.mark.drill

SHORT = (
    *("experiment=smoke", "runtime=cpu", "loop.steps=6", "encoder.depth=2", "probe.columns=[]"),
    *("loop.evaluate_every=0", "loop.checkpoint_every=0"),
    *("loop.accumulate=2", "encoder.recompute=true"),
)
OBJECTIVES = {
    "vjepa2": (),
    "vjepa21": ("objective=vjepa21_smoke", "objective.levels=2"),
    "units": ("objective=vjepa21_units_smoke", "objective.levels=2", "masking=mae"),
    "filters": ("objective=vjepa21_filters_smoke", "objective.levels=2", "masking=mae"),
    "mae": ("objective=mae_smoke", "masking=mae"),
    "spectral": ("objective=mae_spectral_smoke", "masking=mae"),
    "salt": ("objective=salt_smoke",),
}
"""Those whose loss is a mean over patches. LeJEPA and the predecessor's look at statistics of the
volumes on one device, and DINO draws crops for them: other numbers of devices are other runs."""

WAYS = ("one", "ddp", "fsdp")
KEYS = ("loss", "loss_0", "prediction_cosine", "grad_norm", "lr")


@pytest.fixture(scope="module")
def train(place, environment, torchrun):
    """Makes runs, one after the other, by so many processes."""

    def train(processes, runs):
        program = Path(__file__).with_name("several_runs.py")
        done = subprocess.run(
            [sys.executable, *torchrun(processes), program, json.dumps(runs)],
            cwd=place, env=environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    return train


@pytest.fixture(scope="module")
def found(place, smoke, train):
    """Folders of runs of each objective, by the way they were trained."""
    teacher = f"objective.teacher={smoke.path / 'encoder'}"
    folders = {(name, way): place / f"{name}-{way}" for way in WAYS for name in OBJECTIVES}
    for way in WAYS:
        cut = f"runtime.parallel={'ddp' if way == 'one' else way}"
        runs = {
            name: [
                *SHORT, *more, cut, f"data.root={smoke.data}", f"run_dir={folders[name, way]}",
                *((teacher,) if name == "salt" else ()),
            ]
            for name, more in OBJECTIVES.items()
        }  # fmt: skip
        train(1 if way == "one" else 2, runs)
    return folders


def rows_of(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("way", WAYS[1:])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_two_processes_train_like_one_and_leave_its_encoder(found, name, way):
    rows, others = (rows_of(found[name, one]) for one in (way, "one"))
    assert len(rows) == len(others) == 6
    assert json.loads((found[name, way] / "provenance.json").read_text())["devices"] == 2
    for row, wanted in zip(rows, others, strict=True):
        for key in KEYS:
            assert row[key] == pytest.approx(wanted[key], abs=1e-5), (row["step"], key)
    weights, wanted = (
        load_file(found[name, one] / "encoder" / "model.safetensors") for one in (way, "one")
    )
    assert weights.keys() == wanted.keys()
    assert max(float((weights[key] - wanted[key]).abs().max()) for key in wanted) < 1e-5


@pytest.mark.parametrize("name", ["vjepa2", "vjepa21"])
def test_four_processes_train_like_one_for_twenty_steps_and_leave_its_teacher_and_moments(
    name, place, smoke, train
):
    folders = {way: place / f"{name}-twenty-{way}" for way in WAYS}
    given = (*SHORT, *OBJECTIVES[name], f"data.root={smoke.data}", "loop.steps=20")
    runs = {
        way: [*given, f"run_dir={folder}", *(() if way == "one" else (f"runtime.parallel={way}",))]
        for way, folder in folders.items()
    }
    train(1, {"one": runs.pop("one")})
    train(4, runs)
    others = rows_of(folders["one"])
    wanted = Checkpoints(folders["one"] / "checkpoints").load(20).tensors
    assert {part.split(".")[0] for part in wanted} == {"objective", "optimizer"}
    assert any("teacher" in part for part in wanted)
    for way in WAYS[1:]:
        assert json.loads((folders[way] / "provenance.json").read_text())["devices"] == 4
        rows = rows_of(folders[way])
        assert len(rows) == len(others) == 20
        for row, other in zip(rows, others, strict=True):
            for key in KEYS:
                assert row[key] == pytest.approx(other[key], abs=1e-5), (way, row["step"], key)
        tensors = Checkpoints(folders[way] / "checkpoints").load(20).tensors
        assert tensors.keys() == wanted.keys()
        for part, value in wanted.items():
            assert float((tensors[part] - value).abs().max()) < 2e-5, (way, part)


def test_an_encoder_trained_by_two_processes_is_judged_like_one_trained_by_one(
    run_app, smoke, tmp_path
):
    def judge(processes):
        run_dir = tmp_path / f"run-{processes}"
        outcome = run_app(
            "finetune", "experiment=smoke", "runtime=cpu", "mode=full", "training.epochs=2",
            f"data.root={smoke.data}", f"encoder={smoke.path / 'encoder'}", "bootstrap=100",
            "compare.networks=[monai_resnet10]", "compare.baselines=[grey histogram]",
            "compare.shortcuts=[]", "compare.maps=0", f"run_dir={run_dir}",
            f"features={tmp_path / f'features-{processes}'}", processes=processes,
        )  # fmt: skip
        assert outcome.code == 0, outcome.errors
        assert outcome.out.count("report: ") == 1
        told = json.loads((run_dir / "results.json").read_text())
        return {one["name"]: one["card"]["metrics"] for one in told["candidates"]}

    found, wanted = judge(2), judge(1)
    assert {"pretrained", "random init", "grey histogram"} <= found.keys() == wanted.keys()
    for name, metrics in wanted.items():
        if "monai" not in name:  # its batch norms see the volumes of one process
            assert found[name]["nll"] == pytest.approx(metrics["nll"], abs=1e-4), name
