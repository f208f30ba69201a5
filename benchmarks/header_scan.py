"""How much faster are headers in a bucket read by `read_headers` than by pydicom over s3fs?

Both sides ask the same S3 API on this machine (moto) through one proxy, which adds a fixed time to
each request and lets through so many bytes a second for all connections together. pydicom's side is
what its users write: open the object with s3fs as it comes and `dcmread(stop_before_pixels=True)`;
once one file after another, and once with as many threads as `read_headers` has.

    python benchmarks/header_scan.py
"""

import argparse
import importlib.util
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from oct_io import OctVolume, Spacing
from oct_io.catalog.headers import read_headers
from oct_io.dicom.writer import write_dicom
from oct_io.scan.header import ScanHeader
from oct_io.storage.buckets import StorageConfig, configure_storage
from writing import write_results

ROOT = Path(__file__).parent.parent
SHAPE = (61, 496, 512)  # of a Spectralis macula scan: 15.5 MB, uncompressed
DISTINCT, CONNECTIONS = 2, 32


def load_servers() -> Any:
    """The test suite's servers and proxy."""
    path = ROOT / "packages/oct-io/tests/servers.py"
    spec = importlib.util.spec_from_file_location("servers", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["servers"] = module
    spec.loader.exec_module(module)
    return module


def draw_files(count: int) -> dict[str, bytes]:
    """Scans of noise by name; a header does not care."""
    contents = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(DISTINCT):
            voxels = np.random.default_rng(seed).integers(0, 255, SHAPE, dtype=np.uint8)
            volume = OctVolume(voxels, Spacing(0.12, 0.0039, 0.0113), "drawn", laterality="L")
            path = Path(folder) / "scan.dcm"
            write_dicom(volume, path, uid_seed=str(seed))
            contents.append(path.read_bytes())
    return {f"eyes/scans/{number:03}.dcm": contents[number % DISTINCT] for number in range(count)}


def by_oct_io(paths: list[str], url: str) -> int:
    """Headers by `read_headers`, in the order of `paths`."""
    names = [path.rsplit("/", 1)[-1] for path in paths]
    found = list(read_headers("s3://eyes/scans", names, concurrency=CONNECTIONS))
    assert all(isinstance(one, ScanHeader) for one in found)
    return len(found)


def by_pydicom(paths: list[str], url: str, threads: int = 1) -> int:
    """Headers by pydicom, over a filesystem as s3fs makes it."""
    import s3fs

    filesystem = s3fs.S3FileSystem(endpoint_url=url, skip_instance_cache=True)

    def read(path: str) -> int:
        with filesystem.open(path) as file:
            return int(pydicom.dcmread(file, stop_before_pixels=True).NumberOfFrames)

    with ThreadPoolExecutor(threads) as pool:
        return len(list(pool.map(read, paths)))


def by_pydicom_threads(paths: list[str], url: str) -> int:
    """The same with threads."""
    return by_pydicom(paths, url, CONNECTIONS)


SIDES: dict[str, Callable[[list[str], str], int]] = {
    "oct_io.catalog.headers.read_headers": by_oct_io,
    "pydicom over s3fs, in a loop": by_pydicom,
    f"pydicom over s3fs, {CONNECTIONS} threads": by_pydicom_threads,
}


def measure(proxy: Any, paths: list[str], rounds: int) -> dict[str, dict[str, float]]:
    """Median seconds, and requests and bytes of one round, by side; sides take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in SIDES}
    asked: dict[str, tuple[int, int]] = {}
    for _ in range(rounds):
        for name, side in SIDES.items():
            proxy.clear()
            started = time.perf_counter()
            assert side(paths, proxy.url) == len(paths)
            seconds[name].append(time.perf_counter() - started)
            asked[name] = len(proxy.requests), sum(one.size for one in proxy.requests)
    return {
        name: {
            "seconds": statistics.median(times),
            "fastest": min(times),
            "slowest": max(times),
            "requests_per_file": asked[name][0] / len(paths),
            "bytes_per_file": asked[name][1] / len(paths),
        }
        for name, times in seconds.items()
    }


def main() -> None:
    """Measure, print and write down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--latency-ms", type=float, default=30.0)
    parser.add_argument("--mbit", type=float, default=1000.0)
    options = parser.parse_args()
    os.environ |= {"AWS_ACCESS_KEY_ID": "made-up", "AWS_SECRET_ACCESS_KEY": "made-up"}
    servers = load_servers()
    files = draw_files(options.files)
    link = {"latency_s": options.latency_ms / 1e3, "bytes_per_s": options.mbit * 125_000}
    with servers.serve() as places:
        servers.places.update(places)
        servers.fill("s3", files)
        with servers.Proxy(places["s3"], **link) as proxy:
            configure_storage(StorageConfig(endpoint_url=proxy.url, connections=CONNECTIONS))
            rows = measure(proxy, list(files), options.rounds)
    ours = rows[next(iter(SIDES))]["seconds"]
    for name, row in rows.items():
        row["times_ours"] = row["seconds"] / ours
        print(
            f"{name:36} {row['times_ours']:6.1f} x  {row['requests_per_file']:.1f} requests and "
            f"{row['bytes_per_file'] / 1e6:6.2f} MB a file"
        )
    facts = {
        "settings": {**vars(options), "shape": SHAPE, "threads": CONNECTIONS},
        "file_bytes": len(next(iter(files.values()))),
        "rows": rows,
    }
    write_results("header_scan", ("oct-io", "pydicom", "s3fs", "fsspec", "moto"), facts)


if __name__ == "__main__":
    main()
