import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from oct_io.dicom.writer import sop_instance_uid, write_dicom
from oct_io.volume import OctVolume, Spacing

# The standard (C.8.17.7) wants these three as 0, 1, 1; dciodvfy does not know that.
KNOWN_FALSE_ERRORS = {
    "ConcatenationFrameOffsetNumber",
    "InConcatenationNumber",
    "InConcatenationTotalNumber",
}


@pytest.fixture
def a_volume(draw):
    """Makes a volume that uses all grey levels, with steps that no decimal fraction gives."""

    def make(dtype=np.uint8, shape=(5, 7, 9), **changes):
        rng = np.random.default_rng(0)
        usual = {
            "voxels": rng.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True),
            "spacing": Spacing(6 / 13, 0.0019531, 0.0117647),
            "device": "phantom_a",
            "protocol": "phantom_a_macula_oct",
        }
        return draw(**(usual | changes))

    return make


def real_volume():
    folder = os.environ.get("OCT_SAMPLES")
    if not folder:
        pytest.skip("set OCT_SAMPLES to the folder of real scans to run this test")
    with np.load(Path(folder) / "spectralis_medvisbonn/volume_145x496x512_u8.npz") as file:
        voxels, spacing = file["volume"], Spacing(*map(float, file["spacing_mm"]))
    return OctVolume(
        voxels, spacing, "given", laterality="R", device="heidelberg_spectralis", region="Macula"
    )


def complaints(path):
    """What dciodvfy calls an error, without the three that it gets wrong."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("install dicom3tools for its validator dciodvfy to run this test")
    result = subprocess.run(["dciodvfy", "-new", path], capture_output=True, text=True, check=False)
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error")]
    assert "OphthalmicTomographyImage" in result.stderr
    return [e for e in errors if not any(f"</{name}(" in e for name in KNOWN_FALSE_ERRORS)]


@pytest.mark.parametrize("shared_groups", [True, False])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_voxels_are_read_back_bit_for_bit(tmp_path, a_volume, dtype, shared_groups):
    volume = a_volume(dtype)  # 315 voxels: an odd number, so that 8 bit needs a padding byte
    write_dicom(volume, tmp_path / "x.dcm", uid_seed="x", shared_groups=shared_groups)
    read = pydicom.dcmread(tmp_path / "x.dcm").pixel_array
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, volume.voxels)


@pytest.mark.parametrize("shared_groups", [True, False])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_validator_finds_nothing_wrong(tmp_path, a_volume, dtype, shared_groups):
    write_dicom(a_volume(dtype), tmp_path / "x.dcm", uid_seed="x", shared_groups=shared_groups)
    assert complaints(tmp_path / "x.dcm") == []


@pytest.mark.parametrize("shared_groups", [True, False])
def test_highdicom_reads_the_same_geometry(tmp_path, a_volume, shared_groups):
    highdicom = pytest.importorskip("highdicom")
    volume = a_volume()
    write_dicom(volume, tmp_path / "x.dcm", uid_seed="x", shared_groups=shared_groups)
    read = highdicom.imread(tmp_path / "x.dcm").get_volume(dtype=np.uint8)
    assert read.spacing == pytest.approx(tuple(volume.spacing), abs=1e-6)
    array = read.array if np.array_equal(read.array[0], volume.voxels[0]) else read.array[::-1]
    np.testing.assert_array_equal(array, volume.voxels)


def test_frame_positions_give_the_exact_distance_between_bscans(tmp_path, a_volume):
    volume = a_volume(shape=(61, 4, 6))
    write_dicom(volume, tmp_path / "x.dcm", uid_seed="x")
    frames = pydicom.dcmread(tmp_path / "x.dcm").PerFrameFunctionalGroupsSequence
    z = np.array([float(f.PlanePositionSequence[0].ImagePositionPatient[2]) for f in frames])
    np.testing.assert_allclose(-np.diff(z), volume.spacing.bscan, rtol=0, atol=1e-9)


def test_frames_run_from_superior_to_inferior(tmp_path, a_volume):
    write_dicom(a_volume(), tmp_path / "x.dcm", uid_seed="x")
    frames = pydicom.dcmread(tmp_path / "x.dcm").PerFrameFunctionalGroupsSequence
    heights = [float(f.PlanePositionSequence[0].ImagePositionPatient[2]) for f in frames]
    assert heights == sorted(heights, reverse=True)  # in DICOM z grows towards the head


@pytest.mark.parametrize("step", [1 / 3, 1e-7, 123456.789012345678, 0.1 + 0.2])
def test_any_spacing_fits_into_sixteen_characters(tmp_path, a_volume, step):
    volume = a_volume(spacing=Spacing(step, step, step))
    write_dicom(volume, tmp_path / "x.dcm", uid_seed="x")
    shared = pydicom.dcmread(tmp_path / "x.dcm").SharedFunctionalGroupsSequence[0]
    written = shared.PixelMeasuresSequence[0].PixelSpacing
    assert [float(value) for value in written] == pytest.approx([step, step], rel=1e-6)
    assert all(len(value.original_string) <= 16 for value in written)


def test_device_laterality_region_and_participant_are_written(tmp_path, a_volume):
    write_dicom(a_volume(device="topcon_triton"), tmp_path / "x.dcm", uid_seed="x")
    read = pydicom.dcmread(tmp_path / "x.dcm")
    assert (read.Manufacturer, read.ManufacturerModelName) == ("Topcon", "Triton")
    assert (read.ImageLaterality, read.PatientID) == ("L", "4007")
    assert (read.ProtocolName, read.SeriesDescription) == ("phantom_a_macula_oct", "Macula, 6 x 6")


def test_a_disc_scan_is_coded_as_optic_nerve_head(tmp_path, a_volume):
    write_dicom(a_volume(region="Optic Disc"), tmp_path / "x.dcm", uid_seed="x")
    read = pydicom.dcmread(tmp_path / "x.dcm")
    assert read.AnatomicRegionSequence[0].CodeValue == "81016008"


def test_equal_arguments_give_equal_bytes(tmp_path, a_volume):
    for name in ("a", "b"):
        write_dicom(a_volume(), tmp_path / name, uid_seed="same")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_another_seed_gives_another_identity(tmp_path, a_volume):
    assert sop_instance_uid("a") != sop_instance_uid("b")
    write_dicom(a_volume(), tmp_path / "a", uid_seed="a")
    assert pydicom.dcmread(tmp_path / "a").SOPInstanceUID == sop_instance_uid("a")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, a_volume):
    target = tmp_path / "taken.dcm"
    target.mkdir()  # a folder cannot be replaced by a file
    with pytest.raises(OSError, match="taken"):
        write_dicom(a_volume(), target, uid_seed="x")
    assert [p.name for p in tmp_path.iterdir()] == ["taken.dcm"]


def test_a_circle_scan_is_refused(tmp_path, a_volume):
    with pytest.raises(ValueError, match=r"volume\.pattern \('circle'\) must be 'raster'"):
        write_dicom(a_volume(pattern="circle"), tmp_path / "x.dcm", uid_seed="x")


def test_a_text_too_long_for_dicom_is_refused_without_quoting_it(tmp_path, a_volume):
    with pytest.raises(ValueError, match=r"volume\.participant_id must be at most 64") as error:
        write_dicom(a_volume(participant_id="7" * 65), tmp_path / "x.dcm", uid_seed="x")
    assert "777" not in str(error.value)


def test_an_empty_uid_seed_is_refused(tmp_path, a_volume):
    with pytest.raises(ValueError, match="uid_seed"):
        write_dicom(a_volume(), tmp_path / "x.dcm", uid_seed="")


def test_a_real_spectralis_volume_survives_and_other_readers_agree(tmp_path):
    highdicom = pytest.importorskip("highdicom")
    sitk = pytest.importorskip("SimpleITK")
    volume = real_volume()
    path = tmp_path / "real.dcm"
    write_dicom(volume, path, uid_seed="real")
    image = sitk.ReadImage(str(path))
    column, row, bscan = image.GetSpacing()
    assert (bscan, row, column) == pytest.approx(tuple(volume.spacing), abs=1e-6)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), volume.voxels)
    read = highdicom.imread(path, lazy_frame_retrieval=True).get_volume(dtype=np.uint8)
    assert read.spacing == pytest.approx(tuple(volume.spacing), abs=1e-6)
    assert complaints(path) == []
