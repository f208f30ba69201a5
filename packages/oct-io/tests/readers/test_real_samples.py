"""Every real scan that we have, read or refused for the right reason (environment OCT_SAMPLES)."""

import warnings

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK
from oct_io import ScanError, Spacing, open_volume, read_volume
from PIL import Image

SPECTRALIS = Spacing(0.030, 0.003872, 0.011182)
OTHER = "not Ophthalmic Tomography Image Storage"
NPZ = "nothing tells its spacing"

# file -> shape and source of the spacing, or stage and words of the refusal
TABLE = {
    "derived_opt_dicom/spectralis_16f_explicit_le.dcm": ((16, 496, 512), "frame_positions"),
    "derived_opt_dicom/spectralis_16f_j2k_bot.dcm": ((16, 496, 512), "frame_positions"),
    "derived_opt_dicom/spectralis_16f_j2k_emptybot.dcm": ((16, 496, 512), "frame_positions"),
    "derived_opt_dicom/spectralis_16f_j2k_eot.dcm": ((16, 496, 512), "frame_positions"),
    "derived_opt_dicom/spectralis_16f_jpegls_bot.dcm": ((16, 496, 512), "frame_positions"),
    "derived_opt_dicom/spectralis_16f_ljpeg_sv1_bot.dcm": ((16, 496, 512), "frame_positions"),
    "dicom_misc/dcmjs_sample-op_real_ophthalmic_jpeg_lossless.dcm": ("parse", OTHER),
    "dicom_misc/emri_small.dcm": ("parse", OTHER),
    "dicom_misc/emri_small_RLE.dcm": ("parse", OTHER),
    "dicom_misc/emri_small_big_endian.dcm": ("parse", OTHER),
    "dicom_misc/emri_small_jpeg_2k_lossless.dcm": ("parse", OTHER),
    "dicom_misc/emri_small_jpeg_2k_lossless_too_short.dcm": ("parse", OTHER),
    "dicom_misc/emri_small_jpeg_ls_lossless.dcm": ("parse", OTHER),
    "dicom_misc/sm_image_jpegls.dcm": ("parse", OTHER),
    "dicom_misc/sm_image_jpegls_nobot.dcm": ("parse", OTHER),
    "heyex_vol/eyepy_test_volume_10x40x50.vol": ((10, 40, 50), "localizer"),
    "heyex_vol/heyeximport_valid.vol": ("geometry", "circle scan"),
    "heyex_vol/octolyzer_Linescan_1.vol": ("geometry", "line scan"),
    "heyex_vol/octolyzer_Peripapillary_1.vol": ("geometry", "circle scan"),
    "heyex_vol/rathke_circularScan.mat": ("parse", "0 of its arrays have three axes"),
    "spectralis_medvisbonn/OCT-Info.xml": ("parse", "145 B-scans; 0 images"),
    "spectralis_medvisbonn/rpe_bm_layers_145x496x512_u8.npz": ("geometry", NPZ),
    "spectralis_medvisbonn/volume_145x496x512_u8.npz": ("geometry", NPZ),
}


def outcome(path):
    """One row of the table: what became of the file."""
    try:
        volume = read_volume(path)
    except ScanError as error:
        return error.stage, error.reason
    return volume.voxels.shape, volume.spacing_source


def test_every_sample_is_read_or_refused_for_the_right_reason(samples, capsys):
    files = {str(path.relative_to(samples)) for path in samples.rglob("*") if path.is_file()}
    assert files - {"README.md"} == set(TABLE), "a sample without a row, or a row without one"
    rows = {name: outcome(samples / name) for name in TABLE}
    with capsys.disabled():
        print()
        for name, (what, why) in rows.items():
            print(f"  {name:<62} {what!s:<15} {why[:90]}")
    for name, (what, words) in TABLE.items():
        found, why = rows[name]
        assert found == what, (name, found, why)
        assert words in why, (name, why)


@pytest.fixture(scope="module")
def voxels(samples):
    with np.load(samples / "spectralis_medvisbonn/volume_145x496x512_u8.npz") as file:
        return file["volume"]


@pytest.fixture(scope="module")
def derived(samples):
    return sorted((samples / "derived_opt_dicom").glob("*.dcm"))


def test_highdicom_agrees_on_every_ophthalmic_file(derived, voxels):
    for path in derived:
        volume = read_volume(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the oracle
            other = highdicom.imread(path).get_volume()
        assert tuple(other.spacing) == pytest.approx(volume.spacing, abs=1e-6), path.name
        assert np.array_equal(volume.voxels, voxels[64:80]), path.name
        array = np.asarray(other.array)
        same = np.array_equal(array, volume.voxels) or np.array_equal(array[::-1], volume.voxels)
        assert same, path.name


def test_simpleitk_agrees_on_every_ophthalmic_file_that_it_reads(derived):
    read = []
    for path in derived:
        try:
            image = SimpleITK.ReadImage(str(path))
        except RuntimeError:
            continue  # GDCM within ITK lacks some offset tables
        volume = read_volume(path)
        column, row, bscan = image.GetSpacing()
        assert (bscan, row, column) == pytest.approx(volume.spacing, abs=1e-6), path.name
        assert np.array_equal(SimpleITK.GetArrayFromImage(image), volume.voxels), path.name
        read.append(path.name)
    assert len(read) >= 5, read


def test_single_frames_of_every_ophthalmic_file_are_those_of_the_volume(derived, voxels):
    for path in derived:
        part = open_volume(path).load(frames=[2, 7, 12])
        assert np.array_equal(part.voxels, voxels[[66, 71, 76]]), path.name
        assert part.spacing.bscan == pytest.approx(0.15, abs=1e-6)


def test_the_real_volume_in_pieces_is_the_real_volume(samples, tmp_path, voxels):
    whole = pydicom.dcmread(samples / "derived_opt_dicom/spectralis_16f_explicit_le.dcm")
    frames = list(whole.PerFrameFunctionalGroupsSequence)
    for number, start in enumerate((8, 0, 13)):
        chosen = range(start, (8, 13, 16)[(start > 0) + (start > 8)])
        part = pydicom.dcmread(samples / "derived_opt_dicom/spectralis_16f_explicit_le.dcm")
        part.SOPInstanceUID = part.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
        part.InstanceNumber = number + 1
        part.NumberOfFrames = len(chosen)
        part.PerFrameFunctionalGroupsSequence = [frames[i] for i in chosen]
        part.PixelData = whole.pixel_array[list(chosen)].tobytes()
        part.save_as(tmp_path / f"{number}.dcm", enforce_file_format=True)
    volume = read_volume(tmp_path)
    assert np.array_equal(volume.voxels, voxels[64:80])
    assert volume.spacing == pytest.approx(SPECTRALIS, abs=1e-6)


def test_the_real_spectralis_volume_has_the_geometry_of_its_xml(samples, tmp_path, voxels):
    text = (samples / "spectralis_medvisbonn/OCT-Info.xml").read_text()
    (tmp_path / "OCT-Info.xml").write_text(text)
    for number, frame in enumerate(voxels, start=1):
        Image.fromarray(frame).save(tmp_path / f"{number}.bmp")
    volume = read_volume(tmp_path)
    assert volume.voxels.shape == (145, 496, 512)
    assert np.array_equal(volume.voxels[::-1], voxels), "HEYEX lists the inferior one first"
    assert volume.spacing == pytest.approx(SPECTRALIS, abs=2e-4)
    assert (volume.spacing_source, volume.spacing_confidence) == ("localizer", "high")


def test_the_real_volume_is_read_with_a_sidecar(samples, tmp_path, voxels):
    file = samples / "spectralis_medvisbonn/volume_145x496x512_u8.npz"
    (tmp_path / "scan.npz").write_bytes(file.read_bytes())
    (tmp_path / "scan.json").write_text('{"spacing_mm": [0.030, 0.003872, 0.011182]}')
    volume = read_volume(tmp_path / "scan.npz")
    assert np.array_equal(volume.voxels, voxels)
    assert volume.spacing == SPECTRALIS


def test_real_vol_files_keep_layers_and_localizer_when_admitted(samples):
    every = ("raster", "line", "circle")
    layers = {"heyeximport_valid": 3, "octolyzer_Linescan_1": 2, "octolyzer_Peripapillary_1": 3}
    for name, count in layers.items():
        volume = read_volume(samples / f"heyex_vol/{name}.vol", patterns=every)
        assert volume.localizer.shape == (768, 768)
        assert len(volume.layers) == count
        inner, outer = volume.layers["ILM"], volume.layers["BM"]
        both = np.isfinite(inner) & np.isfinite(outer)
        assert (outer[both] > inner[both]).mean() > 0.99, "Bruch's membrane lies below the ILM"
        assert 0 < np.median(volume.voxels) < 128
        assert volume.voxels.max() > 200
