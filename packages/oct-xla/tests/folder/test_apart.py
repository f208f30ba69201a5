"""Processes that do not see each other's folders, as on hosts whose run lies in a bucket."""

import pytest
from buckets import environment_of
from oct_xla import Checkpoints
from programs import finish, free_port, losses, start
from test_kills import assert_all_equal, killed

OPTIONS = ("--blocks", "--steps", 12, "--every", 4, "--batch", 16)


def train_apart(folder, machine, *options):
    """How each of two processes ended that have a disk of their own."""
    port = str(free_port())
    ranks = [
        start(
            f"file://{folder}/bucket", *OPTIONS, *options,
            RANK=rank, WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port,
            XDG_CACHE_HOME=str(folder / f"{machine}-{rank}"),
        )
        for rank in ("0", "1")
    ]  # fmt: skip
    return [finish(process) for process in ranks]


@pytest.mark.drill
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_processes_that_share_no_folder_go_on_from_the_bucket(tmp_path, parallel):
    options = ("--parallel", parallel)
    # The first two machines are stopped after step 8, and their folders are never seen again.
    for code, errors in train_apart(tmp_path, "machine", *options, "--term-at", 7):
        assert code == 143, errors
        assert "is not saved" not in errors
    for code, errors in train_apart(tmp_path, "another", *options):
        assert code == 0, errors
    last = tmp_path / "bucket/checkpoints/step-00000012"
    parts = [f"tensors-0000{n}-of-00002.safetensors" for n in (1, 2)]
    files = ["tensors.safetensors"] if parallel == "ddp" else parts
    assert sorted(path.name for path in last.iterdir()) == ["state.json", *files]
    if parallel == "fsdp":  # each sends its part, and none has all but what it was taken up from
        one, two = ((last / name).stat().st_size for name in parts)
        assert 0.8 < one / two < 1.25
        for rank in (0, 1):
            left = (tmp_path / f"another-{rank}").rglob("step-*")
            assert [path.name for path in left] == ["step-00000008"]
    code, errors = finish(start(tmp_path / "whole", *OPTIONS))
    assert code == 0, errors
    told = losses(tmp_path / "bucket")
    assert [step for step, _ in told] == list(range(1, 13))
    for (_, loss), (_, whole) in zip(told, losses(tmp_path / "whole"), strict=True):
        assert loss == pytest.approx(whole, abs=1e-6)
    found, wanted = (
        Checkpoints(tmp_path / name / "checkpoints").load(12).tensors
        for name in ("bucket", "whole")
    )
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].shape == tensor.shape
        assert float((found[name] - tensor).abs().max()) < 1e-5, name


@pytest.mark.drill
@pytest.mark.parametrize("scheme", ["file", "s3", "gs"])
def test_a_kill_of_either_before_any_change_of_the_bucket_loses_nothing_though_both_disks_are_gone(
    tmp_path, scheme, servers, monkeypatch
):
    url = f"file://{tmp_path}/bucket"
    if scheme in servers:
        url = f"{scheme}://runs/apart"
        for name, value in environment_of(scheme, servers[scheme]).items():
            monkeypatch.setenv(name, value)
    runs = killed("apart", tmp_path, url)
    assert {run["victim"] for run in runs if run["kills"]} == {0, 1}
    assert sum(run["kills"] for run in runs) > 15
    for run in runs:
        files = [f"tensors-0000{n}-of-00002.safetensors" for n in (1, 2)]
        assert run.pop("files") == ["state.json", *files]
        del run["victim"]
    assert_all_equal(runs)
