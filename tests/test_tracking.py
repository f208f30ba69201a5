"""What a run leaves is kept for Weights & Biases as artifacts, where that is asked for."""

import pytest

pytestmark = pytest.mark.slow


def test_encoder_and_best_checkpoint_of_a_run_are_artifacts(place, smoke, run_app):
    pytest.importorskip("wandb")
    run_dir = place / "tracked"
    outcome = run_app(
        "pretrain", "experiment=smoke", f"run_dir={run_dir}", f"data.root={smoke.data}",
        "loop.steps=4", "loop.evaluate_every=2", "loop.best_metric=effective_rank",
        "probe.columns=[]", "tracking=wandb", "tracking.artifacts=true", WANDB_MODE="offline",
    )  # fmt: skip
    assert outcome.code == 0, outcome.errors
    held = b"".join(path.read_bytes() for path in run_dir.glob("wandb/offline-run-*/*.wandb"))
    best = (run_dir / "checkpoints/best.json").read_text()
    step = int(best.partition('"step": ')[2].partition(",")[0])
    assert str(run_dir / "encoder/model.safetensors").encode() in held
    assert str(run_dir / f"checkpoints/step-{step:08d}/tensors.safetensors").encode() in held


def test_artifacts_without_a_tracker_are_a_mistake(call_app):
    outcome = call_app("pretrain", "tracking.artifacts=true")
    assert outcome.code == 2
    assert "tracking.artifacts (True) needs tracking.wandb=true" in outcome.errors
