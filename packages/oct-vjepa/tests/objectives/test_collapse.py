"""The guard speaks up when a run collapses, and keeps still when it does not."""

import json

import pytest
import torch
from oct_vjepa import Encoder, EncoderConfig, Jepa, JepaConfig, PredictorConfig, ScheduleConfig
from oct_vjepa.objectives.collapse import CollapseConfig, CollapseGuard, collapse_alarms
from oct_vjepa.objectives.losses import normalise_targets
from torch.nn import functional

HEALTHY = {
    "loss": 0.8, "loss_over_baseline": 1.1, "target_std": 0.8, "variance_ratio": 0.001,
    "spread_foreground": 0.7, "spread_background": 0.5, "effective_rank": 80.0,
    "teacher_drift": 0.05,
}  # fmt: skip


def feed(guard, rows):
    return [text for step, row in enumerate(rows) for text in guard.update(step, HEALTHY | row)]


def between(first, last, count):
    return [first + (last - first) * index / (count - 1) for index in range(count)]


def wobble(middle, width, count):
    return [{"loss": middle + width * (-1) ** step} for step in range(count)]


STD = [{"target_std": value} for value in between(0.8, 0.1, 60)]
DROP = wobble(0.62, 0.01, 60) + [{"loss": 0.45, "target_std": 0.5}] * 6
RUNAWAY = [{"effective_rank": rank, "teacher_drift": 1.0} for rank in range(80, 0, -1)]
LATE_DROP = wobble(1.0, 0.2, 45) + wobble(0.62, 0.01, 20) + [{"loss": 0.5, "target_std": 0.5}] * 6


def test_a_healthy_course_raises_nothing_though_the_rank_falls_to_a_quarter():
    guard = CollapseGuard()
    loss, spread = between(0.8, 0.09, 300), between(0.435, 0.168, 300)  # a healthy run of old
    ratio, rank = between(0.001, 0.4, 300), between(83.0, 22.0, 300)
    over = between(1.1, 0.6, 300)
    rows = [
        {
            "loss": loss[i], "target_std": spread[i], "variance_ratio": ratio[i],
            "effective_rank": rank[i], "loss_over_baseline": over[i],
        }
        for i in range(300)
    ]  # fmt: skip
    assert feed(guard, rows) == []
    assert guard.alarms == ()


def test_a_rank_of_one_alone_is_no_alarm():
    assert feed(CollapseGuard(), [{"effective_rank": rank} for rank in between(80, 1, 60)]) == []


@pytest.mark.parametrize("name", ["target_std", "spread_foreground", "spread_background"])
def test_a_spread_below_a_fifth_of_its_start_is_named(name):
    said = feed(CollapseGuard(), [{name: value} for value in between(0.8, 0.1, 60)])
    assert len(said) == 1
    assert f"{name} is at 19%" in said[0] or f"{name} is at 20%" in said[0]
    assert feed(CollapseGuard(), [{name: value} for value in between(0.8, 0.2, 60)]) == []


def test_a_sudden_drop_counts_only_with_a_fall_of_the_spread():
    said = feed(CollapseGuard(), DROP)
    assert len(said) == 1
    assert "standard deviations" in said[0]
    assert feed(CollapseGuard(), wobble(0.62, 0.01, 60) + [{"loss": 0.45}] * 6) == []


def test_a_loss_that_falls_because_the_targets_shrink_is_told_from_one_that_learns():
    rows = [{"loss": x, "target_std": x} for x in between(0.8, 0.4, 60)]
    said = feed(CollapseGuard(), rows)
    assert [text for text in said if "nothing is predicted" in text]
    learns = [row | {"loss_over_baseline": 0.7} for row in rows]
    assert feed(CollapseGuard(), learns) == []


def test_a_variance_ratio_is_low_only_after_it_was_high():
    low = [{"variance_ratio": 0.001}] * 40
    assert feed(CollapseGuard(), low) == []
    said = feed(CollapseGuard(), low + [{"variance_ratio": 0.6}] * 20 + low)
    assert len(said) == 1
    assert "variance_ratio fell from 0.60 to 0.001" in said[0]


def test_a_student_that_runs_away_with_a_falling_rank_is_an_alarm():
    rows = [{"effective_rank": x, "teacher_drift": 0.8} for x in between(80, 5, 60)]
    said = feed(CollapseGuard(), rows)
    assert len(said) == 1
    assert "learning rate is too high" in said[0]


def test_a_number_that_is_not_finite_is_an_alarm_at_once():
    assert CollapseGuard().update(7, {"loss": float("nan")}) == ["step 7: loss is nan"]


def test_a_sign_is_told_once_and_again_after_it_went_away():
    guard = CollapseGuard()
    good, bad = [{"target_std": 0.8}] * 10, [{"target_std": 0.05}] * 10
    assert len(feed(guard, good + bad)) == 1
    assert guard.alarms == ("target_std",)
    assert feed(guard, good) == []
    assert guard.alarms == ()
    assert len(feed(guard, bad)) == 1


def test_a_whole_run_is_told_what_a_guard_said_on_the_way():
    rows = [HEALTHY | row | {"step": 10 * step} for step, row in enumerate(STD)]
    guard = CollapseGuard()
    told = [alarm for row in rows for alarm in guard.update(row["step"], row)]
    assert collapse_alarms(rows) == told
    assert len(told) == 1
    assert "target_std" in told[0]
    assert collapse_alarms(rows[:20]) == []


def test_a_guard_that_was_saved_goes_on_where_it_stood():
    rows = [{"target_std": value} for value in between(0.8, 0.05, 60)]
    guard, other = CollapseGuard(), CollapseGuard()
    assert feed(guard, rows[:20]) == []
    other.load_state_dict(json.loads(json.dumps(guard.state_dict())))
    assert feed(guard, rows[20:]) == feed(other, rows[20:]) != []


@pytest.mark.parametrize(
    ("changed", "rows"),
    [
        ({"start": 12}, [{"target_std": 0.4}] * 10 + [{"target_std": 3.0}] + STD),
        ({"recent": 1}, [{"target_std": 0.8}] * 30 + [{"target_std": 0.05}] * 2),
        ({"window": 10}, LATE_DROP),
        ({"spread_fraction": 0.5}, STD),
        ({"drop_sigma": 100.0}, DROP),
        ({"drop_spread": 0.1}, DROP),
        ({"shrink_fraction": 0.3}, [{"loss": x, "target_std": x} for x in between(0.8, 0.4, 60)]),
        ({"ratio_floor": 0.0005}, [{"variance_ratio": x} for x in between(0.6, 0.001, 60)]),
        ({"rank_fraction": 0.01}, RUNAWAY),
        ({"drift_limit": 2.0}, RUNAWAY),
    ],
)  # fmt: skip
def test_every_limit_decides_something(changed, rows):
    assert feed(CollapseGuard(), rows) != feed(CollapseGuard(CollapseConfig(**changed)), rows)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"start": 0}, r"start \(0\)"),
        ({"window": 3}, r"window \(3\)"),
        ({"spread_fraction": 1.5}, r"spread_fraction \(1\.5\)"),
        ({"drift_limit": 0.0}, r"drift_limit \(0\.0\)"),
    ],
)
def test_a_bad_limit_is_named(settings, text):
    with pytest.raises(ValueError, match=rf"collapse\.{text}"):
        CollapseConfig(**settings)


class NoStopGradient(Jepa):
    """What must not be done: targets come from the student, with gradients."""

    def targets(self, volume_BCZYX, spacing_B3=None):
        return normalise_targets(self.encoder(volume_BCZYX, spacing_B3=spacing_B3))


def made_up_volumes(count, generator):
    """A bright tilted sheet of varying height and thickness, with speckle."""
    coarse = torch.randn(count, 1, 2, 4, 4, generator=generator)
    smooth = functional.interpolate(coarse, size=(4, 32, 32), mode="trilinear")
    centre, tilt, thick = torch.randn(3, count, 1, 1, 1, 1, generator=generator)
    y, x = torch.arange(32).view(32, 1), torch.arange(32)
    away = (y - (16 + 5 * centre) - 0.4 * tilt * (x - 16)) / (5.5 + thick.tanh() * 2.5)
    bright = 20 + 120 * torch.exp(-(away**2)) * (1 + 0.3 * smooth)
    speckle = 0.6 + 0.4 * torch.rand(bright.shape, generator=generator)
    return (bright * speckle).clamp(0, 255).to(torch.uint8)


def train(seed, *, objective=Jepa, lr=3e-3, ema=(0.98, 1.0), steps=80):
    """A small real training; returns what the guard said and every report."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    volumes = made_up_volumes(96, generator)
    config = EncoderConfig(
        input_shape=(4, 32, 32), patch_size=(2, 8, 8), width=48, depth=2, heads=3,
        input_mean=55.0, input_std=45.0,
    )  # fmt: skip
    settings = JepaConfig(
        predictor=PredictorConfig(width=24, depth=2, heads=2), ema_start=ema[0], ema_end=ema[1]
    )
    jepa = objective(Encoder(config), settings)
    schedule = ScheduleConfig(peak=lr, end=lr / 10)
    optimiser = torch.optim.AdamW(jepa.parameter_groups(0.04), lr=lr)
    guard, said, reports = CollapseGuard(), [], []
    for step in range(steps):
        batch = volumes[torch.randint(0, len(volumes), (12,), generator=generator)]
        out = jepa.loss(batch, generator)
        optimiser.zero_grad()
        out["loss"].backward()
        for group in optimiser.param_groups:
            group["lr"] = schedule.at(step, steps)
        optimiser.step()
        jepa.after_step(step, steps)
        report = {name: value.detach().item() for name, value in out.items()}
        if step % 4 == 0:
            report |= jepa.diagnostics(volumes[:32])
        said += guard.update(step, report)
        reports.append(report)
    return said, reports


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_drill_a_healthy_run_raises_nothing(seed):
    said, reports = train(seed)
    assert said == []
    assert reports[-1]["loss_over_baseline"] < 0.95, "the run that is called healthy must learn"


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [
        {"lr": 3e-2},
        {"objective": NoStopGradient},
        {"objective": NoStopGradient, "ema": (0.0, 0.0)},
        {"objective": NoStopGradient, "ema": (0.0, 0.0), "lr": 3e-2},
    ],
    ids=["lr x 10", "no stop-gradient", "no teacher", "all three"],
)
def test_drill_a_broken_run_is_called_out(fault):
    said, _ = train(0, **fault)
    assert said


@pytest.mark.slow
def test_drill_a_teacher_without_memory_alone_keeps_its_spread_and_raises_nothing():
    said, reports = train(0, ema=(0.0, 0.0))  # the stop-gradient and the masks hold it up
    assert reports[-1]["target_std"] > 0.5 * reports[0]["target_std"]
    assert said == []
