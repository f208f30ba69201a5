"""Strange rows are told from others, distances are what they are called."""

import numpy as np
import pytest
from oct_vjepa.scores.novelty import find_threshold, fit_novelty


def draw(rng, rows, shift=0.0):
    """Correlated features of very different scales, as one encoder's are; one of them constant."""
    hidden = rng.normal(size=(rows, 6))
    mixing = np.random.default_rng(0).normal(size=(6, 20))
    features = hidden @ mixing + 0.5 * rng.normal(size=(rows, 20)) + shift
    return np.c_[features * np.logspace(-3, 3, 20), np.full(rows, 7.0)]


def test_strange_rows_are_told_and_others_are_not():
    rng = np.random.default_rng(1)
    novelty = fit_novelty(draw(rng, 400))
    threshold = find_threshold(novelty.score(draw(rng, 400)))
    usual = novelty.score(draw(rng, 1000)) > threshold
    strange = novelty.score(draw(rng, 300, shift=4.0)) > threshold
    assert usual.mean() == pytest.approx(0.05, abs=0.03)
    assert strange.mean() > 0.9


def test_the_distance_is_the_textbooks():
    covariance = pytest.importorskip("sklearn.covariance")
    rng = np.random.default_rng(2)
    train, other = draw(rng, 60)[:, :20], draw(rng, 9)[:, :20]
    novelty = fit_novelty(train)
    scaled, placed = [(one - train.mean(axis=0)) / train.std(axis=0) for one in (train, other)]
    shrunk = covariance.LedoitWolf(assume_centered=True).fit(scaled)
    assert novelty.shrinkage == pytest.approx(shrunk.shrinkage_)
    expected = np.sqrt(np.einsum("md,de,me->m", placed, shrunk.precision_, placed))
    np.testing.assert_allclose(novelty.score(other), expected)


def test_few_rows_of_many_features_are_shrunk_and_stay_finite():
    rng = np.random.default_rng(3)
    novelty = fit_novelty(rng.normal(size=(12, 300)))
    assert novelty.shrinkage > 0.5
    assert novelty.axes_KD.shape == (11, 300)
    assert np.isfinite(novelty.score(rng.normal(size=(5, 300)))).all()


def test_features_that_say_nothing_are_refused():
    with pytest.raises(ValueError, match="three training rows"):
        fit_novelty(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="vary"):
        fit_novelty(np.ones((5, 3)))
    novelty = fit_novelty(np.random.default_rng(4).normal(size=(20, 3)))
    with pytest.raises(ValueError, match="trained on 3 columns"):
        novelty.score(np.zeros((2, 4)))
