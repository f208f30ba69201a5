"""What is read off the voxels of a patch and its neighbours, without any encoder."""

import numpy as np
import pytest
from oct_vjepa.probes.patchwork import (
    FilterBank,
    NeighbourPca,
    PatchFilters,
    PatchVoxels,
    RandomUnits,
    cut_neighbourhoods,
)
from sklearn.decomposition import PCA

PATCH = (2, 4, 4)


def _volumes(count: int = 6, shape: tuple[int, int, int] = (4, 8, 12)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)


def test_a_neighbourhood_is_every_other_voxel_of_the_patches_around() -> None:
    volume = _volumes(1, (6, 12, 12))[0]
    found = cut_neighbourhoods(volume, PATCH)
    assert found.shape == (27, 3 * 6 * 6)
    middle = found[13].reshape(3, 6, 6)  # that of the patch in the middle is the whole volume
    np.testing.assert_array_equal(middle, volume[::2, ::2, ::2])


def test_beyond_the_edge_the_edge_is_repeated() -> None:
    volume = _volumes(1, (6, 12, 12))[0]
    corner = cut_neighbourhoods(volume, PATCH)[0].reshape(3, 6, 6)
    np.testing.assert_array_equal(corner[1:, 2:, 2:], volume[:4:2, :8:2, :8:2])
    np.testing.assert_array_equal(corner[0, 2:, 2:], volume[0, :8:2, :8:2])
    assert (corner[:, :2, :2] == volume[[0, 0, 2], 0, 0][:, None, None]).all()


def test_a_single_bscan_has_no_neighbours_in_front_and_behind() -> None:
    volume = _volumes(1, (1, 8, 12))[0]
    assert cut_neighbourhoods(volume, (1, 4, 4)).shape == (6, 1 * 6 * 6)
    assert cut_neighbourhoods(volume, PATCH).shape == (6, 1 * 6 * 6)


@pytest.mark.parametrize("shape", [(4, 3, 12), (2, 4, 8, 12)])
def test_what_cannot_be_cut_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="a volume"):
        cut_neighbourhoods(np.zeros(shape), PATCH)


def test_patches_come_in_the_order_of_tokens() -> None:
    volume = np.zeros((4, 8, 12), np.uint8)
    volume[2:, 4:, 8:] = 255
    found = PatchVoxels(patch=PATCH).fit([]).transform([volume])
    assert found.shape == (1, 12, 32)
    assert np.flatnonzero(found[0].any(axis=1)).tolist() == [11]


def test_components_are_those_of_scikit_learn_but_for_their_sign() -> None:
    volumes = _volumes()
    maker = NeighbourPca(patch=PATCH, components=5, seed=0).fit(volumes)
    rows = np.concatenate([cut_neighbourhoods(one, PATCH) for one in volumes])
    theirs = PCA(5, svd_solver="full").fit_transform(rows).reshape(6, 12, 5)
    np.testing.assert_allclose(np.abs(maker.transform(volumes)), np.abs(theirs), atol=1e-2)


def test_random_units_stand_on_standardised_voxels_and_on_their_seed() -> None:
    volumes = _volumes()
    maker = RandomUnits(patch=PATCH, units=7, seed=3).fit(volumes)
    patches = PatchVoxels(patch=PATCH).transform(volumes)
    flat = patches.reshape(-1, 32).astype(np.float64)
    draw = np.random.default_rng(3)
    weight, bias = draw.normal(size=(32, 7)) / np.sqrt(32), draw.normal(size=7)
    scaled = (patches - flat.mean(0)) / (flat.std(0) + 1e-6)
    wanted = np.maximum(scaled @ weight + bias, 0)
    np.testing.assert_allclose(maker.transform(volumes), wanted, atol=1e-4)
    other = RandomUnits(patch=PATCH, units=7, seed=4).fit(volumes)
    assert not np.allclose(other.transform(volumes), wanted, atol=0.1)


def test_random_units_see_what_lies_around_where_they_are_told_to() -> None:
    volumes = _volumes()
    changed = volumes.copy()
    changed[0, -1, -2:, -2:] ^= 128  # in the last patch
    moved = {}
    for around in (False, True):
        maker = RandomUnits(patch=PATCH, units=7, seed=3, around=around).fit(volumes)
        gap = np.abs(maker.transform(changed) - maker.transform(volumes)).max(-1)
        moved[around] = np.flatnonzero(gap[0]).tolist()
        assert not gap[1:].any()
    assert moved[False] == [11]
    assert set(moved[True]) > {11}


def test_filters_are_pooled_over_the_patches_of_a_volume() -> None:
    volumes = _volumes()
    each = PatchFilters(patch=PATCH).fit([]).transform(volumes)
    assert each.shape == (6, 12, 63)
    found = FilterBank(patch=PATCH).fit([]).transform(volumes)
    assert found.shape == (6, 4 * 63)
    np.testing.assert_allclose(found[:, :63], each.mean(axis=1), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found[:, 126:189], each.max(axis=1), rtol=1e-4, atol=1e-4)


def test_filters_see_each_slab_of_a_volume_alone_and_drop_what_is_over() -> None:
    volume = _volumes(1, (5, 9, 12))[0]  # two patches of two slices, and one slice too many
    changed = volume.copy()
    changed[3:] ^= 128
    maker = PatchFilters(patch=PATCH)
    before, after = maker.transform([volume, changed])
    assert before.shape == (2 * 2 * 3, 63)
    np.testing.assert_array_equal(before[:6], after[:6])
    assert (np.abs(before[6:] - after[6:]).max(axis=1) > 1).all()


def test_channels_of_a_volume_are_filtered_one_by_one() -> None:
    volume = _volumes(2)
    both = PatchFilters(patch=PATCH).transform([volume])
    np.testing.assert_array_equal(both[0, :12], PatchFilters(patch=PATCH).transform(volume[:1])[0])
    assert both.shape == (1, 24, 63)


def test_filters_need_a_whole_patch() -> None:
    with pytest.raises(ValueError, match="smaller than a patch"):
        PatchFilters(patch=PATCH).transform(_volumes(1, (4, 3, 12)))


def test_what_was_not_fitted_is_refused() -> None:
    for maker in (
        NeighbourPca(patch=PATCH, components=5, seed=0),
        RandomUnits(patch=PATCH, units=7, seed=0),
    ):
        with pytest.raises(ValueError, match="call fit"):
            maker.transform(_volumes(1))
