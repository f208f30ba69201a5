"""Processes that do not see each other's folders, as on hosts whose run lies in a bucket."""

import pytest
from oct_xla import Checkpoints
from programs import finish, free_port, losses, start

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
