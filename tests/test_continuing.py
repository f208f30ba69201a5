"""The experiment that goes on from published weights, on a small file of the same layout."""

import json
import runpy
from pathlib import Path

import pytest
import torch
from oct_io import PhantomTree, write_phantom_tree
from oct_vjepa import EncoderConfig, PredictorConfig
from oct_xla import read_checkpoint
from safetensors.torch import load_file

ROOT = Path(__file__).parent.parent
SMALL = (
    *("encoder.width=48", "encoder.depth=2", "encoder.heads=4", "encoder.input_shape=[8,64,64]"),
    *("encoder.patch_size=[4,16,16]", "objective.predictor={width:24,depth:2,heads:2}"),
    *("loop.steps=2", "loop.checkpoint_every=1", "loop.evaluate_every=0", "loop.log_every=1"),
    *("feed.batch_size=2", "feed.workers=0", "watched_volumes=2", "probe.columns=[]"),
    *("data.window=tiny", "runtime=cpu"),
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of V-JEPA 2 with random weights: three channels, two slices a patch."""
    where = ROOT / "packages" / "oct-vjepa" / "tests" / "convert" / "hub_files.py"
    write_hub = runpy.run_path(str(where))["write_hub"]
    config = EncoderConfig(
        input_shape=(8, 64, 64), patch_size=(2, 16, 16), channels=3, width=48, depth=2, heads=4
    )
    path = tmp_path_factory.mktemp("hub") / "vitx.pt"
    predictor = PredictorConfig(width=24, depth=2, heads=2)
    return path, write_hub(path, config, predictor)


@pytest.fixture(scope="module")
def scans(place):
    """Eight volumes of four made-up participants."""
    write_phantom_tree(place / "few-scans", PhantomTree(participants=4, seed=5))
    return place / "few-scans"


@pytest.mark.slow
def test_a_continued_run_starts_with_teacher_and_predictor_of_the_file(
    place, scans, weights, call_app
):
    path, (_, teacher, predictor) = weights
    run_dir = place / "going-on"
    outcome = call_app(
        "pretrain", "experiment=continued", f"init={path}", "data=folder", f"data.root={scans}",
        f"data.cache={place / 'going-on-cache'}", "data.jobs=1", f"run_dir={run_dir}",
        "objective.ema_start=1.0", "objective.ema_end=1.0",
        "schedule.peak=0", "schedule.end=0", *SMALL,
    )  # fmt: skip
    assert outcome.code == 0, outcome.errors
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    # With a learning rate of 0 and a teacher that all but stands still, what is left is the start.
    left = load_file(run_dir / "encoder" / "model.safetensors")
    for name, value in teacher.state_dict().items():
        if name != "patches.proj.weight":
            assert torch.allclose(left[name], value, atol=1e-5), name
    grown = teacher.state_dict()["patches.proj.weight"].sum(dim=1, keepdim=True)
    grown = grown.repeat_interleave(2, dim=2) / 2
    assert torch.allclose(left["patches.proj.weight"], grown, atol=1e-5)
    saved = read_checkpoint(run_dir / "checkpoints" / "step-00000002").tensors
    for name, value in predictor.state_dict().items():
        (own,) = [one for key, one in saved.items() if key.endswith(f"predictor.{name}")]
        assert torch.allclose(own, value), name
    facts = json.loads((run_dir / "provenance.json").read_text())
    assert any("3 channels summed to 1" in note for note in facts["initial"]["notes"])
