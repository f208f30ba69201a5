"""The loop: accumulation, resuming, skipping, stopping, evaluating."""

import json
import math
import os
import signal

import pytest
import torch
from oct_xla import (
    CheckpointError,
    Checkpoints,
    DeviceError,
    Feed,
    FeedConfig,
    FeedError,
    LoopConfig,
    NonFiniteError,
    fit,
    pick_runtime,
    read_rows,
)
from oct_xla.trainer import largest_loss
from toy import Toy, draw, make_feed, warm_up


def train(run_dir=None, *, toy=None, feed=None, steps=10, rate=warm_up, **options):
    config = {"log_every": 1, "checkpoint_every": 4, **options}
    evaluate, begin = config.pop("evaluate", None), config.pop("begin", None)
    return fit(
        toy or Toy(dropout=0.1),
        feed or make_feed(),
        LoopConfig(steps=steps, **config),
        runtime=pick_runtime("cpu"),
        run_dir=run_dir,
        learning_rate=rate,
        seed=3,
        evaluate=evaluate,
        begin=begin,
    )


def losses(run_dir):
    return [(row["step"], row["loss"]) for row in read_rows(run_dir / "metrics.jsonl")]


def test_four_micro_batches_of_two_equal_one_batch_of_eight(tmp_path):
    whole, parts = Toy(), Toy()
    train(tmp_path / "whole", toy=whole)
    train(tmp_path / "parts", toy=parts, accumulate=4)
    for (_, one), (_, other) in zip(
        losses(tmp_path / "whole"), losses(tmp_path / "parts"), strict=True
    ):
        assert one == pytest.approx(other, abs=1e-6)
    for name, value in whole.state_dict().items():
        assert torch.allclose(value, parts.state_dict()[name], atol=1e-5), name


def test_a_run_in_two_halves_equals_the_run_in_one_bit_for_bit(tmp_path):
    train(tmp_path / "one", toy=(one := Toy(dropout=0.1)), steps=12)
    stop = {"at": 5}

    def rate(step):
        if step == stop["at"]:
            os.kill(os.getpid(), signal.SIGTERM)
        return warm_up(step)

    first = train(tmp_path / "two", steps=12, rate=rate)
    assert (first.step, first.reason) == (6, "stopped")
    second = train(tmp_path / "two", toy=(two := Toy(width=16, dropout=0.1)), steps=12)
    assert (second.step, second.reason) == (12, "done")
    assert losses(tmp_path / "two") == losses(tmp_path / "one")
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name]), name


def test_a_finished_run_has_nothing_left_to_do(tmp_path):
    train(tmp_path)
    before = losses(tmp_path)
    assert train(tmp_path).reason == "done"
    assert losses(tmp_path) == before


class Spiked(Toy):
    """Its loss is not a number at the given calls."""

    def __init__(self, bad):
        super().__init__()
        self.bad, self.calls, self.after = bad, 0, []

    def loss(self, batch, generator):
        parts = super().loss(batch, generator)
        if self.calls in self.bad:
            parts["loss"] = parts["loss"] * math.nan
        self.calls += 1
        return parts

    def after_step(self, step, steps):
        self.after.append(step)
        return super().after_step(step, steps)


def test_a_step_that_is_not_finite_changes_neither_student_nor_teacher(tmp_path):
    toy = Spiked({3})
    seen = {}

    def rate(step):
        seen[step] = {k: v.clone() for k, v in toy.state_dict().items()}
        return warm_up(step)

    train(tmp_path, toy=toy, steps=6, rate=rate)
    assert all(torch.equal(seen[3][name], seen[4][name]) for name in seen[3])
    assert not all(torch.equal(seen[4][name], seen[5][name]) for name in seen[4])
    assert toy.after == [0, 1, 2, 4, 5]
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [row["skipped"] for row in rows] == [0, 0, 0, 1, 1, 1]
    assert math.isnan(rows[3]["loss"])


def test_too_many_bad_steps_in_a_row_stop_the_run_and_say_what_to_do():
    with pytest.raises(NonFiniteError, match=r"step 5: .* 3 times in a row; lower the learning"):
        train(toy=Spiked({2, 3, 4}), max_skipped=3)


class Jumping(Spiked):
    """Its loss is a thousand times what it should be at the given calls."""

    def loss(self, batch, generator):
        parts = Toy.loss(self, batch, generator)
        if self.calls in self.bad:
            parts["loss"] = parts["loss"] * 1e3
        self.calls += 1
        return parts


def test_a_loss_that_jumps_is_skipped_where_that_is_asked_for(tmp_path):
    train(tmp_path / "on", toy=(on := Jumping({100, 180})), steps=190, max_jump=5.0)
    train(tmp_path / "off", toy=(off := Jumping({100, 180})), steps=190)
    rows = read_rows(tmp_path / "on" / "metrics.jsonl")
    assert 180 not in on.after
    assert 100 in on.after  # too early to say what is usual
    assert off.after == list(range(190))
    assert [row["skipped"] for row in rows] == [0] * 180 + [1] * 10


def test_a_bound_is_the_mean_and_so_many_standard_deviations_once_there_are_enough():
    before = [1.0, 3.0] * 76
    assert largest_loss(before, 4.0) == pytest.approx(2.0 + 4.0 * 1.0)
    assert largest_loss(before, 0.0) == math.inf
    assert largest_loss(before[:150], 4.0) == math.inf


def test_a_resumed_run_skips_the_jump_that_an_uninterrupted_one_skips(tmp_path):
    options = {"steps": 170, "max_jump": 5.0, "checkpoint_every": 155}
    train(tmp_path / "one", toy=(one := Jumping({165})), **options)
    stop = {"at": 160}

    def rate(step):
        if step == stop["at"]:
            os.kill(os.getpid(), signal.SIGTERM)
        return warm_up(step)

    assert train(tmp_path / "two", toy=Jumping(()), rate=rate, **options).reason == "stopped"
    train(tmp_path / "two", toy=(two := Jumping({165 - 161})), **options)
    assert losses(tmp_path / "two") == losses(tmp_path / "one")
    assert 165 not in one.after + two.after
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name]), name


def test_a_loss_that_stays_above_its_bound_stops_the_run_and_says_why():
    with pytest.raises(NonFiniteError, match=r"or the loss 5 standard deviations above .* 3 times"):
        train(toy=Jumping(range(170, 200)), steps=200, max_jump=5.0, max_skipped=3)


def test_the_best_checkpoint_is_marked_and_kept(tmp_path):
    scores = {2: 0.5, 4: 0.9, 6: 0.7, 8: 0.6, 10: 0.8}
    train(
        tmp_path,
        evaluate=lambda step: {"auroc": scores[step]},
        evaluate_every=2,
        best_metric="auroc",
        checkpoint_every=2,
    )
    kept = Checkpoints(tmp_path / "checkpoints")
    assert kept.best() == {"step": 4, "metric": "auroc", "value": 0.9}
    assert kept.steps() == [4, 8, 10]
    assert read_rows(tmp_path / "metrics.jsonl")[3]["auroc"] == 0.9


def test_a_metric_that_evaluate_does_not_give_is_named():
    with pytest.raises(ValueError, match=r"best_metric \('auroc'\) must be one of .* accuracy"):
        train(evaluate=lambda step: {"accuracy": 1.0}, evaluate_every=2, best_metric="auroc")


def test_each_row_tells_what_a_reader_of_curves_needs(tmp_path):
    train(tmp_path, log_every=4)
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 4, 8, 10]
    assert [row["epoch"] for row in rows] == [0, 0, 1, 1]
    wanted = {"loss", "lr", "momentum", "grad_norm", "target_std", "volumes_per_s", "compilations"}
    assert wanted | {"skipped", "seconds", "data_wait_fraction"} <= rows[0].keys()
    assert rows[0]["lr"] == warm_up(0)


def test_another_feed_or_objective_is_refused_in_one_line(tmp_path):
    train(tmp_path)
    with pytest.raises(CheckpointError, match=r"feed\.length = 40, now it is 32; set it back"):
        train(tmp_path, feed=make_feed(length=32))
    with pytest.raises(CheckpointError, match=r"has shape \(16, 12\), .* needs \(8, 12\)"):
        train(tmp_path, toy=Toy(width=8))
    bigger = Toy()
    bigger.extra = torch.nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match=r"it lacks extra\.bias, extra\.weight") as caught:
        train(tmp_path, toy=bigger)
    assert "\n" not in str(caught.value)


def test_what_is_to_be_put_on_record_is_so_once_the_run_is_known_to_be_the_one(tmp_path):
    told = []
    train(tmp_path, begin=lambda: told.append(sorted(one.name for one in tmp_path.iterdir())))
    assert told == [[".fit-lock"]]
    with pytest.raises(CheckpointError, match=r"feed\.length"):
        train(tmp_path, feed=make_feed(length=32), begin=lambda: told.append("another run"))
    train(tmp_path, begin=lambda: told.append("the same"))
    assert told[1:] == ["the same"]


def test_bfloat16_keeps_parameters_and_optimiser_in_float32(tmp_path):
    toy = Toy()
    result = fit(
        toy, make_feed(), LoopConfig(steps=3), runtime=pick_runtime("cpu", "bf16"), run_dir=tmp_path
    )
    assert math.isfinite(result.metrics["loss"])
    tensors, state = Checkpoints(tmp_path / "checkpoints").load(3)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert state["step"] == 3


def test_a_batch_that_does_not_divide_is_refused_before_training():
    with pytest.raises(FeedError, match=r"batch_size \(8\) must be a multiple .* \(1 x 3\)"):
        train(accumulate=3)


def test_a_group_may_scale_its_learning_rate():
    class Slow(Toy):
        def parameter_groups(self, weight_decay):
            return [
                {"params": list(self.student.parameters()), "lr_scale": 0.0, "weight_decay": 0.0},
                {"params": list(self.slow.parameters()), "weight_decay": weight_decay},
            ]

    slow, fresh = Slow(), Toy()
    train(toy=slow)
    assert torch.equal(slow.student[0].weight, fresh.student[0].weight)
    assert not torch.equal(slow.slow.weight, fresh.slow.weight)


@pytest.mark.parametrize(
    ("field", "value"),
    [("steps", 0), ("clip_norm", 0.0), ("betas", (0.9, 1.0)), ("best_mode", "up")],
)
def test_a_bad_setting_is_named_with_its_value(field, value):
    with pytest.raises(ValueError, match=rf"loop\.{field} \("):
        LoopConfig(**{field: value})


class Hungry(Toy):
    """Has memory for so many samples at once."""

    def __init__(self, most):
        super().__init__()
        self.most, self.sizes, self.undone = most, [], []

    def after_step(self, step, steps, applied=None):
        if applied is not None:
            assert not applied
            self.undone.append(step)
        return super().after_step(step, steps, applied)

    def loss(self, batch, generator):
        self.sizes.append(len(batch.volume))
        if len(batch.volume) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().loss(batch, generator)


def test_running_out_of_memory_halves_the_micro_batch_and_the_run_goes_on_as_without(
    tmp_path, capsys
):
    train(tmp_path / "whole", toy=Toy())
    toy = Hungry(2)
    train(tmp_path / "short", toy=toy)
    assert toy.sizes[:3] == [8, 4, 2]
    assert set(toy.sizes[2:]) == {2}
    assert toy.undone == [0, 0], "it hears that what it has seen of the step comes again"
    said = capsys.readouterr().err
    assert "step 1: out of memory with 8 samples at a time; going on with loop.accumulate" in said
    for (_, one), (_, other) in zip(
        losses(tmp_path / "whole"), losses(tmp_path / "short"), strict=True
    ):
        assert one == pytest.approx(other, abs=1e-6)
    train(tmp_path / "short", toy=(again := Hungry(2)), steps=12)
    assert set(again.sizes) == {2}, "what was found stays found on a resume"


class Coupled(Hungry):
    """Compares its samples with each other."""

    coupled = True


def test_an_objective_that_compares_samples_keeps_its_micro_batches(tmp_path):
    with pytest.raises(DeviceError, match=r"^step 1: .* with 8 samples at a time; .*=2, or take a"):
        train(tmp_path, toy=(toy := Coupled(4)))
    assert toy.sizes == [8]
    train(tmp_path, toy=Coupled(4), accumulate=2)  # as it says; nothing was saved
    with pytest.raises(CheckpointError, match=r"accumulate x processes = 2, now it is 4; set it"):
        train(tmp_path, toy=Coupled(4), steps=12, accumulate=4)
    train(tmp_path, toy=(toy := Coupled(4)), steps=12, accumulate=2)
    assert toy.sizes == [4] * 4


@pytest.mark.filterwarnings("ignore:std")  # of one sample, a metric of the toy
def test_an_odd_micro_batch_goes_to_one_sample_and_no_memory_for_that_ends_the_run():
    toy = Hungry(1)
    train(toy=toy, feed=make_feed(batch_size=6), steps=2)
    assert toy.sizes[:3] == [6, 3, 1]
    with pytest.raises(DeviceError, match="step 1: out of memory with one sample at a time"):
        train(toy=Hungry(0), accumulate=2)


def test_training_draws_nothing_from_the_order_of_samples(tmp_path):
    feed = Feed(draw, 40, FeedConfig(batch_size=8, seed=1))
    train(tmp_path / "a", feed=feed)
    train(tmp_path / "b", feed=make_feed())
    assert losses(tmp_path / "a") != losses(tmp_path / "b")
    state = Checkpoints(tmp_path / "a/checkpoints").load(10).state
    assert state["identity"]["feed.seed"] == 1


def test_a_profile_of_the_steps_asked_for_lies_in_the_run_folder(tmp_path):
    train(tmp_path, profile="3:5")
    trace = json.loads((tmp_path / "profile/rank-0.json").read_text())
    names = {event.get("name") for event in trace["traceEvents"]}
    assert {"step 3", "step 4", "step 5"} <= names
    assert not {"step 2", "step 6"} & names
    assert "aten::addmm" in names
    for bad in ("5", "5:3", "0:2", "a:b"):
        with pytest.raises(ValueError, match=r"loop\.profile \("):
            LoopConfig(profile=bad)
    with pytest.raises(ValueError, match=r"loop\.profile \(8:11\) must end within loop\.steps"):
        LoopConfig(profile="8:11", steps=10)
