"""Layer boundaries keep their place when a volume is resampled."""

from dataclasses import replace

import numpy as np
import pytest
from oct_io import WINDOWS, OctVolume, Spacing, Window, resample
from oct_io.space.layers import (
    layers_to_mask,
    mask_to_layers,
    put_back,
    resample_layers,
    resample_mask,
)
from oct_io.volume import UNLABELLED

LINES = {"RPE": 255, "BM": 127}


def sloping(shape=(12, 60, 50), spacing=(0.25, 0.02, 0.05), **changes):
    """A scan with one straight boundary that slopes along both lateral axes."""
    bscans, rows, columns = shape
    rng = np.random.default_rng(0)
    top = 20 + 0.8 * np.arange(bscans)[:, None] + 0.2 * np.arange(columns)[None, :]
    voxels = rng.integers(0, 20, shape).astype(np.uint8)
    voxels[np.abs(np.arange(rows)[None, :, None] - top[:, None, :]) < 2] = 240
    return OctVolume(
        voxels, Spacing(*spacing), "given", layers={"RPE": top.astype(np.float32)}, **changes
    )


def real_volume(samples):
    """Forty B-scans of the real volume with its manual RPE and BM lines."""
    some = slice(50, 90)
    with np.load(samples / "spectralis_medvisbonn/volume_145x496x512_u8.npz") as file:
        voxels = file["volume"][some]
    with np.load(samples / "spectralis_medvisbonn/rpe_bm_layers_145x496x512_u8.npz") as file:
        drawn = file[file.files[0]][some]
    layers = {}
    for line, level in LINES.items():
        marked = drawn == level
        count = marked.sum(axis=1)
        rows = np.einsum("zyx,y->zx", marked, np.arange(496.0)) / np.maximum(count, 1)
        layers[line] = np.where(count > 0, rows, np.nan).astype(np.float32)
    return OctVolume(voxels, Spacing(0.03, 0.003872, 0.011182), "given", layers=layers)


def paint(layer, rows):
    """Voxels that hold nothing but the boundary, as a bright line."""
    off = np.abs(np.arange(rows, dtype=np.float32)[None, :, None] - layer[:, None, :])
    return (np.nan_to_num(np.clip(1 - off / 3, 0, None)) * 255).astype(np.uint8)


def heights(voxels):
    """Row of the centre of the bright line in each A-scan; NaN where there is none."""
    mass = voxels.sum(axis=1, dtype=np.float64)
    rows = np.einsum("zyx,y->zx", voxels.astype(np.float32), np.arange(voxels.shape[1], dtype="f4"))
    return np.divide(rows, mass, out=np.full(mass.shape, np.nan), where=mass > 200)


def around(layer):
    """Lowest and highest row of the boundary among each A-scan and its eight neighbours."""
    padded = np.pad(layer, 1, mode="edge")
    near = np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).reshape(*layer.shape, 9)
    return np.fmin.reduce(near, axis=-1), np.fmax.reduce(near, axis=-1)


def there_and_back(volume, window):
    """Resample to `window` and back to the scan's own grid: voxels, layers and shift in rows."""
    cut = resample(volume, window)
    moved = OctVolume(cut.voxels, cut.spacing, "given", layers=resample_layers(volume, window))
    back = Window(
        name="back", extent_mm=volume.extent_mm, shape=volume.voxels.shape, retina_centred=False
    )
    shift_mm = (window.extent_mm[1] - volume.extent_mm[1]) / 2 + cut.origin_mm[1]
    return (
        resample(moved, back).voxels,
        resample_layers(moved, back),
        shift_mm / volume.spacing.row,
    )


@pytest.mark.parametrize("name", ["RPE", "BM"])
def test_the_layers_of_a_real_scan_stay_within_one_voxel_through_a_round_trip(samples, name):
    volume = real_volume(samples)
    line = replace(volume, voxels=paint(volume.layers[name], 496))
    bscans, _, columns = volume.voxels.shape
    extent_mm = (volume.extent_mm[0], 2.0, volume.extent_mm[2])
    macula6_rows = Window(name="rows", extent_mm=extent_mm, shape=(bscans, 384, columns))
    voxels, layers, shift = there_and_back(line, macula6_rows)
    said, seen = layers[name] + shift, heights(voxels) + shift
    before = volume.layers[name]
    known = np.isfinite(before) & np.isfinite(said) & np.isfinite(seen)
    assert known.sum() > 0.98 * np.isfinite(before).sum() > 19000
    assert np.abs(said - before)[known].max() < 0.01
    assert np.abs(seen - before)[known].max() < 1.0


@pytest.mark.parametrize("name", ["RPE", "BM"])
def test_a_round_trip_through_another_lateral_grid_moves_no_layer_by_more_than_one_voxel(
    samples, name
):
    volume = real_volume(samples)
    other = Window(name="other", extent_mm=(1.2, 1.95, 5.75), shape=(42, 520, 530))
    _, layers, shift = there_and_back(volume, other)
    before, again = volume.layers[name], layers[name] + shift
    known = np.isfinite(again) & np.isfinite(before)
    assert known.sum() > 0.98 * np.isfinite(before).sum()
    assert abs((again - before)[known].mean()) < 0.02
    low, high = around(before)  # a step from one A-scan to the next may move by an A-scan
    assert (again >= low - 1)[known].all()
    assert (again <= high + 1)[known].all()


@pytest.mark.parametrize("name", ["macula6", "predecessor_resize"])
def test_the_layers_of_a_real_scan_follow_its_voxels_into_a_window(samples, name):
    volume = real_volume(samples)
    window = replace(WINDOWS[name], retina_centred=False)  # the line alone has another centre
    line = replace(volume, voxels=paint(volume.layers["RPE"], 496), layers={})
    seen, said = heights(resample(line, window).voxels), resample_layers(volume, window)["RPE"]
    both = np.isfinite(seen) & np.isfinite(said)
    assert both.sum() > 0.98 * np.isfinite(said).sum() > 4000
    assert np.quantile(np.abs(seen - said)[both], 0.99) <= 1.0


def test_a_boundary_lies_where_its_bright_line_lies_in_any_window():
    volume = sloping()
    for extent, shape in [((2, 0.8, 2), (9, 60, 31)), ((3, 1.2, 2.5), (6, 40, 80))]:
        window = Window(name="test", extent_mm=extent, shape=shape)
        cut = resample(volume, window)
        bright = np.where(cut.voxels > 100, cut.voxels, 0)
        seen, said = heights(bright), resample_layers(volume, window)["RPE"]
        inner = (slice(1, -1), slice(2, -2))
        both = np.isfinite(seen[inner]) & np.isfinite(said[inner])
        assert both.mean() > 0.7
        assert np.abs(seen - said)[inner][both].max() < 1.0


def test_native_leaves_layers_alone():
    volume = sloping()
    rows = resample_layers(volume, WINDOWS["native"])["RPE"]
    assert np.allclose(rows, volume.layers["RPE"], atol=1e-4)
    assert rows.dtype == np.float32


def test_where_a_boundary_is_missing_or_outside_it_stays_missing():
    volume = sloping()
    volume.layers["RPE"][:, 20:30] = np.nan
    rows = resample_layers(volume, WINDOWS["native"])["RPE"]
    assert np.isnan(rows[:, 20:30]).all()
    assert np.isfinite(rows[:, :20]).all()
    shallow = Window(name="test", extent_mm=(3, 0.1, 2.5), shape=(12, 5, 50))
    inside = resample_layers(volume, shallow)["RPE"]
    assert np.isnan(inside).any()
    assert np.nanmax(inside) <= 4.5
    assert np.nanmin(inside) >= -0.5


def test_layers_are_mirrored_with_their_voxels():
    window = Window(name="test", extent_mm=(3, 1.2, 2.5), shape=(12, 60, 50))
    left = sloping(laterality="L")
    plain = resample_layers(left, window)["RPE"]
    mirrored = resample_layers(left, replace(window, mirror_left=True))["RPE"]
    assert np.array_equal(mirrored, plain[:, ::-1], equal_nan=True)
    assert resample_layers(sloping(), WINDOWS["tiny"]).keys() == {"RPE"}


def test_boundaries_are_found_again_in_the_mask_that_they_draw_to_half_a_row():
    volume = sloping(shape=(6, 60, 20))
    top = volume.layers["RPE"]
    layers = {"RPE": top, "BM": top + 7.3}
    mask = layers_to_mask(layers, volume.voxels.shape, ["RPE", "BM"])
    found = mask_to_layers(mask, 2)
    for row, name in zip(found, layers, strict=True):
        assert np.abs(row - layers[name]).max() <= 0.5
    mask[:, :, 3] = UNLABELLED
    assert np.isnan(mask_to_layers(mask, 2)[:, :, 3]).all()
    mask[:, :, 5] = 2
    assert np.isnan(mask_to_layers(mask, 2)[:, :, 5]).all(), "nothing lies above: not in the window"


@pytest.mark.parametrize("laterality", ["R", "L"])
def test_a_mask_of_a_window_goes_back_to_the_scan_it_was_cut_from(laterality):
    volume = sloping(laterality=laterality)
    drawn = layers_to_mask(volume.layers, volume.voxels.shape, ["RPE"])
    volume = replace(volume, mask=drawn, mask_names=("above", "below"))
    window = Window(name="half", extent_mm=(1.5, 0.8, 1.25), shape=(6, 40, 25), mirror_left=True)
    cut, mask = resample(volume, window), resample_mask(volume, window)
    assert cut.mirrored == (laterality == "L")
    back = put_back(
        mask,
        volume.voxels.shape,
        spacing=volume.spacing,
        window_spacing=cut.spacing,
        origin_mm=cut.origin_mm,
        mirrored=cut.mirrored,
    )
    there = back != UNLABELLED
    assert 0.15 < there.mean() < 0.3, "a half along each of two axes, two thirds in depth"
    assert (back == drawn)[there].mean() > 0.98
