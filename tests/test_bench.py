"""experiment=bench: how fast a machine trains, without data."""

import json

import pytest

FAST = ("runtime=cpu", "feed.batch_size=2", "loop.steps=4", "loop.log_every=2")


@pytest.mark.slow
def test_the_bench_tells_speed_split_mfu_and_memory_and_leaves_a_file_alone(call_app, tmp_path):
    run_dir, data = tmp_path / "bench", tmp_path / "none"
    given = ("experiment=bench", *FAST, f"run_dir={run_dir}", f"data.root={data}")
    outcome = call_app("pretrain", *given, "loop.checkpoint_every=2")
    assert outcome.code == 0, outcome.errors
    assert [path.name for path in run_dir.iterdir()] == ["bench.json"]
    assert not data.exists()
    found = json.loads((run_dir / "bench.json").read_text())
    for key in ("volumes_per_s", "mfu", "peak_memory_gb", "compute_fraction", "save_fraction"):
        assert key in outcome.out
        assert found[key] > 0, key
    parts = ("compute", "wait", "save", "data_wait")
    assert sum(found[f"{part}_fraction"] for part in parts) == pytest.approx(1.0, abs=0.01)
    assert found["mfu"] == pytest.approx(found["tflops_per_s"] / found["peak_tflops_per_s"])
    assert found["settings"]["steps_measured"] == 2
    assert found["tflop_a_volume"] * 2 == pytest.approx(
        found["tflops_per_s"] * found["seconds_a_step"]
    )


def test_a_bench_too_short_to_measure_says_what_to_set(call_app, tmp_path):
    given = ("experiment=bench", f"run_dir={tmp_path}", "loop.steps=10")
    outcome = call_app("pretrain", *given)
    assert outcome.code == 2
    assert outcome.error_lines == [
        "error: loop.steps (10) must be at least 2 x loop.log_every (10): the first rows are left"
        " out"
    ]
