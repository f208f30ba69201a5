"""Builds that are killed, go on, and take over what an older cache holds."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
from oct_io import TreeError, Window, build_cache, open_cache, read_manifest
from oct_io.cache.mending import list_refused, release, retry
from oct_io.cache.parts import PartFolder, Plan, make_part
from oct_io.cli import main
from oct_io.progress import Rate, _write_lines
from oct_io.storage.files import exists

WINDOW = Window(name="test", extent_mm=(2.0, 0.15, 2.0), shape=(4, 16, 12))
TWO_SCANS = 2 * 4 * 16 * 12


@pytest.fixture
def tree(tmp_path, scan_file, draw):
    """Six scans of three participants; returns the root."""
    for number in range(6):
        volume = draw(number, participant_id=str(1001 + number // 2))
        scan_file(f"tree/{1001 + number // 2}/{number}.dcm", volume=volume)
    return tmp_path / "tree"


def build(root, out, **changes):
    return build_cache(read_manifest(root), root, WINDOW, out, shard_bytes=TWO_SCANS, **changes)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


SCRIPT = """
import os, signal, sys
import oct_io.cache.assembly, oct_io.cache.build, oct_io.cache.parts
from oct_io import Window, build_cache, read_manifest

def killing(plain):
    def run(*arguments, **keywords):
        os.kill(os.getpid(), signal.SIGKILL)
    return run

class Doomed(oct_io.cache.parts.PartFolder):
    def _write(self, name, content):
        if name == "part-000001.json":
            os.kill(os.getpid(), signal.SIGKILL)
        super()._write(name, content)

def progress(done, total, bad):
    print(done, flush=True)
    if point == "decoding" and done == 5:
        os.kill(os.getpid(), signal.SIGKILL)

root, out, point = sys.argv[1:]
if point == "part":
    oct_io.cache.making.PartFolder = Doomed
if point == "index":
    oct_io.cache.assembly.write_index = killing(None)
if point == "rename":
    oct_io.cache.build._put_in_place = killing(None)
window = Window(name="test", extent_mm=(2.0, 0.15, 2.0), shape=(4, 16, 12))
records = read_manifest(root)
build_cache(records, root, window, out, shard_bytes=2 * 4 * 16 * 12, progress=progress)
"""


def run_script(tree, out, point):
    command = [sys.executable, "-c", SCRIPT, str(tree), str(out), point]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, [int(line) for line in done.stdout.split()]


def test_a_build_that_is_killed_again_and_again_goes_on_and_ends_with_the_same_bytes(
    tree, tmp_path
):
    out = tmp_path / "cache"
    killed = -signal.SIGKILL
    # Between the voxels of the second part and its description: one part counts.
    assert run_script(tree, out, "part") == (killed, [1, 2, 3, 4])
    # Half-way through the third: two parts count, and the second was made again.
    assert run_script(tree, out, "decoding") == (killed, [2, 3, 4, 5])
    # Everything is decoded; killed while the cache is put together, and before it gets its name.
    assert run_script(tree, out, "index") == (killed, [4, 5, 6])
    assert run_script(tree, out, "rename") == (killed, [6])
    assert not out.exists()
    assert run_script(tree, out, "never") == (0, [])
    build(tree, tmp_path / "undisturbed")
    assert contents(out) == contents(tmp_path / "undisturbed")
    assert [one.name for one in tmp_path.iterdir() if "building" in one.name] == []
    assert (out.stat().st_mode & 0o077) == 0
    open_cache(out).verify()


def test_parts_of_other_scans_are_not_taken_for_ones_own(tree, tmp_path):
    out = tmp_path / "cache"
    assert run_script(tree, out, "decoding")[0] == -signal.SIGKILL
    os.utime(tree / "1001/0.dcm", (1, 1))
    assert run_script(tree, out, "never") == (0, [1, 2, 3, 4, 5, 6])


def test_a_changed_scan_is_decoded_again_and_the_others_are_taken_over(tree, tmp_path, bucket):
    for path in tree.rglob("*.dcm"):
        bucket.pipe_file(f"/b/{path.relative_to(tree)}", path.read_bytes())
    records = read_manifest("counting://b")
    out = tmp_path / "cache"
    first = build_cache(records, "counting://b", WINDOW, out, shard_bytes=TWO_SCANS)
    changed = (tree / "1003/5.dcm").read_bytes()
    bucket.pipe_file("/b/1001/0.dcm", changed + b"\0\0")
    bucket.requests.clear()
    second = build_cache(records, "counting://b", WINDOW, out, shard_bytes=TWO_SCANS)
    assert bucket.requests == [len(changed) + 2]
    hashes = [[entry.sha256 for entry in index.entries] for index in (first, second)]
    assert hashes[1][-5:] == hashes[0][-5:]
    assert len(second.entries) + second.refused == 6


def spoil(path):
    whole = path.read_bytes()
    path.write_bytes(whole[:-500])
    return whole


def restore(path, whole, stat):
    path.write_bytes(whole)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_a_scan_that_was_mended_is_added_by_a_retry(tree, tmp_path):
    path, out = tree / "1002/2.dcm", tmp_path / "cache"
    build(tree, tmp_path / "sound")
    stat = path.stat()
    whole = spoil(path)
    build(tree, out)
    (refusal,) = list_refused(out)
    assert refusal.stage == "decode"
    restore(path, whole, stat)
    records = read_manifest(tree)
    index = retry(out, records, tree)
    assert (len(index.entries), index.refused, list_refused(out)) == (6, 0, ())
    assert index.fingerprint == open_cache(tmp_path / "sound").fingerprint
    assert [e.key for e in index.entries] == [record.key for record in records]
    open_cache(out).verify()
    assert retry(out, records, tree) == index


def test_a_retry_reads_only_what_was_refused_and_not_what_it_holds(tree, tmp_path, bucket):
    for path in tree.rglob("*.dcm"):
        bucket.pipe_file(f"/b/{path.relative_to(tree)}", path.read_bytes())
    broken = bucket.cat_file("/b/1002/2.dcm")[:-500]
    bucket.pipe_file("/b/1002/2.dcm", broken)
    records = read_manifest("counting://b")
    out = tmp_path / "cache"
    build_cache(records, "counting://b", WINDOW, out, shard_bytes=TWO_SCANS)
    bucket.requests.clear()
    retry(out, records, "counting://b")
    assert bucket.requests == [len(broken)]


def test_a_retry_leaves_a_cache_alone_whose_other_scans_are_listed_as_something_else(
    tmp_path, draw, capsys
):
    root, out = tmp_path / "tree", str(tmp_path / "cache")
    root.mkdir()
    for number in range(3):
        np.save(root / f"{number}.npy", draw(number).voxels)
        (root / f"{number}.json").write_text('{"spacing_mm": [0.05, 0.004, 0.01]}')
    whole = spoil(root / "1.npy")
    assert main(["cache", str(root), out, "--kind", "volume", "--window", "4x8x8"]) == 0
    before = contents(Path(out))
    assert main(["quarantine", out, "retry", "--root", str(root)]) == 2
    assert "2 of its 2 volumes are of scans that have changed, or" in capsys.readouterr().err
    assert contents(Path(out)) == before
    (root / "1.npy").write_bytes(whole)
    assert main(["quarantine", out, "retry", "--root", str(root), "--kind", "volume"]) == 0
    assert "1 of 1 refused scans now work; 3 volumes, 0 refused" in capsys.readouterr().out


def test_a_released_scan_is_tried_again_by_the_next_build(tree, tmp_path):
    first, second, out = tree / "1001/1.dcm", tree / "1002/2.dcm", tmp_path / "cache"
    spoil(first)
    spoil(second)
    build(tree, out)
    one, other = list_refused(out)
    assert release(out, [one.key]) == 1
    assert [refusal.key for refusal in list_refused(out)] == [other.key]
    assert len(open_cache(out)) == 4  # still readable
    build(tree, out)
    assert [refusal.key for refusal in list_refused(out)] == [one.key, other.key]  # still bad
    with pytest.raises(TreeError, match="not the key of a refused scan"):
        release(out, ["0123"])


def test_a_quarantine_does_not_repeat_the_name_of_a_file_in_its_reason(tmp_path, draw):
    (tmp_path / "tree").mkdir()
    np.save(tmp_path / "tree/Doe_Jane.npy", draw().voxels)  # no sidecar: nothing tells its spacing
    with pytest.raises(TreeError) as caught:
        build(tmp_path / "tree", tmp_path / "cache")
    assert "Doe" not in str(caught.value)


def plan_of(tree, parts):
    records = tuple(read_manifest(tree))
    return Plan(
        records=records,
        sources=tuple(str(number) for number in range(6)),
        root=str(tree),
        window=WINDOW,
        part_scans=2,
        parts=str(parts),
    )


@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_parts_gather_in_folders_and_in_buckets_and_leave_what_else_lies_there(
    tree, tmp_path, place
):
    parts = tmp_path / "parts" if place == "folder" else "memory://parts-of-a-test"
    filesystem, path = fsspec.core.url_to_fs(str(parts))
    filesystem.makedirs(f"{path}/years", exist_ok=True)
    filesystem.pipe_file(f"{path}/years/work.txt", b"precious")
    build(tree, tmp_path / "one", parts=parts)
    build(tree, tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert [one.rpartition("/")[2] for one in filesystem.ls(path, detail=False)] == ["years"]
    assert filesystem.cat_file(f"{path}/years/work.txt") == b"precious"


@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_builds_that_share_a_place_mix_nothing_and_what_was_interrupted_is_said(
    tree, tmp_path, place, caplog
):
    parts = tmp_path / "parts" if place == "folder" else "memory://parts-of-many"
    other = replace(WINDOW, extent_mm=(1.0, 0.1, 1.0))  # parts of equal numbers and sizes
    records = read_manifest(tree)

    def build_other(out, **changes):
        build_cache(records, tree, other, tmp_path / out, shard_bytes=TWO_SCANS, **changes)

    def begin_others(done, total, bad):
        if done == 3:
            build_other("other", parts=parts)
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tree, tmp_path / "one", parts=parts, progress=begin_others)
    assert "parts of 1 other builds lie in" in caplog.text
    seen = []
    build(tree, tmp_path / "one", parts=parts, progress=lambda *done: seen.append(done[0]))
    assert seen == [4, 5, 6], "two parts were whole"
    build(tree, tmp_path / "one alone")
    build_other("other alone")
    for name in ("one", "other"):
        assert contents(tmp_path / name) == contents(tmp_path / f"{name} alone")


def test_a_part_without_its_voxels_does_not_count_and_two_writers_do_no_harm(tree, tmp_path):
    plan = plan_of(tree, tmp_path / "parts")
    folder = PartFolder(plan.parts)
    folder.start(plan)
    part, voxels = make_part((), (), ())
    full = TWO_SCANS // 2
    folder.write(0, part, voxels)
    folder.write(0, part, voxels)
    assert folder.read(0, full) == part
    assert sorted(one.name for one in Path(plan.parts).iterdir()) == [
        "part-000000.json",
        "part-000000.u8",
        "plan.txt",
    ]
    (Path(plan.parts) / "part-000000.u8").write_bytes(b"more than nothing")
    assert folder.read(0, full) is None
    assert folder.read(1, full) is None
    with pytest.raises(TreeError, match="all machines share"):
        folder.check("another plan")


def test_the_rate_does_not_count_what_was_done_before():
    now = [0.0]
    rate = Rate(clock=lambda: now[0])
    now[0] = 50.0
    assert rate.describe(1000, 2000) == ""
    now[0] = 60.0
    assert rate.describe(1100, 2000) == "10.0/s, 0:01:30 left"


def test_a_log_gets_a_line_now_and_then_and_the_last(capsys):
    now = [0.0]
    with _write_lines("scans", Rate(clock=lambda: now[0])) as update:
        for done in range(1, 31):
            now[0] += 1.0
            update(done, 40, done // 15)
    assert capsys.readouterr().err.splitlines() == [
        "scans: 10 of 40, 1.0/s, 0:00:30 left",
        "scans: 20 of 40, 1 refused, 1.0/s, 0:00:20 left",
        "scans: 30 of 40, 2 refused, 1.0/s, 0:00:10 left",
    ]


@pytest.mark.slow
def test_a_parallel_build_that_is_killed_goes_on(tree, tmp_path):
    script = Path(tmp_path / "build.py")
    script.write_text(
        "import sys\n"
        "from oct_io import Window, build_cache, read_manifest\n"
        "def tell(done, total, bad):\n"
        "    print(done, flush=True)\n"
        "if __name__ == '__main__':\n"
        "    root, out = sys.argv[1:]\n"
        "    window = Window(name='test', extent_mm=(2.0, 0.15, 2.0), shape=(4, 16, 12))\n"
        "    records = read_manifest(root)\n"
        "    build_cache(records, root, window, out, jobs=2, shard_bytes=1536, progress=tell)\n"
    )
    command = [sys.executable, str(script), str(tree), str(tmp_path / "cache")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    while process.stdout.readline() not in ("3\n", ""):
        pass
    process.kill()
    process.wait()
    process.stdout.close()
    time.sleep(0.2)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[0]) >= 2  # the first part was there
    build(tree, tmp_path / "undisturbed")
    assert contents(tmp_path / "cache") == contents(tmp_path / "undisturbed")


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_parts_gather_in_real_stores(tree, tmp_path, stores, storage, scheme):
    storage(scheme)
    # Wider than the scans, so that volumes end in padding: the emulator of GCS drops the last byte
    # of an upload where that is a carriage return.
    window = Window(name="wide", extent_mm=(4.0, 0.15, 4.0), shape=(4, 16, 12))
    place = f"{scheme}://eyes/parts-of-a-build"
    for out, parts in (("one", place), ("two", None)):
        found = read_manifest(tree)
        build_cache(found, tree, window, tmp_path / out, shard_bytes=TWO_SCANS, parts=parts)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert not exists(place)


THREADS = """
import sys
from oct_io import Window, read_manifest
from oct_io.cache.decoding import decode

window = Window(name="test", extent_mm=(2.0, 0.8, 2.0), shape=(16, 128, 128))
for record in read_manifest(sys.argv[1]):
    print(decode((record, sys.argv[1], window, ())).entry.sha256)
"""


def test_volumes_do_not_depend_on_the_number_of_threads(tmp_path, scan_file, draw):
    pytest.importorskip("threadpoolctl", reason="install threadpoolctl to run this test")
    for number in range(3):
        scan_file(f"tree/{number}.dcm", volume=draw(number, shape=(24, 200, 256)))
    seen = set()
    for threads in ("1", "2"):
        wanted = {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        command = [sys.executable, "-c", THREADS, str(tmp_path / "tree")]
        done = subprocess.run(
            command, env=os.environ | wanted, capture_output=True, text=True, check=True
        )
        seen.add(done.stdout)
    assert len(seen) == 1
