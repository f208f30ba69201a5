"""Volumes that are no OCT: `kind` says so, and rules of what a retina looks like do not hold."""

import json

import nibabel
import numpy as np
import oct_io
import pytest
from oct_io.cli import main
from oct_io.readers import open_volume, read_volume
from oct_io.scan.flags import find_flags
from oct_io.survey import choose_window, survey

ANYTHING = {"kind": "volume"}
CURE = "data.kind=volume"
RAS = np.diag([1.0, 1.5, 2.0, 1.0])  # first axis to the right, second to the front, third up


def crop(seed=0, scale=1.0):
    """An MR-like crop, axes (right, front, up), brighter towards the front."""
    draw = np.random.default_rng(seed)
    level = draw.uniform(0, 40, (12, 20, 10)) + 10 * np.arange(20)[None, :, None]
    return (level * scale).astype(np.float32)


def write_nifti(path, array, affine=RAS):
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def shape_of(size=16):
    """A small cube, 0 or 1, that leaves most frames empty."""
    cube = np.zeros((size, size, size), np.uint8)
    cube[6:9, 5:11, 4:12] = 1
    return cube


@pytest.fixture
def folder(tmp_path):
    """Crops and shapes without a word on what they are."""
    root = tmp_path / "scans"
    root.mkdir()
    for number in range(4):
        write_nifti(root / f"crop{number}.nii.gz", crop(number, scale=10.0**number))
        np.savez(root / f"shape{number}.npz", image=shape_of())
    return root


def source(root, tmp_path, **changes):
    given = {"kind": "volume", "window": "8x16x16", "jobs": 1} | changes
    return oct_io.SourceConfig(root=str(root), cache=str(tmp_path / "cache"), **given)


def test_rules_of_retinas_name_the_setting_that_turns_them_off(tmp_path):
    sideways = np.diag([-1.0, -1.0, 1.0, 1.0])  # depth runs into an eye, so only the size is odd
    large = write_nifti(tmp_path / "large.nii.gz", crop().round().astype(np.uint8), sideways)
    with pytest.raises(oct_io.ScanError, match=f"row spacing 1 mm is outside.*{CURE}"):
        read_volume(large)
    turned = write_nifti(tmp_path / "turned.nii.gz", crop())
    with pytest.raises(oct_io.ScanError, match=f"out of the eye.*{CURE}"):
        read_volume(turned)
    np.save(tmp_path / "shape.npy", shape_of())
    with pytest.raises(oct_io.ScanError, match=f"nothing tells its spacing.*{CURE}"):
        read_volume(tmp_path / "shape.npy")
    with pytest.raises(oct_io.ScanError, match=f"frames are of one grey level.*{CURE}"):
        read_volume(tmp_path / "shape.npy", spacing=oct_io.Spacing(0.05, 0.05, 0.05))


def test_formats_that_hold_retinas_only_name_no_such_setting(scan_file):
    with pytest.raises(oct_io.ScanError) as refused:
        read_volume(scan_file(spacing=oct_io.Spacing(0.1, 1.0, 0.01)))
    assert "row spacing" in str(refused.value)
    assert CURE not in str(refused.value)


def test_a_crop_of_an_mr_image_is_turned_and_scaled_by_its_own_grey_levels(tmp_path):
    path = write_nifti(tmp_path / "crop.nii.gz", crop(scale=1e4))
    volume = read_volume(path, sidecar=ANYTHING)
    assert volume.spacing == oct_io.Spacing(2.0, 1.5, 1.0)
    assert volume.voxels.shape == (10, 20, 12)
    assert volume.voxels.min() == 0
    assert 1 <= np.count_nonzero(volume.voxels == 255) <= 0.01 * volume.voxels.size
    rows = volume.voxels.mean(axis=(0, 2))
    assert rows[0] > 3 * rows[-1], "rows run from the front to the back"
    fainter = read_volume(
        write_nifti(tmp_path / "fainter.nii.gz", crop(scale=2.0)), sidecar=ANYTHING
    )
    assert np.abs(fainter.voxels.astype(int) - volume.voxels).max() <= 1
    assert find_flags(volume).names == ()
    assert open_volume(path, sidecar=ANYTHING).spacing == volume.spacing


def test_who_knows_what_grey_levels_mean_says_their_range(tmp_path):
    path = write_nifti(tmp_path / "ct.nii.gz", crop() - 100)
    volume = read_volume(path, sidecar=ANYTHING | {"value_range": [-100, 155]})
    assert np.abs(volume.voxels.astype(int) - crop().transpose(2, 1, 0)[::-1, ::-1, ::-1]).max() < 1


def test_what_is_not_finite_is_black(tmp_path):
    array = crop()
    array[0, 0, 0], array[1, 0, 0] = np.nan, -np.inf
    volume = read_volume(write_nifti(tmp_path / "odd.nii.gz", array), sidecar=ANYTHING)
    assert volume.voxels[-1, -1, -1] == volume.voxels[-1, -1, -2] == 0


def test_a_shape_needs_neither_size_nor_full_frames(tmp_path):
    np.save(tmp_path / "shape.npy", shape_of())
    (tmp_path / "volume.json").write_text(json.dumps(ANYTHING))
    volume = read_volume(tmp_path / "shape.npy")
    assert np.isnan(volume.spacing).all()
    np.testing.assert_array_equal(volume.voxels, 255 * shape_of())
    np.save(tmp_path / "blank.npy", np.ones((8, 8, 8), np.uint8))
    with pytest.raises(oct_io.ScanError, match="of one grey level: no image"):
        read_volume(tmp_path / "blank.npy")


def test_a_folder_becomes_volumes_of_one_shape_each_a_participant(folder, tmp_path):
    found = oct_io.open_source(source(folder, tmp_path))
    assert found.volumes.quarantined == ()
    assert found.volumes.shape == (8, 16, 16)
    assert len(found.volumes) == len(found.volumes.entries.coded("participant").words) == 8
    assert found.flags == {}
    assert any("a participant of its own" in one for one in found.remarks)


def test_a_cache_of_refused_scans_is_made_again_once_their_kind_is_said(folder, tmp_path):
    with pytest.raises(oct_io.TreeError, match=CURE):
        oct_io.open_source(source(folder, tmp_path, kind="oct"))
    assert len(oct_io.open_source(source(folder, tmp_path)).volumes) == 8


def test_a_manifest_says_whose_volumes_are(folder, tmp_path):
    table = tmp_path / "scans.tsv"
    rows = [f"{number // 2}\tcrop{number}.nii.gz" for number in range(4)]
    table.write_text("\n".join(["participant_id\tfilepath", *rows]) + "\n")
    found = oct_io.open_source(source(folder, tmp_path, manifest=str(table)))
    assert len(found.volumes) == 4
    assert len(found.volumes.entries.coded("participant").words) == 2
    assert not any("a participant of its own" in one for one in found.remarks)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"kind": "mr"}, "data.kind \\(mr\\) must be oct or volume"),
        ({"window": "tiny"}, "data.window=tiny is a box about a retina.*data.window=32x32x32"),
        ({"flags": ["blink"]}, "data.flags is of retinas"),
        ({"phantom": oct_io.PhantomTree()}, "data.phantom is of retinas"),
    ],
)
def test_settings_of_retinas_are_refused_beside_it(tmp_path, changes, line):
    with pytest.raises(ValueError, match=line):
        source(tmp_path, tmp_path, **changes)


def test_no_box_about_a_retina_is_proposed(folder, tmp_path):
    found, _ = survey(source(folder, tmp_path))
    chosen = choose_window(found, accelerated=False)
    assert chosen.name == "8x16x16"
    assert "no OCT" in chosen.reason


def test_the_cache_command_takes_voxels_and_the_kind(folder, tmp_path, capsys):
    out = tmp_path / "cache"
    told = ["cache", str(folder), str(out), "--jobs", "1", "--window"]
    assert main([*told, "4x16x12", "--kind", "volume"]) == 0
    assert "8 volumes of 4 x 16 x 12, 0 refused" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*told, "small"])
    assert "must be one of macula6" in capsys.readouterr().err
