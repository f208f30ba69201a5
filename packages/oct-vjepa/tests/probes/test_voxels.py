"""Masks that nobody learned to draw: by place and by grey level."""

import numpy as np
import pytest
from oct_vjepa.probes.voxels import VoxelRule


def made(rows=8):
    """A dark spot that is always at the same place, in bright noise."""
    draw = np.random.default_rng(0)
    volumes = draw.integers(120, 250, (rows, 2, 8, 8)).astype(np.uint8)
    masks = np.zeros((rows, 2, 8, 8), dtype=np.int64)
    masks[:, :, 2:4, 2:4] = 1
    volumes[masks == 1] = draw.integers(0, 5, (masks == 1).sum())
    return volumes, masks


@pytest.mark.parametrize("kind", ["mean mask", "grey levels"])
def test_a_class_that_place_or_grey_level_tells_is_drawn_exactly(kind):
    volumes, masks = made()
    rule = VoxelRule(kind, 2).fit(volumes, masks, range(4)).choose(volumes, masks, [4, 5], [1])
    assert np.array_equal(rule.predict(volumes[7]), masks[7])


def test_a_rare_class_is_named_only_once_its_share_is_taken_into_account():
    volumes, masks = made()
    masks[1:] = 0  # at its place one row of four has it
    rule = VoxelRule("mean mask", 2).fit(volumes, masks, range(4))
    assert rule.predict(volumes[0]).max() == 0
    rule.choose(volumes, masks, [0], [1])
    assert rule.lift > 0
    assert np.array_equal(rule.predict(volumes[0]), masks[0])


def test_voxels_without_a_class_are_not_counted():
    volumes, masks = made()
    masks[:, :, :, 4:] = -1
    rule = VoxelRule("grey levels", 2).fit(volumes, masks, range(4))
    assert rule.predict(volumes[0]).shape == (2, 8, 8)
    bright = np.full((1, 1, 1), 249, np.uint8)
    assert rule.predict(bright).item() == 0


def test_an_unknown_kind_and_no_rows_are_refused():
    volumes, masks = made()
    with pytest.raises(ValueError, match="mean mask"):
        VoxelRule("median", 2)
    with pytest.raises(ValueError, match="no row"):
        VoxelRule("mean mask", 2).fit(volumes, masks, [])
