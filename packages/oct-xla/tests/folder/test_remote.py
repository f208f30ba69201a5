"""Run folders in a bucket: killed with their disk gone, started twice, and buckets that fail."""

import asyncio
import json
import signal
import socket
import threading
import time
from pathlib import Path

import fsspec
import pytest
from afar import URL, claim, train
from buckets import Proxy, environment_of, options_of
from fsspec.asyn import AsyncFileSystem
from oct_xla import Checkpoints, RunFolderError, read_rows
from oct_xla.errors import CheckpointError
from oct_xla.folder import bucket, lease
from oct_xla.folder.bucket import Bucket
from oct_xla.folder.remote import RemoteFolder, working_folder
from oct_xla.folder.runfolder import keep_part
from programs import error_lines, finish, losses, start, train_here, wait_for_rows
from test_kills import assert_all_equal, killed


class Slow(AsyncFileSystem):
    """Gives a file in parts, the whole of which takes longer than a part may."""

    async def _get_file(self, rpath, lpath, callback=None, **how):
        with open(lpath, "wb") as file:
            for _ in range(5):
                await asyncio.sleep(0.5)
                file.write(bytes(1))
                callback.relative_update(1)

    async def _info(self, path, **how):
        return {"size": 5}


@pytest.fixture
def files():
    files = fsspec.filesystem("memory")
    files.rm("/", recursive=True)
    return files


@pytest.fixture
def on(tmp_path, monkeypatch):
    """`on("here")` goes to a machine with a disk of its own."""
    monkeypatch.setattr(lease, "BEAT_S", 0.05)
    monkeypatch.setattr(lease, "SILENT_S", 0.3)

    def go(name):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))

    return go


def test_a_claim_is_fetched_and_given_back_with_all_files_of_the_folder(on, files, tmp_path):
    on("here")
    with claim() as folder:
        assert folder.name_of(folder.path / "report.html") == f"{URL}/report.html"
        (folder.path / "encoder").mkdir()
        (folder.path / "encoder/config.json").write_text("{}")
        train(folder, steps=8)
    written = {path.removeprefix("/runs/one/") for path in files.find("/runs/one")}
    assert {".claim.json", "config.yaml", "encoder/config.json", "metrics.jsonl"} <= written
    assert not {".lock", ".fit-lock", ".writer"} & written
    on("there")
    with claim() as folder:
        assert folder.resumed
        assert folder.path.is_relative_to(tmp_path / "there")
        assert (folder.path / "encoder/config.json").read_text() == "{}"
        assert len(read_rows(folder.path / "metrics.jsonl")) == 8
    on("elsewhere")
    with pytest.raises(RunFolderError, match=r"^memory://runs/one: holds a run with other set"):
        claim(width=3)
    files.put(str(folder.path), "/runs/moved", recursive=True)
    with claim("memory://runs/moved") as folder:
        assert folder.resumed


def test_a_part_that_is_over_is_in_the_bucket_before_the_run_is(on, files, tmp_path, capsys):
    on("here")
    folder = claim()
    part = folder.path / "training" / "seed0"
    train(part, steps=8)
    later = folder.path / "training" / "seed1"
    later.mkdir()
    (later / "metrics.jsonl").write_text("{}")
    keep_part(part)
    keep_part(tmp_path)  # which is no part of it
    assert capsys.readouterr().err == ""
    assert not files.exists("/runs/one/training/seed1")
    folder.remote._lease.leave()  # killed, and its disk is gone
    on("there")
    with claim() as again:
        assert again.path != folder.path
        found = Checkpoints(again.path / "training/seed0/checkpoints").load(8)
        assert found.state["step"] == 8
        assert len(read_rows(again.path / "training/seed0/metrics.jsonl")) == 8
    folder.release(failed=True)


def test_a_part_that_a_bucket_does_not_take_is_told_and_its_state_comes_last(
    on, files, capsys, monkeypatch
):
    on("here")
    with claim() as folder:
        part = folder.path / "training" / "seed0"
        train(part, steps=8)
        put, names = Bucket.put, []

        def failing(bucket, here, name):
            names.append(here.name)
            if here.name == "state.json":
                raise CheckpointError("memory://runs/one: is full")
            put(bucket, here, name)

        monkeypatch.setattr(Bucket, "put", failing)
        keep_part(part)
        assert "seed0 is on this machine only, the run goes on" in capsys.readouterr().err
        assert names[-1] == "state.json"
        assert set(names[:-1]) == {"tensors.safetensors", "metrics.jsonl"}
        monkeypatch.undo()


def test_a_run_that_another_machine_writes_is_refused_until_it_is_silent(on, files, capsys):
    on("here")
    first = claim()
    on("there")
    with pytest.raises(RunFolderError, match="another process is writing this run"):
        claim()
    first.remote._lease._over.set()  # a machine that is switched off says nothing
    began = time.monotonic()
    with claim():
        assert time.monotonic() - began > 0.3
        assert "another process has not said that it ended; looking" in capsys.readouterr().err


def test_a_run_that_was_taken_over_saves_nothing_any_more(on, files):
    on("here")
    first = RemoteFolder(URL)
    first.path.mkdir(parents=True)
    first.take_up()
    note = json.loads(files.cat_file("/runs/one/.writer.json"))
    files.pipe_file("/runs/one/.writer.json", json.dumps(note | {"writer": "other"}).encode())
    (first.path / "metrics.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(RunFolderError, match="another process has taken this run over"):
        first.mirror(2)._before_commit()
    with pytest.raises(RunFolderError, match="taken this run over"):
        first.let_go()
    assert not files.exists("/runs/one/metrics.jsonl")
    assert json.loads(files.cat_file("/runs/one/.writer.json"))["writer"] == "other"


def test_a_bucket_that_was_emptied_holds_a_new_run_and_the_old_one_is_kept(on, files, capsys):
    on("here")
    train(URL, steps=4)
    files.rm("/runs/one", recursive=True)
    train(URL, steps=4)
    assert "holds no run any more; what" in capsys.readouterr().err
    place = working_folder(URL)
    kept = place.with_name(f"{place.name}.aside")
    assert (kept / "checkpoints/step-00000004").is_dir()
    assert losses(kept) == losses(place)


def test_files_that_name_a_place_outside_are_left_alone(on, files, tmp_path):
    on("here")
    train(URL, steps=4)
    files.store["/runs/one/../../escaped"] = files.store["/runs/one/metrics.jsonl"]
    on("there")
    train(URL, steps=4)
    assert not list(tmp_path.rglob("escaped"))


@pytest.mark.drill
def test_a_kill_before_any_change_of_the_bucket_loses_nothing_though_the_disk_is_gone(tmp_path):
    runs = killed("steps", tmp_path, f"file://{tmp_path}/bucket")
    assert sum(run["kills"] for run in runs) > 15
    assert_all_equal(runs)


@pytest.fixture(params=["s3", "gs"])
def store(request, servers, monkeypatch):
    """Kind of bucket, and its port; programs find it, too."""
    for name, value in environment_of(request.param, servers[request.param]).items():
        monkeypatch.setenv(name, value)
    return request.param, servers[request.param]


@pytest.mark.drill
def test_a_run_killed_at_random_with_its_disk_gone_ends_like_one_that_was_not(tmp_path, store):
    runs = killed("bucket", tmp_path, f"{store[0]}://runs/killed")
    assert runs[0]["kills"] >= 1
    assert_all_equal(runs)


@pytest.fixture
def proxy(store, monkeypatch):
    """In front of the server, for this process."""
    scheme, port = store
    proxy = Proxy(port)
    monkeypatch.setitem(fsspec.config.conf, scheme, options_of(scheme, proxy.port))
    yield proxy
    proxy.close()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of botocore and aiohttp, about themselves
def test_both_kinds_of_bucket_hold_a_run_though_they_are_busy(tmp_path, store, proxy, on):
    url = f"{store[0]}://runs/busy"
    on("here")
    proxy.busy = 2
    train(url, steps=8)
    on("there")
    proxy.busy = 2
    result, _ = train(url)
    assert proxy.told == 4
    assert result.step == 12
    train(tmp_path / "whole", steps=8)
    train(tmp_path / "whole")
    assert losses(working_folder(url)) == losses(tmp_path / "whole")
    copied = Bucket(url).read("metrics.jsonl")
    assert copied == (working_folder(url) / "metrics.jsonl").read_bytes()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "store", ["s3", pytest.param("gs", marks=pytest.mark.drill)], indirect=True
)  # gcsfs tries for half a minute by itself
def test_a_bucket_that_is_gone_is_one_line(store, proxy, on):
    on("here")
    proxy.busy = 10**6
    began = time.monotonic()
    with pytest.raises(CheckpointError, match=r"check the bucket and its keys$"):
        claim(f"{store[0]}://runs/gone")
    assert time.monotonic() - began < 120


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("scheme", "library"), [("s3", "s3fs"), ("gs", "gcsfs")])
def test_a_store_that_takes_connections_and_never_answers_is_one_line(
    scheme, library, tmp_path, monkeypatch
):
    pytest.importorskip(library)
    monkeypatch.setattr(bucket, "ANSWER_S", 0.5)
    monkeypatch.setattr(bucket, "STILL_S", 0.7)
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    (tmp_path / "large").write_bytes(bytes(8 << 20))
    with socket.socket() as store:
        store.bind(("127.0.0.1", 0))
        store.listen(64)  # the system takes connections, and bytes, for it
        options = options_of(scheme, store.getsockname()[1])
        monkeypatch.setitem(fsspec.config.conf, scheme, options)
        one = Bucket(f"{scheme}://runs/silent")
        began = time.monotonic()
        for ask, most in (
            (lambda: one.read("state.json"), "0"),
            (lambda: one.put(tmp_path / "large", "large"), "1"),
        ):
            text = rf"^{scheme}://runs/silent: cannot be .*: no answer for {most} s; check the netw"
            with pytest.raises(CheckpointError, match=text):
                ask()
    assert time.monotonic() - began < 60  # of which importing the library is most


def test_a_copy_is_waited_for_as_long_as_its_parts_come(tmp_path, monkeypatch):
    monkeypatch.setattr(bucket, "STILL_S", 1.0)
    files = Slow(asynchronous=False)
    monkeypatch.setattr(Bucket, "_files", files)
    Bucket("slow://one").get("large", tmp_path / "large")
    assert (tmp_path / "large").read_bytes() == bytes(5)


class Damaged(AsyncFileSystem):
    """Gives half of an answer, as often as it is told."""

    def __init__(self, often, error):
        super().__init__(asynchronous=False, skip_instance_cache=True)
        self.often, self.error = often, error

    async def _cat_file(self, path, **how):
        self.often -= 1
        if self.often >= 0 and self.error:
            raise self.error
        return b"whole" if self.often < 0 else b"who"

    async def _get_file(self, path, here, **how):
        Path(here).write_bytes(await self._cat_file(path))

    async def _info(self, path, **how):
        return {"size": 5}


class FlexibleChecksumError(Exception):
    """As botocore calls it."""


@pytest.mark.parametrize(
    "error", [json.JSONDecodeError("half", "{", 1), FlexibleChecksumError("no match")]
)
def test_an_answer_that_came_damaged_is_asked_for_again(monkeypatch, error):
    files = Damaged(4, error)
    monkeypatch.setattr(Bucket, "_files", files)
    assert Bucket("damaged://one").read("small") == b"whole"
    files.often = 5
    with pytest.raises(CheckpointError, match="cannot be read or written"):
        Bucket("damaged://one").read("small")
    assert files.often == 0
    files.often, files.error = 1, PermissionError("not yours")  # no damage
    with pytest.raises(CheckpointError, match="not yours"):
        Bucket("damaged://one").read("small")


def test_an_answer_that_is_shorter_than_the_file_is_asked_for_again(monkeypatch, tmp_path):
    files = Damaged(4, None)
    monkeypatch.setattr(Bucket, "_files", files)
    assert Bucket("damaged://one").read("small") == b"whole"
    files.often = 4
    Bucket("damaged://one").get("small", tmp_path / "small")
    assert (tmp_path / "small").read_bytes() == b"whole"
    files.often = 5
    with pytest.raises(CheckpointError, match="small comes shorter than it is"):
        Bucket("damaged://one").read("small")


def test_a_run_that_cannot_say_its_end_renews_its_lease_no_more(on, files, monkeypatch):
    def refuse(*_):
        raise CheckpointError("the bucket: does not answer")

    def renewing():
        return [one for one in threading.enumerate() if one.name == "oct-xla-lease"]

    on("here")
    remote = RemoteFolder(URL)
    remote.path.mkdir(parents=True)
    remote.take_up()
    assert len(renewing()) == 1
    monkeypatch.setattr(Bucket, "read", refuse)
    with pytest.raises(CheckpointError, match="the same command copies it"):
        remote.let_go()
    for thread in renewing():
        thread.join(timeout=20)
    assert renewing() == []


@pytest.mark.slow
def test_a_killed_run_goes_on_at_once_where_its_working_folder_is_left(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "disk"))
    options = (f"file://{tmp_path}/bucket", "--steps", 60)
    running = start(*options, "--pause", 1)
    wait_for_rows(running, tmp_path / "bucket", 4)
    code, errors = train_here(*options)
    assert (code, len(error_lines(errors))) == (2, 1)
    assert "another process is writing this run" in errors
    running.send_signal(signal.SIGKILL)
    assert finish(running)[0] == -signal.SIGKILL
    code, errors = train_here(*options)
    assert code == 0, errors
    assert "has not said that it ended" not in errors
    assert [step for step, _ in losses(tmp_path / "bucket")] == list(range(1, 61))
