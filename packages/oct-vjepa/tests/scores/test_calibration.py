"""Temperatures and priors that were put in are found again; bins hold what they should."""

import numpy as np
import pytest
from oct_vjepa.measures.chances import log_loss
from oct_vjepa.scores.calibration import (
    adjust_priors,
    apply_temperature,
    fit_temperature,
    reliability,
)


def draw_calibrated(rng, rows, classes):
    """Probabilities, and classes that come true with them."""
    scores = rng.dirichlet(np.ones(classes), rows)
    labels = (rng.random(rows)[:, None] > scores.cumsum(axis=1)).sum(axis=1)
    return scores, labels


@pytest.mark.parametrize("temperature", [0.5, 2.5])
def test_a_temperature_is_found_and_undone(temperature):
    rng = np.random.default_rng(0)
    scores, labels = draw_calibrated(rng, 20_000, 3)
    spoilt = apply_temperature(scores, 1 / temperature)
    found = fit_temperature(spoilt, labels)
    assert found == pytest.approx(temperature, rel=0.04)
    assert fit_temperature(scores, labels) == pytest.approx(1.0, rel=0.04)
    np.testing.assert_allclose(apply_temperature(spoilt, temperature), scores, atol=1e-9)


def test_no_other_temperature_has_less_loss():
    rng = np.random.default_rng(1)
    scores = rng.dirichlet(np.ones(4) * 0.3, 200)
    labels = np.where(rng.random(200) < 0.6, scores.argmax(axis=1), rng.integers(0, 4, 200))
    found = fit_temperature(scores, labels)
    losses = [
        log_loss(apply_temperature(scores, found * factor), labels, np.ones((1, 200)))[0]
        for factor in (0.98, 1.0, 1.02)
    ]
    assert losses[1] == min(losses)


def test_the_temperature_of_labels_takes_known_ones_each_by_itself():
    rng = np.random.default_rng(2)
    chances = rng.random((20_000, 2))
    answers = (rng.random(chances.shape) < chances).astype(int)
    answers[::3, 0] = -1
    sharp = apply_temperature(chances, 0.5, multilabel=True)
    assert fit_temperature(sharp, answers) == pytest.approx(2.0, rel=0.05)
    np.testing.assert_allclose(apply_temperature(sharp, 2.0, multilabel=True), chances, atol=1e-9)


def test_a_temperature_needs_an_answer_and_a_positive_number():
    with pytest.raises(ValueError, match="known"):
        fit_temperature(np.full((2, 2), 0.5), np.array([-1, -1]))
    with pytest.raises(ValueError, match="above 0"):
        apply_temperature(np.full((2, 2), 0.5), 0.0)


def draw_shifted(rng, rows, priors):
    """Scores of Bayes' rule for equal shares, of rows that have the shares `priors`."""
    labels = rng.choice(3, rows, p=priors)
    features = rng.normal(size=(rows, 3)) + 1.5 * np.eye(3)[labels]
    scores = np.exp(1.5 * features)
    return scores / scores.sum(axis=1, keepdims=True), labels


def test_known_priors_make_the_scores_of_another_population_calibrated():
    rng = np.random.default_rng(3)
    new = np.array([0.7, 0.2, 0.1])
    scores, labels = draw_shifted(rng, 20_000, new)
    moved = adjust_priors(scores, np.full(3, 1 / 3), new)
    np.testing.assert_allclose(moved.sum(axis=1), 1.0)
    np.testing.assert_allclose(moved.mean(axis=0), new, atol=0.01)
    whole = np.ones((1, len(labels)))
    assert log_loss(moved, labels, whole)[0] < log_loss(scores, labels, whole)[0] - 0.1
    np.testing.assert_allclose(adjust_priors(moved, new, np.full(3, 1 / 3)), scores, atol=1e-12)
    with pytest.raises(ValueError, match="shares of the classes"):
        adjust_priors(scores, np.array([1.0, 0.0, 0.0]), new)


def test_bins_hold_their_upper_edge_and_empty_ones_are_undefined():
    found = reliability(np.array([0.0, 0.1, 0.11, 1.0, 0.95]), np.array([0, 1, 1, 1, 0]), bins=10)
    assert found.rows_P.tolist() == [2, 1, 0, 0, 0, 0, 0, 0, 0, 2]
    np.testing.assert_allclose(found.chance_P[[0, 1, 9]], [0.05, 0.11, 0.975])
    np.testing.assert_allclose(found.came_true_P[[0, 1, 9]], [0.5, 1.0, 0.5])
    assert np.isnan(found.chance_P[2:9]).all()
