"""Masks and boundaries in files of their own: formats, axes, names, and what is refused."""

import json
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import tifffile
from oct_io import ScanError, read_volume
from oct_io.boundaries import BOUNDARIES, FLUIDS, join_classes, standard_name, with_standard_names
from oct_io.records.annotations import add_annotations, peek_classes, read_layers, read_mask
from oct_io.scan.file import ScanFile
from oct_io.volume import UNLABELLED
from PIL import Image
from pydicom.sr import _concepts_dict as concepts

SHAPE = (8, 48, 40)
SAID = {"spacing_mm": [0.25, 0.004, 0.05], "laterality": "R"}


def labels(seed=0):
    return np.random.default_rng(seed).integers(0, 3, SHAPE, dtype=np.uint8)


def file(path):
    return ScanFile(url=str(path))


@pytest.fixture
def scan(tmp_path, draw):
    """An array with a sidecar."""
    np.save(tmp_path / "scan.npy", draw().voxels)
    (tmp_path / "scan.json").write_text(json.dumps(SAID))
    return tmp_path / "scan.npy"


def refusal(mask, scan):
    with pytest.raises(ScanError) as caught:
        read_mask(file(mask), file(scan), SHAPE)
    return caught.value.reason


def save(path, array):
    """The array as a file of the format that the name of `path` says, or as a folder."""
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".npz":
        np.savez(path, mask=array, other=np.zeros((2, 2)))
    elif path.suffix == ".tif":
        tifffile.imwrite(path, array, photometric="minisblack")
    elif path.name.endswith(".nii.gz"):
        turned = array.transpose(2, 1, 0)[:, :, ::-1]  # L, P, S: columns, rows, B-scans upwards
        affine = np.diag([-0.05, -0.004, 0.25, 1.0])
        nibabel.save(nibabel.Nifti1Image(turned, affine), path)
    else:
        path.mkdir()
        for number, image in enumerate(array):
            Image.fromarray(image).save(path / f"{number}.png")


@pytest.mark.parametrize("name", ["m.npy", "m.npz", "m.tif", "m.nii.gz", "m"])
def test_a_mask_of_every_format_is_read_in_the_axes_of_its_scan(tmp_path, scan, name):
    save(tmp_path / name, labels())
    found = read_mask(file(tmp_path / name), file(scan), SHAPE)
    assert np.array_equal(found.labels, labels())
    assert found.names == ("background", "class 1", "class 2")


def test_a_nifti_scan_and_its_mask_are_turned_alike(tmp_path, draw):
    volume = draw()
    save(tmp_path / "a.nii.gz", volume.voxels)
    save(tmp_path / "a_mask.nii.gz", labels())
    read = add_annotations(
        read_volume(tmp_path / "a.nii.gz"), file(tmp_path / "a.nii.gz"),
        mask=file(tmp_path / "a_mask.nii.gz"), layers=None,
    )  # fmt: skip
    assert np.array_equal(read.voxels, volume.voxels)
    assert np.array_equal(read.mask, labels())


def test_what_a_sidecar_says_of_axes_holds_for_scan_and_mask(tmp_path, draw):
    voxels = draw().voxels
    np.save(tmp_path / "a.npy", voxels.transpose(2, 0, 1)[:, ::-1])
    np.save(tmp_path / "m.npy", labels().transpose(2, 0, 1)[:, ::-1])
    said = SAID | {"axes": ["column", "-bscan", "row"], "mask_classes": ["none", "IRF", "SRF"]}
    (tmp_path / "a.json").write_text(json.dumps(said))
    assert np.array_equal(read_volume(tmp_path / "a.npy").voxels, voxels)
    found = read_mask(file(tmp_path / "m.npy"), file(tmp_path / "a.npy"), SHAPE)
    assert np.array_equal(found.labels, labels())
    assert found.names == ("none", "IRF", "SRF")
    own = {"axes": ["bscan", "row", "column"], "mask_classes": ["none", "a", "b"]}
    (tmp_path / "n.json").write_text(json.dumps(own))
    np.save(tmp_path / "n.npy", labels())
    found = read_mask(file(tmp_path / "n.npy"), file(tmp_path / "a.npy"), SHAPE)
    assert np.array_equal(found.labels, labels())
    assert found.names == ("none", "a", "b")


def test_an_archive_may_name_its_classes(tmp_path, scan):
    names = np.array(["background", "IRF", "SRF"])
    np.savez(tmp_path / "m.npz", lesions=labels(), names=names)
    found = read_mask(file(tmp_path / "m.npz"), file(scan), SHAPE)
    assert found.names == tuple(names)
    assert peek_classes(file(tmp_path / "m.npz"), file(scan)) == tuple(names)
    assert peek_classes(file(tmp_path / "m.npy"), file(scan)) == ()


def test_unlabelled_voxels_stay_so_and_float_labels_are_numbers(tmp_path, scan):
    mask = labels().astype(np.float64)
    mask[0] = UNLABELLED
    np.save(tmp_path / "m.npy", mask)
    found = read_mask(file(tmp_path / "m.npy"), file(scan), SHAPE)
    assert (found.labels[0] == UNLABELLED).all()
    assert found.labels.dtype == np.uint8
    assert len(found.names) == 3


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (labels()[1:], "the mask has 7 x 48 x 40 voxels, its scan 8 x 48 x 40"),
        (labels() + 0.5, "a mask has whole numbers from 0 to 255"),
        (labels().astype(int) - 1, "a mask has whole numbers from 0 to 255"),
        (labels().astype(int) * 200, "a mask has whole numbers from 0 to 255"),
        (labels()[0], "not of three axes"),
    ],
)
def test_what_is_no_mask_of_the_scan_is_refused(tmp_path, scan, array, reason):
    np.save(tmp_path / "m.npy", array)
    assert reason in refusal(tmp_path / "m.npy", scan)


def test_labels_without_names_and_archives_without_one_mask_are_refused(tmp_path, scan):
    np.savez(tmp_path / "m.npz", mask=labels(), names=np.array(["background", "IRF"]))
    assert refusal(tmp_path / "m.npz", scan) == "the mask has label 2, and 2 classes have names"
    np.savez(tmp_path / "m.npz", a=labels(), b=labels())
    assert "call the one `mask`" in refusal(tmp_path / "m.npz", scan)
    np.savez(tmp_path / "m.npz", mask=labels(), names=np.arange(3))
    assert refusal(tmp_path / "m.npz", scan) == "`names` must be one row of texts"


@pytest.mark.parametrize("name", ["m.npy", "m.npz", "m.tif", "m.nii.gz"])
def test_a_cut_off_mask_is_one_line(tmp_path, scan, name):
    save(tmp_path / name, labels())
    content = (tmp_path / name).read_bytes()
    for share in (0.9, 0.5, 0.1, 0.0):
        (tmp_path / name).write_bytes(content[: int(share * len(content))])
        assert "\n" not in refusal(tmp_path / name, scan)
    (tmp_path / name).unlink()
    assert refusal(tmp_path / name, scan)


def test_boundaries_of_an_archive_have_standard_names_and_stand_above_the_scan_s(tmp_path, draw):
    plane = np.full((8, 40), 20.0)
    plane[0, 0] = 3.4e38
    np.savez(tmp_path / "l.npz", BM=plane + 20, rnfl=plane.astype(np.float32), mine=plane)
    found = read_layers(file(tmp_path / "l.npz"), (8, 40))
    assert list(found) == ["RNFL/GCL", "BM", "mine"], "from the vitreous outwards"
    assert np.isnan(found["RNFL/GCL"][0, 0])
    assert found["BM"].dtype == np.float32
    old = {"ILM": np.zeros((8, 40), np.float32), "BM": np.zeros((8, 40), np.float32)}
    volume = replace(draw(), layers=old)
    joined = add_annotations(volume, file("x.vol"), mask=None, layers=file(tmp_path / "l.npz"))
    assert list(joined.layers) == ["ILM", "RNFL/GCL", "BM", "mine"]
    assert joined.layers["BM"][1, 1] == 40


def test_boundaries_that_do_not_fit_are_refused_by_name(tmp_path):
    np.savez(tmp_path / "l.npz", ILM=np.zeros((8, 41)))
    with pytest.raises(ScanError, match=r"boundary ILM is float64 \(8, 41\), not numbers for 8"):
        read_layers(file(tmp_path / "l.npz"), (8, 40))
    with pytest.raises(ScanError, match="an array each"):
        read_layers(file(tmp_path / "l.npy"), (8, 40))
    np.savez(tmp_path / "l.npz", ILM=np.array([{}], dtype=object))
    with pytest.raises(ScanError, match="pickled"):
        read_layers(file(tmp_path / "l.npz"), (8, 40))


def test_the_table_of_boundaries_is_that_of_dicom():
    known = {
        code: meaning
        for scheme in ("DCM", "SCT")
        for rows in concepts.concepts[scheme].values()
        for code, (meaning, groups) in rows.items()
        if 4273 in groups
    }
    assert {row.code: row.meaning for row in BOUNDARIES.values()}.items() <= known.items()


def test_vendors_words_become_standard_names_and_unknown_ones_stay():
    words = ["RNFL_GCL", "GCL", "PR1", "MZ_EZ", "IPL+", "bm", " ILM "]
    names = ["RNFL/GCL", "GCL/IPL", "EZ", "EZ", "IPL+", "BM", "ILM"]
    assert list(map(standard_name, words)) == names
    found = with_standard_names({"BM": 1, "EZ": 2, "PR1": 3, "RNFL": 4})
    assert found == {"RNFL/GCL": 4, "EZ": 2, "BM": 1, "PR1": 3}
    assert list(found) == ["RNFL/GCL", "EZ", "BM", "PR1"], "one of two for the same keeps its word"
    every = [word for name, row in BOUNDARIES.items() for word in (name, *row.words)]
    assert len(every) == len(set(every))


def test_classes_of_masks_are_joined_background_first():
    assert join_classes([("background", "SRF"), ("background", "hole", "IRF")]) == (
        "background", "IRF", "SRF", "hole",
    )  # fmt: skip
    assert join_classes([]) == ()
    assert list(FLUIDS) == ["IRF", "SRF", "PED"]


def test_real_vol_files_name_their_boundaries_by_both_sides(samples):
    path = samples / "heyex_vol" / "octolyzer_Peripapillary_1.vol"
    volume = read_volume(path, patterns=("circle",))
    assert list(volume.layers) == ["ILM", "RNFL/GCL", "BM"]
    fibres_um = (volume.layers["RNFL/GCL"] - volume.layers["ILM"]) * volume.spacing.row * 1000
    assert 60 < np.nanmean(fibres_um) < 150, "the usual thickness of nerve fibres around a disc"
