"""Arrays of .mat files, as SciPy writes them, and what is refused."""

import numpy as np
import pytest
from oct_io import ScanError, read_volume
from oct_io.containers.matlab import read_mat

scipy_io = pytest.importorskip("scipy.io")
DRAW = np.random.default_rng(0)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8"])
def test_arrays_come_back_as_they_were_saved(tmp_path, kind, packed):
    array = DRAW.integers(0, 100, (5, 4, 3)).astype(kind)
    path = tmp_path / "a.mat"
    scipy_io.savemat(path, {"images": array, "Age": 71.0, "x": "text"}, do_compression=packed)
    found = read_mat(path.read_bytes(), "a.mat")
    assert found.keys() == {"images", "Age"}
    assert found["images"].dtype == np.dtype(kind)
    assert np.array_equal(found["images"], array)
    assert read_mat(path.read_bytes(), "a.mat", ("Age",)).keys() == {"Age"}


def test_what_holds_no_plain_numbers_is_passed_over(tmp_path):
    path = tmp_path / "a.mat"
    others = {"s": {"a": 1}, "c": np.array([1, "b"], object), "z": np.array([1 + 2j])}
    scipy_io.savemat(path, others | {"n": np.array([[3]], "i4")})
    assert read_mat(path.read_bytes(), "a.mat").keys() == {"n"}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "no .mat file of level 5"),
        (b"MATLAB 7.3 MAT-file".ljust(126) + b"IM", "is HDF5; save it with -v7"),
    ],
)
def test_other_files_are_refused_by_name(content, complaint):
    with pytest.raises(ScanError, match=complaint):
        read_mat(content, "a.mat")


def test_damaged_files_are_refused_and_nothing_else_happens(tmp_path):
    path = tmp_path / "a.mat"
    scipy_io.savemat(path, {"images": DRAW.integers(0, 99, (4, 4, 4))}, do_compression=True)
    whole = path.read_bytes()
    for cut in range(140, len(whole), 7):
        with pytest.raises(ScanError, match="cut off or damaged"):
            read_mat(whole[:cut], "a.mat")
    refused = 0
    for place in range(128, len(whole), 3):
        spoilt = bytearray(whole)
        spoilt[place] ^= 0xFF
        try:
            read_mat(bytes(spoilt), "a.mat")
        except ScanError:
            refused += 1
    assert refused > 20, "the deflated bytes have a checksum"


def test_a_mat_file_is_a_volume_with_the_axes_of_its_sidecar(tmp_path):
    array = DRAW.integers(20, 200, (30, 20, 10)).astype("u1")
    scipy_io.savemat(tmp_path / "a.mat", {"images": array, "other": array})
    said = {"axes": ["row", "column", "bscan"], "spacing_mm": [0.1, 0.004, 0.01]}
    with pytest.raises(ScanError, match="2 of its arrays have three axes"):
        read_volume(tmp_path / "a.mat", sidecar=said)
    volume = read_volume(tmp_path / "a.mat", sidecar=said | {"member": "images"})
    assert np.array_equal(volume.voxels, array.transpose(2, 0, 1))
    with pytest.raises(ScanError, match="nothing tells its spacing"):
        read_volume(tmp_path / "a.mat", sidecar={"member": "images"})
