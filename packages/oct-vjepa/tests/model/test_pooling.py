"""Pools keep what they promise, and a class token is never made up."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from oct_vjepa import POOLS, Encoder, EncoderConfig, embed_volumes, pool_tokens
from oct_vjepa.model.pooling import FURTHER_POOLS, class_tokens_of, pooled_width


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
