"""Each way to spoil a volume: the same each time, stronger with strength, and of the same shape."""

from itertools import pairwise

import numpy as np
import pytest
from oct_io.space.perturbations import PERTURBATIONS, STRENGTHS, perturb


@pytest.fixture(scope="module")
def voxels():
    """A drawn retina, (8, rows, columns)."""
    rng = np.random.default_rng(0)
    rows = np.linspace(0, 1, 48)[None, :, None]
    across = np.linspace(-1, 1, 64)[None, None, :] ** 2 + np.linspace(-1, 1, 8)[:, None, None] ** 2
    layer = 40 + 160 * np.exp(-(((rows - 0.4 - 0.2 * across) / 0.06) ** 2))
    grain = rng.normal(0, 4, (8, 48, 64))
    return np.clip(layer + grain, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("kind", PERTURBATIONS)
@pytest.mark.parametrize("bscans", [1, 8])
def test_it_is_the_same_each_time_and_stronger_with_strength(voxels, kind, bscans):
    volume = voxels[:bscans]
    assert np.array_equal(perturb(volume, kind, 0), volume)
    harm = []
    for strength in STRENGTHS:
        found = [perturb(volume, kind, strength, seed=seed) for seed in range(20)]
        assert np.array_equal(found[0], perturb(volume, kind, strength, seed=0))
        assert all(one.shape == volume.shape and one.dtype == np.uint8 for one in found)
        harm.append(np.mean([np.abs(one.astype(float) - volume).mean() for one in found]))
    assert harm[0] > 0
    assert harm[-1] > 1.3 * harm[0]
    assert all(later > 0.9 * one for one, later in pairwise(harm))


def test_speckle_keeps_the_mean_intensity_and_takes_looks_away():
    grey = np.full((1, 64, 64), 128, np.uint8)
    spread = [perturb(grey, "speckle", one).astype(float).std() for one in STRENGTHS]
    assert spread == sorted(spread)
    intensity = 10 ** ((perturb(grey, "speckle", 2).astype(float) - 128) * 4 / 255)
    assert intensity.mean() == pytest.approx(1, abs=0.05)


def test_a_shadow_never_brightens_and_roll_off_spares_the_top(voxels):
    assert (perturb(voxels, "shadow", 5) <= voxels).all()
    faded = perturb(voxels, "roll_off", 5)
    assert np.array_equal(faded[:, 0], voxels[:, 0])
    assert faded[:, -1].mean() < voxels[:, -1].mean()


@pytest.mark.parametrize(("strength", "lost"), [(1, 1), (3, 2), (5, 4)])
def test_missing_bscans_are_black_and_the_others_untouched(voxels, strength, lost):
    found = perturb(voxels, "missing_bscans", strength, seed=3)
    black = (found == 0).all(axis=(1, 2))
    assert black.sum() == lost
    assert np.array_equal(found[~black], voxels[~black])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "rain"}, "speckle, roll_off"),
        ({"strength": 6}, "0 to 5"),
        ({"voxels": np.zeros((2, 3), np.uint8)}, "bscan, row, column"),
        ({"voxels": np.zeros((2, 3, 4), np.float32)}, "float32"),
    ],
)
def test_what_it_cannot_spoil_is_refused(voxels, change, said):
    asked = {"voxels": voxels, "kind": "gain", "strength": 1} | change
    with pytest.raises(ValueError, match=said):
        perturb(**asked)
