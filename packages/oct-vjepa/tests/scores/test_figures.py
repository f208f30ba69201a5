"""Numbers behind figures of quantities and times, against what can be counted by hand."""

import numpy as np
import pytest
from oct_vjepa.scores.agreement import agreement
from oct_vjepa.scores.survivors import parts_by_rank, survivors


def test_agreement_is_the_mean_difference_and_nearly_two_deviations_around_it():
    found = agreement(np.array([1.0, 2.0, 6.0]), np.array([0.0, 2.0, 4.0]))
    assert found.difference_N.tolist() == [1.0, 0.0, 2.0]
    assert found.mean_N.tolist() == [0.5, 2.0, 5.0]
    assert (found.bias, found.low, found.high) == pytest.approx((1.0, -0.96, 2.96))


def test_agreement_of_one_pair_or_of_unequal_numbers_is_refused():
    for predicted in (np.ones(1), np.ones(3)):
        with pytest.raises(ValueError, match="two or more"):
            agreement(predicted, np.ones(len(predicted) if len(predicted) == 1 else 2))


def test_survivors_are_those_at_risk_less_those_with_an_event():
    found = survivors(np.array([1.0, 2.0, 2.0, 3.0, 5.0]), np.array([1, 1, 0, 1, 0], bool))
    assert found.time_P.tolist() == [0, 1, 2, 3]
    assert found.share_P == pytest.approx([1, 0.8, 0.6, 0.3])
    assert found.end == 5
    greenwood = 1 / (5 * 4) + 1 / (4 * 3) + 1 / (2 * 1)
    spread = np.exp(1.96 * np.sqrt(greenwood) / np.log(0.3))
    assert found.high_P[-1] == pytest.approx(0.3**spread)
    assert found.low_P[-1] == pytest.approx(0.3 ** (1 / spread))


def test_survivors_end_at_nobody_where_all_have_the_event_and_stay_where_none_has():
    assert survivors(np.array([1.0, 2.0]), np.ones(2, bool)).share_P.tolist() == [1, 0.5, 0]
    assert survivors(np.array([1.0, 2.0]), np.zeros(2, bool)).share_P.tolist() == [1]
    many = survivors(np.linspace(0.1, 9, 400), np.arange(400) > 0)
    assert np.isfinite([many.low_P, many.high_P]).all()
    assert ((many.low_P <= many.share_P) & (many.share_P <= many.high_P)).all()
    with pytest.raises(ValueError, match="known"):
        survivors(np.array([np.nan]), np.ones(1, bool))


def test_parts_by_rank_are_of_equal_size_whatever_the_scale():
    assert parts_by_rank(np.array([5.0, 1e9, -3, 7, 6, 0]), 3).tolist() == [1, 2, 0, 2, 1, 0]
