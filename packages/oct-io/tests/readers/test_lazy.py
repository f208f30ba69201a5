"""Opening a scan reads its header; loading decodes what was asked for."""

import numpy as np
import pydicom
import pytest
from oct_io import ScanError, open_volume, read_volume
from oct_io.dicom import pixels


def test_opening_fetches_the_head_and_loading_the_file(scan_file, draw, bucket):
    content = scan_file(volume=draw(shape=(8, 300, 400))).read_bytes()
    bucket.pipe_file("/b/scan.dcm", content)
    bucket.requests.clear()
    lazy = open_volume("counting://b/scan.dcm")
    assert bucket.requests == [256 << 10]
    assert lazy.shape == (8, 300, 400)
    assert lazy.spacing == pytest.approx((0.25, 0.004, 0.05), abs=1e-6)
    assert (lazy.laterality, lazy.device, lazy.pattern) == ("L", "topcon_triton", "raster")
    assert (lazy.spacing_source, lazy.spacing_confidence) == ("frame_positions", "high")
    assert "4007" not in repr(lazy)
    volume = lazy.load()
    assert bucket.requests == [256 << 10, len(content)]
    assert np.array_equal(volume.voxels, draw(shape=(8, 300, 400)).voxels)


@pytest.mark.parametrize("codec", ["", "jpeg2000", "jpegls", "ljpeg"])
@pytest.mark.parametrize("table", ["basic", "empty", "extended"])
def test_some_frames_are_those_of_the_whole_volume(scan_file, draw, codec, table):
    order = np.random.default_rng(3).permutation(8)

    def shuffle(dataset):
        if not codec:
            dataset.PixelData = dataset.pixel_array[order].tobytes()
            frames = list(dataset.PerFrameFunctionalGroupsSequence)
            dataset.PerFrameFunctionalGroupsSequence = [frames[i] for i in order]

    path = scan_file(codec=codec, table=table, edit=shuffle)
    part = open_volume(path).load(frames=[1, 3, 5])
    assert np.array_equal(part.voxels, draw().voxels[[1, 3, 5]])
    assert part.spacing.bscan == pytest.approx(0.5)
    assert part.pattern == "raster"


def test_only_the_chosen_frames_are_decoded(scan_file, monkeypatch):
    decoded = []
    plain = pixels.find_decoder

    def spy(header):
        decode = plain(header)
        return lambda frame: decoded.append(1) or decode(frame)

    monkeypatch.setattr(pixels, "find_decoder", spy)
    open_volume(scan_file(codec="jpeg2000", table="empty")).load(frames=[2, 3])
    assert len(decoded) == 2


def test_uneven_frames_are_no_raster_and_one_is_a_line(scan_file):
    lazy = open_volume(scan_file())
    uneven, one = lazy.load(frames=[0, 1, 5]), lazy.load(frames=[4])
    assert (uneven.pattern, one.pattern) == ("unknown", "line")
    assert np.isnan([uneven.spacing.bscan, one.spacing.bscan]).all()


@pytest.mark.parametrize("frames", [[], [3, 3], [5, 2], [-1, 2], [7, 8]])
def test_frames_that_do_not_rise_within_the_scan_are_refused(scan_file, frames):
    with pytest.raises(ValueError, match="increase within 0 to 7"):
        open_volume(scan_file()).load(frames=frames)


def test_a_radial_scan_is_described_and_not_loaded_unless_admitted(scan_file):
    path = scan_file("1001_spectralis_onh_rc_hr_oct_l_1.2.3.dcm")
    lazy = open_volume(path)
    assert lazy.pattern == "radial"
    with pytest.raises(ScanError, match="radial") as caught:
        lazy.load()
    assert caught.value.stage == "geometry"
    admitted = open_volume(path, patterns=("radial",)).load()
    assert (admitted.pattern, admitted.spacing_source) == ("radial", "none")


def test_a_file_without_an_ending_is_opened_as_dicom(scan_file, draw):
    path = scan_file("scan")
    assert open_volume(path).shape == draw().voxels.shape


def test_formats_without_a_header_of_their_own_are_loaded_in_parts_as_well(tmp_path, draw):
    voxels = draw().voxels
    np.save(tmp_path / "a.npy", voxels)
    np.savez(tmp_path / "b.npz", voxels=voxels)
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_text('{"spacing_mm": [0.25, 0.004, 0.05]}')
    for name in ("a.npy", "b.npz"):
        lazy = open_volume(tmp_path / name)
        assert lazy.shape == voxels.shape
        part = lazy.load(frames=[0, 2, 4])
        assert np.array_equal(part.voxels, voxels[[0, 2, 4]])
        assert (part.spacing.bscan, part.spacing_source) == (0.5, "given")
        assert np.array_equal(lazy.load().voxels, read_volume(tmp_path / name).voxels)


def test_opening_tells_apart_a_file_that_ends_before_its_pixels(scan_file):
    def drop(dataset):
        del dataset.PixelData

    with pytest.raises(ScanError, match="no PixelData"):
        open_volume(scan_file(edit=drop))
    assert pydicom.dcmread(scan_file()).NumberOfFrames == 8
