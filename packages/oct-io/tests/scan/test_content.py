"""Damage that decoders take without complaint: lost blocks and zeroed codestreams."""

from io import BytesIO

import numpy as np
import pytest
from oct_io import ScanError, Spacing, read_volume
from oct_io.dicom.codestream import LONG_ZEROS, frame_size, zero_run
from oct_io.dicom.layout import FileStyle
from oct_io.dicom.writer import write_dicom
from oct_io.phantom import Phantom, draw_phantom
from oct_io.scan.content import has_gap
from oct_io.scan.flags import find_flags
from oct_io.volume import OctVolume

NOTICING = ("rle", "jpegls", "htj2k")  # decoders that refuse what is below
COMPRESSED = ("rle", "jpeg2000", "jpegls", "ljpeg", "htj2k", "jpeg")


@pytest.fixture(scope="module")
def volume():
    return draw_phantom(Phantom(shape=(10, 120, 96)), 1)


def written(tmp_path, volume, codec):
    path = tmp_path / "scan.dcm"
    write_dicom(volume, path, uid_seed="x", style=FileStyle(codec=codec))
    return path


def zeroed(content, frame, size):
    """The file with zeros in the middle of one of its frames."""
    from pydicom import dcmread
    from pydicom.encaps import generate_frames

    data = dcmread(BytesIO(content))
    count = int(data.NumberOfFrames)
    stream = list(generate_frames(data.PixelData, number_of_frames=count))[frame]
    at = content.index(stream) + len(stream) // 2 - size // 3
    return content[:at] + bytes(size) + content[at + size :]


@pytest.mark.parametrize("codec", COMPRESSED)
def test_zeros_within_a_codestream_are_flagged_or_cannot_be_decoded(tmp_path, volume, codec, capfd):
    path = written(tmp_path, volume, codec)
    assert read_volume(path).lost_bytes == ""
    path.write_bytes(zeroed(path.read_bytes(), 4, 600 if codec != "jpeg" else 900))
    if codec in NOTICING:
        with pytest.raises(ScanError) as caught:
            read_volume(path)
        assert caught.value.stage == "decode"
    else:
        spoiled = read_volume(path)
        assert "zero bytes within its codestream" in spoiled.lost_bytes
        assert "lost_bytes" in find_flags(spoiled).names
    assert capfd.readouterr() == ("", "")


def test_a_black_area_of_lossless_jpeg_is_no_loss(tmp_path, volume):
    voxels = volume.voxels.copy()
    voxels[3, 20:90] = 0  # codes of a flat area are zeros as well
    black = OctVolume(voxels, Spacing(0.5, 0.008, 0.06), "given", region="Macula")
    for codec in COMPRESSED[:-1]:
        path = written(tmp_path, black, codec)
        again = read_volume(path)
        assert np.array_equal(again.voxels, voxels), codec
        assert again.lost_bytes == "", codec


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("size", [2048, 4096])
def test_a_block_lost_from_uncompressed_voxels_is_found(dtype, size):
    rng = np.random.default_rng(0)
    voxels = rng.integers(1, 200, (6, 100, 90), dtype=dtype)
    found = 0
    for _ in range(40):
        at = int(rng.integers(voxels.nbytes - size))
        content = bytearray(voxels.tobytes())
        content[at : at + size] = bytes(size)
        found += has_gap(np.frombuffer(content, dtype).reshape(voxels.shape))
    assert found >= 36  # the others begin and end within a few voxels of a row's end


def test_masked_rows_columns_and_frames_are_no_loss():
    rng = np.random.default_rng(0)
    voxels = rng.integers(1, 200, (6, 100, 600), dtype=np.uint8)
    voxels[:, :20] = 0
    voxels[2] = 0
    voxels[:, :, :200] = 0
    voxels[:, :, 500:] = 0
    voxels[4, 60:] = 0
    assert not has_gap(voxels)


def test_margins_that_slant_are_no_loss():
    rng = np.random.default_rng(0)
    voxels = rng.integers(1, 200, (6, 100, 600), dtype=np.uint8)
    for column in range(600):
        voxels[:, 80 + column // 60 :, column] = 0
    assert not has_gap(voxels)


def test_black_speckle_is_no_loss():
    rng = np.random.default_rng(0)
    voxels = rng.integers(1, 200, (6, 100, 300), dtype=np.uint8)
    voxels[rng.random(voxels.shape) < 0.6] = 0
    assert not has_gap(voxels)


def test_a_codestream_that_would_make_a_decoder_loop_or_swell_is_no_image():
    from imagecodecs import jpeg2k_encode

    frame = np.arange(768, dtype=np.uint8).reshape(32, 24)
    sound = bytes(jpeg2k_encode(frame, reversible=True, codecformat="j2k"))
    assert frame_size(sound) == (32, 24, 1, 8)
    no_tile = sound[:28] + bytes(4) + sound[32:]
    many_tiles = sound[:8] + (70000).to_bytes(4, "big") * 2 + sound[16:24]
    many_tiles += (1).to_bytes(4, "big") * 2 + sound[32:]
    assert frame_size(no_tile) is None
    assert frame_size(many_tiles) is None
    many_channels = sound[:40] + (16384).to_bytes(2, "big") + sound[42:]
    assert frame_size(many_channels).components == 16384


def test_padding_behind_a_frame_is_no_gap():
    assert zero_run(b"\xff\x4f" + bytes(range(1, 200)) + b"\xff\xd9" + bytes(100)) == 0
    assert zero_run(b"ab" + bytes(LONG_ZEROS) + b"cd" + bytes(100)) == LONG_ZEROS
    assert zero_run(b"ab" + bytes(LONG_ZEROS - 1) + b"cd") == 0
