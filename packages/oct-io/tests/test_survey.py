"""The fingerprint of a data set, and the window that fits it."""

from dataclasses import replace

import numpy as np
import pytest
from oct_io import PhantomTree, SourceConfig
from oct_io.bscans import BscanConfig
from oct_io.space.windows import find_window
from oct_io.survey import Survey, choose_window, sample_cache, survey
from PIL import Image

VOLUMES = Survey(
    scans=100, training=80, participants=40, devices={"topcon_triton": 100}, refused=0,
    shapes=np.array([[128, 885, 512]]), spacings=np.array([[6 / 128, 0.0026, 6 / 512]]),
    images=False,
)  # fmt: skip
NOWHERE = replace(VOLUMES, spacings=np.full((1, 3), np.nan))
IMAGES = replace(
    NOWHERE, images=True, shapes=np.array([[1, 573, 1408]]), spacings=np.full((1, 3), np.nan)
)


@pytest.mark.parametrize(
    ("found", "accelerated", "name"),
    [
        (VOLUMES, True, "macula6"),
        (VOLUMES, False, "tiny"),
        (NOWHERE, True, "64x384x384"),
        (NOWHERE, False, "8x64x64"),
        (replace(VOLUMES, spacings=VOLUMES.spacings / 3), False, "8x64x64"),
        (IMAGES, False, "96x240"),
        (IMAGES, True, "352x848"),
        (replace(IMAGES, spacings=np.array([[np.nan, 0.0039, 0.0117]])), False, "bscan"),
    ],
)
def test_a_window_goes_by_millimetres_where_they_are_known(found, accelerated, name):
    window = choose_window(found, accelerated=accelerated)
    assert window.name == name
    assert len(window.reason) > 20
    _, rows, columns = find_window(name).require_fixed_shape()
    assert rows % 8 == columns % 16 == 0, "patches divide it"


def test_small_images_are_not_blown_up():
    tiny = replace(IMAGES, shapes=np.array([[1, 50, 70]]))
    _, rows, columns = find_window(choose_window(tiny, accelerated=True).name).shape
    assert rows * columns <= 1.3 * 50 * 70


def test_a_phantom_is_surveyed_and_sampled_without_the_test_participants(tmp_path):
    config = SourceConfig(
        root=str(tmp_path / "data"),
        cache=str(tmp_path / "cache"),
        window="tiny",
        phantom=PhantomTree(participants=6, split_fractions=[0.5, 0.0, 0.5]),
    )
    found, looked = survey(config)
    assert found.scans == 12
    assert (found.training, found.participants) == (6, 3)
    assert found.measured
    assert sum(found.devices.values()) == 12
    sampled = sample_cache(config, looked, "tiny", tmp_path / "some", 4)
    assert len(sampled.volumes) == 4
    assert sampled.volumes.shape == (8, 64, 64)
    assert sampled.seconds > 0
    assert not (tmp_path / "cache").exists()


def test_images_are_surveyed_by_what_they_say_of_their_size(tmp_path):
    for number in range(3):
        level = np.random.default_rng(number).integers(20, 200, (40, 100)).astype(np.uint8)
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(level).save(tmp_path / "images" / f"{number}.png")
    config = SourceConfig(root=str(tmp_path / "images"), window="16x32", bscans=BscanConfig())
    found, _ = survey(config)
    assert found.images
    assert found.shape == (1, 40, 100)
    assert not found.measured
    assert "millimetres not known" in found.describe()[1]
