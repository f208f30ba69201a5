"""What is found in a tree without a manifest, and what sidecars and columns do to a cache."""

import hashlib
import json
import os
from dataclasses import asdict, replace

import numpy as np
import pydicom
import pytest
import tifffile
from oct_io import (
    WINDOWS,
    ScanError,
    ScanRecord,
    SourceConfig,
    Spacing,
    TreeError,
    build_cache,
    open_cache,
    open_source,
    open_volume,
    read_manifest,
    read_volume,
    resample,
)
from oct_io.cache.build import _hash_sources
from oct_io.cli import main
from oct_io.readers.sidecar import sidecar_name
from oct_io.records.record import BESIDE, RARE
from oct_io.records.sidecars import FolderSidecars
from oct_io.scan.file import ScanFile
from oct_io.storage.files import change_tokens
from PIL import Image

TINY = WINDOWS["tiny"]
SAID = {"spacing_mm": [0.25, 0.004, 0.05]}


def tell(path, **fields):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(fields))


def images(folder, voxels, ending="png"):
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(voxels):
        Image.fromarray(frame).save(folder / f"{number}.{ending}")


def paths(root):
    return [record.path for record in read_manifest(root)]


def test_what_is_said_nearest_wins_field_by_field(tmp_path, draw):
    tell(tmp_path / "volume.json", **SAID, laterality="R", region="Macula", participant_from="file")
    tell(tmp_path / "a/volume.json", laterality="L", participant_from="folder")
    tell(tmp_path / "a/7/one.json", spacing_mm=[0.1, 0.003, 0.05])
    tell(tmp_path / "a/7/two.json", participant_id="9")
    for name in ("a/7/one.npy", "a/7/two.npy", "b/12.npy"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.save(tmp_path / name, draw().voxels)
    one, two, other = read_manifest(tmp_path)
    assert (one.laterality, one.region, one.participant_id) == ("L", "Macula", "7")
    assert (two.laterality, two.participant_id) == ("L", "9")
    assert (other.laterality, other.participant_id) == ("R", "12")
    cache = build_cache([one, two], tmp_path, TINY, tmp_path / "cache")
    assert [entry.source_spacing[0] for entry in cache.entries] == [0.1, 0.25]


def test_one_scan_alone_heeds_the_folder_it_lies_in_and_a_root_that_is_named(
    tmp_path, draw, capsys
):
    tell(tmp_path / "data/volume.json", **SAID)
    (tmp_path / "data/a").mkdir()
    np.save(tmp_path / "data/a/x.npy", draw().voxels)
    scan, root = str(tmp_path / "data/a/x.npy"), str(tmp_path / "data")
    assert main(["inspect", scan]) == 2
    assert main(["inspect", scan, "--root", root]) == 0
    assert main(["inspect", scan, "--root", str(tmp_path / "other")]) == 2
    assert main(["inspect", scan, "--spacing", "0.1", "0.003", "0.05"]) == 0
    assert "0.1 x 0.003 x 0.05" in capsys.readouterr().out
    tell(tmp_path / "data/a/volume.json", spacing_mm=[0.2, 0.004, 0.05])
    assert read_volume(scan).spacing.bscan == 0.2


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not JSON"),
        ('{"spacing": 1}', "unknown field 'spacing'"),
        ('{"spacing_mm": [1%s, 1, 1]}' % ("0" * 400), "spacing_mm must be 3 numbers"),
        ('{"participant_from": "path"}', "participant_from must be file or folder"),
        ('{"member": 3}', "member must be a text"),
    ],
)
def test_a_sidecar_of_a_root_that_cannot_be_used_stops_with_one_line(
    tmp_path, draw, text, reason, capsys
):
    np.save(tmp_path / "a.npy", draw().voxels)
    (tmp_path / "volume.json").write_text(text)
    with pytest.raises(TreeError, match=r"volume\.json: .*" + reason):
        read_manifest(tmp_path)
    assert main(["audit", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("oct-io: ") == 1


def test_a_tiff_is_a_scan_if_it_has_pages_and_else_a_part_of_its_folder(tmp_path, draw):
    voxels = draw().voxels
    tell(tmp_path / "volume.json", **SAID)
    images(tmp_path / "slices", voxels, "tif")
    (tmp_path / "stacks").mkdir()
    for name in ("one.tif", "two.tiff"):
        tifffile.imwrite(tmp_path / "stacks" / name, voxels, photometric="minisblack")
    tifffile.imwrite(tmp_path / "stacks/whole.tif", voxels, imagej=True)
    Image.fromarray(voxels[0]).save(tmp_path / "stacks/look.png")
    assert paths(tmp_path) == ["slices", "stacks/one.tif", "stacks/two.tiff", "stacks/whole.tif"]
    tifffile.imwrite(tmp_path / "slices/3.tif", voxels, photometric="minisblack")
    with pytest.raises(ScanError, match="image 4 of 8 has several pages"):
        read_volume(tmp_path / "slices")


def test_files_of_two_series_in_one_folder_stay_scans_of_their_own(scan_file, draw, tmp_path):
    def alike(dataset):
        dataset.SeriesInstanceUID = "1.2.3"

    scan_file("data/two/a.dcm", volume=draw(1))
    scan_file("data/two/b.dcm", volume=draw(2))
    scan_file("data/same/a.dcm", volume=draw(3), edit=alike)
    scan_file("data/same/b.dcm", volume=draw(4), edit=alike)  # at the places of the first
    assert paths(tmp_path / "data") == ["same/a.dcm", "same/b.dcm", "two/a.dcm", "two/b.dcm"]


def cut(path, part):
    """Write frames `part` of a DICOM file as an instance of its series."""
    one = pydicom.dcmread(path)
    one.NumberOfFrames, one.InstanceNumber = part.stop - part.start, part.start + 1
    one.SOPInstanceUID = f"2.25.{part.start + 1}"
    one.PerFrameFunctionalGroupsSequence = list(one.PerFrameFunctionalGroupsSequence)[part]
    one.PixelData = one.PixelData[part.start * 48 * 40 : part.stop * 48 * 40]
    one.save_as(path.parent / f"part-{part.start}.dcm", enforce_file_format=True)


def test_instances_of_several_frames_are_one_scan_if_their_positions_are(scan_file, draw, tmp_path):
    path = scan_file("data/p/a.dcm", volume=draw(), shared_groups=False)
    cut(path, slice(0, 4))
    cut(path, slice(4, 8))
    path.unlink()
    (record,) = read_manifest(tmp_path / "data")
    assert (record.path, record.shape) == ("p", (8, 48, 40))
    assert np.array_equal(read_volume(tmp_path / "data/p").voxels, draw().voxels)


def test_a_damaged_instance_costs_its_scan_and_is_named_once(scan_file, draw, tmp_path):
    path = scan_file("data/p/a.dcm", volume=draw(), shared_groups=False)
    for number in range(8):
        cut(path, slice(number, number + 1))
    path.write_bytes(b"no scan")
    (record,) = read_manifest(tmp_path / "data")
    assert record.path == "p"
    assert record.refused == ("parse", "not a DICOM file: no DICM mark at byte 128")


def test_what_systems_leave_behind_is_no_scan(tmp_path, draw, caplog):
    root = tmp_path / "data"
    images(root / "eye", draw().voxels)
    tell(root / "eye/volume.json", **SAID)
    for name in ("eye/._0.png", "eye/.DS_Store", ".hidden/a.dcm", "DICOMDIR"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(bytes(128) + b"DICM")
    (record,) = read_manifest(root)
    assert (record.path, record.shape) == ("eye", (8, 48, 40))
    assert read_volume(root / "eye").voxels.shape == (8, 48, 40)
    assert caplog.messages == ["passed over, no scans: 3 hidden, 1 DICOMDIR"]


def test_images_in_the_root_itself_say_what_to_give(tmp_path, draw, caplog):
    images(tmp_path, draw().voxels)
    tell(tmp_path / "volume.json", **SAID)
    with pytest.raises(TreeError, match="no scans; looked for"):
        read_manifest(tmp_path)
    assert "8 images in the root itself (give the folder above it)" in caplog.text


def test_headers_of_archives_and_image_folders_cost_few_bytes(tmp_path, draw, bucket):
    rng = np.random.default_rng(0)
    voxels = rng.integers(0, 255, (40, 200, 200), dtype=np.uint8)
    np.savez(
        tmp_path / "a.npz", fundus=rng.random((200, 200)), oct_bscans=voxels, age=np.float64(7)
    )
    bucket.pipe_file("/b/a.npz", (tmp_path / "a.npz").read_bytes())
    images(tmp_path / "eye", voxels)
    for path in (tmp_path / "eye").iterdir():
        bucket.pipe_file(f"/b/eye/{path.name}", path.read_bytes())
    given = Spacing(0.1, 0.003, 0.02)
    for name in ("a.npz", "eye"):
        bucket.requests.clear()
        assert open_volume(f"counting://b/{name}", spacing=given).shape == voxels.shape
        assert sum(bucket.requests) < voxels.nbytes / 4
        assert np.array_equal(read_volume(f"counting://b/{name}", spacing=given).voxels, voxels)


def test_rows_say_what_is_wrong_with_their_spacing(tmp_path, draw):
    for name in "abcd":
        np.save(tmp_path / f"{name}.npy", draw().voxels)
    lines = ["participant_id\tfilepath\tspacing_mm", "1\t/a.npy\t0.25 0.004 0.05"]
    lines += ["1\t/b.npy\t0.25 0.004", "1\t/c.npy\t0.25 0 0.05", f"1\t/d.npy\t{'9' * 5000} 1 1"]
    (tmp_path / "list.tsv").write_text("\n".join(lines))
    first, *others = read_manifest(tmp_path, manifest=tmp_path / "list.tsv")
    assert (first.spacing_mm, first.refused) == ((0.25, 0.004, 0.05), None)
    wrong = "of the manifest: spacing_mm is not three numbers above 0"
    assert [record.refused for record in others] == [
        ("parse", f"line {n} {wrong}") for n in (3, 4, 5)
    ]


def test_a_row_may_name_dicom_of_any_ending_and_a_folder_of_any_name(tmp_path, scan_file, draw):
    scan_file("a.ima")
    images(tmp_path / "left.eye", draw().voxels)
    (tmp_path / "notes.txt").write_text("nothing")
    lines = ["participant_id\tfilepath\tspacing_mm", "4007\ta.ima\t"]
    lines += ["2\tleft.eye\t0.25 0.004 0.05", "3\tnotes.txt\t", "4\tgone.txt\t"]
    (tmp_path / "list.tsv").write_text("\n".join(lines))
    records = read_manifest(tmp_path, manifest=tmp_path / "list.tsv")
    build_cache(records, tmp_path, TINY, tmp_path / "cache")
    cache = open_cache(tmp_path / "cache")
    assert (len(cache), [one.stage for one in cache.quarantined]) == (2, ["parse", "parse"])


def test_the_sidecar_of_a_name_in_capitals_is_the_one_that_the_refusal_names(tmp_path, draw):
    np.save(tmp_path / "a.npy", draw().voxels)
    (tmp_path / "a.npy").rename(tmp_path / "A.NPY")
    assert sidecar_name(ScanFile(url="data/A.NII.GZ")) == "A.json"
    with pytest.raises(ScanError, match=r"write A\.json like"):
        read_volume(tmp_path / "A.NPY")


def test_two_members_of_one_file_are_two_scans(tmp_path, draw):
    np.savez(tmp_path / "a.npz", right=draw(1).voxels, left=draw(2).voxels)
    lines = ["participant_id\tfilepath\tmember\tlaterality\tspacing_mm"]
    lines += [f"1\ta.npz\t{one}\t{one[0]}\t0.25 0.004 0.05" for one in ("right", "left", "left")]
    (tmp_path / "list.tsv").write_text("\n".join(lines))
    records = read_manifest(tmp_path, manifest=tmp_path / "list.tsv")
    assert [record.member for record in records] == ["left", "right"]
    assert len({record.key for record in records}) == 2
    window = replace(TINY, mirror_left=True)
    build_cache(records, tmp_path, window, tmp_path / "cache")
    cache = open_cache(tmp_path / "cache")
    for number, record in enumerate(records):
        given = Spacing(0.25, 0.004, 0.05)
        volume = read_volume(tmp_path / "a.npz", member=record.member, spacing=given)
        told = replace(volume, laterality=record.laterality)
        assert np.array_equal(cache[number], resample(told, window).voxels)
    assert [entry.mirrored for entry in cache.entries] == [True, False]


def test_hashes_of_scans_are_what_they_were_where_nothing_new_is_said(phantom_tree):
    records = read_manifest(phantom_tree)
    tokens = change_tokens(phantom_tree, [record.path for record in records])
    old = {
        "path",
        "participant_id",
        "device",
        "laterality",
        "region",
        "protocol",
        "shape",
        "sop_instance_uid",
        "refused",
    }
    assert set(asdict(records[0])) == old | set(RARE) | set(BESIDE)
    for record, found in zip(records, _hash_sources(records, phantom_tree, None), strict=True):
        fields = {name: one for name, one in asdict(record).items() if name in old}
        content = json.dumps([1, fields, tokens[record.path]]).encode()
        assert found == hashlib.sha256(content).hexdigest()[:32]
    key = hashlib.sha256(b"oct-io-scan:" + records[0].path.encode()).hexdigest()[:16]
    assert records[0].key == key
    assert ScanRecord(path="a", member="b").key != ScanRecord(path="a").key


def test_a_changed_image_or_sidecar_is_decoded_again(tmp_path, draw):
    root, seen = tmp_path / "data", []
    images(root / "eye", draw().voxels)
    np.save(root / "a.npy", draw(1).voxels)
    tell(root / "volume.json", **SAID)
    tell(root / "a.json", laterality="R")

    def build():
        seen.clear()
        config = SourceConfig(root=str(root), cache=str(tmp_path / "c"), window="tiny", jobs=1)
        said = lambda what, done, total: what == "resampling scans" and seen.append(done)  # noqa: E731
        return open_source(config, said).volumes

    first = build()
    assert build().fingerprint == first.fingerprint
    assert seen == []
    Image.fromarray(draw(5).voxels[3]).save(root / "eye/3.png")
    os.utime(root / "eye/3.png", (1, 1))
    pairs = zip(build().entries, first.entries, strict=True)
    assert [one.sha256 == two.sha256 for one, two in pairs] == [True, False]
    tell(root / "a.json", laterality="R", spacing_mm=[0.2, 0.004, 0.05])
    assert build().entries[0].source_spacing == (0.2, 0.004, 0.05)
    tell(root / "volume.json", spacing_mm=[0.3, 0.004, 0.05])
    assert [entry.source_spacing[0] for entry in build().entries] == [0.2, 0.3]


def test_a_folder_in_a_bucket_changes_with_its_files(bucket, draw, tmp_path):
    images(tmp_path / "eye", draw().voxels)
    for path in (tmp_path / "eye").iterdir():
        bucket.pipe_file(f"/b/eye/{path.name}", path.read_bytes())
    bucket.pipe_file("/b/volume.json", json.dumps(SAID).encode())
    (record,) = read_manifest("counting://b")
    assert (record.path, record.shape) == ("eye", (8, 48, 40))
    assert FolderSidecars("counting://b").said("eye/0.png") == record.sidecar
    (before,) = change_tokens("counting://b", ["eye"]).values()
    bucket.pipe_file("/b/eye/3.png", b"other")
    (after,) = change_tokens("counting://b", ["eye"]).values()
    assert "absent" != before != after != "absent"
