"""Copies of checkpoints in a bucket: committed last, verified, and enough to go on elsewhere."""

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from oct_xla import CheckpointError, Checkpoints, LoopConfig, fit, pick_runtime, read_rows
from oct_xla.mirror import COMMIT, Mirror
from programs import finish, start
from toy import Toy, make_feed, warm_up

SERVERS = """
import json, sys, logging
from gcp_storage_emulator.server import create_server
from moto.server import ThreadedMotoServer
logging.disable(logging.CRITICAL)
s3 = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
s3.start()
gs = create_server("127.0.0.1", 0, in_memory=True, default_bucket="runs")
gs.start()
print(json.dumps({"s3": s3.get_host_and_port()[1], "gs": gs._api._httpd.server_port}), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def url():
    fsspec.filesystem("memory").rm("/", recursive=True)
    return "memory://runs/one"


def train(run_dir, url, *, steps=12, **options):
    config = LoopConfig(steps=steps, log_every=1, checkpoint_every=4, checkpoint_url=url, **options)
    toy = Toy(dropout=0.1)
    result = fit(
        toy, make_feed(), config, runtime=pick_runtime("cpu"), run_dir=run_dir,
        learning_rate=warm_up, seed=3, evaluate=lambda step: {"score": -abs(step - 4.0)},
    )  # fmt: skip
    return result, toy


def losses(run_dir):
    return {row["step"]: row["loss"] for row in read_rows(run_dir / "metrics.jsonl")}


def objects(url):
    files, root = fsspec.core.url_to_fs(url)
    return sorted(path.removeprefix(root).lstrip("/") for path in files.find(root))


def test_a_run_goes_on_from_the_bucket_on_another_machine(tmp_path, url, capsys):
    _, whole = train(tmp_path / "whole", "", steps=16)
    train(tmp_path / "here", url, steps=16)
    assert Mirror(url, 2).steps() == [12, 16]
    assert objects(url) == [
        f"step-{step:08d}/{name}" for step in (12, 16) for name in (COMMIT, "tensors.safetensors")
    ]
    fsspec.filesystem("memory").rm("/runs/one/step-00000016", recursive=True)
    result, toy = train(tmp_path / "there", url, steps=16)
    assert "step-00000012: taken from memory://runs/one" in capsys.readouterr().err
    assert (result.step, list(losses(tmp_path / "there"))) == (16, [13, 14, 15, 16])
    assert all(torch.equal(t, toy.state_dict()[n]) for n, t in whole.state_dict().items())


def test_what_is_newer_here_is_not_replaced_by_the_copy(tmp_path, url, capsys):
    train(tmp_path, url, steps=8)
    train(tmp_path, "", steps=12)
    train(tmp_path, url, steps=16)
    assert "taken from" not in capsys.readouterr().err
    assert Mirror(url, 2).steps() == [8, 16]


def test_the_best_copy_stays_and_the_state_after_its_evaluation_is_the_one_that_counts(
    tmp_path, url
):
    train(tmp_path, url, steps=16, evaluate_every=4, best_metric="score", keep_last=1)
    assert Mirror(url, 1).steps() == [4, 16]
    commit = json.loads(fsspec.filesystem("memory").cat_file(f"/runs/one/step-00000016/{COMMIT}"))
    assert commit["state"]["best"]["step"] == 4
    assert commit["state"]["pending"] is False


@pytest.mark.parametrize("damage", ["cut", "flip", "no commit", "file gone"])
def test_a_damaged_copy_is_never_taken_and_the_one_before_is(tmp_path, url, capsys, damage):
    train(tmp_path / "here", url)
    files, place = fsspec.filesystem("memory"), "/runs/one/step-00000012"
    if damage in ("cut", "flip"):
        content = bytearray(files.cat_file(f"{place}/tensors.safetensors"))
        content[-1] ^= 1
        files.pipe_file(
            f"{place}/tensors.safetensors", bytes(content[:-9] if damage == "cut" else content)
        )
    else:
        files.rm_file(f"{place}/{COMMIT if damage == 'no commit' else 'tensors.safetensors'}")
    train(tmp_path / "there", url)
    said = capsys.readouterr().err
    assert "step-00000008: taken from" in said
    assert ("the copy of step 12 is left out" in said) == (damage != "no commit")
    assert losses(tmp_path / "there") == {
        step: loss for step, loss in losses(tmp_path / "here").items() if step > 8
    }


@pytest.mark.parametrize("allowed", range(5))
def test_an_upload_that_breaks_off_anywhere_leaves_no_copy_and_is_made_up_for(
    tmp_path, url, capsys, monkeypatch, allowed
):
    real, calls = {}, []

    def limit(name):
        real[name] = getattr(MemoryFileSystem, name)

        def call(self, *arguments, **options):
            calls.append(name)
            if len(calls) == allowed + 1:
                raise OSError("503 Slow Down")
            return real[name](self, *arguments, **options)

        monkeypatch.setattr(MemoryFileSystem, name, call)

    for name in ("put_file", "pipe_file", "rm_file"):
        limit(name)
    result, _ = train(tmp_path, url, keep_last=1)
    said = capsys.readouterr().err
    assert result.reason == "done"
    assert "503 Slow Down; check the bucket and its keys" in said
    assert Mirror(url, 1).steps()[-1] == 12
    assert Checkpoints(tmp_path / "checkpoints").newest() == 12
    assert not list((tmp_path / "checkpoints").glob("damaged*"))


def test_a_bucket_that_does_not_answer_at_the_start_is_one_line(tmp_path):
    with pytest.raises(CheckpointError, match=r"^nosuch://b/run: no copy .*check the bucket"):
        train(tmp_path, "nosuch://b/run")


@pytest.fixture(scope="module")
def servers():
    pytest.importorskip("moto")
    process = subprocess.Popen(
        [sys.executable, "-c", SERVERS],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    yield json.loads(process.stdout.readline())
    process.kill()
    process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["s3", "gs"])
@pytest.mark.filterwarnings("ignore")  # of botocore and aiohttp, about themselves
def test_both_kinds_of_bucket_hold_a_run(tmp_path, servers, scheme, monkeypatch):
    # Or gcsfs asks Google over gRPC what kind of bucket this is, at each call.
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    options = {"endpoint_url": f"http://127.0.0.1:{servers[scheme]}"}
    options |= {"key": "a", "secret": "b"} if scheme == "s3" else {"token": "anon"}
    monkeypatch.setitem(fsspec.config.conf, scheme, options)
    if scheme == "s3":
        fsspec.filesystem("s3").mkdir("runs")
    url = f"{scheme}://runs/one"
    train(tmp_path / "here", url)
    assert Mirror(url, 2).steps() == [8, 12]
    shutil.rmtree(tmp_path / "here/checkpoints")
    result, _ = train(tmp_path / "there", url, steps=16)
    assert result.step == 16
    assert list(losses(tmp_path / "there")) == [13, 14, 15, 16]
    assert Mirror(url, 2).steps() == [12, 16]
    assert Path(tmp_path / "there/checkpoints/step-00000012").is_dir()


@pytest.mark.drill
def test_processes_that_share_no_folder_go_on_from_the_bucket(tmp_path):
    url, shared = f"file://{tmp_path}/bucket", {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    shared["FSSPEC_FILE"] = '{"auto_mkdir": true}'  # buckets need no folders

    def train_apart(machine, *more):
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port = str(one.getsockname()[1])
        options = ("--steps", 12, "--every", 4, "--url", url, *more)
        ranks = [
            start(tmp_path / f"{machine}-{rank}", *options, RANK=rank, MASTER_PORT=port, **shared)
            for rank in ("0", "1")
        ]
        return [finish(process) for process in ranks]

    # The first two machines are stopped after step 8, and their folders are never seen again.
    for code, errors in train_apart("machine", "--term-at", 7):
        assert code == 143, errors
    for code, errors in train_apart("another"):
        assert code == 0, errors
    assert min(losses(tmp_path / "another-0")) == 9
    code, errors = finish(start(tmp_path / "whole", "--steps", 12))
    assert code == 0, errors
    whole = losses(tmp_path / "whole")
    for step, loss in losses(tmp_path / "another-0").items():
        assert loss == pytest.approx(whole[step], abs=1e-6)
