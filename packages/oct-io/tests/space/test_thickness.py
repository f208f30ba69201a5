"""Thickness of surfaces whose sectors are known by arithmetic."""

import math

import numpy as np
import pytest
from oct_io import Spacing
from oct_io.space.thickness import AREAS_MM2, SECTORS, map_thickness, measure_etdrs

FINE = Spacing(0.05, 0.004, 0.02)
COARSE = Spacing(0.25, 0.004, 0.0117)


def field(spacing, extent_mm=(7.0, 7.0)):
    """Millimetres from the middle of a field, down and along."""
    counts = round(extent_mm[0] / spacing.bscan), round(extent_mm[1] / spacing.column)
    down = (np.arange(counts[0]) - (counts[0] - 1) / 2) * spacing.bscan
    along = (np.arange(counts[1]) - (counts[1] - 1) / 2) * spacing.column
    return np.broadcast_to(down[:, None], counts), np.broadcast_to(along[None, :], counts)


def lever_mm(inner, outer):
    """Distance of a quadrant's centroid from the centre: 2/3 (R^3 - r^3)/(R^2 - r^2) sin(a)/a."""
    quarter = math.sin(math.pi / 4) / (math.pi / 4)
    return 2 / 3 * (outer**3 - inner**3) / (outer**2 - inner**2) * quarter


@pytest.mark.parametrize("spacing", [FINE, COARSE])
@pytest.mark.parametrize("laterality", ["R", "L"])
def test_a_constant_thickness_is_that_of_every_sector_and_fills_a_cylinder(spacing, laterality):
    down, _ = field(spacing)
    inner = 0.3 + 0.05 * down
    table = measure_etdrs(map_thickness(inner, inner + 0.28), spacing, laterality)
    assert table.thickness_um == pytest.approx(dict.fromkeys(SECTORS, 280.0))
    assert table.covered == dict.fromkeys(SECTORS, 1.0)
    assert table.volume_mm3 == pytest.approx(math.pi * 3**2 * 0.28)
    assert sum(AREAS_MM2.values()) == pytest.approx(math.pi * 9)
    assert table.centre == "scan"


@pytest.mark.parametrize("spacing", [FINE, COARSE])
def test_a_tilted_plane_has_the_height_of_each_centroid(spacing):
    down, along = field(spacing)
    table = measure_etdrs(300 + 20 * along - 10 * down, spacing, "R").thickness_um
    near, far = lever_mm(0.5, 1.5), lever_mm(1.5, 3)
    wanted = {"central": 300.0}
    for ring, lever in (("inner", near), ("outer", far)):
        wanted |= {
            f"{ring}_superior": 300 + 10 * lever, f"{ring}_inferior": 300 - 10 * lever,
            f"{ring}_nasal": 300 + 20 * lever, f"{ring}_temporal": 300 - 20 * lever,
        }  # fmt: skip
    assert table == pytest.approx(wanted, abs=0.6)


def test_left_and_right_eyes_swap_nose_and_temple_and_nothing_else():
    down, along = field(FINE)
    plane = 300 + 20 * along - 10 * down
    right, left = (measure_etdrs(plane, FINE, eye).thickness_um for eye in ("R", "L"))
    turned = measure_etdrs(plane[:, ::-1], FINE, "L").thickness_um
    for ring in ("inner", "outer"):
        assert left[f"{ring}_nasal"] == pytest.approx(right[f"{ring}_temporal"], abs=0.1)
        assert left[f"{ring}_superior"] == right[f"{ring}_superior"]
    assert turned == pytest.approx(right, abs=0.1)


def test_b_scans_from_below_swap_up_and_down():
    down, _ = field(FINE)
    up = measure_etdrs(300 - 10 * down, FINE, "R").thickness_um
    other = measure_etdrs(300 - 10 * down, FINE, "R", superior_first=False).thickness_um
    assert up["outer_superior"] > 315
    assert other["outer_superior"] == pytest.approx(up["outer_inferior"], abs=0.1)


def test_the_grid_stands_on_the_fovea_that_is_given():
    down, along = field(FINE)
    pit = 300 - 100 * np.exp(-((down - 0.4) ** 2 + (along + 0.3) ** 2) / (2 * 0.2**2))
    moved = measure_etdrs(pit, FINE, "R", fovea_mm=(3.5 + 0.4, 3.5 - 0.3))
    plain = measure_etdrs(pit, FINE, "R")
    # The mean of the pit over the central disc, by integration of the Gaussian.
    wanted = 300 - 100 * 2 * (0.2 / 0.5) ** 2 * (1 - math.exp(-(0.5**2) / (2 * 0.2**2)))
    assert moved.thickness_um["central"] == pytest.approx(wanted, abs=0.3)
    assert plain.thickness_um["central"] > wanted + 5
    assert (moved.centre, moved.centre_mm) == ("fovea", pytest.approx((3.9, 3.2)))


def test_what_lies_outside_of_the_scan_or_is_not_known_is_told_as_a_share():
    down, along = field(FINE, (6.0, 6.0))
    thickness = np.where(along < 0, np.nan, 250.0)
    table = measure_etdrs(thickness, FINE, "R")
    assert table.covered["inner_nasal"] == 1
    assert table.covered["central"] == pytest.approx(0.5, abs=0.01)
    assert table.covered["inner_temporal"] == 0
    assert math.isnan(table.thickness_um["inner_temporal"])
    assert math.isnan(table.volume_mm3)
    assert table.thickness_um["central"] == pytest.approx(250)
    off = measure_etdrs(np.full(down.shape, 250.0), FINE, "R", fovea_mm=(3.0, 4.5))
    assert off.covered["outer_nasal"] < 0.2 < 0.9 < off.covered["outer_temporal"]
    assert off.volume_mm3 == pytest.approx(math.pi * 9 * 0.25)


def test_an_eye_that_may_be_either_has_neither_a_nasal_nor_a_temporal_side():
    down, _ = field(FINE)
    table = measure_etdrs(np.full(down.shape, 250.0), FINE, "unknown")
    unknown = {name for name, one in table.thickness_um.items() if math.isnan(one)}
    assert unknown == {f"{r}_{s}" for r in ("inner", "outer") for s in ("nasal", "temporal")}
    assert table.volume_mm3 == pytest.approx(math.pi * 9 * 0.25)


def test_boundaries_that_cross_are_not_known_and_maps_must_fit():
    found = map_thickness([[0.1, 0.3, np.nan]], [[0.3, 0.1, 0.2]])
    assert np.array_equal(np.round(found, 6), [[200, np.nan, np.nan]], equal_nan=True)
    with pytest.raises(ValueError, match=r"two maps .* not \(1, 2\) and \(2, 1\)"):
        map_thickness([[0, 0]], [[0], [0]])
    with pytest.raises(ValueError, match=r"thickness_um must be a map"):
        measure_etdrs(np.empty((0, 3)), FINE, "R")
    with pytest.raises(ValueError, match="fovea_mm"):
        measure_etdrs(np.ones((3, 3)), FINE, "R", fovea_mm=(math.nan, 1))
    with pytest.raises(ValueError, match=r"fovea_mm \(\(9, 1\)\) must lie in the scan"):
        measure_etdrs(np.ones((3, 3)), FINE, "R", fovea_mm=(9, 1))
