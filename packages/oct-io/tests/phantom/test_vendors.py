"""Phantoms of every protocol of AI-READI, and what scanners do differently with a file."""

import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pydicom
import pytest
from oct_io import ScanError, read_header, read_volume
from oct_io.dicom.encoding import CODECS, OFFSET_TABLES, encode_frames
from oct_io.dicom.layout import FileStyle
from oct_io.dicom.writer import maker_of, write_dicom
from oct_io.errors import OctIoError
from oct_io.phantom import Phantom, draw_phantom
from oct_io.phantom.scanners import SCANNERS
from oct_io.scan.protocols import PROTOCOLS

RASTERS = [one for one in PROTOCOLS if one.pattern == "raster"]
ONH = "spectralis_onh_rc_hr_oct"

# The standard (C.8.17.7) wants these three as 0, 1, 1; dciodvfy does not know that.
KNOWN_FALSE_ERRORS = (
    "</ConcatenationFrameOffsetNumber(",
    "</InConcatenationNumber(",
    "</InConcatenationTotalNumber(",
)


def complaints(path):
    """What dciodvfy calls an error, without the three that it gets wrong."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("install dicom3tools for its validator dciodvfy to run this test")
    result = subprocess.run(["dciodvfy", "-new", path], capture_output=True, text=True, check=False)
    assert "OphthalmicTomographyImage" in result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error")]
    return [e for e in errors if not any(known in e for known in KNOWN_FALSE_ERRORS)]


def small(token="cirrus_mac_oct", **changes):
    return draw_phantom(Phantom(device=token, scale=0.05, participant_id="4007", **changes), 3)


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda one: one.token)
def test_each_protocol_is_known_at_true_size(protocol):
    grid = Phantom(device=protocol.token).grid
    assert grid.shape == protocol.shape
    if protocol.extent_mm:
        across, along = protocol.extent_mm
        assert grid.spacing.bscan * grid.shape[0] == pytest.approx(across)
        assert grid.spacing.column * grid.shape[2] == pytest.approx(along)
    assert 0.0019 < grid.spacing.row < 0.004


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "per frame"])
@pytest.mark.parametrize("protocol", RASTERS, ids=lambda one: one.token)
def test_each_raster_is_valid_and_read_back_with_its_names(tmp_path, protocol, shared):
    written = small(protocol.token)
    write_dicom(written, tmp_path / "x.dcm", uid_seed="x", shared_groups=shared)
    assert complaints(tmp_path / "x.dcm") == []
    volume = read_volume(tmp_path / "x.dcm")
    assert np.array_equal(volume.voxels, written.voxels)
    assert volume.spacing == pytest.approx(written.spacing, abs=1e-6)
    assert (volume.device, volume.protocol) == (protocol.device, protocol.token)
    assert (volume.region, volume.laterality) == (protocol.region, "R")
    dataset = pydicom.dcmread(tmp_path / "x.dcm", stop_before_pixels=True)
    assert (dataset.Manufacturer, dataset.ManufacturerModelName) == maker_of(protocol.device)


def test_the_nerve_head_scan_is_refused_as_24_radial_and_3_circle_scans(tmp_path):
    write_dicom(small(ONH), tmp_path / "x.dcm", uid_seed="x", style=FileStyle(thickness=False))
    with pytest.raises(ScanError, match="24 radial and 3 circle") as caught:
        read_volume(tmp_path / "x.dcm")
    assert caught.value.stage == "geometry"
    assert read_header(tmp_path / "x.dcm").pattern == "radial"
    dataset = pydicom.dcmread(tmp_path / "x.dcm")
    shared = dataset.SharedFunctionalGroupsSequence[0]
    assert "PixelMeasuresSequence" not in shared
    frames = dataset.PerFrameFunctionalGroupsSequence
    assert ["PlanePositionSequence" in frame for frame in frames] == [True] * 24 + [False] * 3
    assert not any("SliceThickness" in frame.PixelMeasuresSequence[0] for frame in frames)
    missing = ("PlanePositionSequence", "PlaneOrientationSequence")  # as Spectralis leaves them
    others = [e for e in complaints(tmp_path / "x.dcm") if not any(name in e for name in missing)]
    assert [e for e in others if "SliceThickness" not in e] == []


@pytest.mark.parametrize("table", OFFSET_TABLES)
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("codec", CODECS)
def test_each_codec_gives_valid_files_that_read_back(tmp_path, codec, bits, table):
    if bits not in CODECS[codec].bits:
        with pytest.raises(ValueError, match=rf"codec \('{codec}'\) stores 8 bits"):
            encode_frames(small(bits=bits).voxels, codec)
        return
    written = small(bits=bits)
    path = tmp_path / "x.dcm"
    write_dicom(written, path, uid_seed="x", style=FileStyle(codec=codec, table=table))
    if codec != "htj2k":  # newer than the validator
        assert complaints(path) == []
    voxels = read_volume(path).voxels
    assert voxels.dtype == written.voxels.dtype
    away = np.abs(voxels.astype(int) - written.voxels).max()
    assert away == 0 if codec != "jpeg" else away < 60


def test_a_codec_without_its_encoder_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "imagecodecs", None)
    with pytest.raises(OctIoError, match="uv pip install imagecodecs"):
        encode_frames(small().voxels, "jpeg2000")


def test_decoders_that_we_require_give_the_voxels_of_faster_ones(tmp_path, monkeypatch):
    for codec in ("rle", "jpeg2000", "jpegls", "ljpeg", "jpeg"):
        path = tmp_path / f"{codec}.dcm"
        write_dicom(small(), path, uid_seed="x", style=FileStyle(codec=codec))
        faster = read_volume(path).voxels
        with monkeypatch.context() as patch:
            patch.setattr("importlib.util.find_spec", lambda name: None)  # as without imagecodecs
            assert np.array_equal(read_volume(path).voxels, faster), codec


def test_sixteen_bits_show_the_same_picture_in_finer_steps():
    coarse, fine = small(), small(bits=16)
    assert fine.voxels.dtype == np.uint16
    assert np.abs(fine.voxels / 257 - coarse.voxels).max() <= 0.51


@pytest.mark.parametrize(
    ("style", "source"),
    [
        (FileStyle(positions=False), "localizer"),
        (FileStyle(positions=False, locations=False), "slice_thickness"),
        (FileStyle(thickness=False, locations=False), "frame_positions"),
        (FileStyle(frame_order=(5, 1, 0, 2, 4, 3)), "frame_positions"),
    ],
)
def test_what_a_file_leaves_out_changes_where_the_spacing_comes_from(tmp_path, style, source):
    written = small()
    write_dicom(written, tmp_path / "x.dcm", uid_seed="x", style=style)
    volume = read_volume(tmp_path / "x.dcm")
    assert volume.spacing_source == source
    assert volume.spacing == pytest.approx(written.spacing, rel=1e-4)
    assert np.array_equal(volume.voxels, written.voxels)


def test_a_volume_in_several_files_is_read_as_one(tmp_path):
    written = small()
    paths = [tmp_path / f"{number}.dcm" for number in (1, 2, 3)]
    for number, path in enumerate(paths, start=1):
        write_dicom(written, path, uid_seed="x", style=FileStyle(part=(number, 3)))
        assert complaints(path) == []
    assert np.array_equal(read_volume(paths[::-1]).voxels, written.voxels)


def test_a_nerve_head_has_no_pigment_epithelium_and_maculae_have():
    disc = draw_phantom(Phantom(device="cirrus_disc_oct", scale=0.25), 1).voxels
    macula = draw_phantom(Phantom(device="cirrus_mac_oct", scale=0.25), 1).voxels
    middle, columns = len(disc) // 2, disc.shape[2]
    at = slice(columns // 2 - 2, columns // 2 + 3)
    depth = [np.arange(len(b)) @ b / b.sum() for b in (disc[middle, :, at].mean(1),)]
    edge = disc[middle, :, :4].mean(1)
    assert depth[0] > np.arange(len(edge)) @ edge / edge.sum()  # the cup lies deeper
    assert macula.shape[1] == disc.shape[1]


def test_left_eyes_are_mirrored_in_radial_scans_too():
    right, left = (Phantom(device=ONH, laterality=side).grid for side in "RL")
    assert right.nasal_mm.shape == (27, 768)
    np.testing.assert_allclose(np.sort(right.nasal_mm[0]), np.sort(left.nasal_mm[0]), atol=1e-5)
    assert right.nasal_mm[0, 0] < right.nasal_mm[0, -1]
    assert left.nasal_mm[0, 0] > left.nasal_mm[0, -1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Phantom(scale=0), r"phantom\.scale \(0\) must lie above 0"),
        (lambda: Phantom(bits=12), r"phantom\.bits \(12\) must be 8 or 16"),
        (lambda: Phantom(device="oct9000"), "must be one of phantom_a"),
        (lambda: FileStyle(codec="gif"), r"codec \('gif'\) must be one of native"),
        (lambda: FileStyle(table="big"), r"file_style\.table \('big'\)"),
        (lambda: FileStyle(part=(3, 2)), r"file_style\.part \(3, 2\)"),
        (lambda: FileStyle(frame_order=(0, 0)).frames_of(2), "each of 2 B-scans once"),
    ],
)
def test_a_bad_setting_is_named_with_its_value_and_rule(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_every_scanner_is_of_a_known_protocol():
    assert set(SCANNERS) == {one.token for one in PROTOCOLS}
    assert replace(SCANNERS["cirrus_mac_oct"]).name == "zeiss_cirrus"
