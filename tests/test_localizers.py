"""Maps laid on the en-face image that a scan came with."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from oct_io import OctVolume, SourceConfig, Spacing, open_source
from oct_judge.findings.localizer import place_window, read_localizers

sys.path.insert(0, str(Path(__file__).parent))

from vol_files import EDGE_MM, PIXEL_MM, write_vol_tree

SHAPE = (8, 64, 64)


@pytest.fixture(scope="module")
def source_of(tmp_path_factory):
    """A folder of four exports, and its volumes."""
    place = tmp_path_factory.mktemp("vol")
    write_vol_tree(place / "scans", 4)
    config = SourceConfig(
        root=str(place / "scans"), cache=str(place / "cache"), window="tiny", jobs=1
    )
    return config, open_source(config)


def test_a_window_lies_in_the_middle_of_its_scan_on_the_image(source_of):
    config, source = source_of
    entries = {row: source.volumes.entries[row] for row in (0, 2)}
    scans = read_localizers(config, entries)
    assert sorted(scans) == [0, 2]
    scan, entry = scans[2], entries[2]
    place = place_window(scan, entry, SHAPE, (4, 4), bscan=1)
    deep, _, wide = scan.extent_mm
    middle = (EDGE_MM + np.array([deep, wide]) / 2) / PIXEL_MM
    assert place.corners_ZX2.shape == (5, 5, 2)
    assert place.corners_ZX2.mean(axis=(0, 1)) == pytest.approx(middle, abs=1e-3)
    across = place.corners_ZX2[0, -1] - place.corners_ZX2[0, 0]
    assert across == pytest.approx([0, 4.0 / PIXEL_MM], abs=1e-3), "the window is 4 mm wide"
    down = place.corners_ZX2[-1, 0] - place.corners_ZX2[0, 0]
    assert down == pytest.approx([4.0 / PIXEL_MM, 0], abs=1e-3)
    row = middle[0] + (1.5 * 0.5 - 2.0) / PIXEL_MM  # the middle of the second of 8 B-scans
    assert place.line_22[:, 0] == pytest.approx([row, row], abs=1e-3)
    at = np.round(scan.localizer_lines[4, 0] - 0.5).astype(int)
    assert scan.localizer[at, 40] == round(scan.voxels[4].mean(axis=0)[_column(scan, 40)])


def _column(scan, pixel):
    return int(((pixel + 0.5) * PIXEL_MM - EDGE_MM) // scan.spacing.column)


def test_a_mirrored_window_runs_the_other_way_on_a_tilted_scan(source_of):
    entry = source_of[1].volumes.entries[0]
    lines = np.array([[10, 5, 12, 25], [14, 5, 16, 25]], np.float32)
    scan = OctVolume(
        voxels=np.zeros((2, 4, 10), np.uint8), spacing=Spacing(0.4, 0.1, 0.2),
        spacing_source="localizer", localizer=np.zeros((30, 30), np.uint8), localizer_lines=lines,
    )  # fmt: skip
    whole = replace(
        entry, spacing=(0.4, 0.1, 0.2), origin_mm=(0.0, 0.0, 0.0), source_shape=(2, 4, 10),
        source_spacing=(0.4, 0.1, 0.2), mirrored=False,
    )  # fmt: skip
    place = place_window(scan, whole, (2, 4, 10), (2, 2), bscan=1)
    assert place.line_22.tolist() == [[14, 5], [16, 25]]
    assert place.corners_ZX2[0].tolist() == [[8, 5], [9, 15], [10, 25]], "half a step above line 0"
    assert place.corners_ZX2[-1].tolist() == [[16, 5], [17, 15], [18, 25]]
    turned = place_window(scan, replace(whole, mirrored=True), (2, 4, 10), (2, 2), bscan=1)
    assert np.array_equal(turned.corners_ZX2, place.corners_ZX2[:, ::-1])


def test_scans_without_lines_on_an_image_are_left_out(source_of, tmp_path):
    config, source = source_of
    assert read_localizers(config, {}) == {}
    lost = replace(source.volumes.entries[0], key="of another folder")
    assert read_localizers(config, {0: lost}) == {}
