"""Sets and ranges hold the truth as often as was asked, whatever the scores are worth."""

import numpy as np
import pytest
from oct_vjepa.scores.conformal import (
    finite_quantile,
    fit_label_thresholds,
    fit_threshold,
    fit_width,
    label_sets,
    luck_of_coverage,
    measure_label_sets,
    measure_ranges,
    measure_sets,
    prediction_ranges,
    prediction_sets,
)


def draw(rng, rows, classes=5):
    """Over-sure scores with some signal, and labels."""
    labels = rng.integers(0, classes, rows)
    raised = np.exp(3 * (rng.normal(size=(rows, classes)) + np.eye(classes)[labels]))
    return raised / raised.sum(axis=1, keepdims=True), labels


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.3])
def test_sets_cover_as_promised_over_seeds(alpha):
    covered = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        validation, test = draw(rng, 500), draw(rng, 2000)
        sets = prediction_sets(test[0], fit_threshold(*validation, alpha))
        covered.append(measure_sets(sets, test[1]).covered)
    assert np.mean(covered) == pytest.approx(1 - alpha, abs=0.03)


@pytest.mark.parametrize(("calibrated", "tested"), [(30, 50), (48, 144)])
def test_the_luck_of_a_coverage_is_how_often_draws_hold_as_few(calibrated, tested):
    rng = np.random.default_rng(0)
    held = []
    for _ in range(4000):
        limit = finite_quantile(rng.random(calibrated), 0.1)
        held.append(int((rng.random(tested) <= limit).sum()))
    for quantile in (0.02, 0.2, 0.6):
        number = int(np.quantile(held, quantile))
        share = np.mean(np.array(held) <= number)
        assert luck_of_coverage(number, tested, calibrated, 0.1) == pytest.approx(share, abs=0.025)
    assert luck_of_coverage(tested, tested, calibrated, 0.1) == pytest.approx(1)


def test_sets_of_everything_hold_everything():
    assert luck_of_coverage(20, 20, 5, 0.1) == 1
    assert luck_of_coverage(19, 20, 5, 0.1) == 0


def test_ranges_cover_as_promised_over_seeds():
    covered = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        true = rng.standard_t(3, size=2500)
        predicted = true + rng.standard_t(3, size=2500)
        width = fit_width(predicted[:500], true[:500], 0.1)
        covered.append(measure_ranges(prediction_ranges(predicted[500:], width), true[500:]))
    assert np.mean(covered) == pytest.approx(0.9, abs=0.03)


def test_the_quantile_counts_the_row_to_come():
    values = np.arange(1.0, 20.0)  # 19 values: the 19th of 20 places covers 0.95
    assert finite_quantile(values, 0.05) == 19.0
    assert finite_quantile(values, 0.1) == 18.0
    assert finite_quantile(values, 0.04) == np.inf  # a promise that 19 rows cannot make
    assert prediction_sets(np.array([[0.9, 0.1]]), np.inf).all()


def test_sets_are_measured_by_hand():
    sets = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 1]], dtype=bool)
    found = measure_sets(sets, np.array([0, 0, 1, 1]))
    assert (found.covered, found.size, found.empty, found.single) == (0.75, 1.25, 0.25, 0.25)


def test_sets_hold_the_classes_that_are_likely_enough_and_may_be_empty():
    scores = np.array([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1]])
    assert prediction_sets(scores, 0.75).tolist() == [[True, True, False], [False, True, False]]
    assert not prediction_sets(scores, 0.1).any()


def test_what_cannot_be_promised_is_refused():
    scores, labels = np.full((3, 2), 0.5), np.zeros(3, int)
    with pytest.raises(ValueError, match="between 0 and 1"):
        fit_threshold(scores, labels, 1.0)
    with pytest.raises(ValueError, match="validation rows"):
        fit_threshold(scores[:0], labels[:0], 0.1)


@pytest.mark.parametrize("alpha", [0.1, 0.3])
def test_sets_of_each_label_cover_as_promised_where_some_are_not_known(alpha):
    covered = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 2, (3000, 3))
        logits = rng.normal(size=labels.shape) + [3.0, 1.0, 0.0] * (2 * labels - 1)
        scores = 1 / (1 + np.exp(-2 * logits))
        labels[rng.random(labels.shape) < 0.4] = -1
        limits = fit_label_thresholds(scores[:600], labels[:600], alpha)
        each = measure_label_sets(label_sets(scores[600:], limits), labels[600:])
        covered.append([one.covered for one in each])
    assert np.mean(covered, axis=0) == pytest.approx([1 - alpha] * 3, abs=0.02)
    assert each[0].size < each[2].size, "who knows nothing keeps both answers"


def test_sets_of_labels_are_those_of_two_classes():
    rng = np.random.default_rng(0)
    scores, labels = rng.random((200, 1)), rng.integers(0, 2, (200, 1))
    both = np.concatenate([1 - scores, scores], axis=1)
    threshold = fit_threshold(both, labels[:, 0], 0.2)
    assert fit_label_thresholds(scores, labels, 0.2).tolist() == [threshold]
    sets = label_sets(scores, np.array([threshold]))
    assert np.array_equal(sets[:, 0], prediction_sets(both, threshold))
    assert measure_label_sets(sets, labels) == [measure_sets(sets[:, 0], labels[:, 0])]


def test_a_label_that_few_know_is_ruled_out_nowhere():
    scores, labels = np.full((8, 2), 0.99), np.full((8, 2), 1)
    labels[:, 1] = -1
    limits = fit_label_thresholds(scores, labels, 0.1)
    assert limits.tolist() == [np.inf, np.inf]
    sets = label_sets(scores, limits)
    assert sets.all()
    assert measure_label_sets(sets, labels)[1] is None
