"""experiment=bench: how fast a machine trains, without data."""

import json
from importlib.util import find_spec

import pytest

FAST = ("runtime=cpu", "feed.batch_size=2", "loop.steps=4", "loop.log_every=2")


@pytest.mark.slow
def test_the_bench_tells_speed_split_mfu_and_memory_and_leaves_a_file_and_trace(call_app, tmp_path):
    run_dir, data = tmp_path / "bench", tmp_path / "none"
    given = ("experiment=bench", *FAST, f"run_dir={run_dir}", f"data.root={data}")
    given += ("loop.checkpoint_every=2", "loop.profile=3:4")
    outcome = call_app("pretrain", *given)
    assert outcome.code == 0, outcome.errors
    assert sorted(path.name for path in run_dir.iterdir()) == ["bench.json", "profile"]
    trace = run_dir / "profile/rank-0.json"
    assert f"trace: {trace}\n" in outcome.out
    events = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
    assert {"step 3", "step 4"} <= events
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


@pytest.mark.drill
@pytest.mark.parametrize("way", ["ddp", "fsdp", "xla"])
def test_the_bench_tells_of_several_devices_what_it_tells_of_one(run_app, tmp_path, way):
    if way == "xla" and find_spec("torch_xla") is None:
        pytest.skip("torch-xla is not installed; it has wheels for Linux x86_64 only")
    run_dir = tmp_path / "bench"
    given = ("experiment=bench", *FAST, "encoder.depth=2", f"run_dir={run_dir}")
    # XLA compiles in the first three steps
    given += ("loop.steps=6", "loop.log_every=3", "loop.profile=5:6")
    if way == "xla":
        outcome = run_app("pretrain", *given, "runtime=xla", PJRT_DEVICE="CPU", CPU_NUM_DEVICES="2")
    else:
        outcome = run_app("pretrain", *given, f"runtime.parallel={way}", processes=2)
    assert outcome.code == 0, outcome.errors
    assert sorted(path.name for path in run_dir.iterdir()) == ["bench.json", "profile"]
    traces = {"rank-0", "rank-0.json"} if way == "xla" else {"rank-0.json", "rank-1.json"}
    assert {path.name for path in (run_dir / "profile").iterdir()} == traces
    assert outcome.out.count("volumes_per_s_and_device") == 1
    found = json.loads((run_dir / "bench.json").read_text())
    assert found["settings"]["devices"] == 2
    assert found["settings"]["runtime"] == ("xla" if way == "xla" else "cpu")
    assert found["volumes_per_s_and_device"] == pytest.approx(found["volumes_per_s"] / 2)
    assert found["compilations_while_measured"] == 0
    parts = ("compute", "wait", "save", "data_wait")
    assert sum(found[f"{part}_fraction"] for part in parts) == pytest.approx(1.0, abs=0.01)
    assert found["mfu"] == pytest.approx(found["tflops_per_s"] / found["peak_tflops_per_s"])


def test_a_bench_too_short_to_measure_says_what_to_set(call_app, tmp_path):
    given = ("experiment=bench", f"run_dir={tmp_path}", "loop.steps=10")
    outcome = call_app("pretrain", *given)
    assert outcome.code == 2
    assert outcome.error_lines == [
        "error: loop.steps (10) must be at least 2 x loop.log_every (10): the first rows are left"
        " out"
    ]
