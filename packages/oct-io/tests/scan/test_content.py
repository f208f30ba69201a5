"""Damage that decoders take without complaint: lost blocks, zeroed codestreams, frames apart."""

from io import BytesIO

import numpy as np
import pytest
from oct_io import ScanError, Spacing, read_volume
from oct_io.dicom.codestream import LONG_ZEROS, frame_size, zero_run
from oct_io.dicom.layout import FileStyle
from oct_io.dicom.writer import write_dicom
from oct_io.phantom import DEVICES, Phantom, draw_phantom
from oct_io.phantom.scanners import SCANNERS
from oct_io.scan.content import check_gaps, check_outliers
from oct_io.volume import OctVolume

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
def test_zeros_within_a_codestream_are_found(tmp_path, volume, codec):
    path = written(tmp_path, volume, codec)
    assert read_volume(path).voxels.shape == volume.voxels.shape
    path.write_bytes(zeroed(path.read_bytes(), 4, 600 if codec != "jpeg" else 900))
    with pytest.raises(ScanError) as caught:
        read_volume(path)
    assert caught.value.stage in ("decode", "content")


def test_a_black_area_of_lossless_jpeg_is_no_loss(tmp_path, volume):
    voxels = volume.voxels.copy()
    voxels[3, 20:90] = 0  # codes of a flat area are zeros as well
    black = OctVolume(voxels, Spacing(0.5, 0.008, 0.06), "given", region="Macula")
    for codec in COMPRESSED[:-1]:
        path = written(tmp_path, black, codec)
        assert np.array_equal(read_volume(path).voxels, voxels), codec


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
        try:
            check_gaps(bytes(content), 0, np.frombuffer(content, dtype).reshape(voxels.shape), "x")
        except ScanError as error:
            found += error.stage == "content"
    assert found >= 38  # the others begin and end within a few voxels of a row's end


def test_masked_rows_columns_and_frames_are_no_loss():
    rng = np.random.default_rng(0)
    voxels = rng.integers(1, 200, (6, 100, 600), dtype=np.uint8)
    voxels[:, :20] = 0
    voxels[2] = 0
    voxels[:, :, :200] = 0
    voxels[:, :, 500:] = 0
    voxels[4, 60:] = 0
    check_gaps(voxels.tobytes(), 0, voxels, "x")


def test_black_speckle_is_no_loss():
    rng = np.random.default_rng(0)
    voxels = rng.integers(1, 200, (6, 100, 300), dtype=np.uint8)
    voxels[rng.random(voxels.shape) < 0.6] = 0
    check_gaps(voxels.tobytes(), 0, voxels, "x")


def test_a_frame_unlike_its_neighbours_is_found_and_a_blink_is_not(volume):
    order = range(len(volume.voxels))
    check_outliers(volume.voxels, order, "x")
    blink = volume.voxels.copy()
    blink[5] = np.random.default_rng(0).integers(0, 12, blink[5].shape)
    check_outliers(blink, order, "x")
    broken = volume.voxels.copy()
    broken[5, 40:] = np.roll(broken[5, 40:], 37, axis=0)[::-1]
    with pytest.raises(ScanError, match="frame 6 is unlike its neighbours") as caught:
        check_outliers(broken, order, "x")
    assert caught.value.stage == "content"


@pytest.mark.parametrize("token", [*(name for name in SCANNERS if "onh" not in name), *DEVICES])
def test_no_sound_phantom_is_taken_for_a_damaged_one(token):
    spec = {"scale": 0.1} if token in SCANNERS else {}
    for seed in range(3):
        drawn = draw_phantom(Phantom(device=token, fluid=True, drusen=True, **spec), seed)
        check_outliers(drawn.voxels, range(len(drawn.voxels)), "x")
        check_gaps(drawn.voxels.tobytes(), 0, drawn.voxels, "x")


def test_real_scans_are_not_taken_for_damaged_ones(samples):
    with np.load(samples / "spectralis_medvisbonn/volume_145x496x512_u8.npz") as file:
        voxels = file["volume"]
    for step in (1, 4, 12):
        check_outliers(voxels[::step], range(len(voxels[::step])), "x")
    check_gaps(voxels.tobytes(), 0, voxels, "x")


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
