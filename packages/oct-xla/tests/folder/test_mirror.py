"""Copies of checkpoints in a bucket: committed last, verified, and enough to go on elsewhere."""

import json

import fsspec
import pytest
import torch
from afar import URL, train
from fsspec.implementations.memory import MemoryFileSystem
from oct_xla import (
    CheckpointError,
    Checkpoints,
    RunFolderError,
    read_rows,
)
from oct_xla.devices.sharding import Piece
from oct_xla.folder.apart import CheckpointsApart
from oct_xla.folder.mirror import COMMIT, Mirror
from oct_xla.folder.remote import working_folder

COPIES = "/runs/one/checkpoints"


@pytest.fixture(autouse=True)
def files():
    files = fsspec.filesystem("memory")
    files.rm("/", recursive=True)
    return files


@pytest.fixture
def on(tmp_path, monkeypatch):
    """`on("here")` goes to a machine with a disk of its own; gives where the run lies there."""

    def go(name):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
        return working_folder(URL)

    return go


def losses(run_dir):
    return {row["step"]: row["loss"] for row in read_rows(run_dir / "metrics.jsonl")}


def copies():
    return Mirror(f"{URL}/checkpoints", 2).steps()


def test_a_run_goes_on_from_the_bucket_on_another_machine(tmp_path, on, files, capsys):
    _, whole = train(tmp_path / "whole", steps=16)
    on("here")
    train(steps=16)
    names = [path.removeprefix("/runs/one/") for path in files.find("/runs/one")]
    assert names == [
        ".writer.json",
        *(
            f"checkpoints/step-{step:08d}/{name}"
            for step in (12, 16)
            for name in (COMMIT, "tensors.safetensors")
        ),
        "metrics.jsonl",
    ]
    files.rm(f"{COPIES}/step-00000016", recursive=True)
    there = on("there")
    result, toy = train(steps=16)
    said = capsys.readouterr().err
    assert "step-00000012: taken from memory://runs/one" in said
    assert "memory://runs/one: goes on from step 12; 4 rows of metrics after it come" in said
    assert "has not said that it ended" not in said
    assert (result.step, losses(there)) == (16, losses(tmp_path / "whole"))
    assert files.cat_file("/runs/one/metrics.jsonl") == (there / "metrics.jsonl").read_bytes()
    assert all(torch.equal(t, toy.state_dict()[n]) for n, t in whole.state_dict().items())


def test_a_run_whose_name_looks_like_a_pattern_goes_on_from_its_copies(on, capsys):
    url = "memory://runs/lr[1]"
    on("here")
    train(url, steps=8)
    on("there")
    train(url, steps=12)
    assert f"step-00000008: taken from {url}" in capsys.readouterr().err
    assert Mirror(f"{url}/checkpoints", 2).steps() == [4, 8, 12]


def test_what_the_bucket_holds_is_a_run_folder_as_it_stands(tmp_path, on, files):
    on("here")
    train()
    for name in files.find("/runs/one"):
        here = tmp_path / "copy" / name.removeprefix("/runs/one/")
        here.parent.mkdir(parents=True, exist_ok=True)
        files.get_file(name, str(here))
    for place in ("copy", "whole"):
        train(tmp_path / place, steps=12)
        train(tmp_path / place, steps=16)
    assert losses(tmp_path / "copy") == losses(tmp_path / "whole")


def test_a_run_on_a_disk_is_copied_to_a_bucket_and_goes_on_there(tmp_path, on, files):
    train(tmp_path / "disk", steps=8)
    files.put(str(tmp_path / "disk"), "/runs/one", recursive=True)
    place = on("here")
    train(steps=12)
    assert list(losses(place)) == list(range(1, 13))


def test_the_best_copy_stays_and_the_state_after_its_evaluation_is_the_one_that_counts(on, files):
    on("here")
    train(steps=16, evaluate_every=4, best_metric="score", keep_last=1)
    assert copies() == [4, 16]
    commit = json.loads(files.cat_file(f"{COPIES}/step-00000016/{COMMIT}"))
    assert commit["state"]["best"]["step"] == 4
    assert commit["state"]["pending"] is False


@pytest.mark.parametrize("damage", ["cut", "flip", "no commit", "file gone", "another's"])
def test_a_damaged_copy_is_never_taken_and_the_one_before_is(on, files, capsys, damage):
    here, place = on("here"), f"{COPIES}/step-00000012"
    train()
    content = bytearray(files.cat_file(f"{place}/tensors.safetensors"))
    content[-1] ^= 1
    if damage in ("cut", "flip"):
        files.pipe_file(
            f"{place}/tensors.safetensors", bytes(content[:-9] if damage == "cut" else content)
        )
    elif damage == "another's":
        files.pipe_file(f"{place}/{COMMIT}", files.cat_file(f"{COPIES}/step-00000008/{COMMIT}"))
    else:
        files.rm_file(f"{place}/{COMMIT if damage == 'no commit' else 'tensors.safetensors'}")
    there = on("there")
    train()
    said = capsys.readouterr().err
    assert "step-00000008: taken from" in said
    assert ("the copy of step 12 is left out" in said) == (damage != "no commit")
    assert losses(there) == losses(here)


def test_what_another_run_has_left_at_a_step_is_replaced_though_it_is_as_long(on, files):
    here = on("here")
    train(steps=8)
    place = f"{COPIES}/step-00000008"
    content = files.cat_file(f"{place}/tensors.safetensors")
    files.pipe_file(f"{place}/tensors.safetensors", content[::-1])
    files.rm_file(f"{place}/{COMMIT}")
    train(steps=8)
    on("there")
    assert Checkpoints(here / "checkpoints").newest() == 8
    assert copies() == [4, 8]
    assert files.cat_file(f"{place}/tensors.safetensors") == content


def test_a_checkpoint_that_is_damaged_here_is_taken_from_its_copy(on, capsys):
    tensors = on("here") / "checkpoints/step-00000008/tensors.safetensors"
    train(steps=8)
    content = tensors.read_bytes()
    tensors.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    train(steps=12)
    said = capsys.readouterr().err
    assert "tensors.safetensors is not as it was written; kept aside, its copy is taken" in said
    assert "going on from step 4" not in said


CHANGES = ("put_file", "pipe_file", "rm_file")


def break_at(monkeypatch, number):
    """Let the bucket answer 503 to its n-th change, counted from 0; gives the changes made."""
    calls = []

    def limit(name):
        real = getattr(MemoryFileSystem, name)

        def call(self, *arguments, **options):
            calls.append(arguments[-1] if name == "put_file" else arguments[0])
            if len(calls) == number + 1:
                raise OSError("503 Slow Down")
            return real(self, *arguments, **options)

        monkeypatch.setattr(MemoryFileSystem, name, call)

    for name in CHANGES:
        limit(name)
    return calls


def test_rows_go_up_before_the_checkpoint_that_they_lead_to(on, monkeypatch):
    on("here")
    calls = break_at(monkeypatch, 10**6)
    train(steps=8, save_in_background=False)
    assert [name.rpartition("/")[2] for name in calls] == [
        ".writer.json",
        *("tensors.safetensors", "metrics.jsonl", COMMIT) * 2,
        ".writer.json",
    ]


@pytest.mark.parametrize("number", range(1, 8))
def test_an_upload_that_breaks_off_anywhere_leaves_no_copy_and_is_made_up_for(
    on, capsys, monkeypatch, number
):
    here = on("here")
    with monkeypatch.context() as broken:
        broken.setattr(MemoryFileSystem, "invalidate_cache", MemoryFileSystem.invalidate_cache)
        break_at(broken, number)
        result, _ = train(keep_last=1)
    said = capsys.readouterr().err
    assert result.reason == "done"
    assert "503 Slow Down; check the bucket and its keys" in said
    assert copies()[-1] == 12
    assert Checkpoints(here / "checkpoints").newest() == 12
    assert not list((here / "checkpoints").glob("damaged*"))
    there = on("there")
    train(keep_last=1)
    assert losses(there) == losses(here)


def test_a_bucket_that_fails_at_the_end_is_one_line_and_made_up_for_by_the_same_command(
    on, monkeypatch, files
):
    here = on("here")
    with monkeypatch.context() as broken:
        gone = break_at(broken, 4)  # the tensors of step 8
        real = MemoryFileSystem.put_file

        def never_again(self, *arguments, **options):
            if len(gone) > 4:
                raise OSError("503 Slow Down")
            return real(self, *arguments, **options)

        broken.setattr(MemoryFileSystem, "put_file", never_again)
        with pytest.raises(CheckpointError, match="503 Slow Down; check the bucket"):
            train(steps=8)
    assert copies() == [4]
    assert Checkpoints(here / "checkpoints").newest() == 8
    result, _ = train(steps=8)
    assert (result.step, copies()) == (8, [4, 8])
    assert json.loads(files.cat_file("/runs/one/.writer.json"))["over"] is True


def test_a_bucket_that_does_not_answer_at_the_start_is_one_line(on):
    on("here")
    with pytest.raises(RunFolderError, match=r"^nosuch://b/run: cannot be read.*the bucket and"):
        train("nosuch://b/run")


def saved(tmp_path, steps, mirror, **more):
    """Checkpoints of one machine, each copied."""
    store = Checkpoints(tmp_path / "checkpoints", 2, mirror)
    for step in steps:
        store.save(step, {"one": torch.ones(2)}, more)
    return store


def test_parts_that_nobody_committed_go_once_a_newer_checkpoint_is_committed(tmp_path, files):
    mirror = Mirror(f"{URL}/checkpoints", 2)
    for step in (17, 99):  # who was cut off left them, or is about to put them there
        files.pipe_file(f"{COPIES}/step-{step:08d}/tensors-00001-of-00002.safetensors", b"part")
    saved(tmp_path, (10, 20, 30), mirror)
    places = {path.split("/")[-2] for path in files.find(COPIES)}
    assert places == {"step-00000020", "step-00000030", "step-00000099"}


def test_a_newer_copy_that_cannot_be_read_costs_no_checkpoint_its_place(tmp_path, files):
    mirror = Mirror(f"{URL}/checkpoints", 1)
    files.pipe_file(f"{COPIES}/step-00000200/{COMMIT}", b"{}")
    saved(tmp_path, (100, 150), mirror)
    assert mirror.steps() == [150, 200]


def test_a_host_without_the_folder_of_the_first_keeps_only_what_it_goes_on_from(tmp_path):
    mirror = Mirror(f"{URL}/checkpoints", 5)
    saved(tmp_path, (10, 20, 30), mirror)
    other = Checkpoints(tmp_path / "other", 2, mirror)
    for step in (10, 20, 30):
        other.bring(step, alone=True)
        assert other.steps() == [step]
    other.bring(20)
    assert other.steps() == [20, 30]


def test_a_save_apart_that_is_committed_counts_though_nothing_could_be_tidied(
    tmp_path, monkeypatch, capsys
):
    def busy(*_):
        raise CheckpointError("503")

    mirror = Mirror(f"{URL}/checkpoints", 1)
    store = CheckpointsApart(tmp_path / "checkpoints", 1, mirror)
    for step in (10, 20):
        if step == 20:
            monkeypatch.setattr(mirror, "_tidy", busy)
        store.open(step)
        own = store.write(step, {"one": Piece.whole(torch.ones(2))})
        store.commit(step, own, {})
    assert Mirror(mirror.url, 1).steps() == [10, 20]
    assert "503; older checkpoints stay until the next save" in capsys.readouterr().err
