"""NIfTI, NumPy, TIFF and folders of images: axes, spacing, sidecars, and what is refused."""

import gzip
import io
import json
import os
import subprocess
import sys
import tracemalloc
import warnings
import zipfile
from contextlib import suppress
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import SimpleITK
import tifffile
from oct_io import ScanError, Spacing, open_volume, read_volume
from oct_io.readers.registry import SUFFIXES, suffix_of
from oct_io.readers.stacks import load_tiff, read_bscan
from oct_io.scan.file import ScanFile
from PIL import Image

SAID = {"spacing_mm": [0.25, 0.004, 0.05], "laterality": "OS", "device": "Topcon Triton"}


def beside(path, **fields):
    path.write_text(json.dumps(SAID | fields))


def refusal(path, **options):
    with pytest.raises(ScanError) as caught:
        read_volume(path, **options)
    assert "\n" not in str(caught.value)
    return caught.value


def save(path, voxels):
    """Write `voxels` in the format that the ending of `path` names."""
    if path.suffix == ".npy":
        np.save(path, voxels)
    elif path.suffix == ".npz":
        np.savez_compressed(path, voxels=voxels)
    elif path.suffix in (".tif", ".tiff"):
        tifffile.imwrite(path, voxels, photometric="minisblack")
    else:
        path.mkdir()
        for number, frame in enumerate(voxels):
            Image.fromarray(frame).save(path / f"bscan {number}.png")


PLAIN = ["scan.npy", "scan.npz", "scan.tif", "scan.tiff", "scan"]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("name", PLAIN)
def test_an_array_and_its_sidecar_make_a_volume(tmp_path, draw, name, dtype):
    voxels = draw(dtype=dtype, shape=(12, 48, 40)).voxels
    path = tmp_path / name
    save(path, voxels)
    beside(path / "volume.json" if path.is_dir() else tmp_path / "scan.json")
    volume = read_volume(path)
    assert volume.voxels.dtype == dtype
    assert np.array_equal(volume.voxels, voxels)
    assert volume.spacing == Spacing(0.25, 0.004, 0.05)
    assert (volume.spacing_source, volume.spacing_confidence) == ("given", "high")
    assert (volume.laterality, volume.device) == ("L", "topcon_triton")


@pytest.mark.parametrize("name", PLAIN)
def test_without_a_sidecar_the_refusal_shows_the_one_to_write(tmp_path, draw, name):
    path = tmp_path / name
    save(path, draw().voxels)
    error = refusal(path)
    wanted = "volume.json" if path.is_dir() else "scan.json"
    assert error.stage == "geometry"
    assert f"write {wanted} like" in error.reason
    example = error.reason[error.reason.index("{") : error.reason.index("}") + 1]
    target = path / wanted if path.is_dir() else tmp_path / wanted
    target.write_text(example)
    assert read_volume(path).spacing == Spacing(0.047, 0.0026, 0.0117)
    target.unlink()
    given = Spacing(0.1, 0.004, 0.01)
    assert read_volume(path, spacing=given).spacing == given


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiffs_whose_zero_is_white_are_read_as_they_look(tmp_path, draw, dtype):
    voxels = draw(dtype=dtype, shape=(6, 48, 40)).voxels
    negative = np.iinfo(dtype).max - voxels
    tifffile.imwrite(tmp_path / "scan.tif", negative, photometric="miniswhite")
    (tmp_path / "scan").mkdir()
    for number, frame in enumerate(negative):
        path = tmp_path / "scan" / f"{number}.tif"
        tifffile.imwrite(path, frame, photometric="miniswhite")
    beside(tmp_path / "scan.json")
    beside(tmp_path / "scan" / "volume.json")
    for path in (tmp_path / "scan.tif", tmp_path / "scan"):
        assert np.array_equal(read_volume(path).voxels, voxels), path.name
    page = read_bscan(ScanFile(url=str(tmp_path / "scan.tif"), member="3"))
    assert np.array_equal(page.voxels[0], voxels[2])
    assert np.array_equal(load_tiff(ScanFile(url=str(tmp_path / "scan.tif"))), negative)  # a mask


def test_images_are_taken_in_the_natural_order_of_their_names(tmp_path, draw):
    voxels = draw(shape=(12, 48, 40)).voxels
    for kind, mode in ((".bmp", "L"), (".jpg", "L"), (".png", "RGB")):
        folder = tmp_path / kind[1:]
        folder.mkdir()
        for number, frame in enumerate(voxels):
            Image.fromarray(frame).convert(mode).save(folder / f"b{number}{kind}")
        found = read_volume(folder, spacing=Spacing(0.25, 0.004, 0.05)).voxels
        assert np.abs(found.astype(int) - voxels).mean() < (6 if kind == ".jpg" else 1e-9)


def test_axes_say_which_is_which_and_which_run_backwards(tmp_path, draw):
    voxels = draw().voxels
    stored = voxels.transpose(2, 1, 0)[:, ::-1, ::-1]
    np.save(tmp_path / "scan.npy", stored)
    beside(tmp_path / "scan.json", axes=["column", "-row", "-bscan"])
    assert np.array_equal(read_volume(tmp_path / "scan.npy").voxels, voxels)
    assert open_volume(tmp_path / "scan.npy").shape == voxels.shape


def test_floats_need_black_and_white(tmp_path, draw):
    voxels = draw().voxels
    np.save(tmp_path / "scan.npy", voxels.astype(np.float32) / 255)
    beside(tmp_path / "scan.json")
    error = refusal(tmp_path / "scan.npy")
    assert (error.stage, "value_range" in error.reason) == ("content", True)
    beside(tmp_path / "scan.json", value_range=[0, 1])
    assert np.array_equal(read_volume(tmp_path / "scan.npy").voxels, voxels)
    np.save(tmp_path / "scan.npy", voxels.astype(np.int32))
    beside(tmp_path / "scan.json")
    assert np.array_equal(read_volume(tmp_path / "scan.npy").voxels, voxels)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not JSON"),
        ("[1]", "JSON object"),
        ('{"spacing": [1, 1, 1]}', "unknown field 'spacing'"),
        ('{"spacing_mm": [1, 1]}', "spacing_mm must be 3 numbers"),
        ('{"spacing_mm": [NaN, 1, 1]}', "spacing_mm must be 3 numbers"),
        ('{"spacing_mm": "1"}', "spacing_mm must be a list"),
        ('{"axes": ["row", "row", "bscan"]}', "axes must list"),
        ('{"laterality": "left"}', "laterality must be R, L, OD or OS"),
        ('{"pattern": "spiral"}', "pattern must be one of raster"),
        ('{"value_range": [1, 0]}', "black below white"),
        ('{"spacing_mm": [1.0, 1.0, 1.0]}', "row spacing 1 mm is outside"),
        ('{"spacing_mm": [0.1, 0.004, 0.01], "pattern": "radial"}', "radial scan"),
    ],
)
def test_a_sidecar_that_cannot_be_used_says_why(tmp_path, draw, text, reason):
    np.save(tmp_path / "scan.npy", draw().voxels)
    (tmp_path / "scan.json").write_text(text)
    assert reason in str(refusal(tmp_path / "scan.npy"))


def test_arrays_of_an_archive_are_chosen_by_name(tmp_path, draw):
    one, other = draw().voxels, draw(seed=5).voxels
    path = tmp_path / "scan.npz"
    beside(tmp_path / "scan.json")
    np.savez(path, one=one, spacing=np.ones(3))
    assert np.array_equal(read_volume(path).voxels, one)
    np.savez(path, one=one, other=other)
    assert "2 of its arrays" in refusal(path).reason
    assert np.array_equal(read_volume(path, member="other").voxels, other)
    assert "no array" in refusal(path, member="third").reason


def test_no_array_is_unpickled(tmp_path):
    beside(tmp_path / "scan.json")
    np.save(tmp_path / "scan.npy", np.array([[[{}]]], dtype=object), allow_pickle=True)
    assert "pickled" in refusal(tmp_path / "scan.npy").reason


def npy_header(shape, dtype="|u1"):
    stream = io.BytesIO()
    fields = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, fields)
    return stream.getvalue()


def test_sizes_are_checked_before_anything_is_allocated(tmp_path):
    beside(tmp_path / "scan.json")
    huge, short = npy_header((4000, 4000, 4000)), npy_header((400, 400, 400))
    (tmp_path / "scan.npy").write_bytes(huge)
    assert "claims 4000 x 4000 x 4000" in refusal(tmp_path / "scan.npy").reason
    (tmp_path / "scan.npy").write_bytes(short + bytes(99))
    assert refusal(tmp_path / "scan.npy").stage == "decode"
    for content in (huge, short + bytes(99)):
        with zipfile.ZipFile(tmp_path / "scan.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("voxels.npy", content)
        assert refusal(tmp_path / "scan.npz").stage == "decode"
    image = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.diag([-0.01, -0.004, -0.2, 1]))
    raw = bytearray(image.to_bytes())
    raw[42:48] = np.array([20000, 20000, 20000], "<i2").tobytes()
    (tmp_path / "scan.nii").write_bytes(raw)
    assert "claims" in refusal(tmp_path / "scan.nii").reason
    (tmp_path / "scan.nii.gz").write_bytes(gzip.compress(bytes(64 << 20)))
    assert refusal(tmp_path / "scan.nii.gz").stage == "parse"


AFFINE = np.diag([-0.05, -0.004, -0.25, 1.0])  # columns to the left, rows posterior, B-scans down


def test_the_affine_of_a_nifti_file_puts_its_axes_in_order(tmp_path, draw):
    voxels = draw().voxels
    for name in ("scan.nii", "scan.nii.gz"):
        nibabel.save(nibabel.Nifti1Image(voxels.transpose(2, 1, 0), AFFINE), tmp_path / name)
        volume = read_volume(tmp_path / name)
        assert np.array_equal(volume.voxels, voxels)
        assert volume.spacing == pytest.approx((0.25, 0.004, 0.05), rel=1e-6)
        assert (volume.spacing_source, volume.spacing_confidence) == ("affine", "medium")
        lazy = open_volume(tmp_path / name)
        assert lazy.shape == voxels.shape
        assert lazy.spacing == volume.spacing
    upwards = np.array([[0, 0, -0.05, 0], [0, -0.004, 0, 0], [0.25, 0, 0, 0], [0, 0, 0, 1.0]])
    nibabel.save(nibabel.Nifti1Image(voxels[::-1], upwards), tmp_path / "scan.nii")
    assert np.array_equal(read_volume(tmp_path / "scan.nii").voxels, voxels)


def test_a_nifti_file_that_simpleitk_made_of_a_dicom_file_is_the_same_volume(scan_file, tmp_path):
    path = scan_file()
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(path)), str(tmp_path / "scan.nii.gz"))
    volume, other = read_volume(path), read_volume(tmp_path / "scan.nii.gz")
    assert np.array_equal(volume.voxels, other.voxels)
    assert volume.spacing == pytest.approx(other.spacing, abs=1e-6)


def test_depth_is_never_flipped_on_a_guess(tmp_path, draw):
    voxels = draw().voxels
    image = nibabel.Nifti1Image(voxels.transpose(2, 1, 0), np.diag([0.05, 0.004, 0.25, 1]))
    nibabel.save(image, tmp_path / "scan.nii")
    error = refusal(tmp_path / "scan.nii")
    assert (error.stage, "out of the eye" in error.reason) == ("geometry", True)
    (tmp_path / "scan.json").write_text('{"axes": ["column", "row", "bscan"]}')
    volume = read_volume(tmp_path / "scan.nii")
    assert np.array_equal(volume.voxels, voxels)
    assert volume.spacing == pytest.approx((0.25, 0.004, 0.05), rel=1e-6)


@pytest.mark.parametrize("member_bytes", [100, 4096, 1 << 20])
def test_gzip_members_one_after_the_other_are_one_file(tmp_path, draw, member_bytes):
    voxels = draw().voxels
    nibabel.save(nibabel.Nifti1Image(voxels.transpose(2, 1, 0), AFFINE), tmp_path / "whole.nii")
    raw = (tmp_path / "whole.nii").read_bytes()
    starts = range(0, len(raw), member_bytes)
    members = b"".join(gzip.compress(raw[start : start + member_bytes]) for start in starts)
    (tmp_path / "scan.nii.gz").write_bytes(members)
    assert np.array_equal(read_volume(tmp_path / "scan.nii.gz").voxels, voxels)
    assert open_volume(tmp_path / "scan.nii.gz").shape == voxels.shape
    (tmp_path / "scan.nii.gz").write_bytes(members[: len(members) // 2])
    assert "cut off" in refusal(tmp_path / "scan.nii.gz").reason


def test_the_sidecar_of_a_packed_file_is_named_whatever_the_case_of_its_ending(tmp_path, draw):
    raw = nibabel.Nifti1Image(draw().voxels.transpose(2, 1, 0), AFFINE).to_bytes()
    (tmp_path / "SCAN.NII.GZ").write_bytes(gzip.compress(raw))
    beside(tmp_path / "SCAN.json", laterality="L")
    assert read_volume(tmp_path / "SCAN.NII.GZ").laterality == "L"


def test_a_device_that_is_not_listed_keeps_the_name_that_its_sidecar_gives(tmp_path, draw):
    np.save(tmp_path / "scan.npy", draw().voxels)
    for stated, known in (("Optovue RTVue-XR", "optovue_rtvue_xr"), ("Triton", "topcon_triton")):
        beside(tmp_path / "scan.json", device=stated)
        assert read_volume(tmp_path / "scan.npy").device == known


def test_nifti_units_and_a_caller_are_heeded(tmp_path, draw):
    image = nibabel.Nifti1Image(draw().voxels.transpose(2, 1, 0), AFFINE * 1000)
    image.header.set_xyzt_units("micron")
    nibabel.save(image, tmp_path / "scan.nii")
    volume = read_volume(tmp_path / "scan.nii")
    assert volume.spacing == pytest.approx((0.25, 0.004, 0.05), rel=1e-6)
    given = Spacing(0.1, 0.003, 0.01)
    assert read_volume(tmp_path / "scan.nii", spacing=given).spacing == given


def test_a_nifti_file_without_sizes_is_refused_instead_of_taken_for_one_millimetre(tmp_path, draw):
    image = nibabel.Nifti1Image(draw().voxels.transpose(2, 1, 0), None)
    image.set_qform(AFFINE)
    raw = bytearray(image.to_bytes())
    raw[88:92] = bytes(4)  # pixdim[3]
    (tmp_path / "scan.nii").write_bytes(raw)
    error = refusal(tmp_path / "scan.nii")
    assert (error.stage, "pixdim has zeros" in error.reason) == ("geometry", True)


def test_an_array_header_that_is_no_literal_is_a_scan_error(tmp_path):
    beside(tmp_path / "scan.json")
    content = npy_header((4, 4, 4)).replace(b"), }", b"), (") + bytes(64)
    (tmp_path / "scan.npy").write_bytes(content)
    assert refusal(tmp_path / "scan.npy").stage == "parse"


@pytest.mark.parametrize("name", ["scan.npy", "scan.npz", "scan.tif", "scan.nii", "scan.nii.gz"])
def test_damaged_files_end_in_a_scan_error(tmp_path, draw, name):
    path = tmp_path / name
    voxels = draw().voxels
    if ".nii" in name:
        nibabel.save(nibabel.Nifti1Image(voxels.transpose(2, 1, 0), AFFINE), path)
    else:
        save(path, voxels)
    beside(tmp_path / "scan.json")
    content = path.read_bytes()
    for kept in (0.0, 0.003, 0.01, 0.3, 0.9):
        path.write_bytes(content[: int(len(content) * kept)])
        assert refusal(path).stage in ("parse", "decode", "geometry")


def test_images_that_do_not_fit_together_are_named_by_number(tmp_path, draw):
    folder = tmp_path / "scan"
    save(folder, draw().voxels)
    beside(folder / "volume.json")
    Image.fromarray(draw(shape=(8, 20, 20)).voxels[0]).save(folder / "bscan 3.png")
    assert "image 4 of 8 differs" in refusal(folder).reason
    (folder / "bscan 3.png").write_bytes(b"no image")
    assert "image 4 of 8 is not a readable image" in refusal(folder).reason
    colours = np.random.default_rng(0).integers(0, 255, (48, 40, 3), dtype=np.uint8)
    Image.fromarray(colours).save(folder / "bscan 3.png")
    assert "image 4 of 8 is coloured" in refusal(folder).reason


def test_damaged_images_are_refused_without_a_warning(tmp_path, draw):
    Image.fromarray(draw().voxels[0]).save(tmp_path / "0.tif")
    content = (tmp_path / "0.tif").read_bytes()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for kept in range(8, 140, 9):  # of its directory, of which pillow warns
            (tmp_path / "0.tif").write_bytes(content[:kept])
            with suppress(ScanError):  # its size may be known all the same
                open_volume(tmp_path, spacing=Spacing(0.25, 0.004, 0.05))
            assert "image 1 of 1 is not a readable image" in refusal(tmp_path).reason
    assert told == []


def test_a_folder_without_a_scan_says_what_is_read(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    assert "no scan among them" in refusal(tmp_path).reason


def test_a_library_that_is_missing_is_named_with_its_extra(tmp_path, draw, monkeypatch):
    nibabel.save(nibabel.Nifti1Image(draw().voxels, AFFINE), tmp_path / "scan.nii")
    monkeypatch.setitem(sys.modules, "nibabel", None)
    error = refusal(tmp_path / "scan.nii")
    assert (error.stage, "install oct-io[formats]" in error.reason) == ("parse", True)


def test_importing_oct_io_loads_no_library_that_only_some_formats_need():
    code = "import sys, oct_io; print(*{name.split('.')[0] for name in sys.modules})"
    command = [sys.executable, "-c", code]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    heavy = {"eyepy", "oct_converter", "construct", "nibabel", "tifffile", "sklearn"}
    assert not heavy & set(loaded)


def test_endings_pick_the_longest_reader_and_parts_of_scans_are_no_scans():
    assert suffix_of("A.NII.GZ") == ".nii.gz"
    assert suffix_of("a.b.Dcm") == ".dcm"
    assert not {".tif", ".png", ".xml", ".json"} & set(SUFFIXES)


def test_a_stack_in_a_bucket_is_read_like_one_on_a_disk(bucket, draw, tmp_path):
    voxels = draw().voxels
    save(tmp_path / "scan.npy", voxels)
    bucket.pipe_file("/b/scan.npy", (tmp_path / "scan.npy").read_bytes())
    bucket.pipe_file("/b/scan.json", json.dumps(SAID).encode())
    assert np.array_equal(read_volume("counting://b/scan.npy").voxels, voxels)
    save(tmp_path / "stack", voxels)
    for path in (tmp_path / "stack").iterdir():
        bucket.pipe_file(f"/b/stack/{path.name}", path.read_bytes())
    volume = read_volume("counting://b/stack", spacing=Spacing(0.25, 0.004, 0.05))
    assert np.array_equal(volume.voxels, voxels)


def test_layers_must_fit_their_volume(draw):
    volume = draw()
    with pytest.raises(ValueError, match=r"layer ILM must be \(8, 40\)"):
        replace(volume, layers={"ILM": np.zeros((8, 41), np.float32)})


@pytest.fixture
def ghostscript(tmp_path, monkeypatch):
    """A `gs` in front of all others on the path; what it returns exists once it was started."""
    folder, started = tmp_path / "bin", tmp_path / "started"
    folder.mkdir()
    program = folder / "gs"
    program.write_text(f"#!/bin/sh\necho 10.0\ntouch {started}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # it asks once in a process
    return started


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 48\n%%EndComments\nshowpage\n%%EOF\n"


def test_postscript_that_is_called_an_image_starts_nothing(tmp_path, ghostscript):
    folder = tmp_path / "scan"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(EPS)
    beside(folder / "volume.json")
    error = refusal(folder)
    assert (error.stage, "not a readable image" in error.reason) == ("decode", True)
    assert not ghostscript.exists()


def test_an_archive_that_packs_as_no_image_does_is_refused_before_it_is_unpacked(tmp_path):
    np.savez_compressed(tmp_path / "scan.npz", voxels=np.zeros((100, 1000, 1000), np.uint8))
    beside(tmp_path / "scan.json")
    tracemalloc.start()
    error = refusal(tmp_path / "scan.npz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (error.stage, "hold no image" in error.reason) == ("content", True)
    assert peak < 10**7
