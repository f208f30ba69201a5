"""Nothing is lost: evaluations after a save, failed saves, sinks that raise, what may change."""

import json
import os
import resource
import signal
from contextlib import contextmanager

import pytest
import torch
from oct_xla import (
    CheckpointError,
    Checkpoints,
    Feed,
    FeedConfig,
    Journal,
    LoopConfig,
    RunFolderError,
    claim_run_folder,
    fit,
    pick_runtime,
    read_checkpoint,
    read_rows,
)
from oct_xla.errors import OutOfMemoryError
from toy import Toy, draw, make_feed, score, warm_up


def train(run_dir, *, steps=12, rate=warm_up, toy=None, precision="fp32", **options):
    names = ("sinks", "evaluate", "identity")
    given = {name: options.pop(name) for name in names if name in options}
    feed = options.pop("feed", None) or make_feed()
    return fit(
        toy or Toy(),
        feed,
        LoopConfig(steps=steps, **{"log_every": 1, "checkpoint_every": 4, **options}),
        runtime=pick_runtime("cpu", precision),
        run_dir=run_dir,
        learning_rate=rate,
        seed=3,
        **given,
    )


def steps_of(run_dir):
    return [row["step"] for row in read_rows(run_dir / "metrics.jsonl")]


@contextmanager
def disk_of(size):
    """No file may grow beyond `size` bytes: what a full disk does, without a disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("raised", "told"), [(ZeroDivisionError, ZeroDivisionError), (MemoryError, OutOfMemoryError)]
)
def test_an_evaluation_that_fails_loses_no_step(tmp_path, raised, told):
    def fail(step):
        raise raised("too many volumes")

    with pytest.raises(told):
        train(tmp_path, evaluate=fail, evaluate_every=5)
    assert Checkpoints(tmp_path / "checkpoints").newest() == 5
    assert steps_of(tmp_path) == [1, 2, 3, 4]
    train(tmp_path, evaluate=lambda step: {"n": step}, evaluate_every=5)
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert [row["n"] for row in rows if "n" in row] == [5, 10, 12]


def test_a_stop_during_an_evaluation_leaves_it_and_takes_it_up_again(tmp_path):
    toy, seen = Toy(), []

    def evaluate(step):
        for batch in range(5):
            seen.append((step, batch))
            if seen == [(4, 0), (4, 1)]:
                os.kill(os.getpid(), signal.SIGTERM)
            yield None
        yield score(toy, step)

    options = {"evaluate": evaluate, "evaluate_every": 4, "best_metric": "score"}
    result = train(tmp_path, toy=toy, **options)
    assert (result.step, result.reason) == (4, "stopped")
    assert seen == [(4, 0), (4, 1)]
    assert "score" not in read_rows(tmp_path / "metrics.jsonl")[-1]
    assert train(tmp_path, toy=toy, **options).reason == "done"
    assert seen[2:7] == [(4, batch) for batch in range(5)]
    assert steps_of(tmp_path) == list(range(1, 13))
    assert "score" in read_rows(tmp_path / "metrics.jsonl")[3]


def test_a_stop_at_the_last_evaluation_is_not_called_done(tmp_path):
    def evaluate(step):
        os.kill(os.getpid(), signal.SIGTERM)
        yield None
        yield {"n": 1.0}

    options = {"evaluate_every": 12, "checkpoint_every": 0}
    assert train(tmp_path, evaluate=evaluate, **options).reason == "stopped"
    result = train(tmp_path, evaluate=lambda step: {"n": 1.0}, **options)
    assert (result.reason, result.metrics["n"]) == ("done", 1.0)


def test_the_best_is_in_the_checkpoint_itself(tmp_path):
    scores = {4: 0.1, 8: 0.9, 12: 0.5}
    options = {"evaluate": lambda step: {"auroc": scores[step]}, "evaluate_every": 4}
    train(tmp_path, best_metric="auroc", keep_last=1, **options)
    store, best = Checkpoints(tmp_path / "checkpoints"), tmp_path / "checkpoints/best.json"
    wanted = {"step": 8, "metric": "auroc", "value": 0.9}
    assert store.best() == read_checkpoint(store.path(12)).state["best"] == wanted
    best.write_text('{"step": 4, "metric": "auroc", "value": 0.1}\n')  # killed before the last one
    train(tmp_path, best_metric="auroc", keep_last=1, **options)
    assert json.loads(best.read_text()) == wanted
    assert store.steps() == [8, 12]


def test_ctrl_c_saves_and_stops_like_sigterm(tmp_path):
    before = signal.getsignal(signal.SIGINT)

    def rate(step):
        if step == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return warm_up(step)

    result = train(tmp_path, rate=rate)
    assert (result.step, result.reason) == (6, "stopped")
    assert Checkpoints(tmp_path / "checkpoints").newest() == 6
    assert signal.getsignal(signal.SIGINT) is before


def test_a_save_that_fails_is_said_cleans_up_and_the_run_goes_on(tmp_path, capsys):
    whole = tmp_path / "whole"
    train(whole)

    def rate(step):  # the disk is full at step 4 and has room again at step 8
        limit = 2000 if 3 <= step < 6 else resource.RLIM_INFINITY
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        return warm_up(step)

    with disk_of(resource.RLIM_INFINITY):  # waited for: beside the steps it may find room again
        train(tmp_path / "run", rate=rate, save_in_background=False)
    said = capsys.readouterr().err
    assert "step 4 is not saved, the run goes on: " in said
    assert "File too large" in said
    assert Checkpoints(tmp_path / "run/checkpoints").steps() == [8, 12]
    names = {path.name for path in (tmp_path / "run/checkpoints").iterdir()}
    assert names == {"step-00000008", "step-00000012"}
    one, other = (Checkpoints(d / "checkpoints").load(12) for d in (whole, tmp_path / "run"))
    assert all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)


def test_a_run_whose_last_save_fails_says_so_and_leaves_nothing_half(tmp_path):
    with disk_of(2000), pytest.raises(CheckpointError, match="step-00000012: cannot be written"):
        train(tmp_path, log_every=12)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_journal_keeps_rows_in_memory_while_the_disk_is_full(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    journal = Journal(path)
    with disk_of(40):
        for step in range(1, 6):
            journal.write({"step": step, "loss": 0.5})
        assert path.read_text() == '{"step": 1, "loss": 0.5}\n', "no half line"
    journal.write({"step": 6, "loss": 0.5})
    journal.close()
    assert [row["step"] for row in read_rows(path)] == [1, 2, 3, 4, 5, 6]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "rows wait in memory until there is room" in said[0]


def test_rows_that_no_disk_took_are_counted_at_the_end(tmp_path, capsys):
    journal = Journal(tmp_path / "m")
    with disk_of(3):
        journal.write({"step": 1})
        journal.write({"step": 2})
        journal.close()
    assert "the last 2 rows are lost" in capsys.readouterr().err


def test_a_journal_that_is_broken_in_the_middle_is_mended_and_kept_aside(tmp_path, capsys):
    train(tmp_path, steps=8)
    path = tmp_path / "metrics.jsonl"
    lines = path.read_text().splitlines()
    broken = "\n".join([*lines[:2], '{"step": "2"}', "\0\0\0", *lines[3:]]) + "\n"
    path.write_text(broken)
    train(tmp_path)
    assert steps_of(tmp_path) == [1, 2, *range(4, 13)]
    assert (tmp_path / "metrics.jsonl.damaged").read_text() == broken
    assert "line 3 is not a row of metrics" in capsys.readouterr().err


@pytest.mark.parametrize("torn", ['{"st', "[1, 2]", "7", '{"loss": 1}', "\0" * 50])
def test_a_broken_last_line_is_dropped(tmp_path, torn):
    (tmp_path / "m").write_text(f'{{"step": 1}}\n{torn}')
    assert read_rows(tmp_path / "m") == [{"step": 1}]


class Broken:
    """A tracker out of reach."""

    def __init__(self, at):
        self.at, self.rows = at, []

    def write(self, row):
        if row["step"] == self.at:
            raise ConnectionError("no\nroute")
        self.rows.append(row["step"])

    def close(self):
        raise OSError("still no route")


def test_a_sink_that_raises_is_named_once_and_the_run_goes_on(tmp_path, capsys):
    sinks = [Broken(3), Broken(99)]
    assert train(tmp_path, sinks=sinks).reason == "done"
    assert sinks[0].rows == [1, 2]
    assert sinks[1].rows == steps_of(tmp_path) == list(range(1, 13))
    assert capsys.readouterr().err.splitlines() == [
        "Broken is told no more: ConnectionError: no route; the run goes on without it",
        "Broken did not close: OSError: still no route",
    ]


def test_what_does_not_define_the_run_may_change_and_is_told(tmp_path, capsys):
    train(tmp_path, steps=8)
    train(tmp_path, steps=12, accumulate=2, log_every=2, checkpoint_every=6)
    said = capsys.readouterr().err
    for change in (
        "loop.steps 8 -> 12", "loop.accumulate 1 -> 2", "loop.log_every 1 -> 2",
        "loop.checkpoint_every 4 -> 6",
    ):  # fmt: skip
        assert change in said
    assert steps_of(tmp_path) == [*range(1, 9), 10, 12]


def test_what_defines_the_run_must_be_equal_and_is_named_with_both_values(tmp_path):
    train(tmp_path, identity={"data": "f00"})
    with pytest.raises(CheckpointError, match=r"data = f00, now it is f01; set it back"):
        train(tmp_path, identity={"data": "f01"})
    with pytest.raises(CheckpointError, match=r"data = f00, now it is absent"):
        train(tmp_path)
    with pytest.raises(CheckpointError, match=r"precision = fp32, now it is bf16"):
        train(tmp_path, identity={"data": "f00"}, precision="bf16")
    feed = Feed(draw, 40, FeedConfig(batch_size=8, seed=1))
    with pytest.raises(CheckpointError, match=r"feed.seed = 0, now it is 1"):
        train(tmp_path, identity={"data": "f00"}, feed=feed)
    with pytest.raises(CheckpointError, match=r"feed.subsets = absent, now it is 2"):
        train(tmp_path, identity={"data": "f00"}, feed=make_feed(subsets=2))
    with pytest.raises(ValueError, match=r"identity names seed"):
        train(tmp_path, identity={"seed": 1})


def test_two_runs_in_one_folder_at_once_are_refused(tmp_path):
    def again(step):
        train(tmp_path)

    with pytest.raises(RunFolderError, match="another process is writing this run"):
        train(tmp_path, evaluate=again, evaluate_every=2)
    train(tmp_path)  # the lock went with the run


def test_two_runs_one_after_the_other_tell_all_their_rows(tmp_path):
    train(tmp_path, steps=7)
    train(tmp_path, steps=12)
    assert steps_of(tmp_path) == list(range(1, 13))


@pytest.mark.parametrize("url", ["s3://bucket/run", "gs://bucket/run"])
def test_a_path_made_of_a_url_is_refused_and_makes_no_folder(tmp_path, monkeypatch, url):
    monkeypatch.chdir(tmp_path)
    path = type(tmp_path)(url)
    with pytest.raises(RunFolderError, match="a path cannot name a bucket; give its URL as text"):
        train(path)
    with pytest.raises(RunFolderError, match="a path cannot name a bucket"):
        claim_run_folder(path, "", {})
    with pytest.raises(RunFolderError, match="a path cannot name a bucket"):
        Checkpoints(path)
    assert list(tmp_path.iterdir()) == []


def test_a_metric_that_some_micro_batches_lack_is_averaged_over_the_others(tmp_path):
    class Sometimes(Toy):
        calls = 0

        def loss(self, batch, generator):
            parts = super().loss(batch, generator)
            self.calls += 1
            if self.calls % 2 == 0:
                parts["sometimes"] = torch.tensor(7.0)
            return parts

    train(tmp_path, toy=Sometimes(), accumulate=4)
    assert {row["sometimes"] for row in read_rows(tmp_path / "metrics.jsonl")} == {7.0}
