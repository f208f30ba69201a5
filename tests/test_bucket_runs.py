"""Runs of the apps whose folder lies in a bucket, on real APIs of S3 and GCS on this machine."""

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
def ports():
    with serve() as ports:
        yield ports


class Store:
    """A server of one kind: the objects as somebody finds them who has nothing but the URL."""

    def __init__(self, scheme, port):
        self.root, self.machine = f"{scheme}://runs", environment_of(scheme, port)
        self._options = options_of(scheme, port)

    @property
    def bucket(self):
        scheme = self.root.partition(":")[0]
        return fsspec.filesystem(scheme, **self._options, use_listings_cache=False)


S3_FIRST = pytest.mark.parametrize(
    "store", ["s3", pytest.param("gs", marks=pytest.mark.drill)], indirect=True
)


@pytest.fixture
def store(request, ports, monkeypatch):
    made = Store(request.param, ports[request.param])
    for name, value in made.machine.items():
        if name.startswith("GCSFS"):  # or this process asks Google
            monkeypatch.setenv(name, value)
    return made


def losses(content):
    rows = [json.loads(line) for line in content.splitlines()]
    return [(row["step"], row["loss"], row.get("effective_rank")) for row in rows]


@S3_FIRST
def test_a_run_in_a_bucket_leaves_everything_there_and_an_evaluation_reads_and_writes_it(
    run_app, smoke, tmp_path, store
):
    machine = store.machine | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    kept = f"probe.features={smoke.path.parent / 'kept' / 'features'}"
    outcome = run_app(
        "pretrain", "experiment=smoke", f"data.root={smoke.data}", kept, "probe.columns=[thin]",
        "probe.baselines=[]", f"run_dir={store.root}/smoke", **machine,
    )  # fmt: skip
    assert outcome.code == 0, outcome.errors
    assert f"report: {store.root}/smoke/report.html" in outcome.out
    written = {name.removeprefix("runs/smoke/") for name in store.bucket.find("runs/smoke")}
    assert {
        *("config.yaml", "provenance.json", "metrics.jsonl", "probes.json", "report.html"),
        *("encoder/config.json", "encoder/model.safetensors"),
        "checkpoints/step-00000012/state.json",
    } <= written
    weights = store.bucket.cat_file("runs/smoke/encoder/model.safetensors")
    assert weights == (smoke.path / "encoder/model.safetensors").read_bytes()
    told = losses(store.bucket.cat_file("runs/smoke/metrics.jsonl").decode())
    assert told == losses((smoke.path / "metrics.jsonl").read_text())
    assert json.loads(store.bucket.cat_file("runs/smoke/.writer.json"))["over"] is True
    shutil.rmtree(tmp_path / "cache")  # an evaluation on another machine
    outcome = run_app(
        "finetune", "experiment=smoke", f"data.root={smoke.data}", "bootstrap=100",
        "compare.baselines=[]", "compare.ranked=false", "compare.shortcuts=[]", "compare.maps=0",
        f"encoder={store.root}/smoke/encoder", f"run_dir={store.root}/judged",
        f"features={tmp_path / 'features'}", **machine,
    )  # fmt: skip
    assert outcome.code == 0, outcome.errors
    assert f"report: {store.root}/judged/report.html" in outcome.out
    results = json.loads(store.bucket.cat_file("runs/judged/results.json"))
    assert results["candidates"]
    assert store.bucket.exists("runs/judged/predictions.csv")


@pytest.mark.drill
@S3_FIRST
def test_a_run_killed_with_its_disk_gone_goes_on_from_the_bucket_as_if_nothing_had_been(
    start, finish, smoke, tmp_path, store
):
    def pretrain(machine):
        return start(
            "pretrain", "experiment=smoke", f"data.root={smoke.data}",
            f"probe.features={smoke.path.parent / 'kept' / 'features'}",
            f"run_dir={store.root}/killed", XDG_CACHE_HOME=str(tmp_path / machine),
            **store.machine,
        )  # fmt: skip

    killed = pretrain("first")
    while not store.bucket.exists("runs/killed/checkpoints/step-00000004/state.json"):
        assert killed.poll() is None, killed.stderr.read()
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    assert finish(killed).code == -signal.SIGKILL
    shutil.rmtree(tmp_path / "first")
    outcome = finish(pretrain("second"))  # after a minute, in which nobody shows up
    assert outcome.code == 0, outcome.errors
    assert "another process has not said that it ended" in outcome.errors
    assert f"taken from {store.root}/killed/checkpoints" in outcome.errors
    told = losses(store.bucket.cat_file("runs/killed/metrics.jsonl").decode())
    assert told == losses((smoke.path / "metrics.jsonl").read_text())
    weights = store.bucket.cat_file("runs/killed/encoder/model.safetensors")
    assert weights == (smoke.path / "encoder/model.safetensors").read_bytes()


@pytest.mark.drill
@S3_FIRST
def test_an_evaluation_killed_with_its_disk_gone_trains_again_only_what_was_under_way(
    start, finish, smoke, tmp_path, store
):
    def ask(machine):
        return start(
            "finetune", "experiment=smoke", f"data.root={smoke.data}", "bootstrap=100",
            "mode=full", "training.epochs=2", "seeds=2", "compare.baselines=[]",
            "compare.random_init=false", f"encoder={smoke.path / 'encoder'}",
            f"run_dir={store.root}/trained", f"features={tmp_path / machine / 'features'}",
            XDG_CACHE_HOME=str(tmp_path / machine), **store.machine,
        )  # fmt: skip

    def states(seed):
        pattern = f"runs/trained/training/*-seed{seed}-round0/checkpoints/step-*/state.json"
        return {name: store.bucket.cat_file(name) for name in store.bucket.glob(pattern)}

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
    assert store.bucket.exists("runs/trained/results.json")
