"""Windows that are counted in voxels, and what they do to shape and spacing."""

import numpy as np
import pytest
from oct_io import WINDOWS, OctVolume, ScanError, Spacing, resample
from oct_io.space.windows import find_window

UNKNOWN = Spacing(np.nan, np.nan, np.nan)


def bscan(rows=60, columns=80, spacing=UNKNOWN):
    voxels = np.random.default_rng(0).integers(1, 255, (1, rows, columns), dtype=np.uint8)
    source = "unknown" if np.isnan(spacing.row) else "none"
    return OctVolume(voxels, spacing, source, pattern="line")


@pytest.mark.parametrize(
    ("name", "shape"),
    [("96x256", (1, 96, 256)), ("1x96x256", (1, 96, 256)), ("8x64x48-padded", (8, 64, 48))],
)
def test_a_window_may_be_named_by_its_voxels(name, shape):
    window = find_window(name)
    assert (window.name, window.shape, window.retina_centred) == (name, shape, False)


@pytest.mark.parametrize("name", ["96", "0x10", "96x256x1x1", "96 x 256", "96x256-pad", "-1x5"])
def test_other_names_are_refused_with_those_there_are(name):
    with pytest.raises(ValueError, match=r"must be one of macula6.*or voxels such as 96x256"):
        find_window(name)


def test_named_windows_are_what_they_were():
    assert all(find_window(name) is window for name, window in WINDOWS.items())


def test_the_own_shape_leaves_a_b_scan_as_it_is():
    scan = bscan()
    cut = resample(scan, find_window("60x80"))
    assert np.array_equal(cut.voxels, scan.voxels)
    assert np.isnan(cut.spacing).all()
    assert np.isnan(cut.origin_mm).all()


def test_stretching_changes_the_spacing_and_not_the_field():
    scan = bscan(spacing=Spacing(np.nan, 0.004, 0.012))
    cut = resample(scan, find_window("30x20"))
    assert cut.voxels.shape == (1, 30, 20)
    assert cut.spacing[1:] == pytest.approx((0.008, 0.048))
    assert np.multiply(cut.spacing[1:], (30, 20)) == pytest.approx(scan.extent_mm[1:])
    assert (cut.voxels > 0).all()


@pytest.mark.parametrize("spacing", [UNKNOWN, Spacing(np.nan, 0.004, 0.012)])
def test_padding_keeps_the_proportions_of_the_image(spacing):
    cut = resample(bscan(spacing=spacing), find_window("30x80-padded"))
    lit = cut.voxels[0] > 0
    assert np.flatnonzero(lit.any(axis=0)).tolist() == list(range(20, 60)), "40 of 80 columns"
    assert lit[:, 20:60].all()
    if np.isfinite(spacing.row):
        assert cut.spacing[1:] == pytest.approx((0.008, 0.024))
        assert cut.origin_mm[1:] == pytest.approx((0, -20 * 0.024))


def test_one_b_scan_of_a_volume_is_the_middle_one():
    voxels = np.random.default_rng(0).integers(0, 255, (5, 12, 16), dtype=np.uint8)
    volume = OctVolume(voxels, Spacing(0.1, 0.01, 0.02), "drawn")
    cut = resample(volume, find_window("12x16"))
    assert np.array_equal(cut.voxels[0], voxels[2])
    assert (cut.spacing.bscan, cut.origin_mm[0]) == pytest.approx((0.1, 0.2))


def test_what_needs_millimetres_says_so():
    with pytest.raises(ScanError, match="one B-scan, and window tiny takes 8"):
        resample(bscan(), WINDOWS["tiny"])
    with pytest.raises(ScanError, match=r"nothing tells its millimetres.*bscan"):
        resample(bscan(), WINDOWS["bscan"])
    radial = OctVolume(np.ones((3, 8, 8), np.uint8), Spacing(np.nan, 0.01, 0.01), "none")
    with pytest.raises(ScanError, match="distance between its B-scans is not known"):
        resample(radial, find_window("3x8x8"))


def test_left_eyes_are_mirrored_as_volumes_are():
    scan = bscan()
    window = find_window("60x80")
    left = OctVolume(scan.voxels, UNKNOWN, "unknown", laterality="L", pattern="line")
    window.mirror_left = True
    assert np.array_equal(resample(left, window).voxels, scan.voxels[:, :, ::-1])
