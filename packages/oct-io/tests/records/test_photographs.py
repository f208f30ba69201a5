"""The photograph that a DICOM scan lies on: found by its name, read as grey levels, or left."""

import os
from pathlib import Path

import numpy as np
import pydicom
import pytest
from oct_io import ScanError, read_manifest
from oct_io.dicom.layout import LOCALIZER_PIXEL_MM, FileStyle
from oct_io.dicom.photograph import read_photograph
from oct_io.dicom.writer import localizer_uid, write_dicom
from oct_io.records.opening import read_scan
from oct_io.records.photographs import add_photograph, photographs_in
from oct_io.storage.files import list_tokens
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

EIGHT_BITS = "1.2.840.10008.5.1.4.1.1.77.1.5.1"
GREYS = np.arange(40 * 30, dtype=np.uint8).reshape(40, 30)


def photograph(path, uid, pixels=GREYS, *, bits=8, meaning="MONOCHROME2", sop_class=EIGHT_BITS):
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, uid
    dataset.PatientID = "1001"
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = meaning
    dataset.BitsAllocated, dataset.BitsStored = 8 * pixels.itemsize, bits
    dataset.HighBit, dataset.PixelRepresentation = bits - 1, 0
    dataset.PixelData = pixels.tobytes()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


@pytest.fixture
def tree(tmp_path, draw):
    """A scan whose frames are stored upside down, its photograph and another beside it."""
    volume = draw()
    count = len(volume.voxels)
    style = FileStyle(frame_order=tuple(reversed(range(count))))
    write_dicom(volume, tmp_path / "scan.dcm", uid_seed="one", style=style)
    photograph(tmp_path / "a.dcm", localizer_uid("another"), GREYS[::-1])
    photograph(tmp_path / "b.dcm", localizer_uid("one"))
    return tmp_path


def scan_of(root):
    records = read_manifest(root)
    record = next(one for one in records if one.path.endswith("scan.dcm"))
    return record, read_scan(root, record), photographs_in(list_tokens(str(root)), records)


def test_the_photograph_of_its_folder_that_a_scan_names_is_its_localizer(tree):
    record, scan, photographs = scan_of(tree)
    assert sorted(photographs) == ["a.dcm", "b.dcm"]
    assert scan.localizer is None
    placed = add_photograph(tree, record, scan, photographs)
    assert np.array_equal(placed.localizer, GREYS)
    rows = 0.5 + np.arange(len(scan.voxels)) * scan.spacing.bscan / LOCALIZER_PIXEL_MM
    width = scan.voxels.shape[2] * scan.spacing.column / LOCALIZER_PIXEL_MM
    assert placed.localizer_lines[:, 0] == pytest.approx(rows, rel=1e-5), "in the volume's order"
    assert placed.localizer_lines[:, 1:] == pytest.approx(
        np.stack([0 * rows + 0.5, rows, 0 * rows + 0.5 + width], axis=1), rel=1e-5
    )
    assert np.array_equal(placed.voxels, scan.voxels)


def test_a_scan_whose_photograph_is_not_there_stays_without(tree):
    (tree / "b.dcm").unlink()
    record, scan, photographs = scan_of(tree)
    assert add_photograph(tree, record, scan, photographs) is scan
    photograph(tree / "elsewhere" / "b.dcm", localizer_uid("one"))
    record, scan, photographs = scan_of(tree)
    assert sorted(photographs) == ["a.dcm", "elsewhere/b.dcm"]
    assert add_photograph(tree, record, scan, photographs) is scan, "of another folder"


@pytest.mark.parametrize(("stated", "found"), [("/ir/b.dcm", True), ("/ir/a.dcm", False),
                                               ("/ir/lost.dcm", False), ("../b.dcm", False),
                                               ("Unknown", False)])  # fmt: skip
def test_the_manifest_says_where_the_photograph_lies(tree, stated, found):
    (tree / "ir").mkdir()
    for name in ("a.dcm", "b.dcm"):
        (tree / name).rename(tree / "ir" / name)
    (tree / "oct").mkdir()
    (tree / "scan.dcm").rename(tree / "oct" / "scan.dcm")
    (tree / "retinal_oct").mkdir()
    (tree / "retinal_oct" / "manifest.tsv").write_text(
        f"participant_id\tfilepath\treference_filepath\n1001\t/oct/scan.dcm\t{stated}\n"
    )
    record, scan, photographs = scan_of(tree)
    assert record.refused is None
    assert "photograph" not in record.to_tree(), "it changes nothing of what is cached"
    placed = add_photograph(tree, record, scan, photographs)
    assert (placed.localizer is not None) == found


def test_photographs_are_counted_and_are_no_scans(tree, caplog):
    assert [one.path for one in read_manifest(tree)] == ["scan.dcm"]
    assert "passed over, no tomography: 2 DICOM photographs" in caplog.text
    (tree / "scan.dcm").unlink()
    alone = read_manifest(tree)
    assert [one.path for one in alone] == ["a.dcm", "b.dcm"]
    assert all("holds Ophthalmic Photography 8 Bit" in one.refused[1] for one in alone)


def test_a_scan_that_does_not_say_where_it_lies_has_none(tmp_path, draw):
    write_dicom(draw(), tmp_path / "scan.dcm", uid_seed="one", style=FileStyle(locations=False))
    photograph(tmp_path / "b.dcm", localizer_uid("one"))
    record, scan, photographs = scan_of(tmp_path)
    assert add_photograph(tmp_path, record, scan, photographs) is scan


@pytest.mark.parametrize("place", ["photo.dcm", "series/photo.dcm"])
def test_instances_of_a_series_are_placed_together(place, tmp_path, draw):
    volume = draw()
    (tmp_path / "series").mkdir()
    for number in (1, 2):
        write_dicom(
            volume, tmp_path / "series" / f"{number}.dcm", uid_seed="one",
            style=FileStyle(part=(number, 2)),
        )  # fmt: skip
    photograph(tmp_path / place, localizer_uid("one"))
    (record,) = records = read_manifest(tmp_path)
    assert record.path == "series"
    assert record.refused is None
    scan = read_scan(tmp_path, record)
    assert np.array_equal(scan.voxels, volume.voxels)
    files = photographs_in(list_tokens(str(tmp_path)), records)
    placed = add_photograph(tmp_path, record, scan, files)
    assert np.array_equal(placed.localizer, GREYS)
    rows = 0.5 + np.arange(len(volume.voxels)) * volume.spacing.bscan / LOCALIZER_PIXEL_MM
    assert placed.localizer_lines[:, 0] == pytest.approx(rows, rel=1e-5)


def test_grey_levels_are_those_that_are_seen(tmp_path):
    def read(**how):
        photograph(tmp_path / "one.dcm", "1.2.3", **how)
        return read_photograph((tmp_path / "one.dcm").read_bytes(), "one.dcm")

    assert np.array_equal(read(), GREYS)
    assert np.array_equal(read(meaning="MONOCHROME1"), 255 - GREYS)
    wide = GREYS.astype(np.uint16) * 16 + 8
    assert np.abs(read(pixels=wide, bits=12).astype(int) - GREYS).max() <= 1
    green = np.zeros((40, 30, 3), np.uint8)
    green[..., 1] = 255
    assert (read(pixels=green, meaning="RGB") == 150).all()


def test_what_cannot_be_read_is_refused(tmp_path):
    path = tmp_path / "one.dcm"
    photograph(path, "1.2.3", sop_class="1.2.840.10008.5.1.4.1.1.7")
    with pytest.raises(ScanError, match="parse: holds no Ophthalmic Photography"):
        read_photograph(path.read_bytes(), "one.dcm")
    photograph(path, "1.2.3")
    with pytest.raises(ScanError, match="decode: the photograph's pixels cannot be read"):
        read_photograph(path.read_bytes()[:-400], "one.dcm")
    dataset = pydicom.dcmread(path)
    dataset.Rows = dataset.Columns = 60000
    dataset.save_as(path)
    with pytest.raises(ScanError, match="decode: header claims 1 x 60000 x 60000"):
        read_photograph(path.read_bytes(), "one.dcm")


@pytest.mark.skipif("OCT_SAMPLES" not in os.environ, reason="OCT_SAMPLES is not set")
def test_a_real_photograph_is_read():
    folder = Path(os.environ["OCT_SAMPLES"]) / "dicom_misc"
    path = folder / "dcmjs_sample-op_real_ophthalmic_jpeg_lossless.dcm"
    image = read_photograph(path.read_bytes(), path.name)
    assert image.ndim == 2
    assert min(image.shape) > 300
    assert image.std() > 10
