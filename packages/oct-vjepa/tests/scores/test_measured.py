"""Numbers of volumes as means by participant, with intervals and paired differences."""

import numpy as np
import pytest
from oct_vjepa.scores.measured import Measured, by_participant, compare_measured, measure_card


def readings(shift=0.0, seeds=1):
    draw = np.random.default_rng(0)
    values = draw.uniform(0.4, 0.8, (12, 2))
    values[::3, 1] = np.nan
    return [[Measured(values + shift, np.arange(12))] for _ in range(seeds)]


def test_volumes_are_averaged_within_their_participant_and_what_is_unknown_is_left_out():
    found = by_participant(
        np.array([[1.0, np.nan], [3.0, 4.0], [5.0, np.nan]]), np.array([7, 7, 2])
    )
    assert found.groups_N.tolist() == [2, 7]
    assert found.values_NM[1].tolist() == [2.0, 4.0]
    assert found.values_NM[0, 0] == 5.0
    assert np.isnan(found.values_NM[0, 1])


def test_the_interval_of_a_metric_lies_around_the_mean_of_those_who_have_it():
    given = readings(seeds=2)
    card = measure_card(given, ["dice", "far"], seed=0, bootstrap=400)
    for column, name in enumerate(card):
        assert card[name].value == pytest.approx(np.nanmean(given[0][0].values_NM[:, column]))
        assert card[name].low < card[name].value < card[name].high
    assert card == measure_card(given, ["dice", "far"], seed=0, bootstrap=400)


def test_what_nobody_has_is_nan_and_no_error():
    values = np.full((6, 1), np.nan)
    card = measure_card([[Measured(values, np.arange(6))]], ["far"], seed=0, bootstrap=50)
    assert np.isnan(card["far"]).all()


def test_equal_candidates_differ_by_nothing_and_shifted_ones_by_the_shift():
    candidates = {"own": readings(), "same": readings(), "worse": readings(-0.1)}
    gaps = compare_measured(
        candidates, ["dice", "far"], "dice", reference="own", seed=0, bootstrap=200
    )
    assert list(gaps) == ["same", "worse"]
    assert gaps["same"].difference == (0.0, 0.0, 0.0)
    assert gaps["same"].p == 1.0
    assert gaps["worse"].difference == pytest.approx((0.1, 0.1, 0.1))
    assert gaps["worse"].p_holm < 0.05
