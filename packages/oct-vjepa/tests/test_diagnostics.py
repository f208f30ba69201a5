"""The signs of collapse read what they claim on data whose answer is known."""

import pytest
import torch
from oct_vjepa.diagnostics import (
    baseline_loss,
    effective_rank,
    feature_spread,
    pairwise_cosine,
    prediction_cosine,
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
    assert feature_spread(rows) == 0.0


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
