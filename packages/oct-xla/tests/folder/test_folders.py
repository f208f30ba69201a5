"""Checkpoints, journals and run folders on disk."""

import json
import os
import subprocess
import sys
import time

import pytest
import torch
from oct_xla import (
    CheckpointError,
    Checkpoints,
    DeviceError,
    Journal,
    RunFolderError,
    WandbSink,
    claim_run_folder,
    pick_runtime,
    read_checkpoint,
    read_rows,
    write_provenance,
)
from oct_xla.telling.metrics import StepClock
from oct_xla.telling.sinks import ProgressSink, pick_mode
from rich.console import Console

TENSORS = {"a.b": torch.arange(6.0).view(2, 3), "n": torch.tensor(3), "t": torch.ones(3, 2).T}


def test_a_checkpoint_comes_back_bit_for_bit_and_holds_no_pickle(tmp_path):
    folder = Checkpoints(tmp_path).save(7, TENSORS, {"x": 1})
    tensors, state = read_checkpoint(folder)
    assert state == {"x": 1, "step": 7}
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], value) for name, value in TENSORS.items())
    assert {file.suffix for file in folder.iterdir()} == {".safetensors", ".json"}


def test_half_checkpoints_are_passed_over_and_replaced(tmp_path):
    store = Checkpoints(tmp_path)
    for step in (1, 2):
        store.save(step, TENSORS, {})
    next(store.path(2).glob("*.safetensors")).write_bytes(b"torn")
    (store.path(3)).mkdir()
    (tmp_path / ".tmp-00000004").mkdir()
    assert store.newest() == 1
    with pytest.raises(CheckpointError, match=r"has 4 bytes, \d+ were written"):
        store.load(2)
    store.save(2, TENSORS, {})
    assert store.newest() == 2
    assert not list(tmp_path.glob(".tmp*"))


def test_only_the_newest_and_the_best_stay(tmp_path):
    store = Checkpoints(tmp_path, keep_last=2)
    for step in range(1, 6):
        best = {"step": 2, "metric": "auroc", "value": 0.7} if step > 1 else None
        store.save(step, TENSORS, {"best": best})
    assert store.steps() == [2, 4, 5]
    assert store.best() == json.loads((tmp_path / "best.json").read_text()) == best


def test_damaged_tensors_of_the_right_size_are_an_error_of_ours(tmp_path):
    store = Checkpoints(tmp_path)
    file = next(store.save(1, TENSORS, {}).glob("*.safetensors"))
    file.write_bytes(b"\xff" * file.stat().st_size)
    with pytest.raises(CheckpointError, match="is not as it was written") as caught:
        store.load(1)
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(CheckpointError, match="cannot be written"):
        Checkpoints(tmp_path / "checkpoints").save(1, TENSORS, {})


def test_a_journal_drops_later_rows_and_a_torn_line_on_resume(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    assert len(read_rows(path)) == 3
    journal = Journal(path, step=2)
    journal.write({"step": 3, "loss": float("nan")})
    journal.close()
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3, "loss": null}\n'


def test_a_line_damaged_in_the_middle_is_named(tmp_path):
    (tmp_path / "m").write_text('{"step": 1}\nxx\n{"step": 3}\n')
    with pytest.raises(RunFolderError, match="line 2 is not a row"):
        read_rows(tmp_path / "m")


CONFIG = {"loop": {"steps": 10, "betas": (0.9, 0.99)}, "tracking": {"mode": "offline"}}


def claim(path, config=CONFIG, **options):
    return claim_run_folder(path, f"text: {json.dumps(config)}\n", config, **options)


def begin(path, config=CONFIG, **options):
    """Claim a folder and take a first step there."""
    folder = claim(path, config, **options)
    (path / "metrics.jsonl").write_text('{"step": 1}\n')
    folder.release()
    return folder


def test_a_claim_that_never_took_a_step_does_not_bind_the_next_one(tmp_path):
    claim(tmp_path).release()
    other = {"loop": {"steps": 20}}
    folder = claim(tmp_path, other, resume="never")
    assert not folder.resumed
    assert "20" in (tmp_path / "config.yaml").read_text()


def test_an_equal_configuration_resumes_with_the_same_id(tmp_path):
    first = begin(tmp_path / "run")
    second = claim(tmp_path / "run")
    assert (first.resumed, second.resumed) == (False, True)
    assert first.run_id == second.run_id
    assert (tmp_path / "run/config.yaml").read_text().startswith("text:")


def test_another_configuration_is_refused_with_both_values(tmp_path):
    begin(tmp_path)
    other = {"loop": {"steps": 20, "betas": (0.9, 0.99)}, "tracking": {"mode": "online"}}
    with pytest.raises(RunFolderError, match=r"loop.steps was 10, now 20; tracking.mode was"):
        claim(tmp_path, other)
    folder = claim(tmp_path, other, may_change=("loop.steps", "tracking.*"))
    assert folder.changed["loop.steps"] == (10, 20)


def test_only_what_defines_the_run_must_be_equal_and_the_rest_is_reported(tmp_path):
    begin(tmp_path)
    other = {"loop": {"steps": 20, "betas": (0.9, 0.99)}, "tracking": {"mode": "online"}}
    folder = claim(tmp_path, other, defining=("loop.betas",))
    assert set(folder.changed) == {"loop.steps", "tracking.mode"}
    folder.release()
    with pytest.raises(RunFolderError, match=r"loop\.betas was .*; set run_dir"):
        claim(tmp_path, {"loop": {"steps": 20, "betas": (0.8, 0.99)}}, defining=("loop.betas",))
    text = (tmp_path / "config.yaml").read_text()
    assert "20" in text, "a refused start leaves the settings of the run as they were"
    assert "0.8" not in text


def test_a_run_may_be_moved_and_named_by_its_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = type(tmp_path)("runs/a")
    first = begin(path, {**CONFIG, "run_dir": "runs/a"})
    absolute = str(tmp_path / "runs/a")
    second = claim(type(tmp_path)(absolute), {**CONFIG, "run_dir": absolute})
    assert second.resumed
    second.release()
    (tmp_path / "runs/a").rename(tmp_path / "moved")
    third = claim(tmp_path / "moved", {**CONFIG, "run_dir": "moved"})
    assert third.resumed
    assert first.run_id == second.run_id == third.run_id
    assert third.changed == {}


def test_a_damaged_claim_is_one_line(tmp_path):
    begin(tmp_path)
    for text in ("", "{}", "[]", '{"config": 1, "run_id": 2}'):
        (tmp_path / ".claim.json").write_text(text)
        with pytest.raises(RunFolderError, match=r"\.claim\.json: ") as caught:
            claim(tmp_path)
        assert "\n" not in str(caught.value)


def test_never_refuses_a_folder_with_a_run(tmp_path):
    begin(tmp_path, resume="never")
    with pytest.raises(RunFolderError, match="resume=never; set run_dir"):
        claim(tmp_path, resume="never")


def test_checkpoints_without_settings_are_not_taken_over(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(RunFolderError, match="without its settings"):
        claim(tmp_path)


def test_two_processes_cannot_write_one_run(tmp_path):
    folder = claim(tmp_path)
    with pytest.raises(RunFolderError, match="another process is writing this run"):
        claim(tmp_path)
    assert claim(tmp_path, rank=1).run_id == folder.run_id
    folder.release()
    claim(tmp_path).release()


def test_provenance_keeps_earlier_starts_and_names_no_host(tmp_path):
    write_provenance(tmp_path, pick_runtime("cpu"), seed=1, extra={"dataset": "f00"})
    write_provenance(tmp_path, pick_runtime("cpu"), seed=1, extra={"dataset": "f01"})
    text = (tmp_path / "provenance.json").read_text()
    record = json.loads(text)
    assert record["dataset"] == "f01"
    assert [start["dataset"] for start in record["earlier"]] == ["f00"]
    assert record["versions"]["torch"] == torch.__version__.split("+")[0] or "torch" in text
    assert os.uname().nodename not in text
    assert str(tmp_path) not in text


def test_wandb_is_offline_without_a_key():
    assert pick_mode({}) == "offline"
    assert pick_mode({"WANDB_API_KEY": "k"}) == "online"
    assert pick_mode({"WANDB_API_KEY": "k", "WANDB_MODE": "disabled"}) == "disabled"


@pytest.mark.slow
def test_an_offline_run_lies_in_the_run_folder(tmp_path):
    pytest.importorskip("wandb")
    sink = WandbSink(
        run_id="0123456789ab", project="p", name="n", folder=tmp_path, config={}, mode="offline"
    )
    sink.write({"step": 1, "loss": 0.5})
    (tmp_path / "results.json").write_text("{}")
    sink.keep([tmp_path / "results.json"])
    (tmp_path / "results.json").unlink()
    sink.close()
    assert list(tmp_path.glob("wandb/offline-run-*-0123456789ab/*.wandb"))
    (kept,) = tmp_path.glob("wandb/offline-run-*-0123456789ab/files/results.json")
    assert kept.read_text() == "{}", "a copy, which stays when the run folder changes"


@pytest.mark.slow
def test_a_folder_is_an_artifact_of_an_offline_run_and_one_that_is_gone_is_told(tmp_path, capsys):
    pytest.importorskip("wandb")
    sink = WandbSink(
        run_id="0123456789ab", project="p", name="n", folder=tmp_path, config={}, mode="offline"
    )
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder/model.safetensors").write_bytes(b"weights")
    sink.keep_folder(tmp_path / "encoder", "encoder")
    sink.keep_folder(tmp_path / "nothing", "checkpoint")
    sink.close()
    (record,) = tmp_path.glob("wandb/offline-run-*-0123456789ab/*.wandb")
    until = time.monotonic() + 60  # wandb's own process may write it after the run has ended
    while b"0123456789ab-encoder" not in (held := record.read_bytes()):
        assert time.monotonic() < until, held
        time.sleep(0.1)
    assert str(tmp_path / "encoder/model.safetensors").encode() in held
    assert b"-checkpoint" not in held
    assert "nothing is not sent" in capsys.readouterr().err


def test_progress_in_a_log_is_plain_lines_with_rate_and_time_left():
    console = Console(file=(out := __import__("io").StringIO()), force_terminal=False)
    sink = ProgressSink(100, 0, console)
    sink.write({"step": 10, "loss": 0.5, "volumes_per_s": 4.0, "seconds": 10.0})
    sink.write({"step": 20, "loss": 0.25, "volumes_per_s": 4.0, "seconds": 20.0})
    sink.close()
    assert (
        out.getvalue().strip().splitlines()[-1] == "step 20/100  loss 0.25  4 volumes/s  80 s left"
    )


def test_the_clock_tells_rate_and_waiting():
    ticks = iter([0.0, 0.0, 1.0, 2.0, 2.0, 2.5, 2.5, 2.75, 4.0, 4.0, 4.0])
    clock = StepClock(10.0, lambda: next(ticks))
    for part in ("data", "wait", "save"):
        clock.spent(part, clock.now())
    clock.count(8)
    assert clock.read() == {
        "volumes_per_s": 2.0,
        "data_wait_fraction": 0.25,
        "wait_fraction": 0.125,
        "save_fraction": 0.0625,
        "compute_fraction": 0.5625,
        "seconds": 14.0,
    }


def test_a_runtime_that_is_not_there_says_what_to_do(monkeypatch):
    monkeypatch.delenv("PJRT_DEVICE", raising=False)
    with pytest.raises(DeviceError, match="set PJRT_DEVICE=TPU"):
        pick_runtime("xla")
    with pytest.raises(ValueError, match=r"'gpu'.* must be one of auto, cpu, cuda, xla"):
        pick_runtime("gpu")
    with pytest.raises(ValueError, match="'fp16'"):
        pick_runtime("cpu", "fp16")


def test_a_library_that_loads_torch_xla_does_not_move_a_run_to_xla(monkeypatch):
    monkeypatch.setenv("PJRT_DEVICE", "CPU")  # what importing torch-xla leaves behind
    assert pick_runtime("auto").name == ("cuda" if torch.cuda.device_count() else "cpu")


def test_importing_does_not_load_torch_xla_or_wandb():
    code = "import sys, oct_xla; print([m for m in ('torch_xla', 'wandb') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
