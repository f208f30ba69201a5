import shutil

import numpy as np
import pytest
from oct_io import (
    WINDOWS,
    ScanRecord,
    TreeError,
    audit,
    build_cache,
    hash_participant,
    read_manifest,
)
from oct_io.catalog.render import write_png
from oct_io.quarantine import read_quarantine
from oct_io.storage.files import safe_relative

ROW = {
    "manufacturer": "Topcon",
    "manufacturers_model_name": "Triton",
    "anatomic_region": "Macula, 6 x 6",
    "imaging": "OCT",
    "laterality": "L",
    "height": "48",
    "width": "40",
    "number_of_frames": "8",
    "pixel_spacing": "[0.004, 0.05]",
    "slice_thickness": "0.25",
    "sop_instance_uid": "",
    "filepath": "",
    "reference_instance_uid": "",
    "reference_filepath": "NaN",
}


def write_manifest(folder, rows, id_name="participant_id", name="manifest.tsv"):
    folder.mkdir(parents=True, exist_ok=True)
    usual = {id_name: "", **ROW}
    table = [list(usual), *([row.get(c, usual[c]) for c in usual] for row in rows)]
    between = "\t" if name.endswith("tsv") else ","
    quoted = [[f'"{cell}"' if "," in cell else cell for cell in line] for line in table]
    (folder / name).write_text("\n".join(between.join(line) for line in quoted) + "\n")


@pytest.fixture
def tree(tmp_path, scan_file):
    """Two participants with a scan each, in AI-READI's layout; returns (root, relative paths)."""
    paths = []
    for number in ("4007", "1001"):
        path = (
            f"retinal_oct/structural_oct/topcon_triton/{number}/"
            f"{number}_triton_macula_6x6_octa_oct_l_1.2.{number}.dcm"
        )
        scan_file(f"data/{path}", participant_id=number)
        paths.append(path)
    return tmp_path / "data", paths


@pytest.mark.parametrize("id_name", ["participant_id", "person_id"])
@pytest.mark.parametrize("name", ["manifest.tsv", "manifest.csv"])
def test_manifests_of_all_versions_are_read(tree, id_name, name):
    root, paths = tree
    rows = [{id_name: p.split("/")[3], "filepath": f"/{p}"} for p in paths]
    write_manifest(root / "retinal_oct", rows, id_name, name)
    records = read_manifest(root)
    assert [record.path for record in records] == sorted(paths)
    assert [record.participant_id for record in records] == ["1001", "4007"]
    first = records[0]
    assert (first.device, first.laterality, first.region) == ("topcon_triton", "L", "Macula, 6 x 6")
    assert (first.protocol, first.shape) == ("triton_macula_6x6_octa_oct", (8, 48, 40))
    assert first.refused is None


@pytest.mark.parametrize("nested", ["data", "retinal_oct"])
def test_a_tree_that_lies_one_folder_deeper_than_it_says_is_found(tree, nested, tmp_path):
    root, paths = tree
    write_manifest(root / "retinal_oct", [{"participant_id": "1", "filepath": f"/{paths[0]}"}])
    if nested == "data":
        (tmp_path / "outer").mkdir()
        shutil.move(root, tmp_path / "outer/data")
        shutil.move(tmp_path / "outer", root)
    else:
        (root / "inner").mkdir()
        shutil.move(root / "retinal_oct", root / "inner/retinal_oct")
        shutil.move(root / "inner", root / "retinal_oct")
    (record,) = read_manifest(root)
    assert (root / record.path).exists()


def test_the_folder_of_the_modality_is_a_root_as_well(tree):
    root, paths = tree
    write_manifest(root / "retinal_oct", [{"participant_id": "1", "filepath": f"/{paths[0]}"}])
    (record,) = read_manifest(root / "retinal_oct")
    assert (root / "retinal_oct" / record.path).exists()


def test_paths_that_leave_the_root_are_refused_and_counted(tree):
    root, paths = tree
    bad = ["/../../etc/passwd.dcm", "a/../../x.dcm", "file:///etc/x.dcm", "s3://b/x.dcm"]
    bad += ["//host/x.dcm", "a\\..\\x.dcm", "nan", "None", "", "/retinal_oct/notes.txt"]
    rows = [{"participant_id": "1", "filepath": path} for path in [f"/{paths[0]}", *bad]]
    write_manifest(root / "retinal_oct", rows)
    records = read_manifest(root)
    assert [record.path for record in records if record.refused is None] == [paths[0]]
    assert len(records) == 1 + len(bad)


def test_a_leading_slash_does_not_mean_the_root_of_the_disk():
    assert safe_relative("/retinal_oct/a.dcm") == "retinal_oct/a.dcm"
    assert safe_relative("/a/../b") is None
    assert safe_relative("/a\0b.dcm") is None


def test_a_file_named_twice_is_one_scan(tree):
    root, paths = tree
    rows = [{"participant_id": "1", "filepath": f"/{paths[0]}"}] * 2
    write_manifest(root / "retinal_oct", rows)
    assert len(read_manifest(root)) == 1


def test_a_file_of_two_participants_is_refused_with_its_lines(tree):
    root, paths = tree
    owners = [("4007", paths[0]), ("1001", paths[1]), ("4008", paths[0])]
    rows = [{"participant_id": owner, "filepath": f"/{path}"} for owner, path in owners]
    write_manifest(root / "retinal_oct", rows)
    kept, refused = read_manifest(root)
    assert (kept.path, kept.refused) == (paths[1], None)
    assert (refused.path, refused.participant_id) == (paths[0], "")
    reason = "the manifest lists it for 2 participants, in lines 2, 4"
    assert refused.refused == ("content", reason)
    build_cache([kept, refused], root, WINDOWS["tiny"], root.parent / "cache", jobs=1)
    (line,) = read_quarantine(root.parent / "cache/quarantine.jsonl")
    assert (line.path, line.stage, line.reason) == (paths[0], "content", reason)


def test_what_two_rows_of_a_file_contradict_each_other_in_is_unknown(tree):
    root, paths = tree
    row = {"participant_id": "4007", "filepath": f"/{paths[0]}"}
    changed = {"participant_id": "", "laterality": "R", "height": "99"}
    write_manifest(root / "retinal_oct", [row, row | changed])
    (record,) = read_manifest(root)
    assert (record.participant_id, record.laterality, record.shape) == ("4007", "unknown", None)
    assert (record.device, record.refused) == ("topcon_triton", None)


def test_a_device_that_is_not_listed_keeps_its_name(tree):
    root, _ = tree
    row = {"manufacturer": "Optovue", "manufacturers_model_name": "RTVue-XR"}
    row |= {"participant_id": "1", "filepath": "/x/1.npy"}
    write_manifest(root / "retinal_oct", [row])
    assert read_manifest(root)[0].device == "rtvue_xr"


def test_any_folder_of_scans_will_do(tree):
    root, paths = tree
    (root / "notes.dcm").write_text("not a scan")
    records = {record.path: record for record in read_manifest(root)}
    assert set(records) == {*paths, "notes.dcm"}
    assert records[paths[0]].participant_id == "4007"  # from the header, not from the path
    assert records[paths[0]].shape == (8, 48, 40)
    assert records["notes.dcm"].refused[0] == "parse"


def test_a_manifest_in_a_bucket_is_read(tree, bucket):
    root, paths = tree
    write_manifest(root / "retinal_oct", [{"participant_id": "7", "filepath": f"/{paths[0]}"}])
    for path in root.rglob("*.*"):
        bucket.pipe_file(f"/b/data/{path.relative_to(root)}", path.read_bytes())
    (record,) = read_manifest("counting://b/data")
    assert record.path == paths[0]


def test_a_folder_without_scans_says_in_one_line_what_was_looked_for(tmp_path):
    with pytest.raises(TreeError, match=r"no scans; looked for retinal_oct/manifest\.tsv and"):
        read_manifest(tmp_path)
    with pytest.raises(TreeError, match="no such folder"):
        read_manifest(tmp_path / "none")


@pytest.mark.parametrize("read", [read_manifest, audit])
def test_a_folder_of_bscans_says_once_what_lies_there_and_how_it_is_read(tmp_path, caplog, read):
    for number in range(3):
        write_png(np.zeros((8, 8), np.uint8), tmp_path / f"{number}.png")
    with pytest.raises(TreeError, match=r"no scans; .* of their own are read with data=bscans$"):
        read(tmp_path)
    assert caplog.text.count("passed over, no scans: 3 images in the root itself") == 1


def test_a_manifest_without_paths_or_ids_says_so(tmp_path):
    folder = tmp_path / "retinal_oct"
    folder.mkdir()
    for content, word in (("participant_id\tx\n1\t2\n", "filepath"), ("filepath\na.dcm\n", "id")):
        (folder / "manifest.tsv").write_text(content)
        with pytest.raises(TreeError, match=word):
            read_manifest(tmp_path)


def test_participants_are_hashed_and_do_not_show():
    assert hash_participant("1001") == "9c4e25ad5e7c" or len(hash_participant("1001")) == 12
    assert hash_participant("1001") != hash_participant("1002")
    record = ScanRecord(path="a/1001/x.dcm", participant_id="1001")
    assert "1001" not in repr(record)
    assert record.participant == hash_participant("1001")
