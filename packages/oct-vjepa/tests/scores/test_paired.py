"""DeLong by midranks is DeLong by every pair; corrections and signs count as they should."""

import math

import numpy as np
import pytest
from oct_vjepa.scores.paired import Pair, delong, delong_p, delong_p_of, holm, sign_p


def brute_delong(scores, positive):
    """The definition: how every positive compares with every negative, for each score."""
    above, below = scores[:, positive], scores[:, ~positive]
    wins = (above[:, :, None] > below[:, None]) + 0.5 * (above[:, :, None] == below[:, None])
    of_positives, of_negatives = wins.mean(axis=2), wins.mean(axis=1)
    covariance = np.cov(of_positives) / above.shape[1] + np.cov(of_negatives) / below.shape[1]
    return wins.mean(axis=(1, 2)), covariance


@pytest.mark.parametrize("decimals", [1, 6])
def test_midranks_give_what_every_pair_gives(decimals):
    rng = np.random.default_rng(decimals)
    positive = rng.random(80) < 0.3
    scores = (rng.normal(size=(3, 80)) + positive).round(decimals)
    areas, covariance = brute_delong(scores, positive)
    found = delong(scores, positive)
    np.testing.assert_allclose(found.areas_K, areas)
    np.testing.assert_allclose(found.covariance_KK, covariance)
    np.testing.assert_allclose(delong(scores[:1], positive).covariance_KK, covariance[:1, :1])
    spread = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    expected = math.erfc(abs(areas[0] - areas[1]) / math.sqrt(2 * spread))
    assert delong_p(scores[0], scores[1], positive) == pytest.approx(expected)


def test_scores_that_rank_alike_do_not_differ():
    rng = np.random.default_rng(0)
    positive = rng.random(40) < 0.5
    score = rng.normal(size=40)
    assert delong_p(score, np.exp(score), positive) == 1.0
    assert delong_p(score, score, np.arange(40) < 1) is None


def test_null_differences_are_called_as_often_as_promised():
    rng = np.random.default_rng(1)
    positive = np.arange(120) < 60
    common = rng.normal(size=(400, 1, 120))
    scores = common + rng.normal(size=(400, 2, 120))
    found = np.array([delong_p(one, other, positive) for one, other in scores])
    assert 0.025 <= (found < 0.05).mean() <= 0.08
    assert 0.4 < found.mean() < 0.6


def test_the_p_of_folds_is_that_of_the_mean_of_their_differences():
    rng = np.random.default_rng(3)
    folds, differences, variances = [], [], []
    for rows in (60, 90):
        positive = np.arange(rows) % 3 == 0
        scores = rng.normal(size=(2, rows)) + 0.8 * positive
        areas, covariance = brute_delong(scores, positive)
        differences.append(areas[0] - areas[1])
        variances.append(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
        folds.append(Pair(*scores, positive))
    spread = math.sqrt(2 * sum(variances) / 4)
    assert delong_p_of(folds) == pytest.approx(math.erfc(abs(np.mean(differences)) / spread))
    assert delong_p_of(folds[:1]) == delong_p(*folds[0])
    assert delong_p_of([*folds, Pair(*scores[:, :9], np.arange(9) < 1)]) is None


def test_holm_corrects_from_the_smallest_up():
    assert holm([0.04, 0.01, 0.03, math.nan]) == pytest.approx(
        [0.06, 0.03, 0.06, math.nan], nan_ok=True
    )
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_sign_that_never_turns_over_is_as_rare_as_the_samples_can_say():
    assert sign_p(np.full(999, 0.1)) == pytest.approx(2 / 1000)
    assert sign_p(np.linspace(-1, 1, 100)) == 1.0
    assert math.isnan(sign_p(np.full(3, np.nan)))
