"""Cases to look at, and features on a plane."""

import numpy as np
import pytest
from oct_vjepa.measures.target import Target
from oct_vjepa.trials.cases import choose_cases
from oct_vjepa.trials.projection import project_rows


def test_cases_are_the_surest_of_each_side_and_no_participant_comes_twice():
    chance = np.array([0.9, 0.99, 0.6, 0.8, 0.95, 0.2, 0.1])
    target = Target(kind="nominal", values=np.array([1, 1, 1, 0, 0, 0, -1]), names=("no", "yes"))
    people = np.array([0, 0, 1, 2, 3, 4, 5])
    found = choose_cases(np.stack([1 - chance, chance], 1), target, people, 4)
    assert [(one.row, one.output, one.right) for one in found] == [
        (1, 1, True), (5, 0, True), (4, 1, False), (3, 1, False),
    ]  # fmt: skip


def test_cases_of_labels_say_which_label_was_wrong():
    target = Target(
        kind="multilabel", values=np.array([[1, 0], [1, 1], [-1, -1]]), names=("a", "b")
    )
    scores = np.array([[0.9, 0.3], [0.8, 0.1], [1.0, 1.0]])
    found = choose_cases(scores, target, np.arange(3), 4)
    assert [(one.row, one.output, one.right) for one in found] == [(0, 0, True), (1, 1, False)]


def test_cases_of_a_quantity_are_the_nearest_and_the_furthest():
    target = Target(kind="regression", values=np.array([1.0, 2, 3, 4, np.nan]), names=("age",))
    scores = np.array([1.1, 5, 3, 4.5, 9])[:, None]
    found = choose_cases(scores, target, np.arange(5), 2)
    assert [(one.row, one.right) for one in found] == [(2, True), (1, False)]


def test_cases_of_a_time_are_events_of_the_highest_and_the_lowest_risk():
    values = np.array([[1.0, 1], [2, 1], [3, 0], [4, 1]])
    target = Target(kind="survival", values=values, names=("years",), unit="years")
    scores = np.array([5.0, 0.1, 9, 2])[:, None]
    found = choose_cases(scores, target, np.arange(4), 2)
    assert [(one.row, one.right) for one in found] == [(0, True), (1, False)]


def test_a_projection_has_the_directions_of_the_largest_spread_first():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(200, 2)) * [3, 1]
    rows = np.concatenate([base[:, :1] @ rng.normal(size=(1, 6)), base[:, 1:]], axis=1)
    found = project_rows(np.c_[rows, np.ones(200)])
    assert found.shares_2[0] > 0.8
    assert found.shares_2.sum() == pytest.approx(1)
    assert abs(np.corrcoef(found.places_N2[:, 0], base[:, 0])[0, 1]) > 0.999
    assert np.array_equal(found.places_N2, project_rows(np.c_[rows, np.ones(200)]).places_N2)


def test_features_that_do_not_vary_are_refused():
    with pytest.raises(ValueError, match="nothing to project"):
        project_rows(np.ones((4, 3)))
