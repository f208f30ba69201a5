"""Every transfer syntax of an Ophthalmic Tomography file, and volumes in several files."""

import struct
import sys
import warnings
import zlib
from dataclasses import replace

import highdicom
import imagecodecs
import numpy as np
import pydicom
import pytest
import SimpleITK
from oct_io import ScanError, Spacing, open_volume, read_header, read_volume
from oct_io.dicom import pixels
from oct_io.dicom.layout import FileStyle
from oct_io.dicom.pixels import HTJ2K
from oct_io.dicom.writer import write_dicom

PIXELS = b"\xe0\x7f\x10\x00"
LOSSLESS = {
    "1.2.840.10008.1.2.4.57": lambda a: imagecodecs.ljpeg_encode(a),
    "1.2.840.10008.1.2.4.70": lambda a: imagecodecs.ljpeg_encode(a),
    "1.2.840.10008.1.2.4.80": imagecodecs.jpegls_encode,
    "1.2.840.10008.1.2.4.90": lambda a: imagecodecs.jpeg2k_encode(a, reversible=True),
    "1.2.840.10008.1.2.4.91": lambda a: imagecodecs.jpeg2k_encode(a, reversible=True),
}
LOSSY = {
    "1.2.840.10008.1.2.4.50": lambda a: imagecodecs.jpeg8_encode(a, level=95),
    "1.2.840.10008.1.2.4.81": lambda a: imagecodecs.jpegls_encode(a, level=2),
    "1.2.840.10008.1.2.4.91": lambda a: imagecodecs.jpeg2k_encode(a, level=45),
}


def relabel(path, syntax, target):
    """Rewrite the native file at `path` in another uncompressed syntax."""
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = syntax
    if syntax == pydicom.uid.ExplicitVRBigEndian:
        dataset.PixelData = dataset.pixel_array.astype(">u2").tobytes()
        dataset["PixelData"].VR = "OW"
        pydicom.dcmwrite(
            target, dataset, little_endian=False, implicit_vr=False, force_encoding=True
        )
    else:
        dataset.save_as(target, enforce_file_format=True)
    return target


@pytest.mark.parametrize("table", ["basic", "empty", "extended"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("uid", sorted(LOSSLESS))
def test_a_lossless_syntax_gives_the_voxels_that_were_written(scan_file, draw, uid, dtype, table):
    written = draw(dtype=dtype)
    path = scan_file(volume=written, codec=(uid, LOSSLESS[uid]), table=table)
    volume = read_volume(path)
    assert volume.voxels.dtype == dtype
    assert np.array_equal(volume.voxels, written.voxels)
    assert volume.spacing == pytest.approx(written.spacing, abs=1e-6)


@pytest.mark.parametrize("uid", sorted(LOSSY))
def test_a_lossy_syntax_gives_nearly_the_voxels_that_were_written(scan_file, draw, uid):
    written = draw()
    volume = read_volume(scan_file(codec=(uid, LOSSY[uid])))
    away = volume.voxels.astype(int) - written.voxels
    assert 0 < np.abs(away).max() <= 40
    assert np.abs(away).mean() < 4


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    "syntax",
    [pydicom.uid.ImplicitVRLittleEndian, pydicom.uid.DeflatedExplicitVRLittleEndian],
    ids=["implicit", "deflated"],
)
def test_implicit_and_deflated_files_are_read(scan_file, draw, syntax, dtype):
    path = relabel(scan_file(volume=draw(dtype=dtype)), syntax, scan_file("other.dcm"))
    assert np.array_equal(read_volume(path).voxels, draw(dtype=dtype).voxels)
    assert open_volume(path).shape == (8, 48, 40)


@pytest.mark.parametrize("uid", HTJ2K)
def test_high_throughput_jpeg_2000_is_read_where_a_decoder_is_installed(scan_file, draw, uid):
    path = scan_file(codec=(uid, imagecodecs.htj2k_encode))
    assert np.array_equal(read_volume(path).voxels, draw().voxels)


def test_a_damaged_high_throughput_codestream_prints_nothing(scan_file, draw, monkeypatch):
    path = scan_file(codec=(HTJ2K[0], imagecodecs.htj2k_encode))
    decode = pixels.find_decoder(read_header(path))
    frame = imagecodecs.htj2k_encode(draw().voxels[0])
    printed, refused = [], 0
    monkeypatch.setattr(sys, "unraisablehook", printed.append)
    for lost in range(60, len(frame) - 40, 40):
        damaged = frame[:lost] + bytes(40) + frame[lost + 40 :]
        for spoilt in (damaged, frame[:lost]):
            try:
                decode(spoilt)
            except (ValueError, imagecodecs.Htj2kError):
                refused += 1
    assert printed == []
    assert refused > 10
    assert sys.unraisablehook == printed.append


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_run_length_segments_that_lie_outside_of_their_frame_are_refused(tmp_path, draw, dtype):
    volume, path = draw(dtype=dtype), tmp_path / "rle.dcm"
    write_dicom(volume, path, uid_seed="rle", style=FileStyle(codec="rle"))
    assert np.array_equal(read_volume(path).voxels, volume.voxels)
    content = path.read_bytes()
    at = content.index(struct.pack("<II", np.dtype(dtype).itemsize, 64), content.index(PIXELS))
    for place in (0, 4, 8):  # how many there are, and where the first two start
        for lie in (0, 1, 3, 60, 5000, 264582764, 2**32 - 1):
            spoilt = content[: at + place] + struct.pack("<I", lie) + content[at + place + 4 :]
            path.write_bytes(spoilt)
            if spoilt == content or (place == 8 and dtype == np.uint8):
                assert np.array_equal(read_volume(path).voxels, volume.voxels)
                continue
            with pytest.raises(ScanError) as caught:
                read_volume(path)
            assert caught.value.stage == "decode"


def test_without_a_decoder_high_throughput_jpeg_2000_says_what_to_install(scan_file, monkeypatch):
    path = scan_file(codec=(HTJ2K[0], imagecodecs.htj2k_encode))
    monkeypatch.setattr(pixels, "find_decoder", lambda header: None)
    with pytest.raises(ScanError, match=r"decode: .*install"):
        read_volume(path)


def deflate(path, body):
    """Put `body` in the place of the deflated part of the file at `path`."""
    content = path.read_bytes()
    length = int.from_bytes(content[140:144], "little")
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    path.write_bytes(content[: 144 + length] + packer.compress(body) + packer.flush())


def test_a_deflated_file_unpacks_to_no_more_than_its_header_promises(scan_file):
    path = scan_file()
    plain = path.read_bytes()
    start = 144 + int.from_bytes(plain[140:144], "little")
    relabel(path, pydicom.uid.DeflatedExplicitVRLittleEndian, path)
    deflate(path, plain[start:] + bytes(100 << 20))
    with pytest.raises(ScanError, match="unpacks to more than its header promises"):
        read_volume(path)
    deflate(path, bytes(100 << 20))
    with pytest.raises(ScanError) as caught:
        read_volume(path)
    assert caught.value.stage == "parse"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ScanError):
        read_volume(path)


@pytest.fixture(params=["shared", "per frame"])
def pieces(request, tmp_path, draw):
    """One volume written whole, and the same in three files whose numbers run backwards."""
    volume = draw()
    shared = request.param == "shared"
    whole = tmp_path / "whole.dcm"
    write_dicom(volume, whole, uid_seed="whole", shared_groups=shared)
    dataset = pydicom.dcmread(whole)
    paths = []
    for number, frames in enumerate(([0, 1, 2], [3, 4, 5, 6], [7])):
        part = pydicom.dcmread(whole)
        part.SOPInstanceUID = part.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
        part.InstanceNumber = 3 - number
        part.NumberOfFrames = len(frames)
        part.PixelData = dataset.pixel_array[frames].tobytes()
        groups = dataset.PerFrameFunctionalGroupsSequence
        part.PerFrameFunctionalGroupsSequence = [groups[i] for i in frames]
        path = tmp_path / "series" / f"{number}.dcm"
        path.parent.mkdir(exist_ok=True)
        part.save_as(path, enforce_file_format=True)
        paths.append(path)
    return volume, paths


def test_a_volume_in_several_files_is_one_volume_in_any_order(pieces):
    volume, paths = pieces
    for chosen in (paths, paths[::-1], [paths[1], paths[2], paths[0]]):
        found = read_volume(chosen)
        assert np.array_equal(found.voxels, volume.voxels)
        assert found.spacing == pytest.approx(volume.spacing, abs=1e-6)
        assert found.spacing_source == "frame_positions"


def test_a_folder_of_the_instances_of_one_series_is_a_volume(pieces):
    volume, paths = pieces
    assert np.array_equal(read_volume(paths[0].parent).voxels, volume.voxels)
    assert open_volume(paths[0].parent).shape == volume.voxels.shape


def test_a_missing_piece_is_seen_by_its_gap(pieces):
    _, paths = pieces
    with pytest.raises(ScanError, match="unevenly"):
        read_volume([paths[0], paths[2]])


def test_a_mixture_of_series_is_refused(pieces, scan_file):
    _, paths = pieces
    with pytest.raises(ScanError, match="the 4 files are of 2 series") as caught:
        read_volume([*paths, scan_file("stranger.dcm")])
    assert caught.value.stage == "parse"
    with pytest.raises(ScanError, match="twice"):
        read_volume([*paths, paths[0]])
    with pytest.raises(ScanError, match="no files"):
        read_volume([])


def scan_in(scan_file, uid, groups):
    """A scan in one syntax, with the geometry said once or for each frame."""
    return scan_file(
        codec="" if uid == "native" else (uid, LOSSLESS[uid]),
        shared_groups=groups == "shared",
    )


@pytest.mark.parametrize("groups", ["shared", "per frame"])
@pytest.mark.parametrize("uid", ["native", *sorted(LOSSLESS)])
def test_highdicom_finds_the_same_voxels_and_spacing_in_every_syntax(scan_file, uid, groups):
    path = scan_in(scan_file, uid, groups)
    volume = read_volume(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the oracle
        other = highdicom.imread(path).get_volume()
    # highdicom puts slices from inferior to superior, oct_io from superior to inferior
    assert tuple(other.spacing) == pytest.approx(volume.spacing, abs=1e-6)
    array = np.asarray(other.array)
    assert np.array_equal(array, volume.voxels) or np.array_equal(array[::-1], volume.voxels)


@pytest.mark.parametrize("groups", ["shared", "per frame"])
@pytest.mark.parametrize("uid", ["native", *sorted(LOSSLESS)])
def test_simpleitk_finds_the_same_voxels_and_spacing_in_every_syntax(scan_file, uid, groups):
    path = scan_in(scan_file, uid, groups)
    volume = read_volume(path)
    image = SimpleITK.ReadImage(str(path))
    column, row, bscan = image.GetSpacing()
    assert (bscan, row, column) == pytest.approx(volume.spacing, abs=1e-6)
    assert np.array_equal(SimpleITK.GetArrayFromImage(image), volume.voxels)


def test_what_the_caller_says_of_spacing_stands_above_the_file(scan_file):
    given = Spacing(0.2, 0.003, 0.01)
    volume = read_volume(scan_file(), spacing=given)
    assert (volume.spacing, volume.spacing_source) == (given, "given")
    assert volume.spacing_confidence == "high"

    def strip(dataset):
        del dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence

    assert read_volume(scan_file("bare.dcm", edit=strip), spacing=given).spacing == given


def test_patterns_are_admitted_by_name_and_have_no_distance_between_bscans(scan_file, draw):
    one = draw()
    path = scan_file(volume=replace(one, voxels=one.voxels[:1]))
    with pytest.raises(ScanError, match=r"line scan.*patterns=\('line',\)"):
        read_volume(path)
    line = read_volume(path, patterns=("raster", "line"))
    assert (line.pattern, line.spacing_source) == ("line", "none")
    assert np.isnan(line.spacing.bscan)
    assert line.spacing.row == pytest.approx(0.004)
    with pytest.raises(TypeError, match="sequence"):
        read_volume(path, patterns="line")
