"""What keeps fetched files: our content cache against fsspec's three, over a real S3 API.

Four processes read the same eight files at once; then a byte of each kept file is flipped, and all
are read again. A cache should fetch each file once, never give wrong bytes, and obey a size.

    python benchmarks/kept_files.py
"""

import importlib.util
import multiprocessing
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import fsspec
from oct_io.storage.buckets import StorageConfig, using_storage
from oct_io.storage.files import read_bytes
from writing import write_results

SERVERS = Path(__file__).parents[1] / "packages/oct-io/tests/servers.py"
FILES, PROCESSES, SIZE = 8, 4, 1 << 20
LIMIT = 3 * SIZE + 4096
ARMS = ("ours", "simplecache", "filecache", "blockcache")


def content_of(number: int) -> bytes:
    """Bytes of one file."""
    return bytes([number]) * SIZE


def read(arm: str, number: int, folder: str, endpoint: str, limit: int) -> bytes:
    """One file through one cache."""
    url = f"s3://eyes/{number}.dcm"
    if arm == "ours":
        config = StorageConfig(
            endpoint_url=endpoint, content_cache=folder, content_cache_gb=limit / 1e9
        )
        with using_storage(config):
            return read_bytes(url)
    options = {arm: {"cache_storage": folder}, "s3": {"endpoint_url": endpoint}}
    with fsspec.open(f"{arm}::{url}", **options) as file:
        return bytes(file.read())


def read_all(task: tuple[str, str, str, int]) -> str:
    """How many files came wrong, or the error that came instead."""
    arm, folder, endpoint, limit = task
    try:
        found = [read(arm, n, folder, endpoint, limit) != content_of(n) for n in range(FILES)]
    except Exception as error:  # whatever a cache raises is what is to be shown
        return type(error).__name__
    return str(sum(found))


def flip(folder: Path) -> None:
    """Flip a byte in the middle of each kept file."""
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_size >= SIZE:
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.write_bytes(content)


def measure(arm: str, proxy: Any, folder: Path) -> dict[str, Any]:
    """One arm: requests for contents, wrong files after damage, and size with a limit."""
    context = multiprocessing.get_context("spawn")
    proxy.clear()
    with context.Pool(PROCESSES) as pool:
        first = pool.map(read_all, [(arm, str(folder / "a"), proxy.url, 10**9)] * PROCESSES, 1)
        gets = len(proxy.gets())
        flip(folder / "a")
        (damaged,) = pool.map(read_all, [(arm, str(folder / "a"), proxy.url, 10**9)])
        pool.map(read_all, [(arm, str(folder / "b"), proxy.url, LIMIT)])
    kept = sum(path.stat().st_size for path in (folder / "b").rglob("*") if path.is_file())
    return {
        "requests for 8 files": gets,
        "wrong or errors, of 4 processes": first,
        "wrong after damage": damaged,
        "MB kept with a limit of 3": round(kept / SIZE, 2),
    }


def main() -> None:
    """Measure, print and write down."""
    spec = importlib.util.spec_from_file_location("servers", SERVERS)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(SERVERS)
    servers = importlib.util.module_from_spec(spec)
    sys.modules["servers"] = servers
    spec.loader.exec_module(servers)
    os.environ |= {"AWS_ACCESS_KEY_ID": "made-up", "AWS_SECRET_ACCESS_KEY": "made-up"}
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    facts = {}
    with servers.serve() as places, tempfile.TemporaryDirectory() as folder:
        servers.places.update(places)
        servers.fill("s3", {f"eyes/{n}.dcm": content_of(n) for n in range(FILES)})
        with servers.Proxy(places["s3"]) as proxy:
            for arm in ARMS:
                facts[arm] = measure(arm, proxy, Path(folder) / arm)
                print(f"{arm}: {facts[arm]}", flush=True)
    write_results("kept_files", ("oct-io", "fsspec", "s3fs"), facts)


if __name__ == "__main__":
    main()
