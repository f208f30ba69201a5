"""A cache made on Ray: workers and drivers are killed, and it comes out the same."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from oct_io import WINDOWS, Window, build_cache, open_cache, read_manifest
from oct_io.cache import ray_cache
from oct_io.cache.parts import PartFolder, Plan
from oct_io.cache.ray_address import check_address
from oct_io.catalog.manifest import ScanRecord
from oct_io.errors import StoreError, TreeError
from oct_io.storage import buckets

pytest.importorskip("ray", reason="install oct-io[ray] to run this test")

WINDOW = Window(name="test", extent_mm=(2.0, 0.8, 2.0), shape=(16, 128, 128))
TWO_SCANS = 2 * 16 * 128 * 128

SCRIPT = """
import sys
from oct_io import Window, build_cache, read_manifest
from oct_io.cache import ray_cache
from oct_io.cache.ray_cache import on_ray

ray_cache.AT_ONCE = 12  # so that 30 parts are three lots

def progress(done, total, bad):
    print(done, flush=True)

if __name__ == "__main__":
    root, out, address = sys.argv[1:]
    window = Window(name="test", extent_mm=(2.0, 0.8, 2.0), shape=(16, 128, 128))
    records = read_manifest(root)
    build_cache(
        records,
        root,
        window,
        out,
        shard_bytes=2 * 16 * 128 * 128,
        progress=progress,
        make_parts=on_ray(address, cpus=2),
    )
"""


@pytest.fixture
def tree(tmp_path, scan_file, draw):
    """Sixty scans, six of them different, one of them cut off; returns the root."""
    root = tmp_path / "tree"
    for number in range(6):
        first = scan_file(f"tree/0/{number}.dcm", volume=draw(number, shape=(24, 200, 256)))
        for copy in range(1, 10):
            (root / str(copy)).mkdir(exist_ok=True)
            os.link(first, root / f"{copy}/{number}.dcm")
    (root / "9/5.dcm").unlink()
    (root / "9/5.dcm").write_bytes(first.read_bytes()[:-5000])
    return root


def wait_for(condition, process, seconds=240):
    ends = time.monotonic() + seconds
    while time.monotonic() < ends and process.poll() is None:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"ended too early, {process.poll()}, or took too long")


@pytest.mark.drill
@pytest.mark.skipif(not Path("/proc").exists(), reason="finds Ray's workers in /proc")
def test_killed_workers_and_a_killed_driver_neither_lose_nor_double_a_volume(
    tree, clusters, tmp_path
):
    script, out = tmp_path / "build.py", tmp_path / "cache"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(tree), str(out), "local"]
    parts = tmp_path / ".cache.building/parts"

    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def whole():
        return sorted(parts.glob("part-*.json"))

    def working():
        below = clusters.descendants(driver.pid)
        return [pid for pid, line in below.items() if line.startswith("ray::") and "Map" in line]

    try:
        os.kill(wait_for(working, driver)[0], signal.SIGKILL)  # it had a part half-way
        wait_for(lambda: len(whole()) >= 4, driver)
    finally:
        driver.kill()
        driver.wait()
    assert not out.exists()
    kept = {path.stem: path.with_suffix(".u8").stat().st_ino for path in whole()}
    assert 4 <= len(kept) < 30

    done = subprocess.run(command, capture_output=True, text=True, check=True)
    first = int(done.stdout.split()[0])
    assert first >= 2 * len(kept)  # goes on there
    plain = tmp_path / "plain"
    records = read_manifest(tree)
    index = build_cache(records, tree, WINDOW, plain, shard_bytes=TWO_SCANS)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in plain.iterdir()
    }
    cache = open_cache(out)
    assert (len(cache), index.refused, len({entry.key for entry in cache.entries})) == (59, 1, 59)
    for name, inode in kept.items():  # the very files that were whole when the driver was killed
        assert (out / f"shard-{int(name[5:]):05d}.u8").stat().st_ino == inode


@pytest.mark.drill
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="finds Ray's workers in /proc")
def test_a_cluster_that_loses_a_machine_gives_the_bytes_of_one_process(tree, clusters, tmp_path):
    script, out = tmp_path / "build.py", tmp_path / "cache"
    script.write_text(SCRIPT)
    with clusters.Cluster() as cluster:
        command = [sys.executable, str(script), str(tree), str(out), cluster.address]
        with (tmp_path / "said").open("w+") as said:
            driver = subprocess.Popen(
                command, stdout=said, stderr=subprocess.STDOUT, env=cluster.environment
            )
            try:
                working = wait_for(cluster.working, driver)
                cluster.kill(next(iter(working.values())))
                assert driver.wait(240) == 0, (tmp_path / "said").read_text()
            finally:
                driver.kill()
                driver.wait()
        assert sum(one.poll() is None for one in cluster.running) == 2  # a head and one worker
    plain = tmp_path / "plain"
    index = build_cache(read_manifest(tree), tree, WINDOW, plain, shard_bytes=TWO_SCANS, jobs=2)
    assert index.refused == 1
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in plain.iterdir()
    }


@pytest.mark.drill
@pytest.mark.slow
def test_a_cache_made_on_ray_into_a_bucket_has_the_bytes_of_one_process(
    phantom_tree, servers, storage, tmp_path
):
    servers.fill("s3", {"eyes/made/of": b"a bucket"})
    storage("s3")
    url, kept = "s3://eyes/on-ray", tmp_path / "kept"
    command = Path(sys.executable).with_name("oct-io")
    done = subprocess.run(
        [command, "cache", phantom_tree, url, "--window", "tiny", "--ray", "--jobs", "2"],
        env={**os.environ, "AWS_ENDPOINT_URL": f"http://{servers.places['s3']}"},
        capture_output=True, text=True, check=False, timeout=800, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("12 volumes of 8 x 64 x 64, 0 refused")
    build_cache(read_manifest(phantom_tree), phantom_tree, WINDOWS["tiny"], tmp_path / "plain")
    there, here = open_cache(url, kept=kept), open_cache(tmp_path / "plain")
    there.verify()
    assert there.fingerprint == here.fingerprint
    assert all(map(np.array_equal, there, here))
    names = {one.name for one in tmp_path.iterdir()}
    assert names - {".plain.lock"} == {"kept", "plain"}  # nothing of what went to the bucket


class Counted(Plan):
    """A plan that notes when all its scans are hashed."""

    hashed: list[int] = []  # noqa: RUF012 - of the class, for the instances are frozen

    @property
    def name(self):
        self.hashed.append(1)
        return super().name


def test_ray_is_told_of_some_parts_at_a_time_and_each_knows_its_own_scans(monkeypatch):
    monkeypatch.setattr(ray_cache, "AT_ONCE", 3)
    records = tuple(ScanRecord(path=f"{n}.dcm") for n in range(13))
    sources = tuple(f"state of {n}" for n in range(13))
    plan = Counted(
        records=records, sources=sources, root="/scans", window=WINDOW, part_scans=2, parts="/parts"
    )
    lots = list(ray_cache.describe_parts(plan, [0, 1, 3, 4, 5, 6]))
    assert [[row["number"] for row in lot] for lot in lots] == [[0, 1, 3], [4, 5, 6]]
    tasks = {row["number"]: json.loads(row["task"]) for lot in lots for row in lot}
    assert [one["path"] for one in tasks[3]["records"]] == ["6.dcm", "7.dcm"]
    assert tasks[3]["sources"] == ["state of 6", "state of 7"]
    assert len(tasks[6]["records"]) == 1
    assert plan.hashed == [1], "else the work grows with the square of the scans"
    assert {one["plan"] for one in tasks.values()} == {plan.name}


def test_an_address_where_nobody_listens_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(TreeError, match=f"^no Ray cluster at 127.0.0.1:{port}: connection ref"):
        check_address(f"127.0.0.1:{port}")


@pytest.mark.parametrize("address", ["head", "host:port", "https://head"])
def test_what_is_no_address_of_a_cluster_is_said(address):
    with pytest.raises(TreeError, match="neither host:port, nor"):
        check_address(address)
    with pytest.raises(TreeError, match=r"^--ray ray://head:10001: Ray Data does not work through"):
        check_address("ray://head:10001")


def test_a_cluster_from_which_nothing_comes_is_said(monkeypatch, caplog):
    monkeypatch.setattr(ray_cache, "SILENT_S", 0.1)

    def rows():
        yield {"number": 0}
        time.sleep(0.35)
        yield {"number": 1}

    with caplog.at_level("WARNING"):
        assert [row["number"] for row in ray_cache._aloud(rows())] == [0, 1]
    assert 1 <= len(caplog.messages) <= 3
    assert caplog.messages[0].startswith("oct-io: no part came from Ray for 0 s;")


def test_a_worker_answers_that_a_store_is_out_of_reach_and_refuses_no_scan(
    stores, storage, tmp_path, monkeypatch
):
    monkeypatch.setattr(buckets, "_WORKING", False)  # so that it is put back
    proxy = storage("s3", config={"give_up_s": 0.6})
    plan = Plan(
        records=tuple(read_manifest("s3://eyes/data"))[:2],
        sources=("one", "two"),
        root="s3://eyes/data",
        window=WINDOW,
        part_scans=2,
        parts=str(tmp_path / "parts"),
    )
    folder = PartFolder(plan.parts)
    folder.start(plan)
    ((row,),) = ray_cache.describe_parts(plan, [0])
    proxy.shut()
    answer = ray_cache._make_row(row)
    assert answer["store"]
    assert folder.read(0, plan.record_bytes) is None
    with pytest.raises(StoreError, match=r"^s3://eyes at http://.*: out of reach for"):
        ray_cache._read_part(plan, folder, answer)


@pytest.mark.drill
@pytest.mark.slow
def test_a_port_that_never_answers_is_one_line_within_thirty_seconds():
    started = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(TreeError, match="connected, and no answer for 18 s"):
            check_address(f"127.0.0.1:{port}")
    assert time.monotonic() - started < 30
