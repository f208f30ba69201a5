"""Runs that are asked to stop while their bucket is out of reach: they end, and lose nothing."""

import os
import signal
import threading
import time
from contextlib import nullcontext

import fsspec
import pytest
from afar import URL, claim
from buckets import Proxy, environment_of, serve
from fsspec.implementations.memory import MemoryFileSystem
from oct_xla import CheckpointError, Checkpoints, LoopConfig, checkpointer, fit, pick_runtime
from oct_xla.folder.remote import working_folder
from programs import finish, losses, start, wait_for_rows
from toy import Toy, make_feed, warm_up

CHANGES = ("put_file", "pipe_file", "rm_file")


@pytest.fixture(autouse=True)
def files():
    files = fsspec.filesystem("memory")
    files.rm("/", recursive=True)
    return files


def train(run_dir, rate=warm_up):
    config = LoopConfig(steps=12, log_every=1, checkpoint_every=4)
    return fit(
        Toy(), make_feed(), config, runtime=pick_runtime("cpu"), run_dir=run_dir,
        learning_rate=rate, seed=3,
    )  # fmt: skip


def claimed(url):
    """The folder as an app has it, or the bare URL."""
    return {"claimed": claim, "bare": nullcontext}[url]


@pytest.mark.parametrize("kind", ["claimed", "bare"])
def test_a_stop_while_the_bucket_is_out_of_reach_is_told_and_made_up_for_by_the_same_command(
    tmp_path, monkeypatch, capsys, kind
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "disk"))
    train(tmp_path / "whole")
    here = working_folder(URL)
    with monkeypatch.context() as outage:

        def refuse(*arguments, **options):
            raise OSError("503 Slow Down")

        def rate(step):
            if step == 5:
                for name in CHANGES:
                    outage.setattr(MemoryFileSystem, name, refuse)
                os.kill(os.getpid(), signal.SIGTERM)
            return warm_up(step)

        with claimed(kind)(URL) as folder:
            result = train(folder, rate)
    assert (result.reason, result.step) == ("stopped", 6)
    said = capsys.readouterr().err
    assert "step 6 is saved on this machine only: memory://runs/one" in said
    assert f"the run lies in {here}, the same command copies it" in said
    assert Checkpoints(here / "checkpoints").steps() == [4, 6]
    with claimed(kind)(URL) as folder:
        assert train(folder).step == 12
    assert losses(here) == losses(tmp_path / "whole")


def test_a_stop_waits_for_no_copy_before_its_checkpoint_lies_here_and_for_none_for_ever(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "disk"))
    monkeypatch.setattr(checkpointer, "COPY_S", 0.5)
    here, hung, over = working_folder(URL), [], threading.Event()

    def swallow(*arguments, **options):
        hung.append(Checkpoints(here / "checkpoints").newest())
        over.wait()
        raise OSError("503 Slow Down")

    def rate(step):
        if step == 5:
            until = time.monotonic() + 60
            while not hung and time.monotonic() < until:
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGTERM)
        return warm_up(step)

    try:
        with monkeypatch.context() as outage:
            outage.setattr(MemoryFileSystem, "put_file", swallow)
            result = train(URL, rate)
    finally:
        over.set()
    assert (result.reason, result.step, hung) == ("stopped", 6, [4, 6])
    said = capsys.readouterr().err
    assert "step 6 is saved on this machine only: no copy in 0 s" in said
    assert f"{URL}: lacks the last checkpoint; the run lies in {here}" in said
    assert train(URL).step == 12


def test_a_stop_while_the_last_copy_is_on_its_way_leaves_it_to_the_same_command(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "disk"))
    here, over, put = working_folder(URL), threading.Event(), MemoryFileSystem.put_file

    def hang(*arguments, **options):
        if Checkpoints(here / "checkpoints").newest() == 12 and not over.is_set():
            os.kill(os.getpid(), signal.SIGTERM)
            over.wait()
            raise OSError("503 Slow Down")
        return put(*arguments, **options)

    try:
        with monkeypatch.context() as outage:
            outage.setattr(MemoryFileSystem, "put_file", hang)
            result = train(URL)
    finally:
        over.set()
    for one in threading.enumerate():  # they end with the program, and the next command is another
        if one.name == "oct-xla-save":
            one.join(60)
    assert (result.reason, result.step) == ("stopped", 12)
    assert "step 12 is saved on this machine only: no copy in 0 s" in capsys.readouterr().err
    result = train(URL)
    assert (result.reason, result.step) == ("done", 12)
    assert any(name.endswith("00000012/state.json") for name in MemoryFileSystem.store)


def test_a_stop_that_can_be_saved_nowhere_is_an_error(tmp_path, monkeypatch):
    def rate(step):
        if step == 5:
            folder = tmp_path / "run/checkpoints"
            folder.rename(tmp_path / "away")
            folder.write_text("no folder")
            os.kill(os.getpid(), signal.SIGTERM)
        return warm_up(step)

    with pytest.raises(CheckpointError, match=r"step-00000006: cannot be written"):
        train(tmp_path / "run", rate)


def cut(proxy):
    """Let nobody through any more."""
    proxy.close()
    proxy.ask = lambda *_: (503, {}, b"")


@pytest.mark.drill
@pytest.mark.parametrize("outage", ["busy", "refused"])
def test_a_program_that_is_stopped_in_an_outage_of_s3_ends_with_143_and_goes_on_after_it(
    tmp_path, monkeypatch, outage
):
    pytest.importorskip("moto")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "disk"))
    url = "s3://runs/stopped"
    options, here = ("--steps", 60, "--every", 5), working_folder(url)
    with serve() as ports:
        proxy = Proxy(ports["s3"])
        process = start(url, *options, "--pause", 0.05, **environment_of("s3", proxy.port))
        wait_for_rows(process, here, 22)
        if outage == "busy":
            proxy.busy = 10**9
        else:
            cut(proxy)
        asked = time.monotonic()
        process.send_signal(signal.SIGTERM)
        code, errors = finish(process)
        assert time.monotonic() - asked < 300
        assert code == 143, errors
        assert "Traceback" not in errors
        (step,) = [step for step, _ in losses(here)][-1:]
        assert f"step {step} is saved on this machine only: {url}" in errors
        assert f"the run lies in {here}, the same command copies it" in errors
        assert Checkpoints(here / "checkpoints").newest() == step < 60
        code, errors = finish(start(url, *options, **environment_of("s3", ports["s3"])))
        assert code == 0, errors
    code, errors = finish(start(tmp_path / "whole", *options))
    assert code == 0, errors
    assert losses(here) == losses(tmp_path / "whole")
