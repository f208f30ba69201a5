"""Schedules are the formulas they claim to be."""

import math

import pytest
from oct_vjepa import ScheduleConfig
from oct_vjepa.objectives.schedules import momentum_at, ramp_at


def test_the_warm_up_starts_at_one_part_and_not_at_zero():
    schedule = ScheduleConfig(peak=1.0, end=0.0, warmup_fraction=0.1)
    assert [schedule.at(step, 100) for step in range(10)] == pytest.approx(
        [(step + 1) / 10 for step in range(10)]
    )


def test_cosine_falls_from_peak_to_end():
    schedule = ScheduleConfig(peak=2.0, end=0.5, warmup_fraction=0.1)
    for step in range(10, 100):
        done = (step - 9) / 90
        wanted = 0.5 + 1.5 * (1 + math.cos(math.pi * done)) / 2
        assert schedule.at(step, 100) == pytest.approx(wanted)
    assert schedule.at(99, 100) == pytest.approx(0.5)
    assert schedule.at(250, 100) == pytest.approx(0.5)


def test_wsd_is_flat_then_linear():
    schedule = ScheduleConfig(kind="wsd", peak=1.0, end=0.0, cooldown_fraction=0.2)
    assert {schedule.at(step, 100) for step in range(5, 80)} == {1.0}
    tail = [schedule.at(step, 100) for step in range(80, 100)]
    assert tail == pytest.approx([1 - (step + 1) / 20 for step in range(20)])


def test_constant_stays_at_its_peak_without_warm_up():
    schedule = ScheduleConfig(kind="constant", peak=0.04, warmup_fraction=0.0)
    assert [schedule.at(step, 3) for step in range(5)] == [0.04] * 5


@pytest.mark.parametrize("kind", ["cosine", "wsd", "constant"])
def test_a_run_of_one_step_is_defined(kind):
    assert ScheduleConfig(kind=kind).at(0, 1) == pytest.approx(1e-3)


def test_momentum_is_linear_and_stays_below_one():
    values = [momentum_at(step, 11, start=0.9, end=1.0) for step in range(12)]
    assert values[:10] == pytest.approx([0.9 + 0.01 * step for step in range(10)])
    assert 0.999 < values[10] < 1.0
    assert values[11] == values[10]
    assert momentum_at(0, 1, start=0.9, end=1.0) == 0.9


def test_a_weight_decay_may_rise_by_a_cosine_without_warm_up():
    schedule = ScheduleConfig(peak=0.04, end=0.4, warmup_fraction=0.0)
    for step in range(50):
        wanted = 0.4 + (0.04 - 0.4) * (1 + math.cos(math.pi * (step + 1) / 50)) / 2
        assert schedule.at(step, 50) == pytest.approx(wanted)


def test_momentum_by_a_cosine_and_constant_are_their_formulas():
    for step in range(11):
        wanted = 1.0 - 0.1 * (1 + math.cos(math.pi * step / 10)) / 2
        got = momentum_at(step, 11, start=0.9, end=1.0, kind="cosine")
        assert got == pytest.approx(wanted, abs=3e-6)
        assert momentum_at(step, 11, start=0.9, end=1.0, kind="constant") == 0.9
    with pytest.raises(ValueError, match=r"ema_kind \('step'\)"):
        momentum_at(0, 11, start=0.9, end=1.0, kind="step")


def test_a_ramp_waits_rises_and_holds():
    values = [ramp_at(step, 100, start=0.1, full=0.3) for step in range(100)]
    assert values[:11] == [0.0] * 11
    assert values[11:30] == pytest.approx([step / 20 for step in range(1, 20)])
    assert values[30:] == [1.0] * 70
    assert ramp_at(0, 100, start=0.0, full=0.0) == 1.0


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"kind": "step"}, r"schedule\.kind \('step'\)"),
        ({"peak": -1.0}, r"schedule\.peak \(-1\.0\)"),
        ({"warmup_fraction": 2.0}, r"schedule\.warmup_fraction \(2\.0\)"),
        ({"kind": "wsd", "warmup_fraction": 0.9}, "add up to at most 1"),
    ],
)
def test_a_bad_setting_is_named(settings, text):
    with pytest.raises(ValueError, match=text):
        ScheduleConfig(**settings)
