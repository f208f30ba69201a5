"""The retina's surface is found, and A-scans are moved so that it lies in one row."""

import io
from dataclasses import replace

import numpy as np
import pytest
from oct_io import (
    WINDOWS,
    OctVolume,
    PhantomTree,
    SourceConfig,
    Spacing,
    open_cache,
    open_source,
    resample,
)
from oct_io.cli import main
from oct_io.phantom import Phantom, draw_phantom_with_truth
from oct_io.phantom.tree import true_layers, true_mask
from oct_io.space.flattening import SURFACE_SHARE, find_surface, flatten
from oct_io.space.layers import layers_to_mask, resample_layers, resample_mask
from oct_io.space.windows import Window, find_window
from oct_io.volume import UNLABELLED
from PIL import Image


def phantom(seed=0, **changes):
    spec = Phantom(shape=(12, 200, 128), **changes)
    volume, truth = draw_phantom_with_truth(spec, seed)
    layers = true_layers(truth, volume.spacing)
    return replace(volume, layers=layers, mask=true_mask(truth), mask_names=("background", "IRF"))


def off_surface_um(volume):
    """Distance of each A-scan's found surface from the true one."""
    found = find_surface(volume.voxels)
    return np.abs(found - volume.layers["ILM"]) * volume.spacing.row * 1000


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("lesions", [{}, {"fluid": True}, {"thin": True}, {"drusen": True}])
def test_the_surface_of_a_phantom_is_found_whatever_its_lesion(seed, lesions):
    off = off_surface_um(phantom(seed, **lesions))
    assert np.median(off) < 20
    assert np.quantile(off, 0.95) < 60


def padded_phantom(ends, padding, noise=0):
    """A turned B-scan as exports have it: wedges of padding at the top, at the bottom or both."""
    volume = phantom(1)
    voxels, (_, rows, columns) = volume.voxels // 3, volume.voxels.shape
    speckle = np.random.default_rng(0).integers(0, noise + 1, voxels.shape)
    voxels = (voxels + speckle).astype(np.uint8)
    for column in range(columns):
        size = 4 + 8 * column // columns
        voxels[:, : size * ends[0], column] = padding
        voxels[:, rows - size * ends[1] :, column] = padding
    return replace(volume, voxels=voxels)


@pytest.mark.parametrize("noise", [0, 40])
@pytest.mark.parametrize("padding", [255, 0])
@pytest.mark.parametrize("ends", [(0, 1), (1, 0), (1, 1)])
def test_padding_of_a_turned_b_scan_is_neither_retina_nor_vitreous(ends, padding, noise):
    assert np.quantile(off_surface_um(padded_phantom(ends, padding, noise)), 0.95) < 60


def test_white_padding_is_found_through_jpeg():
    volume = padded_phantom((1, 1), 255, noise=40)
    bscans = []
    for bscan in volume.voxels:
        file = io.BytesIO()
        Image.fromarray(bscan).save(file, "jpeg", quality=80)
        bscans.append(np.asarray(Image.open(file)))
    stored = replace(volume, voxels=np.stack(bscans))
    assert (stored.voxels[:, 0] < 255).any()
    assert (stored.voxels > 200).mean() > 0.05
    assert np.quantile(off_surface_um(stored), 0.95) < 60
    assert (flatten(stored).voxels > 200).mean() < 1e-4  # padding is black then


def test_a_speckle_at_the_end_of_an_a_scan_is_no_padding():
    volume = phantom(1)
    bright = volume.voxels.copy()
    bright[0, -1, 0] = 255
    assert np.array_equal(find_surface(bright), find_surface(volume.voxels))


def test_gain_and_offset_hardly_move_the_surface():
    volume = phantom(3)
    dim = (volume.voxels * 0.3 + 12).astype(volume.voxels.dtype)
    moved = np.abs(find_surface(dim) - find_surface(volume.voxels)) * volume.spacing.row * 1000
    assert np.quantile(moved, 0.95) < 30


def test_the_surface_of_a_real_volume_is_above_its_epithelium_by_a_retina(samples):
    with np.load(samples / "spectralis_medvisbonn/volume_145x496x512_u8.npz") as file:
        voxels = file["volume"][::12]
    with np.load(samples / "spectralis_medvisbonn/rpe_bm_layers_145x496x512_u8.npz") as file:
        epithelium = (file[file.files[0]][::12] == 255).argmax(axis=1)
    thickness_um = (epithelium - find_surface(voxels)) * 3.872
    inside = thickness_um[epithelium > 0]
    assert 200 < np.median(inside) < 400
    assert np.mean((inside > 100) & (inside < 500)) > 0.99


def test_a_flattened_scan_has_its_surface_in_one_row_with_its_layers_and_mask():
    volume = phantom(1, fluid=True)
    flat = flatten(volume)
    row = round(volume.voxels.shape[1] * SURFACE_SHARE)
    assert (flat.voxels.shape, flat.voxels.dtype) == (volume.voxels.shape, volume.voxels.dtype)
    assert np.abs(flat.layers["ILM"] - row).mean() < np.abs(volume.layers["ILM"] - row).mean() / 3
    thickness = [one.layers["BM"] - one.layers["ILM"] for one in (volume, flat)]
    np.testing.assert_allclose(*thickness, atol=1e-3)
    kept = flat.mask != UNLABELLED
    assert 0.5 < kept.mean() < 1
    assert (flat.voxels[~kept] == 0).all()
    cysts = [int((one.mask == 1).sum()) for one in (volume, flat)]
    assert cysts[0] == cysts[1] > 0, "the retina is whole"


def test_the_surface_moves_with_the_scan():
    voxels = phantom(2).voxels
    down = np.roll(voxels, 7, axis=1)  # dark on dark
    moved = find_surface(down) - find_surface(voxels)
    assert np.median(moved) == 7
    assert np.mean(np.abs(moved - 7) <= 2) > 0.95


def test_a_scan_without_contrast_keeps_its_voxels_below_the_row_of_the_surface():
    blank = OctVolume(np.full((2, 80, 16), 9, np.uint8), Spacing(0.1, 0.01, 0.1), "given")
    assert (find_surface(blank.voxels) == 0).all()
    flat = flatten(blank).voxels
    assert (flat[:, :10] == 0).all()
    assert (flat[:, 10:] == 9).all()


def test_one_column_and_few_rows_do():
    tiny = np.arange(6, dtype=np.uint8).reshape(1, 6, 1)
    assert find_surface(tiny).shape == (1, 1)


@pytest.mark.parametrize("name", ["tiny", "macula6", "16x96x64", "bscan"])
def test_a_flattened_window_has_the_surface_an_eighth_below_its_top(name):
    window = replace(find_window(name), flattened=True)
    rows = window.shape[1]
    volume = phantom(4)
    flat = resample(volume, window)
    assert flat.voxels.shape == window.shape
    lines = resample_layers(volume, window)["ILM"]
    off = np.abs(lines - rows * SURFACE_SHARE)
    assert np.nanmedian(off) < max(1.5, 0.04 / flat.spacing.row)
    assert np.isfinite(lines).mean() > 0.95


def test_masks_and_layers_of_a_flattened_window_agree():
    volume = phantom(5)
    painted = layers_to_mask(volume.layers, volume.voxels.shape, ("ILM", "BM"))
    window = Window(name="w", extent_mm=(3.0, 0.8, 3.0), shape=(10, 80, 60), flattened=True)
    before = resample_mask(replace(volume, mask=painted, mask_names=("a", "b", "c")), window)
    after = layers_to_mask(resample_layers(volume, window), window.shape, ("ILM", "BM"))
    known = (before != UNLABELLED) & (after != UNLABELLED)
    assert known.mean() > 0.5
    assert np.mean(before[known] == after[known]) > 0.96


def test_a_window_in_voxels_takes_half_the_depth_of_a_flattened_scan():
    volume = phantom(6)
    plain, flat = (replace(find_window("12x50x128"), flattened=one) for one in (False, True))
    assert resample(volume, flat).spacing.row == pytest.approx(
        resample(volume, plain).spacing.row / 2
    )
    padded = replace(find_window("100x128-padded"), flattened=True)
    assert resample(volume, padded).voxels.any()


def test_the_scans_own_voxels_are_not_flattened():
    with pytest.raises(ValueError, match="window native takes the scan's own voxels, and flatt"):
        replace(WINDOWS["native"], flattened=True)


def test_a_source_and_the_command_flatten_alike(tmp_path):
    tree = PhantomTree(participants=2, scale=0.5, eyes=["L"])
    root = tmp_path / "data"
    config = SourceConfig(
        root=str(root), cache=str(tmp_path / "one"), window="tiny", phantom=tree, jobs=1,
        flatten=True, mirror_left=True,
    )  # fmt: skip
    volumes = open_source(config).volumes
    assert volumes.window.flattened
    told = ["cache", str(root), str(tmp_path / "two"), "--window", "tiny", "--jobs", "1"]
    assert main([*told, "--flatten", "--mirror-left"]) == 0
    again = open_cache(tmp_path / "two")
    assert again.fingerprint == volumes.fingerprint
    plain = open_source(replace(config, flatten=False, cache=str(tmp_path / "three"))).volumes
    assert plain.fingerprint != volumes.fingerprint
