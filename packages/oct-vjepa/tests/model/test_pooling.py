"""Pools keep what they promise, and a class token is never made up."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from oct_vjepa import POOLS, Encoder, EncoderConfig, embed_volumes, pool_tokens
from oct_vjepa.model.pooling import FURTHER_POOLS, class_tokens_of, pool_cells, pooled_width


@pytest.mark.parametrize("pool", POOLS + FURTHER_POOLS)
def test_each_pool_gives_the_width_that_is_announced(pool):
    assert pool_tokens(torch.randn(2, 5, 4), pool, class_tokens=1).shape == (
        2,
        pooled_width(4, pool),
    )


def test_class_tokens_are_read_by_cls_and_by_nothing_else():
    tokens = torch.randn(2, 5, 4)
    assert torch.equal(pool_tokens(tokens, "cls", class_tokens=1), tokens[:, 0])
    for pool in (*POOLS, "min", "max_min"):
        assert torch.equal(
            pool_tokens(tokens, pool, class_tokens=1), pool_tokens(tokens[:, 1:], pool)
        )


def test_tails_are_mean_spread_and_the_means_of_both_twentieths_of_each_feature():
    tokens = torch.randn(3, 120, 4, generator=torch.Generator().manual_seed(0))
    for count, kept in ((120, 6), (41, 2), (5, 1), (1, 1)):
        some = tokens[:, :count]
        ordered = some.sort(dim=1).values
        tails = [ordered[:, -kept:].mean(dim=1), ordered[:, :kept].mean(dim=1)]
        wanted = torch.cat([pool_tokens(some, "mean_std"), *tails], dim=-1)
        torch.testing.assert_close(pool_tokens(some, "tails"), wanted)


def test_a_finding_in_a_few_patches_moves_a_tail_more_than_mean_and_spread():
    quiet = torch.randn(1, 400, 1, generator=torch.Generator().manual_seed(1))
    found = quiet.clone()
    found[:, :8] += 4.0  # 2 % of the volume
    mean, spread, high, low = (pool_tokens(found, "tails") - pool_tokens(quiet, "tails"))[0]
    assert high > 5 * max(mean, spread)
    assert abs(low) < 0.1


def test_cls_is_refused_by_name_where_the_encoder_has_no_class_token():
    encoder = Encoder(EncoderConfig())
    assert class_tokens_of(encoder) == 0
    assert class_tokens_of(SimpleNamespace(config=SimpleNamespace(class_tokens=2))) == 2
    volumes = np.zeros((1, 8, 64, 64), dtype=np.uint8)
    with pytest.raises(ValueError, match=r"pool \('cls'\) needs an encoder with a class token"):
        embed_volumes(encoder, volumes, pools=("cls",))
    with pytest.raises(ValueError, match="median"):
        embed_volumes(encoder, volumes, pools=("median",))


def test_a_pool_asked_for_later_joins_the_features_on_disk(tmp_path):
    from oct_vjepa.evaluation.features import load_or_embed

    volumes = np.random.default_rng(0).integers(0, 255, (3, 8, 64, 64), dtype=np.uint8)
    encoder = Encoder(EncoderConfig())
    ask = {"volumes_fingerprint": "abc", "folder": tmp_path}
    first = load_or_embed(encoder, volumes, **ask)
    more = load_or_embed(encoder, volumes, pools=("min",), **ask)
    assert set(more) == {"min"}
    again = load_or_embed(encoder, [], **ask)  # no volumes: it must be on disk
    assert all(np.array_equal(first[pool], again[pool]) for pool in POOLS)


@pytest.mark.parametrize("grid", [(4, 16, 8), (2, 8, 4), (6, 24, 12)])
def test_cells_are_the_averages_of_a_coarse_grid(grid):
    patches = torch.randn(2, *grid, 5)
    wanted = torch.nn.functional.adaptive_avg_pool3d(patches.movedim(-1, 1), (2, 8, 4))
    found = pool_cells(patches.reshape(2, -1, 5), grid)
    torch.testing.assert_close(found, wanted.movedim(1, -1).reshape(2, -1))


def test_cells_of_few_patches_are_the_patches_and_uneven_ones_hold_every_patch_once():
    few = torch.randn(1, 1 * 3 * 2, 4)
    assert torch.equal(pool_cells(few, (1, 3, 2)), few.reshape(1, -1))
    uneven = pool_cells(torch.arange(9.0).reshape(1, 9, 1), (1, 9, 1))
    assert uneven.tolist() == [[0.5, 2, 3, 4, 5, 6, 7, 8]]


def test_cells_leave_out_class_tokens_and_refuse_another_grid():
    tokens = torch.randn(1, 9, 4)
    assert torch.equal(
        pool_cells(tokens, (2, 2, 2), class_tokens=1), pool_cells(tokens[:, 1:], (2, 2, 2))
    )
    with pytest.raises(ValueError, match=r"9 tokens are not those of a grid of \(2, 2, 2\)"):
        pool_cells(tokens, (2, 2, 2))
