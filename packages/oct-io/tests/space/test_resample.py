from dataclasses import replace

import numpy as np
import pytest
from oct_io import (
    WINDOWS,
    OctVolume,
    ScanError,
    Spacing,
    Window,
    build_cache,
    open_cache,
    read_manifest,
    resample,
)
from oct_io.space.resample import find_retina
from oct_io.space.windows import find_window


def filled(value, shape=(10, 40, 50), spacing=(0.1, 0.01, 0.02), dtype=np.uint8):
    voxels = np.zeros(shape, dtype)
    voxels[:] = value
    return OctVolume(voxels, Spacing(*spacing), "given")


def window(extent, shape):
    return Window(name="test", extent_mm=extent, shape=shape)


def test_presets_have_the_shapes_and_millimetres_they_promise():
    assert (WINDOWS["macula6"].shape, WINDOWS["macula6"].extent_mm) == ((64, 384, 384), (6, 2, 6))
    assert (WINDOWS["tiny"].shape, WINDOWS["tiny"].extent_mm) == ((8, 64, 64), (4, 0.512, 4))
    assert WINDOWS["macula6"].spacing == pytest.approx((0.09375, 0.0052083, 0.015625), rel=1e-4)


def test_a_window_of_the_scans_own_size_and_shape_changes_nothing():
    rng = np.random.default_rng(0)
    volume = filled(rng.integers(0, 256, (10, 40, 50)))
    # A profile that is bright all over has its middle in the middle.
    volume.voxels[:, :20] = volume.voxels[:, :19:-1]
    cut = resample(volume, window(volume.extent_mm, volume.voxels.shape))
    assert cut.origin_mm == pytest.approx((0, 0, 0), abs=1e-9)
    assert np.array_equal(cut.voxels, volume.voxels)


@pytest.mark.parametrize("shape", [(10, 40, 50), (3, 7, 9), (33, 90, 120)])
def test_a_constant_scan_stays_constant_at_any_sampling(shape):
    volume = filled(77)
    cut = resample(volume, window(volume.extent_mm, shape))
    assert (cut.voxels == 77).all()


def test_linear_ramps_are_kept_when_sampled_more_finely():
    volume = filled((np.arange(50) * 4)[None, None, :])
    cut = resample(volume, window(volume.extent_mm, (10, 40, 100)))
    wanted = np.clip((np.arange(100) + 0.5) / 2 - 0.5, 0, 49) * 4
    assert np.abs(cut.voxels[5, 20].astype(float) - wanted).max() <= 0.51


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_stripes_too_fine_to_be_seen_become_grey_instead_of_aliasing(axis):
    shape = [10, 40, 50]
    shape[axis] = 96
    stripes = np.moveaxis((np.arange(96) % 2 * 200)[:, None, None], 0, axis)
    volume = filled(stripes, tuple(shape))
    small = list(shape)
    small[axis] = 96 // 5
    cut = resample(volume, window(volume.extent_mm, tuple(small)))
    inner = np.moveaxis(cut.voxels, axis, 0)[1:-1]
    assert np.abs(inner.astype(int) - 100).max() <= 6


def test_where_the_scan_ends_zeros_are_padded_and_its_border_is_not_darkened():
    volume = filled(90, shape=(10, 40, 50))  # 1.0 x 0.4 x 1.0 mm
    cut = resample(volume, window((2.0, 0.8, 2.0), (20, 80, 100)))
    inside = np.zeros((20, 80, 100), bool)
    inside[5:15, 20:60, 25:75] = True
    assert (cut.voxels[inside] == 90).all()
    assert (cut.voxels[~inside] == 0).all()
    assert cut.origin_mm == pytest.approx((-0.5, -0.2, -0.5))


def test_a_scan_thinner_than_one_step_of_the_window_is_not_lost():
    cut = resample(filled(90, shape=(2, 40, 50)), window((6.0, 0.4, 1.0), (8, 40, 50)))
    assert cut.voxels.any()


def test_the_window_is_centred_on_the_retina_in_depth(draw):
    high, low = draw(), draw()
    low.voxels[:] = np.roll(low.voxels, 12, axis=1)
    small = window((2.0, 0.1, 2.0), (8, 25, 40))
    difference = resample(low, small).origin_mm[1] - resample(high, small).origin_mm[1]
    assert difference == pytest.approx(12 * 0.004, abs=0.004)
    assert resample(low, small).voxels[:, 12].mean() > resample(low, small).voxels[:, 0].mean() + 50


def test_the_retina_of_a_real_scan_is_found_between_its_surface_and_the_choroid(samples):
    with np.load(samples / "spectralis_medvisbonn/volume_145x496x512_u8.npz") as file:
        voxels = file["volume"]
    with np.load(samples / "spectralis_medvisbonn/rpe_bm_layers_145x496x512_u8.npz") as file:
        rpe = np.flatnonzero((file[file.files[0]] == 255).any(axis=(0, 2)))
    assert rpe.min() - 70 < find_retina(voxels) < rpe.max()


def test_deep_voxels_are_scaled_from_the_range_that_holds_them():
    for full in (4095, 65535):
        volume = filled(0, dtype=np.uint16)
        volume.voxels[:, 20:] = full
        cut = resample(volume, window(volume.extent_mm, volume.voxels.shape))
        assert set(np.unique(cut.voxels)) <= {0, 255}


def test_depth_is_never_flipped():
    volume = filled(0)
    volume.voxels[:, 15:17], volume.voxels[:, 22:24] = 250, 150
    profile = resample(volume, window(volume.extent_mm, volume.voxels.shape)).voxels.mean((0, 2))
    bright, faint = np.flatnonzero(profile > 200), np.flatnonzero(profile > 100)
    assert bright.min() == faint.min()
    assert bright.max() + 5 < faint.max()


def test_a_window_that_is_none_is_refused_with_its_value():
    with pytest.raises(ValueError, match=r"window\.shape"):
        window((6, 2, 6), (0, 3, 3))
    with pytest.raises(ValueError, match=r"window\.extent_mm"):
        window((6, 2), (3, 3, 3))
    assert window([6, 2, 6], [8, 8, 8]).shape == (8, 8, 8)


def test_the_predecessors_resize_is_trilinear_interpolation_of_the_whole_field():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    volume = filled(rng.integers(0, 256, (30, 70, 90)), (30, 70, 90))
    small = replace(WINDOWS["predecessor_resize"], shape=(12, 24, 200))
    cut = resample(volume, small)
    voxels = torch.from_numpy(volume.voxels.astype(np.float32))[None, None]
    wanted = torch.nn.functional.interpolate(voxels, size=(12, 24, 200), mode="trilinear")
    assert np.abs(cut.voxels - wanted[0, 0].numpy()).max() <= 0.51, "rounding to whole levels"
    assert cut.spacing == pytest.approx((30 * 0.1 / 12, 70 * 0.01 / 24, 90 * 0.02 / 200))
    assert cut.origin_mm == (0, 0, 0)


def test_the_predecessors_spacing_crops_the_middle_and_pads_what_is_missing():
    preset = WINDOWS["predecessor_spacing"]
    assert preset.spacing == pytest.approx((0.05, 0.02, 0.02))
    assert preset.shape == (64, 384, 384)
    scan = filled(99, shape=(60, 200, 300), spacing=(0.1, 0.01, 0.02))  # 6 x 2 x 6 mm
    cut = resample(scan, preset)
    full = (cut.voxels == 99).nonzero()
    assert [len(np.unique(axis)) for axis in full] == [64, 100, 300], "3.2 of 6 mm; 2 mm; 6 mm"
    assert (cut.voxels > 0).mean() == pytest.approx(100 * 300 / 384**2), "four fifths are padding"
    assert cut.origin_mm == pytest.approx((1.4, -2.84, -0.84))


def test_native_changes_no_voxel_and_says_the_scans_own_spacing(draw):
    volume = draw()
    cut = resample(volume, WINDOWS["native"])
    assert np.array_equal(cut.voxels, volume.voxels)
    assert (cut.spacing, cut.origin_mm) == (pytest.approx(volume.spacing), (0, 0, 0))


def test_a_cache_refuses_a_window_without_one_shape_in_one_line(tmp_path, scan_file):
    scan_file("scans/one.dcm")
    records = read_manifest(tmp_path / "scans")
    with pytest.raises(ValueError, match="native keeps the shape of each scan") as caught:
        build_cache(records, tmp_path / "scans", WINDOWS["native"], tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache").exists()


def test_records_of_a_whole_field_say_their_own_spacing(tmp_path, scan_file):
    scan_file("scans/one.dcm")
    records = read_manifest(tmp_path / "scans")
    small = replace(WINDOWS["predecessor_resize"], shape=(4, 16, 20))
    build_cache(records, tmp_path / "scans", small, tmp_path / "cache")
    volumes = open_cache(tmp_path / "cache")
    assert volumes.window == small
    assert volumes.entries[0].spacing == pytest.approx((8 * 0.25 / 4, 48 * 0.004 / 16, 0.1))
    with pytest.raises(ValueError, match="takes the whole field of each scan"):
        _ = volumes.spacing
    assert volumes.spacings.shape == (1, 3)
    assert volumes.spacings[0] == pytest.approx(volumes.entries[0].spacing)
    assert volumes.select([]).spacings.shape == (0, 3)


@pytest.mark.parametrize("name", sorted(WINDOWS))
def test_spacing_times_shape_is_the_extent_of_every_window(draw, name):
    volume, preset = draw(), WINDOWS[name]
    cut = resample(volume, preset)
    assert cut.voxels.shape == preset.shape_on(volume)
    assert cut.voxels.flags.c_contiguous
    size = np.multiply(cut.voxels.shape, cut.spacing)
    assert size == pytest.approx(preset.extent_on(volume))


@pytest.mark.parametrize("name", sorted(WINDOWS))
def test_a_constant_scan_is_constant_or_empty_in_every_window(name):
    volume = filled(123, shape=(40, 300, 80), spacing=(0.2, 0.01, 0.1))
    assert set(np.unique(resample(volume, WINDOWS[name]).voxels)) <= {0, 123}


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("out", [13, 30, 77])
def test_linear_ramps_are_exact_inside_at_any_sampling(axis, out):
    line = np.moveaxis((np.arange(40) * 5.0)[:, None, None], 0, axis)
    shape = [40, 40, 40]
    volume = filled(line.astype(np.uint8), tuple(shape), spacing=(0.05, 0.05, 0.05))
    shape[axis] = out
    sampling = Window(
        name="test", extent_mm=(2, 2, 2), shape=tuple(shape), retina_centred=False
    )  # in depth a ramp has no retina
    cut = np.moveaxis(resample(volume, sampling).voxels, axis, 0)[:, 20, 20].astype(float)
    centres = (np.arange(out) + 0.5) * 40 / out - 0.5
    inner = (centres > 3.1) & (centres < 39 - 3.1)
    assert np.abs(cut - centres * 5)[inner].max() <= 0.51


def test_without_antialiasing_fine_stripes_alias_which_is_why_ours_do_not():
    stripes = (np.arange(96) % 2 * 200)[None, None, :]
    volume = filled(stripes, (10, 40, 96))
    plain = window(volume.extent_mm, (10, 40, 28))
    seen = [resample(volume, one).voxels for one in (plain, replace(plain, antialiased=False))]
    assert [int(np.ptp(one[5, 20, 2:-2].astype(int))) < 40 for one in seen] == [True, False]


def test_left_eyes_are_mirrored_only_if_asked_and_depth_never_is(draw):
    left, right = draw(laterality="L"), draw(laterality="R")
    plain = window((2.0, 0.19, 2.0), (8, 40, 36))
    mirror = replace(plain, mirror_left=True)
    cut = resample(left, mirror)
    assert cut.mirrored
    assert np.array_equal(cut.voxels[:, :, ::-1], resample(left, plain).voxels)
    assert np.array_equal(resample(right, mirror).voxels, resample(right, plain).voxels)
    assert not resample(right, mirror).mirrored
    assert not resample(left, plain).mirrored
    assert not WINDOWS["macula6"].mirror_left


def test_the_scans_own_voxels_in_a_box_are_a_contradiction():
    with pytest.raises(ValueError, match=r"window\.extent_mm .* must be the whole field"):
        Window(name="test", extent_mm=(6, 2, 6), shape=(0, 0, 0))


def test_a_volume_of_unknown_spacing_is_brought_to_voxels_and_to_nothing_else(draw):
    unknown = Spacing(np.nan, np.nan, np.nan)
    volume = replace(draw(), spacing=unknown, spacing_source="unknown", spacing_confidence=None)
    cut = resample(volume, find_window("4x24x20"))
    assert cut.voxels.shape == (4, 24, 20)
    assert np.isnan(cut.spacing).all()
    known = resample(draw(), find_window("4x24x20"))
    assert np.array_equal(cut.voxels, known.voxels), "the same voxels, whatever they measure"
    with pytest.raises(ScanError, match="the distance between its B-scans is not known"):
        resample(volume, WINDOWS["macula6"])
