"""DICOM segmentations: written, read, and as others write and read them."""

import shutil
import subprocess
from dataclasses import replace

import highdicom
import numpy as np
import pydicom
import pytest
from highdicom.seg import SegmentDescription
from oct_io import ScanError, write_dicom
from oct_io.dicom.layout import FileStyle
from oct_io.dicom.segmentation import LABEL_MAP, peek_segmentation
from oct_io.dicom.segmentation_writer import write_segmentation
from oct_io.records.annotations import read_mask
from oct_io.scan.file import ScanFile
from oct_io.volume import UNLABELLED
from pydicom.sr.codedict import codes

NAMES = ("background", "IRF", "PED")
ORDER = (3, 0, 5, 1, 2, 4, 7, 6)
SHAPE = (8, 48, 40)


def draw_mask(seed=0):
    """Two classes, neither on every B-scan, of a size that fills no whole byte a frame."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(SHAPE, np.uint8)
    mask[1:4, 10:30, 5:25] = rng.random((3, 20, 20)) > 0.5
    mask[3:7, 30:, 7:9] = 2
    return mask


@pytest.fixture
def scan(tmp_path, draw):
    """A scan whose frames are stored in another order than they lie in."""
    path = tmp_path / "scan.dcm"
    write_dicom(draw(), path, uid_seed="a", style=FileStyle(frame_order=ORDER))
    return path


def header(path):
    return pydicom.dcmread(path, stop_before_pixels=True)


def read(mask, scan, shape=SHAPE):
    return read_mask(ScanFile(url=str(mask)), ScanFile(url=str(scan)), shape)


@pytest.fixture
def segmentation(tmp_path, scan):
    path = tmp_path / "other.dcm"
    write_segmentation(path, draw_mask(), NAMES, header(scan))
    return path


def refusal(mask, scan, shape=SHAPE):
    with pytest.raises(ScanError) as caught:
        read(mask, scan, shape)
    return caught.value


def test_a_mask_is_read_back_as_it_was_written(scan, segmentation):
    found = read(segmentation, scan)
    assert np.array_equal(found.labels, draw_mask())
    assert found.names == NAMES


def test_highdicom_reads_the_same_classes_on_the_same_frames(scan, segmentation):
    seg = highdicom.seg.segread(segmentation)
    stored = [ORDER.index(bscan) + 1 for bscan in range(8)]
    pixels = seg.get_pixels_by_source_frame(
        header(scan).SOPInstanceUID, stored, combine_segments=True,
        ignore_spatial_locations=True, assert_missing_frames_are_empty=True,
    )  # fmt: skip
    assert np.array_equal(pixels, draw_mask())
    assert [seg.get_segment_description(n).segment_label for n in (1, 2)] == list(NAMES[1:])


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dicom3tools are not installed")
@pytest.mark.parametrize("shared_groups", [True, False])
def test_dciodvfy_finds_no_error(tmp_path, draw, shared_groups):
    write_dicom(draw(), tmp_path / "a.dcm", uid_seed="a", shared_groups=shared_groups)
    write_segmentation(tmp_path / "b.dcm", draw_mask(), NAMES, header(tmp_path / "a.dcm"))
    command = ["dciodvfy", "-new", tmp_path / "b.dcm"]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    assert "Error" not in said, said
    assert "Segmentation" in said


def test_equal_masks_give_equal_bytes_and_others_other_uids(tmp_path, scan):
    for name, seed in (("1", 0), ("2", 0), ("3", 1)):
        write_segmentation(tmp_path / name, draw_mask(seed), NAMES, header(scan))
    one, two, three = ((tmp_path / name).read_bytes() for name in "123")
    assert one == two
    uids = {header(tmp_path / name).SOPInstanceUID for name in "13"}
    assert len(uids) == 2
    assert header(tmp_path / "1").StudyInstanceUID == header(scan).StudyInstanceUID
    assert three != one


def test_an_eye_without_fluid_has_a_mask_that_says_so(tmp_path, scan):
    write_segmentation(tmp_path / "m.dcm", np.zeros(SHAPE, np.uint8), NAMES, header(scan))
    found = read(tmp_path / "m.dcm", scan)
    assert not found.labels.any()
    assert found.names == NAMES


def test_unlabelled_voxels_have_no_word_in_a_segmentation(tmp_path, scan):
    mask = draw_mask()
    mask[0, 0] = UNLABELLED
    write_segmentation(tmp_path / "m.dcm", mask, NAMES, header(scan))
    assert np.array_equal(read(tmp_path / "m.dcm", scan).labels, draw_mask())


def test_a_mask_that_does_not_fit_is_not_written(tmp_path, scan):
    path = tmp_path / "m.dcm"
    with pytest.raises(ValueError, match=r"mask must be uint8 \(8, 48, 40\)"):
        write_segmentation(path, draw_mask()[1:], NAMES, header(scan))
    with pytest.raises(ValueError, match="mask has labels up to 2"):
        write_segmentation(path, draw_mask(), NAMES[:2], header(scan))
    assert not path.exists()


def test_the_instances_of_a_series_are_one_scan(tmp_path, draw):
    folder = tmp_path / "series"
    folder.mkdir()
    volume = draw()
    for number in (1, 2, 3):
        style = FileStyle(part=(number, 3))
        write_dicom(volume, folder / f"{4 - number}.dcm", uid_seed="s", style=style)
    sources = [header(path) for path in sorted(folder.iterdir())]
    write_segmentation(tmp_path / "m.dcm", draw_mask(), NAMES, sources)
    assert np.array_equal(read(tmp_path / "m.dcm", folder).labels, draw_mask())
    assert len(peek_segmentation(tmp_path / "m.dcm").scans) == 3


def test_what_it_is_of_and_its_classes_are_known_from_its_first_bytes(scan, segmentation):
    found = peek_segmentation(segmentation)
    assert found.names == NAMES
    assert found.scans == {header(scan).SOPInstanceUID}
    assert peek_segmentation(scan) is None


def with_highdicom(scan, mask, kind):
    """The segmentation that highdicom makes of a mask."""
    source = pydicom.dcmread(scan)
    stored = mask[list(ORDER)]
    description = {
        number: SegmentDescription(
            segment_number=number,
            segment_label=NAMES[number],
            segmented_property_category=codes.SCT.Tissue,
            segmented_property_type=codes.SCT.Retina,
            algorithm_type="MANUAL",
        )
        for number in (1, 2)
    }
    if kind == "FRACTIONAL":
        stored = np.stack([stored == 1, stored == 2], axis=-1) * 0.8 + 0.1
    return highdicom.seg.Segmentation(
        source_images=[source], pixel_array=stored, segmentation_type=kind,
        segment_descriptions=list(description.values()),
        series_instance_uid=highdicom.UID(), series_number=1, sop_instance_uid=highdicom.UID(),
        instance_number=1, manufacturer="x", manufacturer_model_name="x", software_versions="x",
        device_serial_number="0", max_fractional_value=200,
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_segmentations_by_highdicom_are_read_in_place(tmp_path, scan, kind):
    seg = with_highdicom(scan, draw_mask(), kind)
    seg.save_as(tmp_path / "m.dcm")
    found = read(tmp_path / "m.dcm", scan)
    assert np.array_equal(found.labels, draw_mask())
    assert found.names[1:] == NAMES[1:]
    assert (str(seg.SOPClassUID) == LABEL_MAP) == (kind == "LABELMAP")


def test_a_segmentation_of_another_scan_or_size_is_refused(tmp_path, draw, scan, segmentation):
    write_dicom(replace(draw(1)), tmp_path / "b.dcm", uid_seed="b")
    assert "of its 7 frames lie on none of this scan" in str(
        refusal(segmentation, tmp_path / "b.dcm")
    )
    assert "48 x 40" in refusal(segmentation, scan, (8, 49, 40)).reason
    other = refusal(scan, scan)
    assert (other.stage, other.reason) == ("parse", "holds no Segmentation Storage")


@pytest.mark.parametrize("element", ["SegmentSequence", "PerFrameFunctionalGroupsSequence", "Rows"])
def test_a_damaged_header_is_one_line(tmp_path, scan, segmentation, element):
    dataset = pydicom.dcmread(segmentation)
    delattr(dataset, element)
    dataset.save_as(tmp_path / "m.dcm")
    found = refusal(tmp_path / "m.dcm", scan)
    assert found.stage == "parse"
    assert "\n" not in str(found)


def test_a_cut_off_or_altered_file_never_ends_in_another_error(tmp_path, scan, segmentation):
    content, rng = segmentation.read_bytes(), np.random.default_rng(0)
    refused = 0
    for trial in range(120):
        spoilt = bytearray(content[: rng.integers(len(content))] if trial % 2 else content)
        for at in rng.integers(132, max(len(spoilt), 133), 6):
            if at < len(spoilt):
                spoilt[at] = rng.integers(256)
        (tmp_path / "m.dcm").write_bytes(spoilt)
        try:
            read(tmp_path / "m.dcm", scan)
        except ScanError:
            refused += 1
    assert refused > 60
