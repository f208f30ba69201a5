import errno
import hashlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context

import numpy as np
import pytest
from oct_io import (
    ScanError,
    ScanRecord,
    TreeError,
    Window,
    build_cache,
    hash_participant,
    open_cache,
    read_manifest,
    read_volume,
    resample,
)
from oct_io.quarantine import read_quarantine

WINDOW = Window(name="test", extent_mm=(2.0, 0.15, 2.0), shape=(4, 16, 12))


@pytest.fixture
def tree(tmp_path, scan_file, draw):
    """Six scans of three participants; returns the root."""
    for number in range(6):
        name = f"tree/{1001 + number // 2}/{number}.dcm"
        eye = "LR"[number % 2]
        volume = draw(number, participant_id=str(1001 + number // 2), laterality=eye)
        scan_file(name, volume=volume)
    return tmp_path / "tree"


def build(root, out, records=None, **changes):
    return build_cache(records or read_manifest(root), root, WINDOW, out, **changes)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_cache_holds_what_resampling_gives(tree, tmp_path):
    records = read_manifest(tree)
    index = build(tree, tmp_path / "cache")
    cache = open_cache(tmp_path / "cache")
    assert len(cache) == len(records) == 6
    for number, record in enumerate(records):
        volume = read_volume(tree / record.path)
        wanted = resample(volume, WINDOW)
        entry = cache.entries[number]
        assert np.array_equal(cache[number], wanted.voxels)
        assert entry.participant == hash_participant(record.participant_id)
        assert (entry.laterality, entry.device) == ("LR"[number % 2], "topcon_triton")
        assert entry.origin_mm == pytest.approx(wanted.origin_mm)
        assert entry.spacing == pytest.approx(WINDOW.spacing)
        assert entry.source_spacing == pytest.approx(volume.spacing)
    voxels = np.stack([cache[i] for i in range(6)]).astype(float)
    assert (cache.mean, cache.std) == (pytest.approx(voxels.mean()), pytest.approx(voxels.std()))
    assert cache.shape == WINDOW.shape
    assert cache.fingerprint == index.fingerprint
    cache.verify()


def test_volumes_are_copies_and_numbers_may_count_from_the_end(tree, tmp_path):
    build(tree, tmp_path / "cache")
    cache = open_cache(tmp_path / "cache")
    cache[0][:] = 0
    assert cache[0].any()
    assert np.array_equal(cache[-1], cache[5])
    with pytest.raises(IndexError):
        cache[6]


def test_the_result_does_not_depend_on_the_number_of_processes_or_the_order_of_records(
    tree, tmp_path
):
    one = build(tree, tmp_path / "one")
    assert contents(tmp_path / "one") == contents_of(build, tree, tmp_path / "two", jobs=2)
    backwards = build(tree, tmp_path / "three", records=read_manifest(tree)[::-1])
    assert backwards.fingerprint == one.fingerprint


def contents_of(build, tree, out, **changes):
    build(tree, out, **changes)
    return contents(out)


def test_shards_hold_as_many_records_as_they_are_allowed(tree, tmp_path):
    index = build(tree, tmp_path / "cache", shard_bytes=2 * 4 * 16 * 12)
    assert index.shards == (2, 2, 2)
    assert np.array_equal(
        open_cache(tmp_path / "cache")[5],
        open_cache_of(build, tree, tmp_path / "other")[5],
    )


def open_cache_of(build, tree, out):
    build(tree, out)
    return open_cache(out)


def test_a_cache_is_built_again_only_if_its_inputs_changed(tree, tmp_path):
    seen = []

    def again(**changes):
        seen.clear()
        changes["progress"] = lambda *state: seen.append(state)
        return build(tree, tmp_path / "cache", **changes)

    first = again()
    assert seen == [(number + 1, 6, 0) for number in range(6)]
    assert again() == first
    assert seen == []
    os.utime(next(tree.rglob("*.dcm")), (1, 1))
    again()
    assert len(seen) == 6
    again(records=read_manifest(tree)[:3])
    assert len(seen) == 3
    (tmp_path / "cache/shard-00000.u8").write_bytes(b"short")
    again(records=read_manifest(tree)[:3])
    assert len(seen) == 3
    open_cache(tmp_path / "cache").verify()


def test_nothing_else_is_ever_overwritten(tree, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.txt").write_text("years of work")
    with pytest.raises(TreeError, match="exists and is not a cache"):
        build(tree, tmp_path / "thesis")
    assert (tmp_path / "thesis/chapter.txt").read_text() == "years of work"


@pytest.mark.parametrize("place", ["thesis.txt/cache", "thesis.txt/caches/cache"])
def test_a_place_below_a_file_is_one_line(tree, tmp_path, place):
    (tmp_path / "thesis.txt").write_text("years of work")
    told = r"no cache can be written here: .*; give another place for it"
    with pytest.raises(TreeError, match=told) as caught:
        build(tree, tmp_path / place)
    assert "\n" not in str(caught.value)


def test_a_file_system_without_locks_is_one_line(tree, tmp_path, monkeypatch):
    def flock(file, how):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(TreeError, match=r"cannot be locked: .*; give the cache a place"):
        build(tree, tmp_path / "cache")


KILLED = """
import sys, time
from oct_io import Window, build_cache, read_manifest
root, out = sys.argv[1:]
def progress(done, total, bad):
    if done == 3:
        print("half", flush=True)
        time.sleep(60)
window = Window(name="test", extent_mm=(2.0, 0.15, 2.0), shape=(4, 16, 12))
build_cache(read_manifest(root), root, window, out, progress=progress)
"""


def test_a_killed_build_leaves_nothing_half_and_the_next_one_is_as_if_it_had_not_been(
    tree, tmp_path
):
    out = tmp_path / "cache"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tree), str(out)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "half\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not out.exists()
    with pytest.raises(TreeError, match="no cache here"):
        open_cache(out)
    build(tree, out)
    build(tree, tmp_path / "undisturbed")
    assert contents(out) == contents(tmp_path / "undisturbed")
    assert {path.name for path in tmp_path.iterdir() if "building" in path.name} == set()


def test_a_killed_rebuild_leaves_the_old_cache_as_it_was(tree, tmp_path):
    out = tmp_path / "cache"
    build(tree, out)
    before = contents(out)
    os.utime(next(tree.rglob("*.dcm")), (1, 1))
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tree), str(out)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "half\n"
    process.kill()
    process.wait()
    process.stdout.close()
    assert contents(out) == before


def test_two_builds_at_once_give_one_cache(tree, tmp_path):
    script = KILLED.replace("time.sleep(60)", "time.sleep(0.5)")
    command = [sys.executable, "-c", script, str(tree), str(tmp_path / "cache")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(printed) == ["", "half\n"]  # the second found the work done
    open_cache(tmp_path / "cache").verify()


def spoil(tree, how_many):
    for path in sorted(tree.rglob("*.dcm"))[:how_many]:
        path.write_bytes(path.read_bytes()[:-500])


@pytest.mark.parametrize("jobs", [1, 2])
def test_one_bad_scan_costs_one_line_in_the_quarantine(tree, tmp_path, jobs):
    spoil(tree, 1)
    index = build(tree, tmp_path / "cache", jobs=jobs)
    cache = open_cache(tmp_path / "cache")
    assert (len(cache), index.refused) == (5, 1)
    (refusal,) = cache.quarantined
    assert (refusal.stage, refusal.suffix, refusal.path) == ("decode", ".dcm", "1001/0.dcm")
    assert "1001" not in repr(refusal)
    line = json.loads((tmp_path / "cache/quarantine.jsonl").read_text())
    assert {"key", "stage", "reason", "path"} <= set(line)


def test_the_index_of_a_cache_names_no_participant_and_no_path(tree, tmp_path):
    build(tree, tmp_path / "cache")
    text = (tmp_path / "cache/index.json").read_text()
    for number in ("1001", "1002", "1003"):
        assert f'"{number}"' not in text
        assert f"{number}/" not in text
    assert ".dcm" not in text
    assert str(tree) not in text


def test_too_many_bad_scans_stop_the_build_with_counts_and_the_first_reason(tree, tmp_path):
    spoil(tree, 4)
    said = (
        r"4 of 6 scans .*\(4 decode\).*50%; the first: decode: .*; their paths: .*cache-quarantine"
    )
    with pytest.raises(TreeError, match=said):
        build(tree, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    refused = tmp_path / "cache-quarantine.jsonl"
    assert len({one.path for one in read_quarantine(refused)}) == 4
    assert refused.stat().st_mode & 0o077 == 0, "paths may name people"
    build(tree, tmp_path / "cache", max_bad_fraction=0.7)
    assert not refused.exists(), "the cache has its own"
    spoil(tree, 6)
    with pytest.raises(TreeError, match="6 of 6"):
        build(tree, tmp_path / "other", max_bad_fraction=1.0)


def test_a_file_of_someone_else_than_the_manifest_says_is_refused(tree, tmp_path):
    records = read_manifest(tree)
    records[0] = ScanRecord(path=records[0].path, participant_id="1003")
    build(tree, tmp_path / "cache", records=records)
    (refusal,) = open_cache(tmp_path / "cache").quarantined
    assert (refusal.stage, "different participants" in refusal.reason) == ("content", True)


def test_records_refused_by_the_manifest_are_quarantined_unopened(tree, tmp_path):
    bad = ScanRecord(path="../x.dcm", refused=("fetch", "its path leaves the root"))
    build(tree, tmp_path / "cache", records=[*read_manifest(tree), bad])
    (refusal,) = open_cache(tmp_path / "cache").quarantined
    assert refusal.reason == "its path leaves the root"


def hash_of(cache, number):
    return hashlib.sha256(cache[number].tobytes()).hexdigest()


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_an_open_cache_can_be_sent_to_other_processes(tree, tmp_path, method):
    build(tree, tmp_path / "cache")
    cache = open_cache(tmp_path / "cache")
    wanted = [hash_of(cache, number) for number in range(6)]  # maps are open now
    copy = pickle.loads(pickle.dumps(cache))
    assert [hash_of(copy, number) for number in range(6)] == wanted
    assert len(pickle.dumps(cache)) < 20_000
    if method == "spawn":
        script = (
            "import hashlib, pickle, sys; cache = pickle.load(sys.stdin.buffer); "
            "print([hashlib.sha256(v.tobytes()).hexdigest() for v in cache])"
        )
        command = [sys.executable, "-c", script]
        result = subprocess.run(command, input=pickle.dumps(cache), capture_output=True, check=True)
        assert result.stdout.decode().strip() == str(wanted)
        return
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        assert list(pool.map(hash_of, [cache] * 6, range(6))) == wanted


def test_selections_keep_statistics_and_have_a_fingerprint_of_their_own(tree, tmp_path):
    build(tree, tmp_path / "cache")
    cache = open_cache(tmp_path / "cache")
    left = cache.select(lambda entry: entry.laterality == "L")
    assert len(left) == 3
    assert np.array_equal(left[1], cache[2])
    assert (left.mean, left.std) == (cache.mean, cache.std)
    assert left.fingerprint != cache.fingerprint
    assert cache.select([4, 2, 0]).fingerprint == left.fingerprint
    assert cache.select(range(6)).fingerprint == cache.fingerprint
    out = hash_participant("1001")
    assert all(e.participant != out for e in cache.select(lambda e: e.participant != out).entries)


def test_damage_to_a_cache_is_found_and_named(tree, tmp_path):
    folder = tmp_path / "cache"
    build(tree, folder)
    shard = folder / "shard-00000.u8"
    whole = shard.read_bytes()
    shard.write_bytes(bytes([whole[0] ^ 255]) + whole[1:])
    with pytest.raises(ScanError, match="record 0 is not what was written"):
        open_cache(folder).verify()
    late = open_cache(folder)
    shard.write_bytes(whole[:-1])
    with pytest.raises(ScanError, match="too short"):
        late[0]
    with pytest.raises(TreeError, match="the index says"):
        open_cache(folder)
    shard.unlink()
    with pytest.raises(TreeError, match="is missing"):
        open_cache(folder)
    for content in ("", "{}", "[1]", '{"format": "oct-io-cache", "version": 99}'):
        (folder / "index.json").write_text(content)
        with pytest.raises(TreeError, match=r"index\.json"):
            open_cache(folder)


def test_only_the_owner_may_look_into_a_cache(tree, tmp_path):
    build(tree, tmp_path / "cache")
    assert (tmp_path / "cache").stat().st_mode & 0o077 == 0


def test_a_cache_larger_than_the_disk_is_refused_at_once(tree, tmp_path):
    huge = Window(name="huge", extent_mm=(6, 6, 6), shape=(100_000, 100_000, 10_000))
    with pytest.raises(TreeError, match="bytes, the disk has"):
        build_cache(read_manifest(tree), tree, huge, tmp_path / "cache")


def test_scans_in_a_bucket_are_cached_with_one_request_each(tree, tmp_path, bucket):
    for path in tree.rglob("*.dcm"):
        bucket.pipe_file(f"/b/{path.relative_to(tree)}", path.read_bytes())
    records = read_manifest("counting://b")
    bucket.requests.clear()
    index = build_cache(records, "counting://b", WINDOW, tmp_path / "cache")
    assert len(bucket.requests) == 6
    assert index.fingerprint == build(tree, tmp_path / "local").fingerprint
    bucket.requests.clear()
    build_cache(records, "counting://b", WINDOW, tmp_path / "cache")
    assert bucket.requests == []


def run_script(tree, folder, text):
    """What a script prints that is given the root of a tree and where to put its cache."""
    script = folder / "script.py"
    script.write_text(text)
    command = [sys.executable, str(script), str(tree), str(folder / "cache")]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    return run.stdout


def test_a_script_that_forgot_its_main_guard_is_told_so_instead_of_waiting_forever(tree, tmp_path):
    said = run_script(
        tree,
        tmp_path,
        "import sys\n"
        "from oct_io import TreeError, Window, build_cache, read_manifest\n"
        "root, out = sys.argv[1:]\n"
        "window = Window(name='test', extent_mm=(2.0, 0.15, 2.0), shape=(4, 16, 12))\n"
        "try:\n"
        "    build_cache(read_manifest(root), root, window, out, jobs=2)\n"
        "except TreeError as error:\n"
        "    print(error)\n",
    )
    assert "worker processes do not start" in said
    assert "__main__" in said


def test_decoding_beside_the_main_process_needs_no_luck_with_a_crashing_decoder(tree, tmp_path):
    """A decoder that kills its process costs that scan; the others are cached."""
    said = run_script(
        tree,
        tmp_path,
        "import os, sys\n"
        "import oct_io.cache.decoding as decoding\n"
        "from oct_io import Window, build_cache, read_manifest\n"
        "def crash(file):\n"
        "    if file.where.endswith('2.dcm'):\n"
        "        os._exit(9)\n"
        "    return plain(file)\n"
        "from oct_io.readers.registry import READERS\n"
        "plain = READERS['.dcm']\n"
        "READERS['.dcm'] = crash\n"
        "if __name__ == '__main__':\n"
        "    root, out = sys.argv[1:]\n"
        "    window = Window(name='test', extent_mm=(2.0, 0.15, 2.0), shape=(4, 16, 12))\n"
        "    index = build_cache(read_manifest(root), root, window, out, jobs=2)\n"
        "    print(len(index.entries), index.refused)\n",
    )
    assert said.split() == ["5", "1"]
    (refusal,) = open_cache(tmp_path / "cache").quarantined
    assert refusal.reason == "the decoder crashed on it"


def test_entries_are_read_where_they_are_asked_for_and_by_column(tree, tmp_path):
    build(tree, tmp_path / "cache")
    entries = open_cache(tmp_path / "cache").entries
    listed = list(entries)
    assert [entries[n] for n in range(-6, 0)] == listed == [*entries[:4], *entries[4:]]
    assert entries.coded("laterality").texts().tolist() == [one.laterality for one in listed]
    assert entries.triples("spacing").tolist() == [list(one.spacing) for one in listed]
    assert [one.hex() for one in entries.hashes().tolist()] == [one.sha256 for one in listed]
    some = entries.take([5, 0, -2])
    assert list(some) == [listed[5], listed[0], listed[4]]
    assert some.column("key").to_pylist() == [listed[n].key for n in (5, 0, 4)]
    assert some.take([1]).coded("participant").words == [listed[0].participant]
    for wrong in (6, -7):
        with pytest.raises(IndexError):
            entries[wrong]
        with pytest.raises(IndexError):
            entries.take([wrong])
    with pytest.raises(TypeError):
        entries.take([0.5])


def test_a_fingerprint_is_the_hash_of_the_json_of_window_and_sorted_hashes(tree, tmp_path):
    build(tree, tmp_path / "cache")
    cache = open_cache(tmp_path / "cache")
    for some in (cache, cache.select([3, 1]), cache.select([])):
        content = [asdict(cache.window), sorted(one.sha256 for one in some.entries)]
        text = json.dumps(content, sort_keys=True)
        assert some.fingerprint == hashlib.sha256(text.encode()).hexdigest()


def test_a_cache_with_entries_in_its_json_opens_and_is_brought_up_without_decoding(
    tree, tmp_path, as_before_tables
):
    first = build(tree, tmp_path / "cache")
    path = as_before_tables(tmp_path / "cache")
    before = path.read_bytes()
    old = open_cache(tmp_path / "cache")
    assert (old.fingerprint, list(old.entries)) == (first.fingerprint, list(first.entries))
    assert np.array_equal(pickle.loads(pickle.dumps(old.select([4])))[0], old[4])
    assert path.read_bytes() == before, "opening writes nothing"
    records = read_manifest(tree)
    states = [(one, one.stat()) for one in tree.rglob("*.dcm")]
    for scan, state in states:  # same size, same time, and nothing in it to decode
        scan.write_bytes(bytes(state.st_size))
        os.utime(scan, ns=(state.st_atime_ns, state.st_mtime_ns))
    index = build(tree, tmp_path / "cache", records=records)
    assert (index.inputs, index.entries) == (first.inputs, first.entries)
    assert json.loads(path.read_text())["version"] == 2
    open_cache(tmp_path / "cache").verify()


def test_volumes_sent_to_another_process_are_not_those_of_a_cache_built_since(tree, tmp_path):
    build(tree, tmp_path / "cache")
    sent = pickle.dumps(open_cache(tmp_path / "cache").select([0, 5]))
    assert len(sent) < 1000
    build(tree, tmp_path / "cache", records=read_manifest(tree)[1:])
    with pytest.raises(TreeError, match="built again since it was opened"):
        pickle.loads(sent)


def test_an_open_cache_gives_no_volumes_of_one_that_was_built_in_its_place(tree, tmp_path):
    records, folder, two = read_manifest(tree), tmp_path / "cache", {"shard_bytes": 2 * 4 * 16 * 12}
    build(tree, folder, records=records[:4], **two)
    cache = open_cache(folder)
    wanted = [volume.copy() for volume in open_cache(folder)]
    assert np.array_equal(cache[0], wanted[0])
    (folder / "index.json").rename(tmp_path / "index")
    (tmp_path / "index").rename(folder / "index.json")
    assert np.array_equal(cache.select([2])[0], wanted[2]), "the same cache"
    build(tree, folder, records=records[1:5], **two)  # shards of the same names and lengths
    assert np.array_equal(cache[1], wanted[1]), "it is still open"
    for number in (2, 3):
        with pytest.raises(ScanError, match="was built again or removed since it was opened"):
            cache[number]
    shutil.rmtree(folder)
    with pytest.raises(ScanError, match="was built again or removed since it was opened"):
        cache[2]


def test_a_damaged_table_of_entries_is_found_and_the_next_build_makes_it_anew(tree, tmp_path):
    build(tree, tmp_path / "cache")
    table = tmp_path / "cache/entries.arrow"
    content, name = table.read_bytes(), open_cache(tmp_path / "cache").fingerprint
    third = bytes.fromhex(open_cache(tmp_path / "cache").entries[2].sha256)
    middle = len(content) // 2
    for bad in (
        b"",
        content[:-1],
        content[:middle],
        bytes(len(content)),
        content[:-40] + b"x" * 40,
    ):
        table.unlink()  # what others have mapped is not written to
        table.write_bytes(bad)
        with pytest.raises(TreeError, match="the index is damaged; build it again"):
            open_cache(tmp_path / "cache")
        assert build(tree, tmp_path / "cache").fingerprint == name
        assert table.read_bytes() == content
    place = content.index(third)
    table.unlink()
    table.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    with pytest.raises(ScanError, match="not what was written"):
        open_cache(tmp_path / "cache").verify()
