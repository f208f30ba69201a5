import hashlib
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from oct_io import ScanError, TreeError, read_volume
from oct_io.cli import main
from oct_io.storage import content_cache
from oct_io.storage.buckets import StorageConfig, open_filesystem, using_storage
from oct_io.storage.content_cache import ContentCache
from oct_io.storage.files import read_bytes

SECRET = "s3://eyes/1001/1001_spectralis.dcm"


class Source:
    """Gives a file's bytes, and counts how often it is asked."""

    def __init__(self, content=b"voxels" * 1000):
        self.content, self.asked = content, 0

    def __call__(self):
        self.asked += 1
        return self.content


def kept(folder):
    return [path for path in (folder / "entries").rglob("*") if path.is_file()]


def test_a_file_is_fetched_once_and_lies_under_a_name_that_tells_nothing(tmp_path):
    source = Source()
    for _ in range(3):
        cache = ContentCache(tmp_path / "kept", 10**6)
        assert cache.read(SECRET, source) == source.content
    assert source.asked == 1
    everything = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")]
    assert not [name for name in everything if "1001" in name or "spectralis" in name]
    assert stat.S_IMODE((tmp_path / "kept").stat().st_mode) == 0o700
    (entry,) = kept(tmp_path / "kept")
    assert stat.S_IMODE(entry.stat().st_mode) == 0o600
    assert b"1001" not in entry.read_bytes()
    assert not list((tmp_path / "kept/writing").iterdir())
    assert not list((tmp_path / "kept/locks").iterdir())


@pytest.mark.parametrize("spoil", ["flip", "cut", "grow", "label", "empty"])
def test_a_damaged_file_is_noticed_and_fetched_again(tmp_path, spoil):
    source, cache = Source(), ContentCache(tmp_path / "kept", 10**6)
    cache.read(SECRET, source)
    (entry,) = kept(tmp_path / "kept")
    content = bytearray(entry.read_bytes())
    content[-500] ^= spoil == "flip"
    content[3] ^= spoil == "label"
    content = {"cut": content[:-1], "grow": content + b"x", "empty": b""}.get(spoil, content)
    entry.write_bytes(content)
    assert cache.read(SECRET, source) == source.content
    assert source.asked == 2
    assert cache.read(SECRET, source) == source.content
    assert source.asked == 2


def test_a_file_that_changed_in_the_bucket_is_fetched_again(tmp_path):
    source, cache = Source(), ContentCache(tmp_path / "kept", 10**6)
    for token, asked in (("a", 1), ("a", 1), ("b", 2), ("b", 2)):
        cache.read(SECRET, source, lambda token=token: token)
        assert source.asked == asked
    assert len(kept(tmp_path / "kept")) == 1


def test_the_folder_stays_below_its_size_and_what_was_not_used_for_longest_goes(tmp_path):
    cache = ContentCache(tmp_path / "kept", 35_000)
    sources = {name: Source(bytes([number]) * 10_000) for number, name in enumerate("abcdef")}
    for name in "abc":
        cache.read(name, sources[name])
        time.sleep(0.01)
    cache.read("a", sources["a"])
    time.sleep(0.01)
    for name in "de":
        cache.read(name, sources[name])
        assert cache.used_bytes() <= 35_000
        time.sleep(0.01)
    for name in "ade":
        cache.read(name, sources[name])
        assert sources[name].asked == 1
    for name in "bc":
        assert cache.read(name, sources[name]) == sources[name].content
        assert sources[name].asked == 2
    cache.read("f", Source(b"x" * 50_000))
    assert cache.used_bytes() <= 35_000


def test_a_purge_leaves_nothing_and_the_folder_can_be_used_on(tmp_path):
    source, cache = Source(), ContentCache(tmp_path / "kept", 10**6)
    for name in "abc":
        cache.read(name, source)
    assert cache.purge() == 3
    assert (kept(tmp_path / "kept"), cache.used_bytes()) == ([], 0)
    cache.read("a", source)
    assert source.asked == 4


def test_the_command_purges_content_caches_only(tmp_path, capsys):
    ContentCache(tmp_path / "kept", 10**6).read("a", Source())
    assert main(["purge", str(tmp_path / "kept")]) == 0
    assert "1 files deleted" in capsys.readouterr().out
    assert kept(tmp_path / "kept") == []
    for wrong in (tmp_path, tmp_path / "none"):
        assert main(["purge", str(wrong)]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_folder_of_something_else_is_never_used_or_purged(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(TreeError, match="exists and is not a content cache"):
        ContentCache(tmp_path, 10**6)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_failed_fetch_leaves_nothing_behind(tmp_path):
    cache = ContentCache(tmp_path / "kept", 10**6)

    def fail():
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        cache.read(SECRET, fail)
    assert kept(tmp_path / "kept") == []
    assert cache.read(SECRET, Source(b"later")) == b"later"


def test_who_reads_has_the_bytes_even_where_nothing_can_be_kept(tmp_path, monkeypatch):
    cache = ContentCache(tmp_path / "kept", 10**6)
    cache.read("first", Source())
    (tmp_path / "kept/writing").rmdir()
    (tmp_path / "kept/writing").write_text("in the way")
    with pytest.warns(UserWarning, match=r"content cache: a file was not kept \("):
        assert cache.read("second", Source(b"second")) == b"second"
    assert len(kept(tmp_path / "kept")) == 1


LIGHT = f"""
import sys, types
package = types.ModuleType("oct_io")
package.__path__ = [{str(Path(content_cache.__file__).parents[1])!r}]
sys.modules["oct_io"] = package  # without what its __init__ imports, which takes a second
"""
HAMMER = """
import hashlib, sys, time
from oct_io.storage.content_cache import ContentCache

folder, log, start, seconds, limit = sys.argv[1:]
cache = ContentCache(folder, int(limit))
until, number, rounds = time.monotonic() + float(seconds), int(start), 0
while rounds < 8 or time.monotonic() < until:
    number = (number * 5 + 3) % 16
    wanted = hashlib.sha256(str(number).encode()).digest() * 4096  # 128 kB

    def fetch():
        with open(log, "a") as file:
            file.write(f"{number}\\n")
        return wanted

    assert cache.read(f"s3://eyes/{number}.dcm", fetch) == wanted, number
    rounds += 1
print(rounds)
"""


def hammer(tmp_path, number, seconds=1.5, limit=10**9):
    arguments = [tmp_path / "kept", tmp_path / "log", number, seconds, limit]
    return subprocess.Popen(
        [sys.executable, "-c", LIGHT + HAMMER, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(processes):
    rounds = []
    for process in processes:
        out, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        rounds.append(int(out))
    return rounds


def test_processes_that_want_the_same_file_fetch_it_once(tmp_path):
    finish([hammer(tmp_path, number) for number in range(4)])
    fetched = (tmp_path / "log").read_text().split()
    assert len(fetched) == len(set(fetched))


def test_processes_that_hammer_a_full_cache_read_right_and_keep_its_size(tmp_path):
    limit = 6 * 132_000  # six of sixteen
    processes = [hammer(tmp_path, number, limit=limit) for number in range(3)]
    largest = 0
    while any(process.poll() is None for process in processes):
        if (tmp_path / "kept").exists():
            largest = max(largest, ContentCache(tmp_path / "kept", limit).used_bytes())
        time.sleep(0.01)
    finish(processes)
    largest = max(largest, ContentCache(tmp_path / "kept", limit).used_bytes())
    assert 0 < largest <= limit
    assert not list((tmp_path / "kept/writing").iterdir())


KILLED = """
import os, signal, sys
from oct_io.storage import content_cache

real = os.fsync

def stop(handle):
    os.kill(os.getpid(), signal.SIGKILL)  # half of the work is on disk, nothing is renamed

os.fsync = stop
content_cache.ContentCache(sys.argv[1], 10**7).read("s3://eyes/0.dcm", lambda: b"voxels" * 100000)
"""


def test_a_process_killed_while_it_writes_leaves_no_file_no_lock_and_no_litter(tmp_path):
    folder = tmp_path / "kept"
    done = subprocess.run([sys.executable, "-c", LIGHT + KILLED, folder], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list((folder / "writing").iterdir())) == 1
    assert kept(folder) == []
    source, cache = Source(b"voxels" * 100000), ContentCache(folder, 10**7)
    assert cache.read("s3://eyes/0.dcm", source) == source.content
    assert source.asked == 1
    assert not list((folder / "writing").iterdir())
    subprocess.run([sys.executable, "-c", LIGHT + KILLED.replace("/0", "/1"), folder], check=False)
    assert len(list((folder / "writing").iterdir())) == 1
    ContentCache(folder, 10**6).read("s3://eyes/2.dcm", Source(b"x" * 600_000))  # makes room
    assert not list((folder / "writing").iterdir())


def test_killing_processes_at_any_moment_never_gives_wrong_bytes(tmp_path):
    limit = 6 * 132_000
    for wait_s in (0.0, 0.05, 0.1):
        processes = [hammer(tmp_path, number, 20, limit) for number in range(2)]
        while not (tmp_path / "log").exists():
            assert [process.poll() for process in processes] == [None, None]
            time.sleep(0.01)
        time.sleep(wait_s)
        for process in processes:
            process.kill()
            process.communicate()
        (tmp_path / "log").unlink(missing_ok=True)
    finish([hammer(tmp_path, 1, 0.5, limit)])
    cache = ContentCache(tmp_path / "kept", limit)
    for number in range(16):
        wanted = hashlib.sha256(str(number).encode()).digest() * 4096
        assert cache.read(f"s3://eyes/{number}.dcm", Source(wanted)) == wanted
    assert cache.used_bytes() <= limit


def test_scans_of_a_bucket_are_kept_once_somebody_asks_for_it(
    servers, storage, tmp_path, scan_file
):
    folder = tmp_path / "kept"
    proxy = storage("s3", config={"content_cache": str(folder)})
    content = scan_file().read_bytes()
    filesystem, _ = open_filesystem("s3://kept-eyes")
    filesystem.mkdir("kept-eyes")
    filesystem.pipe_file("kept-eyes/scan.dcm", content)
    proxy.clear()
    for _ in range(3):
        assert read_volume("s3://kept-eyes/scan.dcm").voxels.shape == (8, 48, 40)
    assert [one.method for one in proxy.requests].count("GET") == 1
    assert [one.method for one in proxy.requests].count("HEAD") == 3
    filesystem.pipe_file("kept-eyes/scan.dcm", content + b"\0" * 10)
    assert len(read_bytes("s3://kept-eyes/scan.dcm")) == len(content) + 10
    proxy.clear()
    unchecked = StorageConfig(
        endpoint_url=proxy.url, content_cache=str(folder), content_cache_checked=False
    )
    with using_storage(unchecked):
        assert len(read_bytes("s3://kept-eyes/scan.dcm")) == len(content) + 10
    assert proxy.requests == []
    filesystem.rm_file("kept-eyes/scan.dcm")
    with pytest.raises(ScanError, match="no such file"):
        read_bytes("s3://kept-eyes/scan.dcm")


def test_files_of_this_machine_are_not_kept_twice(tmp_path, scan_file):
    with using_storage(StorageConfig(content_cache=str(tmp_path / "kept"))):
        read_volume(scan_file())
        read_volume(f"file://{scan_file()}")
    assert not os.path.exists(tmp_path / "kept")
