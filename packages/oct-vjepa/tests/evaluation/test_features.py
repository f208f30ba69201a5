"""Volumes become features as the encoder gives them."""

import numpy as np
import pytest
import torch
from oct_vjepa import Encoder, EncoderConfig, embed_volumes
from oct_vjepa.evaluation.features import load_or_embed


def test_features_of_several_blocks_stand_side_by_side(tmp_path):
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(input_shape=(4, 16, 16), width=24, depth=3, heads=2))
    volumes = np.random.default_rng(0).integers(0, 255, (5, 4, 16, 16), dtype=np.uint8)
    last, first = (embed_volumes(encoder, volumes, layers=[one]) for one in (2, 0))
    both = load_or_embed(
        encoder, volumes, volumes_fingerprint="five", folder=tmp_path, layers=[0, 2]
    )
    plain = load_or_embed(encoder, volumes, volumes_fingerprint="five", folder=tmp_path)
    for pool, width in (("mean", 24), ("mean_std", 48), ("max", 24)):
        assert both[pool].shape == (5, 2 * width)
        assert np.array_equal(both[pool], np.concatenate([first[pool], last[pool]], axis=1))
        assert np.array_equal(plain[pool], last[pool])
    with pytest.raises(ValueError, match=r"layers \(\[3\]\) must be ascending numbers"):
        embed_volumes(encoder, volumes, layers=[3])


def test_volumes_are_embedded_as_the_encoder_embeds_them(encoder, volume):
    encoder.train()
    features = embed_volumes(encoder, volume[:, 0].numpy(), batch_size=3)
    assert encoder.training
    for pool, rows in features.items():
        with torch.no_grad():
            wanted = encoder.embed(volume, pool).numpy()
        np.testing.assert_allclose(rows, wanted, atol=1e-5)
    again = embed_volumes(encoder, (one.numpy() for one in volume), batch_size=4)
    np.testing.assert_allclose(again["mean"], features["mean"], atol=1e-5)
    with pytest.raises(ValueError, match="no volumes"):
        embed_volumes(encoder, [])


def test_volumes_of_several_shapes_are_refused_in_one_batch(encoder, volume):
    volumes = [volume[0, 0].numpy(), volume[1, 0, :, :8].numpy()]
    with pytest.raises(ValueError, match=r"\(4, 16, 24\), \(4, 8, 24\) do not fit into one batch"):
        embed_volumes(encoder, volumes)
    assert embed_volumes(encoder, volumes, batch_size=1)["mean"].shape == (2, 48)


def test_an_encoder_in_bfloat16_gives_features_that_are_kept(encoder, volume, tmp_path):
    ask = {"volumes_fingerprint": "abc", "folder": tmp_path, "pools": ["mean"]}
    exact = load_or_embed(encoder, volume[:, 0].numpy(), **ask)["mean"]
    rounded = load_or_embed(encoder.bfloat16(), volume[:, 0].numpy(), **ask)["mean"]
    assert rounded.dtype == np.float32
    assert 0 < np.abs(exact - rounded).max() < 0.1
    assert len(list(tmp_path.iterdir())) == 2


def test_volumes_of_different_spacing_are_embedded_each_with_its_own():
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(position_unit="length")).eval()
    with torch.no_grad():
        for weights in encoder.parameters():
            weights *= 8  # a fresh encoder attends to all places alike
    volumes = np.random.default_rng(0).integers(0, 255, (5, 8, 64, 64), dtype=np.uint8)
    spacings = np.linspace(0.5, 2.0, 15).reshape(5, 3)
    found = embed_volumes(encoder, volumes, batch_size=2, pools=("mean",), spacing=spacings)
    for number, (volume, spacing) in enumerate(zip(volumes, spacings, strict=True)):
        alone = embed_volumes(encoder, [volume], pools=("mean",), spacing=spacing)
        np.testing.assert_allclose(found["mean"][number], alone["mean"][0], atol=1e-5)
    one_for_all = embed_volumes(encoder, volumes, pools=("mean",), spacing=(1.0, 1.0, 1.0))
    assert np.abs(found["mean"] - one_for_all["mean"]).max() > 1e-3


def test_rows_of_spacing_that_do_not_match_the_volumes_are_refused():
    encoder = Encoder(EncoderConfig(depth=1, position_unit="length"))
    volumes = np.zeros((3, 8, 64, 64), dtype=np.uint8)
    with pytest.raises(ValueError, match=r"spacing \(2, 3\) must be .* a row of them for each"):
        embed_volumes(encoder, volumes, spacing=np.ones((2, 3)))
    with pytest.raises(ValueError, match="4 rows, but there are 3 volumes"):
        embed_volumes(encoder, volumes, spacing=np.ones((4, 3)))


class Counting:
    """An encoder that pools by itself, counts volumes, and may break."""

    fingerprint = "counting"

    def __init__(self, breaks_after=None):
        self.seen, self.breaks_after = 0, breaks_after

    def embed(self, volumes):
        if self.seen == self.breaks_after:
            raise KeyboardInterrupt
        self.seen += len(volumes)
        return volumes.float().flatten(1)[:, :6]


def interrupted(folder, volumes, after, **more):
    """Features of ten volumes, in batches of two, stopped after some and gone on."""
    ask = {"volumes_fingerprint": "ten", "folder": folder, "batch_size": 2, "pools": ["mean"]}
    ask |= {"save_every_s": 0.0} | more
    with pytest.raises(KeyboardInterrupt):
        load_or_embed(Counting(breaks_after=after), volumes, **ask)
    return ask, sorted(folder.glob("*.parts/part-*.safetensors"))


@pytest.mark.parametrize("by_number", [False, True])
def test_features_go_on_where_they_were_interrupted(tmp_path, by_number):
    volumes = np.random.default_rng(0).normal(size=(10, 2, 4, 4)).astype(np.float32)
    given = (lambda done: iter(volumes[done:])) if by_number else volumes
    ask, parts = interrupted(tmp_path, given, 6)
    assert len(parts) == 3
    encoder = Counting()
    found = load_or_embed(encoder, given, **ask)
    assert encoder.seen == 4, "six lay on disk"
    assert np.array_equal(found["mean"], volumes.reshape(10, -1)[:, :6])
    assert [one.suffix for one in tmp_path.iterdir()] == [".safetensors"], "no parts are left"
    again = load_or_embed(Counting(breaks_after=0), given, **ask)
    assert np.array_equal(again["mean"], found["mean"])


@pytest.mark.parametrize("more", [{"pools": ["mean", "max"]}, {"batch_size": 5}])
def test_parts_of_other_batches_or_without_a_pool_are_not_gone_on_with(tmp_path, more):
    volumes = np.zeros((10, 2, 4, 4), np.float32)
    ask, parts = interrupted(tmp_path, volumes, 6)
    assert len(parts) == 3
    encoder = Counting()
    load_or_embed(encoder, volumes, **ask | more)
    assert encoder.seen == 10


def test_a_damaged_part_and_what_follows_it_is_made_again(tmp_path):
    volumes = np.random.default_rng(0).normal(size=(10, 2, 4, 4)).astype(np.float32)
    ask, parts = interrupted(tmp_path, volumes, 6)
    parts[1].write_bytes(parts[1].read_bytes()[:-20])
    encoder = Counting()
    found = load_or_embed(encoder, volumes, **ask)
    assert encoder.seen == 8, "the first part is whole, what follows it is not"
    assert np.array_equal(found["mean"], volumes.reshape(10, -1)[:, :6])


def test_what_takes_less_than_the_time_between_saves_writes_no_parts(tmp_path):
    volumes = np.zeros((10, 2, 4, 4), np.float32)
    _, parts = interrupted(tmp_path, volumes, 6, save_every_s=60.0)
    assert parts == []
