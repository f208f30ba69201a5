"""Manifests of trees that have none, the audit page, and pictures."""

import json
import re
import shutil

import numpy as np
import pytest
from oct_io import ScanRecord, TreeError, audit, read_manifest
from oct_io.catalog.audit_page import audit_page, draw_examples
from oct_io.catalog.listing import (
    participants_from_folders,
    participants_from_table,
    write_manifest,
)
from oct_io.catalog.render import draw_enface
from oct_io.cli import main
from oct_io.volume import Spacing

SIDECAR = {"spacing_mm": [0.25, 0.004, 0.05], "laterality": "R"}


@pytest.fixture
def tree(tmp_path, scan_file, draw):
    """Two DICOM scans with participants and one array without; returns the root."""
    scan_file("tree/4007/a.dcm", volume=draw(0, participant_id="4007"))
    named = draw(1, participant_id="1001", laterality="R")
    scan_file("tree/1001/1001_triton_macula_6x6_octa_oct_r_1.2.3.dcm", volume=named)
    (tmp_path / "tree/7003").mkdir()
    np.save(tmp_path / "tree/7003/scan.npy", draw(2).voxels)
    (tmp_path / "tree/7003/scan.json").write_text(json.dumps(SIDECAR))
    return tmp_path / "tree"


def test_a_written_manifest_is_read_back_to_the_same_records(tree, tmp_path):
    records = read_manifest(tree)
    assert [record.path.rsplit(".", 1)[-1] for record in records] == ["dcm", "dcm", "npy"]
    write_manifest(tmp_path / "list.tsv", records)
    assert read_manifest(tree, manifest=tmp_path / "list.tsv") == records
    (tree / "retinal_oct").mkdir()
    shutil.move(tmp_path / "list.tsv", tree / "retinal_oct/manifest.tsv")
    assert read_manifest(tree) == records


def test_a_written_phantom_manifest_is_read_back_to_the_same_records(tmp_path):
    import oct_io

    oct_io.write_phantom_tree(tmp_path / "d", oct_io.PhantomTree(participants=3, jobs=1))
    records = read_manifest(tmp_path / "d")
    write_manifest(tmp_path / "list.tsv", records)
    assert read_manifest(tmp_path / "d", manifest=tmp_path / "list.tsv") == records


def test_participants_are_never_guessed_but_taken_from_folders_when_asked(tree, tmp_path):
    records = read_manifest(tree)
    assert [record.participant_id for record in records] == ["1001", "4007", ""]
    asked = participants_from_folders(records)
    assert [record.participant_id for record in asked] == ["1001", "4007", "7003"]
    assert [record.participant_id for record in records] == ["1001", "4007", ""]


def test_participants_come_from_a_column_that_the_user_names(tree, tmp_path):
    table = tmp_path / "who.csv"
    table.write_text("filepath,person\n/7003/scan.npy,7003.0\n")
    named = participants_from_table(read_manifest(tree), table, "person")
    assert [record.participant_id for record in named] == ["1001", "4007", "7003"]
    with pytest.raises(TreeError, match="no column 'who'"):
        participants_from_table(read_manifest(tree), table, "who")
    table.write_text("filepath,person\n/7003/scan.npy,7003\n/7003/scan.npy,7004\n")
    with pytest.raises(TreeError, match="lines 2 and 3 give a scan to two participants"):
        participants_from_table(read_manifest(tree), table, "person")
    table.write_text("filepath,person\n/other.npy,7003\n")
    with pytest.raises(TreeError, match="names no participant for 1 of 3 scans"):
        participants_from_table(read_manifest(tree), table, "person")


def test_a_device_that_is_not_listed_is_written_and_read_back(tmp_path):
    record = ScanRecord(path="a/1.npy", participant_id="1", device="optovue_rtvue_xr")
    write_manifest(tmp_path / "list.tsv", [record])
    assert read_manifest(tmp_path, manifest=tmp_path / "list.tsv") == [record]


def test_the_command_writes_filtered_manifests(tree, tmp_path, capsys):
    out = tmp_path / "list.tsv"
    assert main(["manifest", str(tree), "--laterality", "R", "--out", str(out)]) == 0
    assert {one.laterality for one in read_manifest(tree, manifest=out)} == {"R"}
    arguments = ["--device", "topcon_triton", "--min-frames", "8", "--participant-from", "folder"]
    assert main(["manifest", str(tree), *arguments, "--out", str(out)]) == 0
    assert len(read_manifest(tree, manifest=out)) == 2
    assert main(["manifest", str(tree), "--min-frames", "9"]) == 2
    assert main(["manifest", str(tree), "--participant-from", "somewhere"]) == 2
    assert "1001" not in capsys.readouterr().out
    shards = tmp_path / "cache"
    made = ["cache", str(tree), str(shards), "--window", "tiny", "--manifest", str(out)]
    assert main([*made, "--jobs", "1"]) == 0
    assert "2 volumes" in capsys.readouterr().out


def test_folder_file_name_and_manifest_are_compared_with_the_header(tmp_path, scan_file, draw):
    name = "9009_cirrus_mac_oct_r_1.2.dcm"
    volume = draw(participant_id="1001", laterality="L")
    scan_file(f"tree/zeiss_cirrus/9009/{name}", volume=volume)
    report = audit(tmp_path / "tree")
    assert set(report.mismatches) == {
        "participant of the folder",
        "participant of the file name",
        "laterality of the file name",
        "device of the folder",
        "device of the file name",
    }
    ((key, _), *_others) = report.contradictions
    assert re.fullmatch("[0-9a-f]{16}", key)


def test_a_copy_is_told_from_another_content_under_the_same_uid(tmp_path, scan_file):
    path = scan_file("tree/a.dcm")
    shutil.copy(path, path.with_name("b.dcm"))
    path.with_name("c.dcm").write_bytes(path.read_bytes() + b"\0\0")
    report = audit(tmp_path / "tree")
    assert (report.duplicates, report.copies) == (2, 1)


def test_the_page_holds_all_it_shows_and_names_nobody(tree):
    report = audit(tree)
    page = audit_page(report, draw_examples(report, tree))
    assert page.count("data:image/png;base64,") == 4  # B-scans and en face of two kinds of scans
    assert "http" not in page
    assert "<script" not in page
    for secret in ("1001", "4007", "7003", "Secret", str(tree)):
        assert secret not in re.sub(r"base64,[^\"]*", "", page)


def test_the_command_writes_a_page_and_json(tree, tmp_path, capsys):
    assert main(["audit", str(tree), "--json", "--html", str(tmp_path / "page.html")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["scans"], found["usable"]) == (3, 3)
    assert found["counts"]["device"]["topcon_triton"] == 2
    assert "examples" not in found
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")


def test_headers_of_a_folder_without_a_manifest_are_read_once(tree, bucket):
    for path in tree.rglob("*.dcm"):
        bucket.pipe_file(f"/b/{path.relative_to(tree)}", path.read_bytes())
    bucket.requests.clear()
    assert audit("counting://b").usable == 2
    assert len(bucket.requests) == 2


def test_the_front_view_is_the_mean_over_depth_in_true_proportions(draw):
    volume = draw(0)
    voxels = np.zeros((4, 10, 8), np.uint8)
    voxels[1, 2:4] = 200
    voxels[2, 7:] = 200
    steps = Spacing(0.5, 0.01, 0.25)
    volume = type(volume)(voxels, steps, "drawn")
    whole = draw_enface(volume, columns=80)
    assert whole.shape == (80, 80)  # 4 x 0.5 mm by 8 x 0.25 mm
    assert whole[25, 0] > 0
    assert whole[50, 0] > 0
    slab = draw_enface(volume, depth_mm=(0.0, 0.05), columns=80)
    assert slab[25, 0] == 255
    assert slab[50, 0] == 0
    with pytest.raises(ValueError, match="must lie in the scan"):
        draw_enface(volume, depth_mm=(1.0, 2.0))


def test_the_command_draws_a_scan_from_the_front(tree, tmp_path, capsys):
    front = tmp_path / "front.png"
    scan = str(tree / "4007/a.dcm")
    assert main(["inspect", scan, "--enface", str(front), "--slab", "0.05", "0.12"]) == 0
    assert front.read_bytes().startswith(b"\x89PNG")
    assert main(["inspect", scan, "--slab", "0", "1"]) == 2
    assert "4007" not in capsys.readouterr().out


def test_the_command_retries_and_releases(tree, tmp_path, capsys):
    path, out = tree / "4007/a.dcm", str(tmp_path / "cache")
    whole = path.read_bytes()
    path.write_bytes(whole[:-500])
    assert main(["cache", str(tree), out, "--window", "tiny", "--jobs", "1"]) == 0
    path.write_bytes(whole)
    capsys.readouterr()
    assert main(["quarantine", out]) == 0
    key = capsys.readouterr().out.split("\t")[0]
    assert main(["quarantine", out, "release"]) == 2
    assert main(["quarantine", out, "retry"]) == 2
    capsys.readouterr()
    assert main(["quarantine", out, "retry", key, "--root", str(tree)]) == 0
    assert "1 of 1 refused scans now work; 3 volumes" in capsys.readouterr().out


def test_real_scans_are_listed_and_written_back(samples, tmp_path):
    root = samples / "derived_opt_dicom"
    records = read_manifest(root)
    assert {record.device for record in records} == {"heidelberg_spectralis"}
    write_manifest(tmp_path / "list.tsv", records)
    assert read_manifest(root, manifest=tmp_path / "list.tsv") == records
