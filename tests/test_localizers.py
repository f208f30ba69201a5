"""Maps laid on the en-face image that a scan came with."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from oct_io import OctVolume, SourceConfig, Spacing, open_source, read_volume
from oct_io.dicom.layout import LOCALIZER_PIXEL_MM, OPHTHALMIC_PHOTOGRAPHY
from oct_io.dicom.writer import localizer_uid, write_dicom
from oct_judge.findings.localizer import place_window, read_localizers
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

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


def write_photograph(path, uid, pixels):
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = OPHTHALMIC_PHOTOGRAPHY, uid
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PixelRepresentation, dataset.PixelData = 0, pixels.tobytes()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)


def test_a_dicom_scan_lies_on_the_photograph_that_it_names(source_of, tmp_path):
    for number in (0, 1):
        volume = read_volume(Path(source_of[0].root) / f"{number}_OD.vol")
        plain = replace(volume, localizer=None, localizer_lines=None)
        write_dicom(plain, tmp_path / f"{number}.dcm", uid_seed=str(number))
    write_photograph(tmp_path / "photo.dcm", localizer_uid("1"), np.full((700, 600), 7, np.uint8))
    config = SourceConfig(
        root=str(tmp_path), cache=str(tmp_path / "cache"), window="tiny", jobs=1, max_bad_fraction=0
    )
    source = open_source(config)
    entries = {row: source.volumes.entries[row] for row in range(len(source.volumes))}
    scans = read_localizers(config, entries)
    assert len(entries) == 2
    assert len(scans) == 1
    ((row, scan),) = scans.items()
    assert (scan.localizer == 7).all()
    place = place_window(scan, entries[row], SHAPE, (4, 4), bscan=1)
    across = place.corners_ZX2[0, -1] - place.corners_ZX2[0, 0]
    assert np.abs(across) == pytest.approx([0, 4.0 / LOCALIZER_PIXEL_MM], rel=1e-3)
