"""Dice and surface distances of shapes whose numbers are known."""

import math

import numpy as np
import pytest
from oct_vjepa.measures.segmentation import (
    Overlap,
    count_overlap,
    dice_of,
    score_masks,
    surface_distance,
    surface_points,
)

SPACING = (120.0, 4.0, 11.0)  # micrometres along (Z, Y, X)


def slab(first, last, shape=(3, 40, 10)):
    """A layer of rows, from end to end of the volume."""
    mask = np.zeros(shape, dtype=bool)
    mask[:, first : last + 1] = True
    return mask


def test_dice_is_twice_what_both_have_over_what_each_has():
    truth = np.array([0, 0, 0, 1, 1, 2])
    predicted = np.array([0, 0, 1, 1, 1, 0])
    assert np.allclose(dice_of(count_overlap(predicted, truth, 3)), [4 / 6, 4 / 5, 0.0])


def test_a_class_that_is_nowhere_has_no_dice_and_unlabelled_voxels_do_not_count():
    truth = np.array([0, 0, -1, -1])
    dice = dice_of(count_overlap(np.array([0, 0, 1, 2]), truth, 3))
    assert dice[0] == 1.0
    assert np.isnan(dice[1:]).all()


def test_overlaps_of_several_volumes_add_up_to_that_of_all():
    generator = np.random.default_rng(0)
    truth, predicted = generator.integers(0, 3, (2, 5, 4, 6))
    parts = [count_overlap(predicted[i], truth[i], 3) for i in range(5)]
    whole = count_overlap(predicted, truth, 3)
    added = Overlap(sum(p.both for p in parts), sum(p.sizes for p in parts))
    assert np.array_equal(dice_of(added), dice_of(whole))


def test_masks_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="differ in shape"):
        count_overlap(np.zeros((2, 2)), np.zeros((2, 3)), 2)
    with pytest.raises(ValueError, match="outside 0 to 1"):
        count_overlap(np.array([0, 2]), np.array([0, 1]), 2)
    with pytest.raises(ValueError, match="2 spacings"):
        surface_distance(slab(1, 2), slab(1, 2), (1.0, 1.0))


def test_a_layer_that_is_moved_by_two_rows_is_two_rows_away():
    found = surface_distance(slab(10, 19), slab(12, 21), SPACING)
    assert found == pytest.approx((8.0, 8.0))
    assert surface_distance(slab(10, 19), slab(10, 19), SPACING) == (0.0, 0.0)


def test_a_layer_that_is_thicker_on_one_side_is_half_as_far_on_average():
    found = surface_distance(slab(10, 19), slab(10, 24), SPACING)
    assert found.mean == pytest.approx(10.0)  # 0 above, 5 rows of 4 um below
    assert found.far == pytest.approx(20.0)


def test_distances_are_measured_along_the_axis_with_its_spacing():
    one, other = np.zeros((5, 5, 5), dtype=bool), np.zeros((5, 5, 5), dtype=bool)
    one[1, 2, 2], other[3, 2, 2] = True, True
    assert surface_distance(one, other, SPACING).mean == pytest.approx(240.0)
    other[:] = False
    other[2, 3, 4] = True
    wanted = math.hypot(120.0, 4.0, 22.0)
    assert surface_distance(one, other, SPACING).far == pytest.approx(wanted)


def test_concentric_balls_are_their_difference_of_radius_apart():
    place = np.indices((41, 41, 41)) - 20
    radius = np.sqrt((place**2).sum(axis=0))
    found = surface_distance(radius <= 15, radius <= 10, (1.0, 1.0, 1.0))
    assert found.mean == pytest.approx(5.0, abs=0.3)


def test_the_end_of_the_volume_is_no_surface():
    points = surface_points(slab(10, 19), (1.0, 1.0, 1.0))
    assert set(points[:, 1]) == {10.0, 19.0}
    assert len(points) == 2 * 3 * 10
    assert len(surface_points(np.ones((3, 3, 3), dtype=bool), (1.0, 1.0, 1.0))) == 0


def test_one_stray_voxel_moves_the_mean_and_not_the_far_distance():
    stray = slab(10, 19)
    stray[0, 35, 0] = True
    found = surface_distance(stray, slab(10, 19), SPACING)
    assert found.mean > 0
    assert found.far == 0.0


def test_a_surface_that_does_not_exist_has_no_distance_while_its_dice_tells():
    truth = slab(10, 19).astype(int)
    rows = score_masks(np.zeros_like(truth), truth, ["background", "retina"], SPACING)
    assert [row["class"] for row in rows] == ["background", "retina"]
    assert rows[1]["dice"] == 0.0
    assert math.isnan(rows[1]["surface_mean"])


def test_unlabelled_voxels_make_no_surface():
    truth = slab(10, 19).astype(int)
    truth[:, 25:] = -1
    predicted = slab(10, 19).astype(int)
    predicted[:, 30:] = 1
    rows = score_masks(predicted, truth, ["background", "retina"], SPACING)
    assert rows[1] == {"class": "retina", "dice": 1.0, "surface_mean": 0.0, "surface_95": 0.0}
    truth, predicted = slab(10, 39).astype(int), slab(14, 39).astype(int)
    alone = score_masks(predicted, truth, ["background", "retina"], SPACING)[1]
    truth[:, 30:] = -1  # within the retina
    truth[:, :, ::3] = -1
    cut = score_masks(predicted, truth, ["background", "retina"], SPACING)[1]
    assert cut["surface_mean"] == alone["surface_mean"] > 0
