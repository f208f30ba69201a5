"""The signs of collapse read what they claim on data whose answer is known."""

import pytest
import torch
from oct_vjepa.objectives.diagnostics import (
    baseline_loss,
    dead_dimensions,
    effective_rank,
    feature_spread,
    pairwise_cosine,
    prediction_cosine,
    split_spread,
    variance_ratio,
)


def test_effective_rank_counts_equal_directions(generator):
    basis, _ = torch.linalg.qr(torch.randn(200, 6, generator=generator, dtype=torch.float64))
    centred = basis - basis.mean(dim=0)
    low = centred[:, :3] @ torch.eye(3, 16, dtype=torch.float64)
    assert effective_rank(low) == pytest.approx(3.0, rel=0.02)


def test_equal_rows_have_rank_and_spread_zero():
    rows = torch.full((10, 4), 0.3)
    assert effective_rank(rows) == 0.0
    assert feature_spread(rows) < 1e-6


def test_spread_and_baseline_of_standard_normal_rows(generator):
    rows = torch.randn(4000, 32, generator=generator)
    assert feature_spread(rows).item() == pytest.approx(1.0, abs=0.02)
    assert baseline_loss(rows).item() == pytest.approx((2 / torch.pi) ** 0.5, abs=0.02)


def test_pairwise_cosine_equals_the_average_over_pairs(generator):
    rows = torch.nn.functional.normalize(torch.randn(7, 5, generator=generator), dim=-1)
    products = rows @ rows.T
    wanted = (products.sum() - products.diagonal().sum()) / 42
    torch.testing.assert_close(pairwise_cosine(rows * 3), wanted)
    with pytest.raises(ValueError, match="at least two rows"):
        pairwise_cosine(rows[:1])


def test_a_perfect_and_a_constant_prediction_are_told_apart(generator):
    target = torch.randn(3, 20, 8, generator=generator)
    assert prediction_cosine(target, target).item() == pytest.approx(1.0)
    assert variance_ratio(target, target).item() == pytest.approx(1.0)
    assert variance_ratio(target.mean(dim=(0, 1), keepdim=True).expand(3, 20, 8), target) < 1e-6


def test_the_spread_is_taken_apart_by_foreground(generator):
    features = torch.randn(4, 50, 8, generator=generator)
    features[:, 20:] *= 0.1
    weight = torch.zeros(4, 50)
    weight[:, :20] = 0.7  # any weight above 0 is foreground
    front, back = split_spread(features, weight)
    torch.testing.assert_close(front, feature_spread(features[:, :20]))
    torch.testing.assert_close(back, feature_spread(features[:, 20:]))


def test_features_that_stopped_to_vary_are_counted(generator):
    features = torch.randn(100, 8, generator=generator)
    assert dead_dimensions(features) == 0.0
    features[:, :2] = 0.5
    assert dead_dimensions(features) == 0.25
    assert dead_dimensions(torch.ones(10, 4)) == 1.0


def test_the_rank_cannot_see_that_everything_shrank(generator):
    features = torch.randn(100, 8, generator=generator)
    assert effective_rank(features * 1e-4 + 1.0) == pytest.approx(
        effective_rank(features), rel=1e-3
    )
    assert feature_spread(features * 1e-4 + 1.0) < 1e-3


def test_spread_and_ratio_are_those_of_torch_at_a_large_mean():
    rows = torch.randn(200, 7, generator=torch.Generator().manual_seed(0)) * 0.1 + 50.0
    wanted = rows.double().std(dim=0, correction=0).mean().float()
    torch.testing.assert_close(feature_spread(rows), wanted, rtol=1e-4, atol=0)
    torch.testing.assert_close(variance_ratio(rows * 2, rows), torch.tensor(4.0), rtol=1e-3, atol=0)
