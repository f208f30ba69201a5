"""Masks keep their place when a volume is resampled, and boundaries become masks."""

from dataclasses import replace

import numpy as np
import pytest
from oct_io import WINDOWS, OctVolume, Spacing, Window, resample
from oct_io.phantom import Phantom, draw_phantom_with_truth
from oct_io.phantom.tree import true_layers, true_mask
from oct_io.space.layers import (
    layer_classes,
    layers_to_mask,
    measure_classes,
    measure_thickness,
    resample_layers,
    resample_mask,
)
from oct_io.volume import UNLABELLED

CHOSEN = ("ILM", "INL/OPL", "RPE", "BM")


def phantom(seed=0, laterality="R"):
    """A finely sampled phantom with its true boundaries, and its cysts as a mask."""
    spec = Phantom(fluid=True, laterality=laterality, shape=(16, 160, 90))
    volume, truth = draw_phantom_with_truth(spec, seed)
    layers = true_layers(truth, volume.spacing)
    return replace(volume, layers=layers, mask=true_mask(truth), mask_names=("background", "IRF"))


def surface(*rows):
    return np.array([rows], np.float32)


def test_a_voxel_lies_between_the_boundaries_above_and_below_its_centre():
    layers = {"ILM": surface(1.5, 2.0, 0.2), "BM": surface(3.5, 4.0, 2.9)}
    mask = layers_to_mask(layers, (1, 6, 3), ("ILM", "BM"))
    assert mask[0].T.tolist() == [[0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2, 2], [0, 1, 1, 2, 2, 2]]
    assert mask.dtype == np.uint8
    assert layer_classes(("ILM", "BM")) == ("above ILM", "ILM to BM", "below BM")


def test_what_an_unknown_boundary_would_part_is_unlabelled_and_nothing_else():
    layers = {"ILM": surface(1, 1), "RPE": surface(np.nan, 3), "BM": surface(5, 5)}
    mask = layers_to_mask(layers, (1, 7, 2), ("ILM", "RPE", "BM"))
    assert mask[0, :, 0].tolist() == [0, *[UNLABELLED] * 4, 3, 3]
    assert mask[0, :, 1].tolist() == [0, 1, 1, 2, 2, 3, 3]
    without = layers_to_mask(layers, (1, 7, 2), ("ILM", "EZ", "BM"))
    assert without[0, :, 1].tolist() == [0, *[UNLABELLED] * 4, 3, 3], "a boundary that is not there"


def test_boundaries_that_cross_touch_and_every_voxel_keeps_one_label():
    layers = {"ILM": surface(4), "RNFL/GCL": surface(2), "BM": surface(6)}
    mask = layers_to_mask(layers, (1, 8, 1), ("ILM", "RNFL/GCL", "BM"))
    assert mask[0, :, 0].tolist() == [0, 0, 0, 0, 2, 2, 3, 3]


@pytest.mark.parametrize("names", [(), tuple(map(str, range(255)))])
def test_there_is_a_boundary_and_a_label_for_each_class(names):
    with pytest.raises(ValueError, match="names must be 1 to 254 boundaries"):
        layers_to_mask({}, (1, 2, 2), names)


def draw_window(seed):
    rng = np.random.default_rng(seed)
    return Window(
        name="drawn",
        extent_mm=tuple(rng.uniform((2, 0.6, 2), (5, 1.4, 5))),
        shape=tuple(map(int, rng.integers((4, 90, 30), (20, 200, 100)))),
        mirror_left=True,
    )


def share_within_one_voxel(volume, window, names):
    """Of voxels labelled both ways, how many labels lie within one voxel of each other."""
    painted = layers_to_mask(volume.layers, volume.voxels.shape, names)
    painted = replace(volume, mask=painted, mask_names=layer_classes(names))
    before = resample_mask(painted, window)
    after = layers_to_mask(resample_layers(volume, window), window.shape, names)
    known = (before != UNLABELLED) & (after != UNLABELLED)
    assert known.mean() > 0.3
    padded = np.pad(before, 1, mode="edge")
    around = np.lib.stride_tricks.sliding_window_view(padded, (3, 3, 3))
    return (around == after[..., None, None, None]).any(axis=(3, 4, 5))[known].mean()


@pytest.mark.parametrize("seed", range(8))
def test_boundaries_painted_before_and_after_resampling_agree_to_within_one_voxel(seed):
    rng = np.random.default_rng(seed)
    bscans, columns = np.arange(16)[:, None], np.arange(90)[None, :]
    slopes = rng.uniform(-0.4, 0.4, (4, 2)) * (1, 0.1)
    layers = {
        name: (50 + 18 * place + across * bscans + along * columns).astype(np.float32)
        for place, (name, (across, along)) in enumerate(zip(CHOSEN, slopes, strict=True))
    }
    volume = replace(phantom(seed, "RL"[seed % 2]), layers=layers)
    assert share_within_one_voxel(volume, draw_window(seed), CHOSEN) == 1


@pytest.mark.parametrize("seed", range(4))
def test_so_do_the_layers_of_a_retina_but_for_steps_between_b_scans(seed):
    """At 0.4 mm between B-scans cysts and drusen begin within one step; 40 seeds give 0.998."""
    volume = phantom(seed, "RL"[seed % 2])
    assert share_within_one_voxel(volume, draw_window(seed), CHOSEN) > 0.997


def test_a_mask_takes_the_label_of_the_nearest_voxel_and_none_where_the_scan_ends():
    rng = np.random.default_rng(0)
    shape = (6, 40, 30)
    labels = rng.integers(0, 4, shape, dtype=np.uint8)
    voxels = rng.integers(0, 255, shape, dtype=np.uint8)
    names = tuple("abcd")
    volume = OctVolume(voxels, Spacing(0.3, 0.02, 0.1), "given", mask=labels, mask_names=names)
    window = Window(name="w", extent_mm=(3.0, 0.8, 3.0), shape=(10, 40, 60), retina_centred=False)
    found = resample_mask(volume, window)
    at = (np.arange(10) * 0.3 + 0.15 - (3.0 - 1.8) / 2) / 0.3
    inside = (at > 0) & (at < 6)
    assert inside.sum() == 6
    across = np.floor(at[inside]).astype(int)
    along = np.arange(60) // 2
    assert np.array_equal(found[inside], labels[np.ix_(across, np.arange(40), along)])
    assert (found[~inside] == UNLABELLED).all()
    assert set(np.unique(found)) <= {0, 1, 2, 3, UNLABELLED}, "labels have no mean"
    assert resample_mask(replace(volume, mask=None, mask_names=()), window) is None


def test_masks_follow_their_voxels_into_windows_and_mirrors():
    volume = phantom(2, "L")
    dark = replace(volume, voxels=(volume.mask * 250).astype(np.uint8) + 1, mask=volume.mask)
    for name in ("macula6", "tiny", "predecessor_resize", "native"):
        window = replace(WINDOWS[name], mirror_left=True, retina_centred=False)
        seen = resample(dark, window).voxels > 125
        said = resample_mask(dark, window)
        known = said != UNLABELLED
        assert known.any()
        differs = (seen != (said == 1)) & known
        assert differs.sum() <= 0.25 * max(1, (said == 1).sum()), name
        plain = resample_mask(dark, replace(window, mirror_left=False))
        assert np.array_equal(said, plain[:, :, ::-1])


def test_native_leaves_a_mask_alone():
    volume = phantom(2)
    assert np.array_equal(resample_mask(volume, WINDOWS["native"]), volume.mask)


def test_thickness_and_volume_are_in_micrometres_and_cubic_millimetres():
    voxels = np.arange(2 * 50 * 3, dtype=np.uint16).reshape(2, 50, 3).astype(np.uint8)
    labels = np.zeros(voxels.shape, np.uint8)
    labels[0, :5] = 2
    labels[1, 0, 0] = UNLABELLED
    layers = {"ILM": np.full((2, 3), 10, np.float32), "BM": np.full((2, 3), 35, np.float32)}
    layers["ILM"][1] = np.nan
    volume = OctVolume(
        voxels, Spacing(0.1, 0.004, 0.02), "given",
        layers=layers, mask=labels, mask_names=("background", "IRF", "SRF"),
    )  # fmt: skip
    ((upper, lower, mean_um),) = measure_thickness(volume)
    assert (upper, lower) == ("ILM", "BM")
    assert mean_um == pytest.approx(25 * 4.0)
    assert measure_classes(volume) == pytest.approx({"IRF": 0, "SRF": 15 * 0.1 * 0.004 * 0.02})
    assert measure_classes(replace(volume, mask=None)) == {}


def test_a_mask_must_fit_its_volume_and_its_names():
    volume = phantom()
    with pytest.raises(ValueError, match=r"mask must be uint8 \(16, 160, 90\)"):
        replace(volume, mask=np.zeros((16, 160, 91), np.uint8))
    with pytest.raises(ValueError, match="mask has label 7, and mask_names 2"):
        replace(volume, mask=np.full((16, 160, 90), 7, np.uint8))
    everywhere = replace(volume, mask=np.full((16, 160, 90), UNLABELLED, np.uint8))
    assert everywhere.mask_names == ("background", "IRF")
