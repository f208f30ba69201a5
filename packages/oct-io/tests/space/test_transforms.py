"""Augmentation: reproducible, in millimetres, and never upside down."""

import math
import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from oct_io import Spacing
from oct_io.space.transforms import (
    AugmentConfig,
    apply_changes,
    augment,
    changes_nothing,
    draw_changes,
)

torch = pytest.importorskip("torch")
pytest.importorskip("monai")

SPACING = Spacing(0.1, 0.02, 0.05)
SHAPE = (10, 40, 36)
NOTHING = {
    "offset": 0, "roll_off": 0,
    "flip_probability": 0, "affine_probability": 0, "gamma": 1, "contrast": 0, "speckle": 0,
    "noise": 0, "dropped_bscans": 0, "shadow_probability": 0,
}  # fmt: skip
MOST = AugmentConfig(
    flip_probability=1, affine_probability=1, shift_lateral_mm=1, shift_depth_mm=0.2,
    tilt_degrees=15, torsion_degrees=44, zoom=0.3, gamma=2, contrast=0.5, speckle=0.3, noise=0.1,
    dropped_bscans=0.3, shadow_probability=1, shadow_strength=1,
)  # fmt: skip


def volume(seed=0):
    """Bright above, dark below, and something to tell left from right."""
    rng = np.random.default_rng(seed)
    depth = np.linspace(1, 0.1, SHAPE[1])[None, :, None]
    across = np.linspace(0.6, 1, SHAPE[2])[None, None, :]
    return (rng.uniform(150, 220, SHAPE) * depth * across).astype(np.uint8)


def only(**changes):
    return AugmentConfig(**{**NOTHING, **changes})


def changed(config, voxels, epoch=0, index=0, **more):
    return augment(config)(voxels, SPACING, epoch=epoch, index=index, **more)


def test_the_same_seed_epoch_and_index_give_the_same_voxels_in_any_order():
    first = [changed(AugmentConfig(), volume(), 3, index).voxels for index in range(4)]
    again = [changed(AugmentConfig(), volume(), 3, index).voxels for index in (3, 2, 1, 0)]
    assert all(np.array_equal(a, b) for a, b in zip(first, again[::-1], strict=True))


def test_another_seed_epoch_or_index_gives_other_changes():
    draws = [
        draw_changes(AugmentConfig(seed=seed), epoch=epoch, index=index).noise_seed
        for seed, epoch, index in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1)]
    ]
    assert len(set(draws)) == 5


def test_global_random_state_is_neither_used_nor_changed():
    state = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    voxels = changed(MOST, volume()).voxels
    assert np.array_equal(state[0], np.random.get_state()[1])  # noqa: NPY002
    assert torch.equal(state[1], torch.get_rng_state())
    torch.manual_seed(99)
    assert np.array_equal(voxels, changed(MOST, volume()).voxels)


def test_no_draw_flips_depth_even_at_the_widest_settings():
    for config in (AugmentConfig(), MOST, replace(MOST, tilt_degrees=44.9)):
        for index in range(1000):
            matrix = draw_changes(config, epoch=0, index=index).affine_mm
            if matrix is not None:
                assert matrix[1, 1] > 0, "deeper stays deeper"
                assert np.linalg.det(matrix[:3, :3]) > 0, "nothing is mirrored by the affine"


def test_what_lies_above_stays_above_in_every_augmented_volume():
    ramp = np.broadcast_to(np.linspace(250, 25, SHAPE[1])[None, :, None], SHAPE)
    still = {"noise": 0, "speckle": 0, "shift_lateral_mm": 0.3, "torsion_degrees": 20}
    for index in range(100):
        voxels = changed(replace(MOST, **still), ramp.astype(np.float32), 0, index).voxels
        steps = np.diff(voxels, axis=1)[(voxels[:, 1:] > 1) & (voxels[:, :-1] > 1)]
        assert (steps > 0).sum() < (steps < 0).sum() / 2, "but for what comes in from above"


def test_a_flip_is_of_columns_and_changes_the_eye():
    voxels = volume()
    result = changed(only(flip_probability=1), voxels, laterality="L")
    assert np.array_equal(result.voxels, voxels[:, :, ::-1])
    assert (result.laterality, result.flipped) == ("R", True)
    assert changed(only(flip_probability=1), voxels, laterality="R").laterality == "L"
    assert changed(only(flip_probability=1), voxels).laterality == "unknown"
    kept = changed(only(), voxels, laterality="L")
    assert (kept.laterality, kept.flipped) == ("L", False)
    assert np.array_equal(kept.voxels, voxels)


def test_about_half_of_the_volumes_are_flipped():
    flips = [draw_changes(AugmentConfig(), epoch=0, index=i).flipped for i in range(400)]
    assert 160 < sum(flips) < 240


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_shift_is_in_millimetres_along_its_own_axis(axis):
    voxels = volume()
    draw = draw_changes(only(), epoch=0, index=0)
    matrix = np.eye(4)
    matrix[axis, 3] = 3 * SPACING[axis]
    moved = apply_changes(voxels, draw._replace(affine_mm=matrix), SPACING)
    wanted = np.moveaxis(voxels, axis, 0)[3:]
    assert np.array_equal(np.moveaxis(moved, axis, 0)[:-3], wanted)
    assert not np.moveaxis(moved, axis, 0)[-3:].any(), "what comes from outside is 0"


def test_a_rotation_keeps_millimetres_and_not_voxels():
    """A quarter turn about the beam takes a bar of 1 mm along columns to 1 mm across B-scans."""
    voxels = np.zeros((21, 8, 41), np.uint8)
    voxels[10, :, 10:31] = 200  # 21 columns of 0.05 mm: about 1 mm
    quarter = np.eye(4)
    quarter[0, 0], quarter[0, 2], quarter[2, 0], quarter[2, 2] = 0, -1, 1, 0
    draw = draw_changes(only(), epoch=0, index=0)._replace(affine_mm=quarter)
    turned = apply_changes(voxels, draw, SPACING)
    assert (turned[:, 4, 20] > 100).sum() in (10, 11), "11 B-scans of 0.1 mm"


def test_numpy_and_torch_bytes_and_floats_come_back_as_they_came():
    voxels = volume()
    kinds = [voxels, voxels.astype(np.float32), torch.from_numpy(voxels.copy())]
    kinds += [torch.from_numpy(voxels.astype(np.float32)), voxels.astype(np.float16)]
    results = [changed(AugmentConfig(), one, index=5).voxels for one in kinds]
    for one, result in zip(kinds, results, strict=True):
        assert type(result) is type(one)
        assert result.dtype == one.dtype
        assert tuple(result.shape) == SHAPE
        levels = np.clip(np.asarray(result, np.float32), 0, 255)
        assert np.abs(levels - np.asarray(results[0], np.float32)).max() < 1
    assert np.array_equal(kinds[0], volume()), "the input is left as it is"


def test_floats_of_another_range_are_changed_alike():
    voxels = volume().astype(np.float32)
    scored = (voxels - voxels.mean()) / voxels.std()
    config = replace(AugmentConfig(), affine_probability=0, contrast=0)  # these know a zero
    one, other = (changed(config, v, index=7).voxels for v in (voxels, scored))
    assert np.allclose(one, other * voxels.std() + voxels.mean(), atol=0.2)


def test_gamma_and_contrast_keep_the_order_of_grey_levels():
    voxels = volume()
    for index in range(5):
        config = only(gamma=2, contrast=0.3)
        result = changed(config, voxels.astype(np.float32), index=index).voxels
        order = np.argsort(voxels, axis=None, kind="stable")
        assert (np.diff(result.ravel()[order]) >= -1e-3).all()


def test_speckle_grows_with_the_signal_and_noise_does_not():
    voxels = np.full(SHAPE, 20, np.float32)
    voxels[:, :20] = 200
    voxels[0, 0, 0] = 0

    def spread(config):
        draws = [changed(config, voxels, index=i).voxels for i in range(6)]
        return [np.std([d[1:, rows] - voxels[1:, rows] for d in draws])
                for rows in (slice(0, 20), slice(20, 40))]  # fmt: skip

    bright, dark = spread(only(speckle=0.2))
    assert bright > 5 * dark > 0
    bright, dark = spread(only(noise=0.1))
    assert bright == pytest.approx(dark, rel=0.1)


def test_dropped_bscans_are_neighbours_and_no_more_than_allowed():
    seen = set()
    for index in range(60):
        result = changed(only(dropped_bscans=0.4), volume() + 1, index=index).voxels
        dark = np.flatnonzero(result.max(axis=(1, 2)) == result.min())
        assert len(dark) <= 4
        assert not len(dark) or (np.diff(dark) == 1).all()
        seen.add(len(dark))
    assert {0, 4} <= seen


def test_a_shadow_darkens_columns_at_all_depths_and_brightens_none():
    config = only(shadow_probability=1, shadow_strength=0.9)
    before = volume().astype(np.float32)
    before -= before.min()
    light = [changed(config, before, index=i).voxels / (before + 1e-6) for i in range(10)]
    assert all(one.max() <= 1.0001 for one in light)
    deepest = min(light, key=np.median)
    bright = before.min(axis=1) > 1
    darkest = deepest.max(axis=1)[bright]
    assert darkest.min() < 0.6
    assert np.ptp(deepest, axis=1)[bright].max() < 1e-3, "the same all the way down"


def test_a_constant_volume_stays_itself_where_nothing_moves():
    flat = np.full(SHAPE, 7, np.uint8)
    still = replace(MOST, affine_probability=0, contrast=0)
    assert np.array_equal(changed(still, flat).voxels, flat)


def test_an_augmentation_can_be_sent_to_a_worker():
    augmentation = pickle.loads(pickle.dumps(augment(AugmentConfig(seed=3))))
    again = augmentation(volume(), SPACING, epoch=1, index=2).voxels
    assert np.array_equal(again, changed(AugmentConfig(seed=3), volume(), 1, 2).voxels)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"flip_probability": 1.5}, r"augment.flip_probability \(1.5\) must be 0 to 1"),
        ({"tilt_degrees": 90}, r"augment.tilt_degrees \(90\) must be 0 to 45"),
        ({"gamma": 0.5}, r"augment.gamma \(0.5\) must be 1 to 5"),
        ({"gamma": 50}, r"augment.gamma \(50\) must be 1 to 5"),
        ({"noise": -1}, r"augment.noise \(-1\) must be 0 to below 0.5"),
        ({"noise": math.inf}, r"augment.noise \(inf\) must be 0 to below 0.5"),
        ({"speckle": 3}, r"augment.speckle \(3\) must be 0 to 1"),
        ({"offset": 1}, r"augment.offset \(1\) must be 0 to below 0.5"),
        ({"roll_off": math.nan}, r"augment.roll_off \(nan\) must be 0 to 1"),
        ({"contrast": -0.1}, r"augment.contrast \(-0.1\) must be 0 to below 1"),
        ({"dropped_bscans": 1}, r"augment.dropped_bscans \(1\) must be 0 to below 0.5"),
        ({"shift_lateral_mm": 99}, r"augment.shift_lateral_mm \(99\) must be 0 to 3"),
        ({"shift_depth_mm": 99}, r"augment.shift_depth_mm \(99\) must be 0 to 1"),
        ({"crop_smallest": 0}, r"augment.crop_smallest \(0\) must be 0.05 to 1"),
        ({"crop_smallest": 1e-9}, r"augment.crop_smallest \(1e-09\) must be 0.05 to 1"),
        ({"crop_aspect": 0.9}, r"augment.crop_aspect \(0.9\) must be 1 to 4"),
        ({"zoom": 1}, r"augment.zoom \(1\) must be 0 to below 0.5"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        AugmentConfig(**settings)


def test_what_is_no_volume_is_refused():
    with pytest.raises(ValueError, match=r"takes \(bscan, row, column\), not \(1, 10, 40, 36\)"):
        changed(AugmentConfig(), volume()[None])
    with pytest.raises(ValueError, match="uint8 or floating voxels, not int64"):
        changed(AugmentConfig(), volume().astype(np.int64))


def test_importing_the_transforms_imports_neither_torch_nor_monai():
    code = (
        "import sys, oct_io.space.transforms; print(sorted({'torch', 'monai'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_offset_moves_all_grey_levels_and_roll_off_the_deep_ones_most():
    voxels = np.full(SHAPE, 100, np.uint8)
    voxels[0, 0, 0], voxels[-1, -1, -1] = 0, 200
    rows = slice(1, -1)
    moved = changed(only(offset=0.2), voxels).voxels[rows].astype(int)
    assert len(np.unique(moved)) == 1
    assert 0 < abs(moved[0, 0, 0] - 100) <= 40
    faded = changed(only(roll_off=0.5), voxels).voxels[rows].astype(int).mean(axis=(0, 2))
    assert faded[0] == 100
    assert (np.diff(faded) <= 0).all()
    assert 0 < faded[-1] < 100


def test_a_crop_of_a_slope_is_a_gentler_slope_and_its_millimetres_are_finer():
    _, rows, columns = SHAPE
    y, x = np.linspace(10, 90, rows)[:, None], np.linspace(0, 100, columns)[None]
    slope = np.broadcast_to(y + x, SHAPE).astype(np.float32)
    seen = set()
    for index in range(30):
        found = changed(only(crop_smallest=0.3), slope, index=index)
        down, across = (np.diff(found.voxels, axis=axis) for axis in (1, 2))
        inner = (slice(None), slice(1, -1), slice(1, -1))  # beyond the last voxels nothing is known
        steps = [one[inner].mean() for one in (down, across)]
        lengths = [steps[0] / (80 / (rows - 1)), steps[1] / (100 / (columns - 1))]
        assert 0.99 * 0.3 <= lengths[0] * lengths[1] <= 1.01
        wanted = (0.1, 0.02 * lengths[0], 0.05 * lengths[1])
        assert tuple(found.spacing) == pytest.approx(wanted, rel=1e-3)
        assert np.ptp(found.voxels, axis=0).max() < 1e-4, "all B-scans show the same part"
        seen.add(round(float(found.voxels[0, 0, 0]), 3))
    assert len(seen) > 20


def test_a_crop_keeps_shape_and_kind_and_whoever_crops_nothing_draws_as_before():
    for voxels in (volume(), torch.from_numpy(volume())[:1]):
        found = changed(only(crop_smallest=0.3), voxels)
        assert (found.voxels.shape, found.voxels.dtype) == (voxels.shape, voxels.dtype)
    assert changed(only(), volume()).spacing == SPACING
    some = replace(MOST, offset=0.1, roll_off=0.1)
    plain, cropped = (
        draw_changes(replace(some, crop_smallest=share), epoch=1, index=2) for share in (1, 0.5)
    )
    for name, one, other in zip(plain._fields, plain, cropped, strict=True):
        assert name == "crop" or np.array_equal(one, other)
    assert plain.crop is None


def test_what_does_not_move_a_volume_does_not_load_monai():
    code = (
        "import sys, numpy as np; from oct_io import Spacing;"
        "from oct_io.space.transforms import AugmentConfig, augment;"
        "augment(AugmentConfig(affine_probability=0))("
        "np.arange(64, dtype=np.uint8).reshape(4, 4, 4), Spacing(1, 1, 1), epoch=0, index=0);"
        "assert 'monai' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_config_without_amounts_changes_nothing():
    assert changes_nothing(only())
    assert not changes_nothing(only(offset=0.1))
    assert not changes_nothing(only(crop_smallest=0.9))
    assert np.array_equal(changed(only(), volume()).voxels, volume())
