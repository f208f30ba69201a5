"""Augmentation: a pure function of the generator, each part does what it says, shapes stay."""

import numpy as np
import pytest
from oct_vjepa.heads.augmentation import augment
from oct_vjepa.heads.configuration import AugmentationConfig


@pytest.fixture
def voxels():
    return np.random.default_rng(0).integers(20, 200, (4, 8, 6), dtype=np.uint8)


def changed(voxels, seed=0, mask=None, **settings):
    generator = np.random.default_rng(seed)
    return augment(voxels, AugmentationConfig(**settings), generator, mask_ZYX=mask)


def test_equal_generators_give_equal_volumes_and_others_do_not(voxels):
    every = {"flip": 0.5, "gain": 0.2, "offset": 10.0, "shift": (1, 2, 1)}
    one, again, other = (changed(voxels, seed, **every)[0] for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert one.shape == voxels.shape
    assert one.dtype == np.uint8


def test_nothing_is_changed_unless_it_is_asked_for(voxels):
    assert np.array_equal(changed(voxels)[0], voxels)
    assert not AugmentationConfig().changes
    assert AugmentationConfig(gain=0.1).changes


def test_a_flip_reverses_the_order_of_the_bscans_with_their_mask(voxels):
    mask = voxels.astype(np.int64)
    flipped, moved = changed(voxels, mask=mask, flip=1.0)
    assert np.array_equal(flipped, voxels[::-1])
    assert np.array_equal(moved, mask[::-1])


def test_a_shift_moves_volume_and_mask_alike_and_repeats_the_border(voxels):
    mask = voxels.astype(np.int64)
    seen = set()
    for seed in range(40):
        moved, label = changed(voxels, seed, mask=mask, shift=(0, 2, 0))
        assert np.array_equal(moved, label)
        shift = next(s for s in range(-2, 3) if np.array_equal(
            moved, voxels[:, np.clip(np.arange(8) - s, 0, 7)]))  # fmt: skip
        seen.add(shift)
    assert seen == {-2, -1, 0, 1, 2}


def test_gain_and_offset_change_intensities_within_their_range_and_never_wrap_around(voxels):
    gains = [changed(voxels, seed, gain=0.2)[0].mean() / voxels.mean() for seed in range(40)]
    assert 0.79 < min(gains) < 0.9
    assert 1.1 < max(gains) < 1.21
    bright = np.full((2, 2, 2), 250, dtype=np.uint8)
    assert min(changed(bright, seed, offset=30.0)[0].min() for seed in range(20)) >= 220
    assert max(changed(bright, seed, offset=30.0)[0].max() for seed in range(20)) == 255
    mask = np.ones((4, 8, 6), dtype=np.int64)
    assert (changed(voxels, gain=0.5, offset=9.0, mask=mask)[1] == 1).all()


@pytest.mark.parametrize(
    "settings",
    [
        *({"flip": 2.0}, {"flip": float("nan")}, {"gain": 1.0}, {"gain": -0.1}, {"offset": -1.0}),
        *({"offset": 128.0}, {"shift": (0, -1, 0)}),
    ],
)
def test_a_bad_setting_is_named(settings):
    with pytest.raises(ValueError, match=rf"augmentation\.{next(iter(settings))}"):
        AugmentationConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "shape", "said"),
    [
        ({"shift": (99, 99, 99)}, (8, 64, 64), r"shift \(\(99, 99, 99\)\) must be below half"),
        ({"shift": (4, 0, 0)}, (8, 64, 64), "shift"),
        ({"shift": (1, 0, 0)}, (1, 64, 64), "shift"),
        ({"flip": 0.5}, (1, 64, 64), r"flip \(0.5\) reverses the B-scans, and there is one"),
    ],
)
def test_what_leaves_nothing_of_a_volume_is_refused(settings, shape, said):
    with pytest.raises(ValueError, match=rf"augmentation\.{said}"):
        AugmentationConfig(**settings).check_window(shape)


def test_what_a_volume_bears_is_not_refused():
    AugmentationConfig(flip=1.0, shift=(3, 31, 31)).check_window((8, 64, 64))
    AugmentationConfig(shift=(0, 31, 31)).check_window((1, 64, 64))
