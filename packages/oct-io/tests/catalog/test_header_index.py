"""Headers that are kept beside a cache: what is not read again, and what is."""

import json
import os
import shutil
import stat
import subprocess
import sys
import tracemalloc
import warnings

import numpy as np
import pytest
import tifffile
from oct_io import ScanError, SourceConfig, audit, open_source, read_manifest
from oct_io.catalog import header_file, header_index
from oct_io.catalog.header_file import read_rows, write_rows
from oct_io.catalog.header_index import index_path, read_known_headers, scan_states
from oct_io.catalog.headers import WORTH, read_headers
from oct_io.cli import main
from oct_io.records.discovery import find_scans
from oct_io.records.record import ScanRecord
from oct_io.storage.files import change_tokens, list_tokens

SIDECAR = {"spacing_mm": [0.25, 0.004, 0.05], "laterality": "R"}


@pytest.fixture
def tree(tmp_path, scan_file, draw):
    """Two DICOM scans, two arrays that must be decoded to be known, and one that is damaged."""
    for number in range(2):
        scan_file(f"tree/{number}.dcm", volume=draw(number, participant_id=f"700{number}"))
    for number in range(2, 4):
        np.savez(tmp_path / f"tree/{number}.npz", volume=draw(number).voxels)
        (tmp_path / f"tree/{number}.json").write_text(json.dumps(SIDECAR))
    (tmp_path / "tree/4.nii.gz").write_bytes(b"no scan")
    return tmp_path / "tree"


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def blank(path):
    """Leave of a file its size and its time of change, so that who reads it gets nothing."""
    state = path.stat()
    path.write_bytes(bytes(state.st_size))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def blank_scans(tree):
    for path in tree.iterdir():
        if path.suffix != ".json":
            blank(path)


def test_a_second_start_reads_no_scan_and_gives_the_same_records(tree, cache):
    first = read_manifest(tree, cache=cache)
    assert [one.refused is not None for one in first] == [False] * 4 + [True]
    report = audit(tree, cache=cache)
    blank_scans(tree)
    assert read_manifest(tree, cache=cache) == first
    assert audit(tree, cache=cache) == report
    assert read_manifest(tree) != first, "without the kept headers the blank files are seen"


def test_kept_headers_are_those_that_were_read(tree, cache):
    first, again = (audit(tree, cache=cache).to_tree() for _ in range(2))
    assert first == again == audit(tree).to_tree()


def test_changed_and_new_scans_are_read_and_removed_ones_forgotten(tree, cache, scan_file, draw):
    read_manifest(tree, cache=cache)
    blank(tree / "1.dcm")
    scan_file("tree/0.dcm", volume=draw(0, participant_id="8000"))
    scan_file("tree/9.dcm", volume=draw(9, participant_id="7009"))
    (tree / "3.npz").unlink()
    found = {one.path: one.participant_id for one in read_manifest(tree, cache=cache)}
    assert found == {
        "0.dcm": "8000", "1.dcm": "7001", "2.npz": "", "4.nii.gz": "", "9.dcm": "7009",
    }  # fmt: skip
    blank_scans(tree)
    assert {one.path: one.participant_id for one in read_manifest(tree, cache=cache)} == found


@pytest.mark.parametrize("name", ["2.json", "volume.json"])
def test_what_stands_beside_an_array_is_part_of_its_state(tree, name):
    before = states_of(tree)
    (tree / name).write_text(json.dumps(SIDECAR | {"laterality": "L", "device": name}))
    after = states_of(tree)
    changed = {path for path in ("0.dcm", "2.npz", "3.npz") if before[path] != after[path]}
    assert changed == ({"2.npz"} if name == "2.json" else {"2.npz", "3.npz"})


def states_of(tree):
    tokens = list_tokens(tree)
    records, _ = find_scans(str(tree), list(tokens))
    return dict(zip((one.path for one in records), scan_states(tokens, records), strict=True))


def test_a_folder_is_what_is_in_it():
    folders = [ScanRecord(path="a"), ScanRecord(path="ab")]
    tokens = {"a/1.png": "1:1", "a/2.png": "1:1", "a0.npy": "1:1", "ab/3.png": "1:1"}
    before = scan_states(tokens, folders)
    after = scan_states(tokens | {"a/2.png": "1:2", "a0.npy": "2:2"}, folders)
    assert (before[0] != after[0], before[1] == after[1]) == (True, True)
    many = {f"a/{number}.png": "1:1" for number in range(900)}
    assert len(scan_states(many, folders)[0]) < 64
    assert scan_states(many | {"a/5.png": "2:1"}, folders) != scan_states(many, folders)


def test_what_a_manifest_says_of_a_scan_is_part_of_its_state():
    said = [{}, {"spacing_mm": (0.1, 0.004, 0.01)}, {"sidecar": "{}"}]
    states = [scan_states({"a.npz": "1:1"}, [ScanRecord(path="a.npz", **one)])[0] for one in said]
    assert len(set(states)) == 3


def test_a_changed_sidecar_is_read_though_the_array_stays(tree, cache):
    read_manifest(tree, cache=cache)
    (tree / "2.json").write_text(json.dumps(SIDECAR | {"laterality": "L"}))
    sides = [one.laterality for one in read_manifest(tree, cache=cache)]
    assert sides == ["L", "L", "L", "R", "unknown"]


def test_only_the_owner_may_read_what_is_kept(tree, cache):
    read_manifest(tree, cache=cache)
    assert stat.S_IMODE(index_path(cache).stat().st_mode) == 0o600


def test_damaged_kept_headers_cost_one_line_and_are_read_again(tree, cache):
    first = read_manifest(tree, cache=cache)
    path = index_path(cache)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    said = 0
    for place in [0, len(content) - 3, *rng.integers(0, len(content), 60).tolist()]:
        spoilt = bytearray(content)
        spoilt[place] ^= 1 << int(rng.integers(8))
        for bad in (bytes(spoilt), content[:place]):
            path.write_bytes(bad)
            with warnings.catch_warnings(record=True) as lines:
                warnings.simplefilter("always")
                assert read_manifest(tree, cache=cache) == first
            assert len(lines) <= 1
            assert all("those headers are read again" in str(one.message) for one in lines)
            said += len(lines)
    assert said > 60
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_manifest(tree, cache=cache) == first


def test_headers_that_were_read_before_a_stop_are_kept(tree, cache):
    def stop(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read_manifest(tree, cache=cache, progress=stop)
    for name in ("0.dcm", "1.dcm", "2.npz"):
        blank(tree / name)
    assert [one.refused is None for one in read_manifest(tree, cache=cache)] == [True] * 4 + [False]


def test_headers_are_kept_while_more_are_read_so_that_a_kill_costs_few(tree, cache, monkeypatch):
    monkeypatch.setattr(header_index, "AT_ONCE", 2)
    monkeypatch.setattr(header_file, "ROWS", 1)
    seen = []

    def look(done, total):
        seen.append({name for name, _, _ in read_rows(index_path(cache))})

    first = read_manifest(tree, cache=cache, progress=look)
    whole = {"0.dcm", "1.dcm", "2.npz", "3.npz"}
    assert seen == [set(), set(), {"0.dcm", "1.dcm"}, {"0.dcm", "1.dcm"}, whole]
    kept = index_path(cache).read_bytes()
    (tree / "1.dcm").touch()
    assert read_manifest(tree, cache=cache) == first
    assert [name for name, _, _ in read_rows(index_path(cache))] == sorted(whole)
    assert index_path(cache).read_bytes() != kept
    blank_scans(tree)
    assert read_manifest(tree, cache=cache) == first


def test_of_many_kept_headers_a_block_is_in_memory(tree, cache, monkeypatch):
    monkeypatch.setattr(header_file, "ROWS", 256)
    read_manifest(tree, cache=cache)
    text = next(text for name, _, text in read_rows(index_path(cache)) if name == "0.dcm")
    peaks = []
    for count in (256, 2304):
        records = [ScanRecord(path=f"{n:06}.dcm") for n in range(count)]
        write_rows(index_path(cache), ((one.path, "1:1", text) for one in records))
        tokens = {one.path: "1:1" for one in records}
        taken = []
        for _ in range(3):  # threads of other tests take memory meanwhile
            tracemalloc.start()
            headers = read_known_headers(tree, records, tokens, cache=cache)
            assert sum(not isinstance(one, ScanError) for one in headers) == count
            taken.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        peaks.append(min(taken))
    assert (peaks[1] - peaks[0]) / 2048 < len(text), "names and states grow, headers do not"


def test_an_outage_is_not_kept(stores, storage, cache, monkeypatch):
    storage("s3", faults=("forbid",), fraction=1.0)
    with pytest.raises(Exception, match="eyes"):
        read_manifest("s3://eyes/many", cache=cache)
    storage("s3")
    assert all(one.refused is None for one in read_manifest("s3://eyes/many", cache=cache))


def test_a_second_start_from_a_bucket_is_one_listing_and_no_file(stores, storage, cache):
    config = SourceConfig(root="s3://eyes/many", cache=str(cache), window="tiny_field", jobs=1)
    proxy = storage("s3")
    first = open_source(config).volumes
    assert len({one.path for one in proxy.gets()}) == 200
    proxy.clear()
    second = open_source(config).volumes
    assert second.fingerprint == first.fingerprint
    assert not proxy.gets(), "no request for the content of a scan"
    assert {one.path for one in proxy.requests if one.method == "GET"} == {"/eyes"}
    everything = [one for one in proxy.requests if one.size > 200 * 100]
    assert len(everything) == 1, "the others ask whether there is a manifest or a table"


def test_the_commands_share_what_is_kept(tree, cache, tmp_path, capsys):
    assert main(["audit", str(tree), "--cache", str(cache), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    blanked = tmp_path / "blank"
    shutil.copytree(tree, blanked)
    blank_scans(blanked)
    assert main(["manifest", str(blanked), "--cache", str(cache)]) == 0
    assert capsys.readouterr().out.count("topcon_triton") == 2
    assert main(["audit", str(blanked), "--cache", str(cache), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == report
    assert main(["cache", str(tree), str(cache), "--window", "tiny_field", "--jobs", "1"]) == 0
    blank_scans(tree)
    assert main(["cache", str(tree), str(cache), "--window", "tiny_field", "--jobs", "1"]) == 0
    assert "4 volumes of 8 x 64 x 64, 1 refused" in capsys.readouterr().out


def test_one_listing_gives_the_tokens_that_each_file_has(tree):
    tokens = list_tokens(tree)
    assert list(tokens) == sorted(path.name for path in tree.iterdir())
    assert change_tokens(tree, list(tokens)) == tokens


def test_processes_read_the_headers_that_one_reads(tree, tmp_path):
    paths = [f"{number:03}.dcm" for number in range(2 * WORTH)]
    for number, path in enumerate(paths):
        os.link(tree / f"{number % 2}.dcm", tmp_path / path)
    (tmp_path / paths[-1]).unlink()
    alone = list(read_headers(tmp_path, [*paths[:2], paths[-1]]))
    two = list(read_headers(tmp_path, paths, jobs=2))
    assert two[:-1] == (alone[:2] * WORTH)[:-1], "they are two files under many names"
    assert [type(found[-1]) for found in (alone, two)] == [ScanError, ScanError]
    assert str(alone[-1]) == str(two[-1])


def test_a_script_that_forgot_its_main_guard_gets_its_headers_all_the_same(tmp_path, draw):
    many = tmp_path / "many"
    many.mkdir()
    (many / "volume.json").write_text(json.dumps(SIDECAR))
    tifffile.imwrite(many / "000.tif", draw().voxels, photometric="minisblack")
    for number in range(1, 2 * WORTH // 20):  # each counts for 20, because it is decoded
        os.link(many / "000.tif", many / f"{number:03}.tif")
    script = tmp_path / "script.py"
    call = f"read_manifest({str(many)!r}, jobs=2)"
    script.write_text(f"from oct_io import read_manifest\nprint(len({call}))\n")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout.split()) == (0, [str(2 * WORTH // 20)])


def test_a_scan_that_could_not_be_read_is_tried_at_each_start(tree, cache):
    whole = (tree / "2.npz").read_bytes()
    (tree / "2.npz").write_bytes(whole[:-200])
    kept = {one.path: one.refused for one in read_manifest(tree, cache=cache)}
    assert kept["2.npz"] is not None
    held = (tree / "2.npz").stat()
    (tree / "2.npz").write_bytes(whole)
    os.truncate(tree / "2.npz", held.st_size)
    (tree / "2.npz").write_bytes(whole)
    os.utime(tree / "2.npz", ns=(held.st_atime_ns, held.st_mtime_ns))
    again = {one.path: one.refused for one in read_manifest(tree, cache=cache)}
    assert again["2.npz"] is None


def test_a_manifest_may_name_a_file_that_is_not_there(tree, cache):
    rows = "person_id\tfilepath\n7000\t2.npz\n7001\tgone.dcm\n"
    (tree / "manifest.tsv").write_text(rows)
    report = audit(tree, manifest=tree / "manifest.tsv", cache=cache)
    assert (report.scans, report.usable, dict(report.refused)) == (2, 1, {"fetch": 1})


def test_what_a_link_leads_to_is_what_counts(tmp_path, draw):
    (tmp_path / "store").mkdir()
    (tmp_path / "tree").mkdir()
    stored = tmp_path / "store/s.npy"
    np.save(stored, draw().voxels)
    (tmp_path / "tree/s.npy").symlink_to(stored)
    before = list_tokens(tmp_path / "tree")
    np.save(stored, draw(1).voxels)
    os.utime(stored, (1, 1))
    assert list_tokens(tmp_path / "tree") != before
    assert list_tokens(tmp_path / "tree") == change_tokens(tmp_path / "tree", ["s.npy"])
