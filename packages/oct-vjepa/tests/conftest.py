"""Small encoders and generators that the tests share."""

import pytest
import torch
from oct_vjepa import Encoder, EncoderConfig, Jepa, JepaConfig, PredictorConfig


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def small_config():
    """A grid of 2 x 4 x 3 patches: no two axes alike."""
    return EncoderConfig(
        input_shape=(4, 16, 24), patch_size=(2, 4, 8), width=48, depth=2, heads=3, input_mean=100.0,
        input_std=50.0,
    )  # fmt: skip


@pytest.fixture
def encoder(small_config):
    torch.manual_seed(0)
    return Encoder(small_config)


@pytest.fixture
def jepa(encoder):
    torch.manual_seed(1)
    return Jepa(encoder, JepaConfig(predictor=PredictorConfig(width=24, depth=2, heads=2)))


@pytest.fixture
def volume(generator):
    return torch.randint(0, 256, (4, 1, 4, 16, 24), dtype=torch.uint8, generator=generator)
