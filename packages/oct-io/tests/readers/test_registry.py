import warnings
from contextlib import suppress
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK
from oct_io import ScanError, read_header, read_volume

SECRET = "Secret"


def refusal(path):
    """The error of reading `path`, which must be one line that names nobody."""
    with pytest.raises(ScanError) as caught:
        read_volume(path)
    text = str(caught.value)
    assert SECRET not in text
    assert "4007" not in text.replace(str(path), "")
    assert "\n" not in text
    assert str(path) in text
    return caught.value


@pytest.mark.parametrize("table", ["basic", "empty", "extended"])
@pytest.mark.parametrize("codec", ["jpeg2000", "jpegls", "ljpeg"])
def test_lossless_codecs_give_the_voxels_that_were_written(scan_file, draw, codec, table):
    volume = read_volume(scan_file(codec=codec, table=table))
    assert np.array_equal(volume.voxels, draw().voxels)


def test_run_length_encoding_is_read(scan_file, draw):
    rle = pydicom.uid.RLELossless
    path = scan_file(edit=lambda dataset: dataset.compress(rle, generate_instance_uid=False))
    assert np.array_equal(read_volume(path).voxels, draw().voxels)


def test_the_one_decoder_we_require_reads_all_lossless_codecs(scan_file, draw):
    """Other packages of a test environment bring decoders of their own; users may have none."""
    for codec in ("jpeg2000", "jpegls", "ljpeg"):
        for dtype in (np.uint8, np.uint16):
            dataset = pydicom.dcmread(scan_file(volume=draw(dtype=dtype), codec=codec))
            dataset.pixel_array_options(decoding_plugin="gdcm")
            assert np.array_equal(dataset.pixel_array, draw(dtype=dtype).voxels)


def test_a_codec_that_nothing_decodes_is_named(scan_file):
    def mislabel(dataset):
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.MPEG2MPML

    error = refusal(scan_file(codec="jpeg2000", edit=mislabel))
    assert error.stage == "decode"
    assert "MPEG2" in error.reason


@pytest.mark.parametrize("codec", ["", "jpeg2000", "jpegls", "ljpeg"])
def test_sixteen_bits_stay_sixteen_bits(scan_file, draw, codec):
    written = draw(dtype=np.uint16)
    volume = read_volume(scan_file(volume=written, codec=codec))
    assert volume.voxels.dtype == np.uint16
    assert np.array_equal(volume.voxels, written.voxels)


def test_what_was_written_is_read_back(scan_file, draw):
    written, volume = draw(), read_volume(scan_file())
    assert np.array_equal(volume.voxels, written.voxels)
    assert volume.spacing == pytest.approx(written.spacing, abs=1e-6)
    assert volume.spacing_source == "frame_positions"
    for name in ("laterality", "device", "protocol", "region", "participant_id", "pattern"):
        assert getattr(volume, name) == getattr(written, name)


def test_real_scans_are_equal_in_all_syntaxes(samples):
    files = sorted((samples / "derived_opt_dicom").glob("*.dcm"))
    assert len(files) == 6
    with np.load(samples / "spectralis_medvisbonn/volume_145x496x512_u8.npz") as file:
        wanted = file["volume"][64:80]
    for file in files:
        volume = read_volume(file)
        assert np.array_equal(volume.voxels, wanted), file.name
        assert volume.spacing == pytest.approx((0.030, 0.003872, 0.011182), abs=1e-6)
        assert (volume.device, volume.laterality) == ("heidelberg_spectralis", "R")


def test_other_dicom_classes_are_refused_by_name(samples):
    names = {
        "dcmjs_sample-op_real_ophthalmic_jpeg_lossless.dcm": "Ophthalmic Photography 8 Bit Image",
        "emri_small_jpeg_2k_lossless_too_short.dcm": "Enhanced MR Image Storage",
        "emri_small_big_endian.dcm": "Enhanced MR Image Storage",
        "sm_image_jpegls.dcm": "VL Whole Slide Microscopy Image Storage",
    }
    for name, kind in names.items():
        error = refusal(samples / "dicom_misc" / name)
        assert (error.stage, kind in error.reason) == ("parse", True)


def test_two_other_readers_agree_on_geometry_and_voxels(samples):
    path = samples / "derived_opt_dicom/spectralis_16f_explicit_le.dcm"
    volume = read_volume(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the oracles
        other = highdicom.imread(path).get_volume()
        image = SimpleITK.ReadImage(str(path))
    assert sorted(other.spacing) == pytest.approx(sorted(volume.spacing), abs=1e-6)
    array = np.asarray(other.array)
    assert np.array_equal(array, volume.voxels) or np.array_equal(array[::-1], volume.voxels)
    column, row, bscan = image.GetSpacing()
    assert (bscan, row, column) == pytest.approx(volume.spacing, abs=1e-6)
    assert np.array_equal(SimpleITK.GetArrayFromImage(image), volume.voxels)


def test_frames_come_sorted_from_superior_to_inferior_whatever_their_order_in_the_file(
    scan_file, draw
):
    order = np.random.default_rng(3).permutation(8)

    def shuffle(dataset):
        dataset.PixelData = dataset.pixel_array[order].tobytes()
        frames = list(dataset.PerFrameFunctionalGroupsSequence)
        dataset.PerFrameFunctionalGroupsSequence = [frames[i] for i in order]

    assert np.array_equal(read_volume(scan_file(edit=shuffle)).voxels, draw().voxels)


def test_a_scan_in_a_bucket_is_read_in_one_request(scan_file, bucket):
    content = scan_file(codec="jpeg2000", table="empty").read_bytes()
    bucket.pipe_file("/b/scan.dcm", content)
    bucket.requests.clear()
    read_volume("counting://b/scan.dcm")
    assert bucket.requests == [len(content)]


def test_a_header_is_read_without_the_pixels(scan_file, draw, bucket):
    path = scan_file(volume=draw(shape=(8, 300, 400)))
    bucket.pipe_file("/b/scan.dcm", path.read_bytes())
    bucket.requests.clear()
    header = read_header("counting://b/scan.dcm")
    assert bucket.requests == [256 << 10]
    assert header.shape == (8, 300, 400)
    assert header.spacing == pytest.approx((0.25, 0.004, 0.05), abs=1e-6)
    assert "4007" not in repr(header)


def test_a_long_header_is_fetched_in_growing_steps(scan_file, draw, bucket):
    path = scan_file(volume=draw(shape=(1200, 16, 16)))
    content = path.read_bytes()
    bucket.pipe_file("/b/scan.dcm", content)
    bucket.requests.clear()
    assert read_header("counting://b/scan.dcm").shape == (1200, 16, 16)
    assert bucket.requests[0] == 256 << 10
    assert len(bucket.requests) == 2


def test_unknown_suffix_names_the_formats_we_read(tmp_path):
    path = tmp_path / "scan.mnc"
    path.write_bytes(b"ObjectType = Image" + bytes(500))
    error = refusal(path)
    assert error.stage == "parse"
    assert ".mnc" in error.reason
    assert "DICOM (.dcm)" in error.reason


def test_dicom_under_another_name_is_still_dicom(scan_file, draw):
    assert read_volume(scan_file("scan")).voxels.shape == draw().voxels.shape


def test_a_missing_file_fails_at_fetch(tmp_path):
    assert refusal(tmp_path / "none.dcm").stage == "fetch"
    assert refusal("nosuchscheme://b/none.dcm").stage == "fetch"


def test_an_empty_file_and_a_text_file_fail_at_parse(tmp_path):
    for content, word in ((b"", "empty"), (b"not a scan" * 100, "DICM")):
        path = tmp_path / "scan.dcm"
        path.write_bytes(content)
        error = refusal(path)
        assert (error.stage, word in error.reason) == ("parse", True)


def test_signed_urls_do_not_show_their_tokens():
    with pytest.raises(ScanError) as caught:
        read_volume("nosuchscheme://me:password@host/scan.dcm?sig=token")
    assert "password" not in str(caught.value)
    assert "token" not in str(caught.value)


@pytest.mark.parametrize("codec", ["", "jpeg2000", "jpegls", "ljpeg"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95, 0.999])
def test_a_file_that_was_cut_off_fails_at_decode(scan_file, codec, kept):
    path = scan_file(codec=codec)
    content = path.read_bytes()
    start = content.index(b"\xe0\x7f\x10\x00")
    path.write_bytes(content[: start + int((len(content) - start) * kept)])
    assert refusal(path).stage == "decode"


def test_a_file_cut_off_in_its_header_fails_at_parse_or_for_lack_of_pixels(scan_file):
    path = scan_file()
    content = path.read_bytes()
    start = content.index(b"\xe0\x7f\x10\x00")
    for at in range(140, start, max(1, start // 60)):
        path.write_bytes(content[:at])
        assert refusal(path).stage in ("parse", "geometry", "decode")


@pytest.mark.parametrize("codec", ["", "jpeg2000"])
def test_missing_pixel_data_is_named(scan_file, codec):
    def drop(dataset):
        del dataset.PixelData

    error = refusal(scan_file(codec=codec, edit=drop))
    assert (error.stage, "no PixelData" in error.reason) == ("decode", True)


@pytest.mark.parametrize("codec", ["", "jpeg2000"])
@pytest.mark.parametrize("claimed", [7, 9])
def test_a_wrong_number_of_frames_is_found_before_decoding(scan_file, codec, claimed):
    def lie(dataset):
        dataset.NumberOfFrames = claimed
        frames = list(dataset.PerFrameFunctionalGroupsSequence)
        dataset.PerFrameFunctionalGroupsSequence = (frames * 2)[:claimed]
        for number, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
            frame.PlanePositionSequence = []
            frame.OphthalmicFrameLocationSequence = []
            frame.FrameContentSequence[0].InStackPositionNumber = number + 1

    error = refusal(scan_file(codec=codec, edit=lie))
    assert (error.stage, f"{claimed} frames" in error.reason) == ("decode", True)


def test_frames_that_are_not_described_fail_at_parse(scan_file):
    def lie(dataset):
        dataset.NumberOfFrames = 80

    error = refusal(scan_file(edit=lie))
    assert (error.stage, "80" in error.reason) == ("parse", True)


def test_a_header_that_claims_gigabytes_is_refused_before_allocation(scan_file):
    def boast(dataset):
        dataset.Rows = dataset.Columns = 60000

    error = refusal(scan_file(edit=boast))
    assert (error.stage, "claims" in error.reason) == ("decode", True)


def test_a_frame_of_another_size_than_the_header_says_is_refused(scan_file):
    def swap(dataset):
        dataset.Rows, dataset.Columns = dataset.Columns, dataset.Rows

    for codec in ("jpeg2000", "jpegls", "ljpeg"):
        error = refusal(scan_file(codec=codec, edit=swap))
        assert (error.stage, "48 x 40" in error.reason) == ("decode", True)


def test_flat_frames_are_no_image(scan_file, draw):
    volume = draw()
    volume.voxels[:] = np.arange(8, dtype=np.uint8)[:, None, None]
    error = refusal(scan_file(volume=volume))
    assert error.stage == "content"


def test_one_dark_frame_is_a_blink_and_no_reason_to_refuse(scan_file, draw):
    volume = draw()
    volume.voxels[3] = 0
    assert not read_volume(scan_file(volume=volume)).voxels[3].any()


def test_a_header_without_pixels_behind_it_is_no_scan(scan_file):
    def drop(dataset):
        del dataset.PixelData

    with pytest.raises(ScanError, match="no PixelData"):
        read_header(scan_file(edit=drop))


def test_big_endian_files_are_read(scan_file, draw):
    written = draw(dtype=np.uint16)
    path = scan_file(volume=written)
    dataset = pydicom.dcmread(path)
    dataset.PixelData = written.voxels.astype(">u2").tobytes()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRBigEndian
    dataset["PixelData"].VR = "OW"
    pydicom.dcmwrite(path, dataset, little_endian=False, implicit_vr=False, force_encoding=True)
    volume = read_volume(path)
    assert volume.voxels.dtype == np.uint16
    assert np.array_equal(volume.voxels, written.voxels)


def test_colour_and_signed_voxels_are_refused(scan_file):
    def signed(dataset):
        dataset.PixelRepresentation = 1

    def inverted(dataset):
        dataset.PhotometricInterpretation = "MONOCHROME1"

    assert "signed" in refusal(scan_file(edit=signed)).reason
    assert "inverted" in refusal(scan_file(edit=inverted)).reason


def test_a_value_of_the_wrong_length_is_a_damaged_header_and_is_not_quoted(scan_file):
    path = scan_file()
    content = path.read_bytes()
    at = content.index(b"\x22\x00\x32\x00FL") + 6  # the length of the first ReferenceCoordinates
    path.write_bytes(content[:at] + b"\x5e" + content[at + 1 :])
    error = refusal(path)
    assert error.stage == "parse"
    assert len(error.reason) < 100


@pytest.mark.parametrize("codec", ["", "jpeg2000", "jpegls"])
def test_damaged_bytes_give_a_volume_or_a_scan_error_and_nothing_else(scan_file, codec):
    path = scan_file(codec=codec)
    content = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    rng = np.random.default_rng(7)
    for _ in range(60):
        damaged = content.copy()
        at = rng.integers(132, len(content), 6)
        damaged[at] = rng.integers(0, 256, 6, dtype=np.uint8)
        path.write_bytes(damaged.tobytes())
        with suppress(ScanError):
            read_volume(path)


def test_reading_takes_a_path_or_a_string(scan_file):
    path = scan_file()
    assert isinstance(path, Path)
    assert np.array_equal(read_volume(path).voxels, read_volume(str(path)).voxels)
