"""Early stopping: when a run ends, what it leaves, and that a resume waits no longer."""

import os
import signal

import pytest
import torch
from oct_xla import Checkpoints, LoopConfig, fit, objective_tensors, pick_runtime, read_rows
from toy import Toy, make_feed, warm_up

SCORES = {2: 0.5, 4: 0.7, 6: 0.69, 8: 0.705, 10: 0.71, 12: 0.2, 14: 0.3, 16: 0.4}


def train(run_dir, *, toy=None, rate=warm_up, scores=SCORES, steps=16, **options):
    asked = {"evaluate_every": 2, "best_metric": "score", "patience": 2, **options}
    return fit(
        toy or Toy(dropout=0.1),
        make_feed(),
        LoopConfig(steps=steps, log_every=1, checkpoint_every=0, **asked),
        runtime=pick_runtime("cpu"),
        run_dir=run_dir,
        learning_rate=rate,
        seed=3,
        evaluate=lambda step: {"score": scores[step]},
    )


def test_a_run_ends_after_as_many_evaluations_without_progress_as_patience_says(tmp_path):
    result = train(tmp_path)
    assert (result.step, result.reason) == (14, "early")
    assert result.metrics["score"] == 0.3
    assert Checkpoints(tmp_path / "checkpoints").best() == {
        "step": 10, "metric": "score", "value": 0.71,
    }  # fmt: skip
    assert train(tmp_path / "all", patience=0).reason == "done"


def test_a_gain_below_min_delta_is_no_progress_yet_the_best_checkpoint_is_the_best(tmp_path):
    result = train(tmp_path, min_delta=0.05)
    assert (result.step, result.reason) == (8, "early")
    assert Checkpoints(tmp_path / "checkpoints").best()["step"] == 8


def test_a_smaller_value_is_progress_where_best_mode_is_min(tmp_path):
    falling = {step: -score for step, score in SCORES.items()}
    assert train(tmp_path, best_mode="min", scores=falling).step == 14


def test_a_score_that_is_not_a_number_is_no_progress(tmp_path):
    scores = dict.fromkeys(SCORES, float("nan"))
    assert train(tmp_path, scores=scores).step == 4


def test_the_best_checkpoint_can_be_read_after_the_end(tmp_path):
    seen = {}

    def rate(step):
        seen[step] = {k: v.clone() for k, v in toy.state_dict().items()}
        return warm_up(step)

    toy = Toy(dropout=0.1)
    train(tmp_path, toy=toy, rate=rate, keep_last=1)
    store = Checkpoints(tmp_path / "checkpoints")
    best = objective_tensors(store.load(store.best()["step"]).tensors)
    assert all(torch.equal(best[name], seen[10][name]) for name in best)
    assert not torch.equal(best["slow.weight"], toy.slow.weight)


def test_a_run_that_resumes_ends_where_the_uninterrupted_one_does(tmp_path):
    train(tmp_path / "one", toy=(one := Toy(dropout=0.1)))

    def rate(step):
        if step == 12:  # after one evaluation in vain
            os.kill(os.getpid(), signal.SIGTERM)
        return warm_up(step)

    first = train(tmp_path / "two", rate=rate)
    assert (first.step, first.reason) == (13, "stopped")
    second = train(tmp_path / "two", toy=(two := Toy(dropout=0.1)))
    assert (second.step, second.reason) == (14, "early")
    rows = [
        [(row["step"], row["loss"]) for row in read_rows(tmp_path / name / "metrics.jsonl")]
        for name in ("one", "two")
    ]
    assert rows[0] == rows[1]
    assert all(torch.equal(v, two.state_dict()[k]) for k, v in one.state_dict().items())


def test_a_run_that_ended_early_stays_ended_until_it_is_given_more_patience(tmp_path):
    train(tmp_path)
    assert train(tmp_path)[:2] == (14, "early")
    assert train(tmp_path, patience=3)[:2] == (16, "done")


def test_patience_without_a_metric_is_refused():
    with pytest.raises(ValueError, match=r"loop\.patience \(3\) needs loop\.best_metric"):
        LoopConfig(patience=3)


def train_from_start(run_dir, scores, **options):
    return train(run_dir, scores={**SCORES, **scores}, evaluate_first=True, **options)


def test_a_start_that_nothing_beats_is_the_best_and_counts_for_patience(tmp_path):
    toy = Toy(dropout=0.1)
    before = {name: value.clone() for name, value in toy.state_dict().items()}
    result = train_from_start(tmp_path, {0: 0.9}, toy=toy)
    assert (result.step, result.reason) == (4, "early")
    store = Checkpoints(tmp_path / "checkpoints")
    assert store.best() == {"step": 0, "metric": "score", "value": 0.9}
    best = objective_tensors(store.load(0).tensors)
    assert all(torch.equal(best[name], value) for name, value in before.items())
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows if "score" in row] == [0, 2, 4]


def test_looking_at_the_start_changes_no_later_number(tmp_path):
    train_from_start(tmp_path / "looked", {0: 0.1})
    train(tmp_path / "plain")
    looked, plain = (read_rows(tmp_path / name / "metrics.jsonl") for name in ("looked", "plain"))
    assert looked[0]["step"] == 0
    assert [(row["step"], row["loss"]) for row in looked[1:]] == [
        (row["step"], row["loss"]) for row in plain
    ]


def test_a_run_that_was_left_at_its_start_evaluates_it_once(tmp_path):
    seen = []

    def scores(step, stops=True):
        seen.append(step)
        if step == 0 and stops and seen.count(0) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            yield None
        yield {"score": 0.9 if step == 0 else 0.1}

    def go():
        return fit(
            Toy(), make_feed(),
            LoopConfig(steps=4, evaluate_every=2, evaluate_first=True, best_metric="score"),
            runtime=pick_runtime("cpu"), run_dir=tmp_path, seed=3, evaluate=scores,
        )  # fmt: skip

    assert go().reason == "stopped"
    assert seen == [0]
    assert go().reason == "done"
    assert seen == [0, 0, 2, 4]
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [0, 1, 2, 4]
    assert go().reason == "done"
    assert seen == [0, 0, 2, 4]


def test_the_start_is_evaluated_only_where_something_is():
    with pytest.raises(ValueError, match=r"loop\.evaluate_first needs loop\.evaluate_every"):
        LoopConfig(evaluate_first=True)
