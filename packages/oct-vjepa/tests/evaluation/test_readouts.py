"""Readouts are what the encoder itself gives for these blocks and pools."""

import numpy as np
import pytest
import torch
from oct_vjepa import Encoder, EncoderConfig, embed_volumes
from oct_vjepa.evaluation.readouts import ReadoutConfig, read_out


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return Encoder(
        EncoderConfig(input_shape=(4, 8, 8), patch_size=(2, 4, 4), width=16, depth=4, heads=2)
    )


def test_they_are_those_of_the_encoder_block_by_block(encoder):
    volumes = np.random.default_rng(0).integers(0, 255, (3, 4, 8, 8)).astype(np.uint8)
    everything = embed_volumes(encoder, volumes, layers=range(4))
    config = ReadoutConfig(blocks=["last", "late", "all", "1"], pools=["mean", "mean_std"])
    found = read_out(everything, config, 4)
    for block, layers in {"last": [3], "late": [2, 3], "all": [0, 1, 2, 3], "1": [1]}.items():
        alone = embed_volumes(encoder, volumes, layers=layers, pools=config.pools)
        for pool in config.pools:
            assert np.array_equal(found[f"{block}/{pool}"], alone[pool])
    last = embed_volumes(encoder, volumes, pools=["mean"])["mean"]
    assert np.allclose(found["last/mean"], last, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"blocks": ["first"]}, "last, late, all"),
        ({"pools": ["sum"]}, "mean, mean_std, max"),
        ({"blocks": []}, "one each"),
    ],
)
def test_what_is_no_readout_is_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        ReadoutConfig(**settings)


def test_a_block_that_the_encoder_lacks_is_named():
    with pytest.raises(ValueError, match=r"readout\.blocks \(4\) must be below 4"):
        ReadoutConfig(blocks=["4"]).names(4)


def test_cells_are_read_from_the_last_block_and_keep_what_is_where(encoder):
    volumes = np.random.default_rng(0).integers(0, 255, (3, 4, 8, 8)).astype(np.uint8)
    config = ReadoutConfig(blocks=["all"], pools=["mean", "cells"])
    assert list(config.names(4)) == ["all/mean", "last/cells"]
    found = read_out(
        embed_volumes(encoder, volumes, layers=range(4), pools=config.pools), config, 4
    )
    with torch.no_grad():
        tokens = encoder(torch.from_numpy(volumes)[:, None]).numpy()
    assert np.allclose(found["last/cells"], tokens.reshape(3, -1)), "2 x 2 x 2 patches, one a cell"
    moved = embed_volumes(encoder, volumes[:, ::-1].copy(), pools=["cells"])["cells"]
    assert not np.allclose(found["last/cells"], moved, atol=1e-3)
