"""Lesions of order alone: what they may change, and above all what they may not."""

import csv
from collections import Counter
from dataclasses import fields, replace

import numpy as np
import pytest
from oct_io.phantom import SURFACES, Phantom, PhantomTree, draw_phantom, write_phantom_tree
from oct_io.phantom.arrangements import (
    ARRANGEMENTS,
    FOLDED,
    Mark,
    arrange,
    lay_marks,
    paint_marks,
    shown_by,
)
from oct_io.phantom.drawing import draw_phantom_with_truth
from oct_io.phantom.grid import Grid
from oct_io.phantom.retina import Anatomy, draw_retina
from oct_io.phantom.scans import identify, list_scans
from oct_io.phantom.structures import fold_retina
from oct_io.phantom.tree import draw_participants

NAMES = tuple(ARRANGEMENTS)
SMALL = Phantom(shape=(6, 80, 48))
TREE = PhantomTree(participants=8, shape=(3, 24, 16), jobs=1, arrangements=NAMES)

BEFORE = (
    ("phantom_a", 0, {}, [49.16, 49.89, 48.80, 50.72]),
    ("phantom_a", 3, {"fluid": True}, [87.57, 88.77, 92.51, 91.94]),
    ("phantom_b", 4, {"drusen": True}, [87.47, 91.72, 87.08, 87.76]),
    ("phantom_c", 5, {"thin": True, "study_group": 2}, [47.35, 49.65, 51.04, 50.08]),
    ("phantom_b", 6, {"fluid": True, "drusen": True, "thin": True, "laterality": "L"},
     [85.97, 88.49, 86.04, 86.45]),
)  # fmt: skip
"""Device, seed and lesions -> mean grey of each B-scan, as drawn before there were arrangements."""


def marked(name, other, spec=SMALL, seed=0):
    return draw_phantom_with_truth(replace(spec, arranged={name: other}), seed)


def flat_change(name, sign, effect=1.0, nasal=1):
    """Decibels that one mark adds to layers as even as a table, (bscans, rows, columns)."""
    grid = Grid.of((9, 120, 90), (2.7, 1.2, 1.8), nasal)
    depths = np.arange(100, 80 * len(SURFACES) + 100, 80, dtype=np.float32)
    surfaces = np.broadcast_to(depths[:, None, None], (len(SURFACES), 9, 90))
    light = np.ones(grid.shape, np.float32)
    laid = {name: [Mark(0.0, 0.0, sign)]}
    paint_marks(light, grid, surfaces, laid, fovea_mm=(0.0, 0.0), effect=effect)
    return 10 * np.log10(light)


@pytest.mark.parametrize(("device", "seed", "lesions", "means"), BEFORE)
def test_without_arrangements_a_phantom_is_what_it_was(device, seed, lesions, means):
    volume = draw_phantom(Phantom(device=device, shape=(4, 80, 48), **lesions), seed)
    # Another order of random numbers moves these by a tenth of a level, another processor by none.
    assert volume.voxels.mean(axis=(1, 2)) == pytest.approx(means, abs=0.02)


def test_without_arrangements_a_tree_keeps_its_identity_and_its_columns(tmp_path):
    plain = replace(TREE, arrangements=())
    assert not {"arrangements", "gain_sd_db", "roll_off_sd_db_per_mm"} & set(
        identify(plain)["tree"]
    )
    assert "marks" not in identify(replace(TREE, arrangements=(FOLDED,)))
    assert "marks" in identify(TREE), "so that a tree of older marks is not taken for a new one"
    write_phantom_tree(tmp_path / "plain", plain)
    write_phantom_tree(tmp_path / "more", TREE)
    before, after = (list(rows(tmp_path / name)[0]) for name in ("plain", "more"))
    assert [name for name in after if name not in NAMES] == before
    assert set(after) - set(before) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_mark_adds_as_much_as_it_takes_at_every_depth(name):
    for sign in (1, -1):
        change = flat_change(name, sign)
        assert np.abs(change).max() == pytest.approx(ARRANGEMENTS[name].contrast_db, abs=1e-3)
        assert np.abs(change.sum(axis=2)).max() < 1e-2


@pytest.mark.parametrize("name", NAMES)
def test_both_ways_have_the_same_grey_levels_and_the_same_second_moments(name):
    one, other = flat_change(name, 1), flat_change(name, -1)
    assert not np.allclose(one, other, atol=0.5)
    np.testing.assert_allclose(np.sort(one, axis=None), np.sort(other, axis=None), atol=1e-3)
    spectra = [np.abs(np.fft.rfftn(change)) for change in (one, other)]
    np.testing.assert_allclose(*spectra, atol=1e-3 * spectra[0].max())


def test_blotches_of_two_sides_are_mirrored_so_that_only_who_knows_left_from_right_can_tell():
    one, other = flat_change("inverted", 1), flat_change("inverted", -1)
    np.testing.assert_allclose(one, other[:, :, ::-1], atol=1e-3)
    assert one[:, :, :45].sum() > 1, "bright on the left"
    np.testing.assert_array_equal(one, flat_change("inverted", 1, nasal=-1))  # of a left eye too


@pytest.mark.parametrize("name", NAMES)
def test_ill_and_healthy_eyes_have_their_marks_in_the_same_places(name):
    healthy, ill = (lay_marks(name, 5, "R", other=other) for other in (False, True))
    assert len(healthy) > 3
    for one, two in zip(healthy, ill, strict=True):
        assert replace(one, sign=-one.sign) == two


def test_no_two_marks_of_a_kind_overlap():
    for name, kind in ARRANGEMENTS.items():
        places = np.array([(m.bscan_mm, m.nasal_mm) for m in lay_marks(name, 7, "L", other=True)])
        apart = np.abs(places[:, None] - places[None]) / (2 * np.array(kind.half_mm))
        alone = apart.max(axis=2) >= 1 - 1e-6
        assert alone.sum() == alone.size - len(places), name


def test_misplaced_marks_are_of_one_kind_above_the_fovea_and_of_the_other_below():
    for other in (False, True):
        marks = [m for seed in range(5) for m in lay_marks("misplaced", seed, "R", other=other)]
        assert {(m.bscan_mm > 0, m.sign) for m in marks} == {(other, 1), (not other, -1)}


def test_a_mark_may_lie_anywhere_across():
    places = [
        mark.nasal_mm % ARRANGEMENTS["asymmetry"].pitch_mm[1]
        for seed in range(1500)
        for mark in lay_marks("asymmetry", seed, "R", other=False)
    ]
    counts = np.histogram(places, bins=5)[0]
    assert counts.min() > 0.75 * counts.max()


@pytest.mark.parametrize("name", NAMES)
def test_marks_change_nothing_outside_of_their_layers(name):
    plain, changed = draw_phantom(SMALL, 2).voxels, marked(name, True, seed=2)[0].voxels
    truth = draw_phantom_with_truth(SMALL, 2)[1]
    assert (plain != changed).mean() > 0.01
    row_um = (np.arange(80) + 0.5) * 16.0
    bottom = SURFACES.index(ARRANGEMENTS[name].bottom)
    top = truth.surfaces_um[SURFACES.index(ARRANGEMENTS[name].top)] - 60
    below = truth.surfaces_um[bottom] + 60  # speckle is as wide as the optics let it be
    outside = (row_um[:, None] < top[:, None]) | (row_um[:, None] > below[:, None])
    np.testing.assert_array_equal(plain[outside], changed[outside])


@pytest.mark.parametrize("name", NAMES)
def test_marks_move_no_other_random_number(name):
    truth = marked(name, True)[1]
    usual = draw_phantom_with_truth(SMALL, 0)[1]
    np.testing.assert_array_equal(truth.surfaces_um, usual.surfaces_um)
    np.testing.assert_array_equal(truth.shadow, usual.shadow)
    assert usual.marks == {}
    assert truth.marks[name] == lay_marks(name, 0, "R", other=True)


def test_without_effect_marks_are_not_there():
    null = replace(SMALL, effect=0.0)
    arranged = replace(null, arranged=dict.fromkeys(NAMES, True))
    np.testing.assert_array_equal(draw_phantom(null, 1).voxels, draw_phantom(arranged, 1).voxels)


def test_labels_are_independent_of_each_other_and_as_frequent_as_asked():
    people = arrange(
        draw_participants(replace(TREE, participants=400)), NAMES, seed=3, prevalence=0.25
    )
    table = np.array([[name in one.arranged for name in NAMES] for one in people])
    assert table.sum(axis=0).tolist() == [100] * len(NAMES)
    assert np.abs(np.corrcoef(table.T) - np.eye(len(NAMES))).max() < 0.15


def test_one_eye_says_nothing_of_asymmetry_and_two_say_it_all():
    people = draw_participants(replace(TREE, participants=400))
    shown = [
        tuple(dict(shown_by(one, ["asymmetry"], eye))["asymmetry"] for eye in "RL")
        for one in people
    ]
    ill = ["asymmetry" in one.arranged for one in people]
    assert [right != left for right, left in shown] == ill
    counts = Counter(zip(ill, (right for right, _ in shown), strict=True))
    assert min(counts.values()) > 80  # of 100 expected


def test_one_visit_says_nothing_of_progression_and_two_say_it_all():
    people = draw_participants(replace(TREE, participants=400))
    shown = [
        tuple(dict(shown_by(one, ["progression"], "R", visit))["progression"] for visit in (0, 1))
        for one in people
    ]
    ill = ["progression" in one.arranged for one in people]
    assert [first != second for first, second in shown] == ill
    for visit in (0, 1):
        counts = Counter(zip(ill, (one[visit] for one in shown), strict=True))
        assert min(counts.values()) > 80  # of 100 expected


def test_a_second_visit_shows_the_same_eye_with_speckle_and_display_of_its_own(tmp_path):
    tree = replace(TREE, participants=6, visits=2, eyes=("R",), gain_sd_db=1.0)
    people = draw_participants(tree)
    scans = list_scans(tree, people, people)
    assert [one.row["visit"] for one in scans] == ["1", "2"] * 6
    assert len({one.path for one in scans}) == 12
    for first, second in zip(scans[::2], scans[1::2], strict=True):
        assert first.person == second.person
        assert first.spec.gain_db != second.spec.gain_db
        one, two = (
            draw_phantom_with_truth(scan.spec, scan.person.seed) for scan in (first, second)
        )
        np.testing.assert_array_equal(one[1].surfaces_um, two[1].surfaces_um)
        assert (one[0].voxels != two[0].voxels).mean() > 0.5
        kinds = [
            {(mark.bscan_mm, mark.sign) for mark in truth.marks["progression"]}
            for _, truth in (one, two)
        ]
        assert not {at for at, _ in kinds[0]} & {at for at, _ in kinds[1]}, "they lie elsewhere"
        turned = {sign for _, sign in kinds[0]} != {sign for _, sign in kinds[1]}
        assert turned == ("progression" in first.person.arranged)


def test_a_tree_of_one_visit_keeps_its_identity_and_its_columns():
    people = draw_participants(TREE)
    scan = list_scans(TREE, people, people)[0]
    assert "visits" not in identify(TREE)["tree"]
    assert "visit" not in scan.row


def test_folds_of_ill_eyes_are_those_of_healthy_ones_with_the_bscans_in_the_opposite_order():
    grid = Grid.of((9, 20, 30), (4.0, 1.0, 4.0), 1)
    still = Anatomy(**{one.name: 0.0 for one in fields(Anatomy)})
    flat = draw_retina(grid, still, 3, "R")
    one, other = (
        fold_retina(flat, 3, "R", other=which, effect=1.0).bruch_um - flat.bruch_um
        for which in (False, True)
    )
    np.testing.assert_allclose(one, other[::-1], atol=1e-3)
    assert 15 < np.abs(one).max() <= 30
    assert np.abs(one - other).max() > 15


def test_folds_lift_all_layers_alike_and_nothing_else():
    spec = replace(SMALL, arranged={FOLDED: True})
    plain, folded = (draw_phantom_with_truth(one, 1)[1] for one in (SMALL, spec))
    change = folded.surfaces_um - plain.surfaces_um
    np.testing.assert_allclose(change, np.broadcast_to(change[:1], change.shape), atol=0.01)
    assert change.std() > 10
    assert folded.marks == {}
    null = replace(spec, effect=0.0)
    bare = replace(SMALL, effect=0.0)
    np.testing.assert_array_equal(draw_phantom(null, 1).voxels, draw_phantom(bare, 1).voxels)


def test_the_table_says_what_the_eyes_are_drawn_with(tmp_path):
    write_phantom_tree(tmp_path, TREE)
    people = draw_participants(TREE)
    scans = list_scans(TREE, people, people)
    for row in rows(tmp_path):
        right, left = (one.spec for one in scans if one.person.id == row["participant_id"])
        for name in ("inverted", "misplaced", "texture"):
            assert right.arranged[name] == left.arranged[name] == (row[name] == "TRUE")
        differ = right.arranged["asymmetry"] != left.arranged["asymmetry"]
        assert differ == (row["asymmetry"] == "TRUE")


def test_display_and_loss_of_light_differ_from_scan_to_scan_only_when_asked():
    people = draw_participants(TREE)
    shaken = replace(TREE, gain_sd_db=1.5, roll_off_sd_db_per_mm=1.0)
    for tree, distinct in ((TREE, 1), (shaken, 16)):
        specs = [one.spec for one in list_scans(tree, people, people)]
        assert len({one.gain_db for one in specs}) == distinct
        assert len({one.roll_off_db_per_mm for one in specs}) == distinct


def test_more_loss_of_light_darkens_what_lies_deep():
    plain, lossy = (
        draw_phantom(replace(SMALL, roll_off_db_per_mm=loss), 1).voxels.mean(axis=(0, 2))
        for loss in (0.0, 4.0)
    )
    change = plain - lossy
    assert change[50:60].mean() > change[25:35].mean() > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PhantomTree(arrangements=("moved",)), r"phantom_tree\.arrangements \(\('moved'"),
        (lambda: PhantomTree(arrangements=("texture",) * 2), "different names of"),
        (lambda: PhantomTree(visits=0), r"phantom_tree\.visits \(0\)"),
        (lambda: PhantomTree(gain_sd_db=-1), r"phantom_tree\.gain_sd_db \(-1\)"),
        (lambda: Phantom(arranged={"moved": True}), r"phantom\.arranged \{'moved': True\}"),
        (lambda: Phantom(roll_off_db_per_mm=float("nan")), r"roll_off_db_per_mm \(nan\)"),
    ],
)
def test_a_bad_setting_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def rows(root):
    with (root / "participants.tsv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))
