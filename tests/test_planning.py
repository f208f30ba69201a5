"""A plan is proposed for a folder, written with reasons, and trained with."""

import importlib
import json
from pathlib import Path

import pytest
from oct_io import PhantomTree, write_phantom_tree
from omegaconf import OmegaConf

PRETRAIN = Path(__file__).parent.parent / "apps" / "pretrain"
FEW = (
    *("loop.steps=2", "loop.evaluate_every=0", "loop.checkpoint_every=0", "loop.log_every=1"),
    *("feed.batch_size=4", "watched_volumes=8", "probe.columns=[]"),
)


@pytest.fixture(scope="module")
def scans(place):
    """Twelve volumes of six made-up participants."""
    write_phantom_tree(place / "planned-scans", PhantomTree(participants=6, seed=6))
    return place / "planned-scans"


@pytest.fixture(scope="module")
def planned(place, scans, call_app):
    """The plan for a folder of some scans, 36 seconds being allowed."""
    target = place / "plans" / "plan.yaml"
    outcome = call_app(
        "pretrain", "data=folder", f"data.root={scans}", f"data.cache={place / 'planned'}",
        f"propose.to={target}", "propose.timed_steps=1", "propose.hours=0.01",
    )  # fmt: skip
    assert outcome.code == 0, outcome.errors
    return target, outcome


@pytest.mark.slow
def test_a_plan_has_a_reason_beside_each_value_and_says_what_it_costs(planned):
    target, outcome = planned
    assert "s a step, median of 1" in outcome.out
    assert "training: " in outcome.out
    text = target.read_text()
    below = text[text.index("\nencoder:") :].splitlines()
    values = [line for line in below if ":" in line and not line.rstrip().endswith(":")]
    assert len(values) > 25
    assert all(" # " in line for line in values)
    plan = OmegaConf.load(target)
    assert plan.data.window == "tiny"
    assert plan.encoder.input_shape == [8, 64, 64]
    assert plan.loop.steps < 800, "36 seconds are allowed"
    assert "measured" in next(line for line in below if line.strip().startswith("steps:"))


@pytest.mark.slow
def test_a_plan_is_a_run_and_the_command_line_stands_above_it(planned, place, call_app):
    target, _ = planned
    run_dir = place / "planned-run"
    outcome = call_app("pretrain", f"plan={target}", f"run_dir={run_dir}", *FEW)
    assert outcome.code == 0, outcome.errors
    told = OmegaConf.load(run_dir / "config.yaml")
    plan = OmegaConf.load(target)
    for name in ("width", "depth", "patch_size", "rotary"):
        assert told.encoder[name] == plan.encoder[name]
    assert told.objective.voxel_weight == plan.objective.voxel_weight == 1.0
    assert [one.kind for one in told.masking.sets] == ["patches"]
    assert told.objective.ema_start == plan.objective.ema_start
    assert told.augment.contrast == 0.15
    assert told.loop.steps == 2
    assert (run_dir / "encoder" / "config.json").exists()
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert "voxel_loss" in rows[-1]


def test_a_plan_that_is_not_there_is_one_line(call_app):
    found = call_app("pretrain", "plan=nowhere.yaml")
    assert found.code == 2
    assert found.errors.splitlines() == [
        "error: plan=nowhere.yaml: there is no such plan; propose.to=nowhere.yaml writes one"
    ]


def test_free_space_is_that_of_the_disk_that_the_cache_will_lie_on(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(PRETRAIN))
    standing = importlib.import_module("planning").standing
    monkeypatch.chdir(tmp_path)
    assert standing(tmp_path / "runs" / "cache") == tmp_path
    assert standing(Path("runs/cache")) == tmp_path
    (tmp_path / "runs").mkdir()
    assert standing(Path("runs/cache")) == tmp_path / "runs"


@pytest.mark.drill
def test_a_plan_is_never_written_over(planned, call_app, scans):
    target, _ = planned
    found = call_app("pretrain", "data=folder", f"data.root={scans}", f"propose.to={target}")
    assert found.code == 2
    assert "must be a new file that ends in .yaml" in found.errors
