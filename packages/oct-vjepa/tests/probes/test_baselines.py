"""Features that nobody learned: what each says, and that only fit rows are fitted on."""

import numpy as np
import pytest
from oct_vjepa import axial_profile
from oct_vjepa.probes.baselines import (
    BASELINES,
    grey_histogram,
    rank_normalise,
    surface_profile,
    thumbnail,
)
from oct_vjepa.probes.choice import ensemble
from oct_vjepa.probes.patchwork import PatchPca, cut_patches

WIDTHS = {
    "grey histogram": 64,
    "mean and std": 2,
    "axial profile": 43,
    "surface profile": 80,
    "patch PCA 1x8x8": 256,
    "random layer": 1024,
    "filter bank": 252,
}


def draw(count, shape=(3, 43, 37), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("slices", [1, 3])
def test_each_baseline_reads_streams_of_any_depth_and_repeats_itself(name, slices):
    volumes = draw(4, (slices, 43, 37))
    features = BASELINES[name](5).fit(iter(volumes[:2])).transform(iter(volumes))
    again = BASELINES[name](5).fit(iter(volumes[:2])).transform(iter(volumes))
    assert features.dtype == np.float32
    assert np.array_equal(features, again)
    assert np.isfinite(features).all()
    alone = BASELINES[name](5).fit(iter(volumes[:2])).transform(volumes[3:])
    assert np.allclose(features[3:], alone, rtol=1e-5, atol=1e-5)
    wide = {"thumbnail": 18 * 44 if slices == 1 else 256}
    wide["patch PCA 2x8x16"] = 384
    assert features.shape == (4, (WIDTHS | wide)[name])
    with pytest.raises(ValueError, match="a volume must be"):
        BASELINES[name](5).fit(volumes[:2]).transform([volumes[0, 0]])


def test_the_histogram_and_the_thumbnail_say_what_is_there():
    volume = np.zeros((2, 8, 8), dtype=np.uint8)
    volume[0, :4] = 255
    found = grey_histogram(volume)
    assert found[0] == 0.75
    assert found[-1] == 0.25
    small = thumbnail(volume, size=(2, 2, 1))
    assert small == pytest.approx([255, 0, 0, 0])
    thirds = thumbnail(np.arange(4.0).reshape(1, 4, 1), size=(1, 3, 1))
    assert thirds == pytest.approx([0.25, 1.5, 2.75])  # voxels on a border by their share


def test_the_surface_profile_does_not_see_where_the_eye_is():
    tissue = np.zeros((2, 120, 30))
    for column in range(30):
        top = 20 + column % 3
        tissue[:, top : top + 30, column] = 100
        tissue[:, top + 30 : top + 40, column] = 200
    moved = np.roll(tissue, 25, axis=1)
    assert surface_profile(moved) == pytest.approx(surface_profile(tissue), abs=1e-9)
    plain = np.abs(moved.mean(axis=(0, 2)) - tissue.mean(axis=(0, 2))).max()
    assert plain > 50
    thick = np.where(np.roll(tissue, 10, axis=1) > 0, 100, tissue)
    assert np.abs(surface_profile(thick) - surface_profile(tissue)).max() > 10


def test_ranks_do_not_see_a_change_of_grey_curve():
    volume = draw(1)[0]
    curve = np.sqrt(np.arange(256)) * 10
    ranked = rank_normalise(volume)
    assert ranked.dtype == np.uint8
    assert np.array_equal(ranked, rank_normalise(curve[volume]))
    assert np.array_equal(rank_normalise(np.array([[[7, 7, 9, 8]]])), [[[42, 42, 255, 170]]])
    assert np.array_equal(rank_normalise(np.full((1, 2, 2), 9)), np.full((1, 2, 2), 128))


def test_components_are_those_of_the_fit_volumes_only():
    volumes = draw(3, (2, 16, 32))
    fitted = PatchPca(patch=(2, 8, 16), components=5, seed=0).fit(volumes[:2])
    patches = np.concatenate([cut_patches(one, (2, 8, 16)) for one in volumes[:2]])
    _, _, axes = np.linalg.svd(patches - patches.mean(0))
    assert np.abs(np.abs((fitted.axes * axes[:5].T).sum(axis=0)) - 1).max() < 1e-6
    features = fitted.transform(volumes)
    assert np.abs(features[:2, :5].mean(axis=0)).max() < 1e-3  # centred on the fit volumes
    first = (cut_patches(volumes[0], (2, 8, 16)) - fitted.mean) @ fitted.axes[:, 0]
    count = max(1, round(len(first) / 20))
    ordered = np.sort(first)
    tails = [ordered[-count:].mean(), ordered[:count].mean()]
    wanted = [first.mean(), first.std(), *tails]
    assert features[0, [0, 5, 10, 15]] == pytest.approx(wanted, rel=1e-5)
    with pytest.raises(ValueError, match="call fit"):
        PatchPca(patch=(2, 8, 16), components=5, seed=0).transform(volumes)
    with pytest.raises(ValueError, match="no volume to fit on"):
        PatchPca(patch=(2, 8, 16), components=5, seed=0).fit([])
    with pytest.raises(ValueError, match="smaller than a patch"):
        fitted.transform(volumes[:, :, :4])


def test_patches_cover_the_grid_and_leave_out_what_does_not_divide():
    volume = np.arange(2 * 5 * 4).reshape(2, 5, 4)
    patches = cut_patches(volume, (1, 2, 2))
    assert patches.shape == (2 * 2 * 2, 4)
    assert patches[0].tolist() == [0, 1, 4, 5]
    assert patches.max() < volume[1, 4, 0]  # the fifth row is left out


def test_models_are_averaged_weighted_or_counted():
    scores = [np.array([[0.9, 0.1]]), np.array([[0.4, 0.6]]), np.array([[0.45, 0.55]])]
    assert ensemble(scores)[0] == pytest.approx([1.75 / 3, 1.25 / 3])
    assert ensemble(scores, "vote")[0] == pytest.approx([1 / 3, 2 / 3])
    weighted = ensemble(scores, "weighted", weights=[1, 1, 0])
    assert weighted[0] == pytest.approx([0.65, 0.35])
    with pytest.raises(ValueError, match="must be one of mean, vote, weighted"):
        ensemble(scores, "median")
    with pytest.raises(ValueError, match="alike"):
        ensemble([scores[0], scores[0][:, :1]])
    with pytest.raises(ValueError, match="weights"):
        ensemble(scores, "weighted", weights=[1, -1, 0])
    with pytest.raises(ValueError, match="takes weights"):
        ensemble(scores, "weighted")


def test_the_axial_profile_is_the_mean_over_slices_and_columns():
    volumes = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5)
    profile = axial_profile(volumes)
    assert profile.shape == (2, 4)
    assert profile[1, 2] == volumes[1, :, 2].mean()


def test_the_axial_profiles_of_several_channels_stand_side_by_side():
    volumes = np.arange(2 * 2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 2, 3, 4, 5)
    profile = axial_profile(volumes)
    assert profile.shape == (2, 8)
    assert np.array_equal(profile[:, 4:], axial_profile(volumes[:, 1]))
    with pytest.raises(ValueError, match=r"not \(4, 5\)"):
        axial_profile(volumes[0, 0])
    with pytest.raises(ValueError, match=r"\[4, 8\] rows have no profile in common"):
        axial_profile([volumes[0], volumes[0, 0]])
