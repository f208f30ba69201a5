"""Runs of the apps whose folder lies in a bucket, on a real S3 API on this machine."""

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import fsspec
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "packages/oct-xla/tests"))
from buckets import environment_of, options_of, serve

pytest.importorskip("moto")


@pytest.fixture(scope="module")
def port():
    with serve() as ports:
        yield ports["s3"]


@pytest.fixture
def bucket(port):
    """The objects of the server, as somebody finds them who has nothing but the URL."""
    return fsspec.filesystem("s3", **options_of("s3", port), use_listings_cache=False)


def losses(content):
    rows = [json.loads(line) for line in content.splitlines()]
    return [(row["step"], row["loss"], row.get("effective_rank")) for row in rows]


def test_a_run_in_a_bucket_leaves_everything_there_and_an_evaluation_reads_and_writes_it(
    run_app, smoke, tmp_path, port, bucket
):
    machine = environment_of("s3", port) | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    kept = f"probe.features={smoke.path.parent / 'kept' / 'features'}"
    outcome = run_app(
        "pretrain", "experiment=smoke", f"data.root={smoke.data}", kept, "probe.columns=[thin]",
        "probe.baselines=[]", "run_dir=s3://runs/smoke", **machine,
    )  # fmt: skip
    assert outcome.code == 0, outcome.errors
    assert "report: s3://runs/smoke/report.html" in outcome.out
    written = {name.removeprefix("runs/smoke/") for name in bucket.find("runs/smoke")}
    assert {
        *("config.yaml", "provenance.json", "metrics.jsonl", "probes.json", "report.html"),
        *("encoder/config.json", "encoder/model.safetensors"),
        "checkpoints/step-00000012/state.json",
    } <= written
    weights = bucket.cat_file("runs/smoke/encoder/model.safetensors")
    assert weights == (smoke.path / "encoder/model.safetensors").read_bytes()
    told = losses(bucket.cat_file("runs/smoke/metrics.jsonl").decode())
    assert told == losses((smoke.path / "metrics.jsonl").read_text())
    assert json.loads(bucket.cat_file("runs/smoke/.writer.json"))["over"] is True
    shutil.rmtree(tmp_path / "cache")  # an evaluation on another machine
    outcome = run_app(
        "finetune", "experiment=smoke", f"data.root={smoke.data}", "bootstrap=100",
        "compare.baselines=[]", "compare.ranked=false", "compare.shortcuts=[]", "compare.maps=0",
        "encoder=s3://runs/smoke/encoder", "run_dir=s3://runs/judged",
        f"features={tmp_path / 'features'}", **machine,
    )  # fmt: skip
    assert outcome.code == 0, outcome.errors
    assert "report: s3://runs/judged/report.html" in outcome.out
    results = json.loads(bucket.cat_file("runs/judged/results.json"))
    assert results["candidates"]
    assert bucket.exists("runs/judged/predictions.csv")


@pytest.mark.drill
def test_a_run_killed_with_its_disk_gone_goes_on_from_the_bucket_as_if_nothing_had_been(
    start, finish, smoke, tmp_path, port, bucket
):
    def pretrain(machine):
        return start(
            "pretrain", "experiment=smoke", f"data.root={smoke.data}",
            f"probe.features={smoke.path.parent / 'kept' / 'features'}",
            "run_dir=s3://runs/killed", XDG_CACHE_HOME=str(tmp_path / machine),
            **environment_of("s3", port),
        )  # fmt: skip

    killed = pretrain("first")
    while not bucket.exists("runs/killed/checkpoints/step-00000004/state.json"):
        assert killed.poll() is None, killed.stderr.read()
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    assert finish(killed).code == -signal.SIGKILL
    shutil.rmtree(tmp_path / "first")
    outcome = finish(pretrain("second"))  # after a minute, in which nobody shows up
    assert outcome.code == 0, outcome.errors
    assert "another process has not said that it ended" in outcome.errors
    assert "taken from s3://runs/killed/checkpoints" in outcome.errors
    told = losses(bucket.cat_file("runs/killed/metrics.jsonl").decode())
    assert told == losses((smoke.path / "metrics.jsonl").read_text())
    weights = bucket.cat_file("runs/killed/encoder/model.safetensors")
    assert weights == (smoke.path / "encoder/model.safetensors").read_bytes()


@pytest.mark.drill
def test_an_evaluation_killed_with_its_disk_gone_trains_again_only_what_was_under_way(
    start, finish, smoke, tmp_path, port, bucket
):
    def ask(machine):
        return start(
            "finetune", "experiment=smoke", f"data.root={smoke.data}", "bootstrap=100",
            "mode=full", "training.epochs=2", "seeds=2", "compare.baselines=[]",
            "compare.random_init=false", f"encoder={smoke.path / 'encoder'}",
            "run_dir=s3://runs/trained", f"features={tmp_path / machine / 'features'}",
            XDG_CACHE_HOME=str(tmp_path / machine), **environment_of("s3", port),
        )  # fmt: skip

    def states(seed):
        pattern = f"runs/trained/training/*-seed{seed}-round0/checkpoints/step-*/state.json"
        return {name: bucket.cat_file(name) for name in bucket.glob(pattern)}

    killed = ask("first")
    while not states(0):
        assert killed.poll() is None, killed.stderr.read()
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    assert finish(killed).code == -signal.SIGKILL
    first = states(0)
    assert not states(1)
    shutil.rmtree(tmp_path / "first")
    outcome = finish(ask("second"))  # after a minute, in which nobody shows up
    assert outcome.code == 0, outcome.errors
    assert {name: states(0)[name] for name in first} == first, "it was not trained again"
    assert states(1)
    assert bucket.exists("runs/trained/results.json")
