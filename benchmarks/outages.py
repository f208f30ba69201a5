"""Builds of 40 scans while their store fails: which scans are lost, and what is said when.

Real S3 and GCS APIs run on this machine behind a proxy that closes its port in the middle of a
build, or spoils some of the requests. Each build must end with the bytes of an undisturbed one.

    python benchmarks/outages.py [--seconds 2 20] [--fractions 0.1 0.3] [--builds 6] [--schemes s3]
"""

import argparse
import importlib.util
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from oct_io import Window, build_cache, read_manifest
from oct_io.errors import StoreError
from oct_io.phantom import PhantomTree, write_phantom_tree
from oct_io.storage.buckets import StorageConfig, using_storage
from oct_io.storage.files import read_bytes
from writing import RESULTS, write_results

SERVERS = Path(__file__).parents[1] / "packages/oct-io/tests/servers.py"
# Wider than the scans, so that volumes end in padding: the emulator of GCS drops the last byte of
# an upload where that is a carriage return.
WINDOW = Window(name="wide", extent_mm=(4.0, 0.15, 4.0), shape=(4, 16, 12))
SHARD_BYTES = 4 * 4 * 16 * 12
PACKAGES = ("oct-io", "s3fs", "gcsfs", "botocore", "aiohttp")
CLOSED = {"give_up_s": 5.0}  # for the port that stays closed; the default takes a quarter hour
SPOILT = {"read_timeout_s": 1.5}


def load_servers() -> Any:
    """The module of the tests that has servers and proxy."""
    spec = importlib.util.spec_from_file_location("servers", SERVERS)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(SERVERS)
    module = importlib.util.module_from_spec(spec)
    sys.modules["servers"] = module
    spec.loader.exec_module(module)
    return module


class Bench:
    """Two stores with 40 scans, and the cache that each build of them must give."""

    def __init__(self, servers: Any, folder: Path) -> None:
        self.servers, self.folder = servers, folder
        tree = folder / "tree"
        write_phantom_tree(tree, PhantomTree(participants=20, shape=(6, 48, 40), jobs=1))
        self.local = str(tree)
        self.wanted = self.build(self.local, None)
        files = [path for path in tree.rglob("*") if path.is_file()]
        contents = {f"eyes/data/{path.relative_to(tree)}": path.read_bytes() for path in files}
        for scheme in ("s3", "gs"):
            servers.fill(scheme, contents)

    def build(self, root: str, parts: str | None, start: Callable[[], None] | None = None) -> Any:
        """Bytes of the shards and the number of refused scans of one build."""
        records = read_manifest(root)
        if start is not None:
            start()
        out = Path(tempfile.mkdtemp(dir=self.folder)) / "cache"
        made = {"shard_bytes": SHARD_BYTES, "parts": parts, "max_bad_fraction": 0.99}
        index = build_cache(records, root, WINDOW, out, **made)  # type: ignore[arg-type]
        shards = {path.name: path.read_bytes() for path in out.glob("*.u8")}
        return shards, index.refused

    def through(self, scheme: str, config: dict[str, Any], **faults: Any) -> tuple[ExitStack, Any]:
        """A proxy before a store, with the storage pointed at it until the stack closes."""
        stack = ExitStack()
        proxy = stack.enter_context(self.servers.Proxy(self.servers.places[scheme], **faults))
        wanted = {"endpoint_url": proxy.url, "anonymous": scheme == "gs", **config}
        stack.enter_context(using_storage(StorageConfig(**wanted)))
        return stack, proxy

    def places(self, scheme: str, name: str) -> dict[str, str | None]:
        """Where parts may lie."""
        return {"local": None, "bucket": f"{scheme}://eyes/parts-{name}"}

    def closed_for(self, scheme: str, where: str, seconds: float) -> dict[str, Any]:
        """A build whose port closes after its tenth request, for some seconds."""
        parts = self.places(scheme, f"{seconds:g}-{where}")[where]
        stack, proxy = self.through(scheme, {})
        with stack:
            started = time.monotonic()
            root = f"{scheme}://eyes/data"
            shards, refused = self.build(root, parts, lambda: proxy.fail_later(10, seconds))
        took = time.monotonic() - started
        same = shards == self.wanted[0]
        return {"lost": refused, "same bytes": same, "seconds": round(took, 1)}

    def closed_for_good(self, scheme: str, where: str) -> dict[str, Any]:
        """A build whose port closes and stays closed, and the next one, after it has opened."""
        parts = self.places(scheme, f"good-{where}")[where]
        root, out = f"{scheme}://eyes/data", self.folder / f"closed-{scheme}-{where}"
        said = ""
        stack, proxy = self.through(scheme, CLOSED)
        with stack:
            records = read_manifest(root)
            made: dict[str, Any] = {"shard_bytes": SHARD_BYTES, "parts": parts}
            proxy.fail_later(10 if where == "local" else 30)
            started = time.monotonic()
            try:
                build_cache(records, root, WINDOW, out, **made)
            except StoreError as error:
                said = str(error)
            took = time.monotonic() - started
            proxy.open()
            index = build_cache(records, root, WINDOW, out, **made)
        shards = {path.name: path.read_bytes() for path in out.glob("*.u8")}
        same = shards == self.wanted[0]
        line = said.replace(proxy.url, "ENDPOINT")
        return {"lost": index.refused, "same bytes": same, "seconds": round(took, 1), "line": line}

    def silent(self, scheme: str) -> dict[str, Any]:
        """How long it takes until a store that accepts and never answers is one line."""
        stack, proxy = self.through(scheme, {}, faults=("silent",), fraction=1.0)
        with stack:
            started = time.monotonic()
            try:
                read_bytes(f"{scheme}://eyes/data/none.dcm")
            except StoreError as error:
                line = str(error).replace(proxy.url, "ENDPOINT")
        return {"seconds": round(time.monotonic() - started, 1), "line": line}

    def spoilt(self, scheme: str, where: str, fault: str, share: float, builds: int) -> str:
        """How many builds end with the right bytes while requests are spoilt, such as "6 of 6".

        They run at once through one proxy; which of their requests it spoils differs.
        """
        faults = {"faults": (fault,), "fraction": share, "delay_s": 2.0}
        stack, _ = self.through(scheme, SPOILT, **faults)
        with stack, ThreadPoolExecutor(builds) as pool:
            parts = [self.places(scheme, f"{fault}-{share}-{n}")[where] for n in range(builds)]
            found = pool.map(lambda place: self.build(f"{scheme}://eyes/data", place), parts)
            right = sum(one == self.wanted for one in found)
        return f"{right} of {builds}"


def main() -> None:
    """Measure, print and write down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, nargs="*", default=[2.0, 20.0])
    parser.add_argument("--fractions", type=float, nargs="*", default=[0.1, 0.3])
    parser.add_argument("--builds", type=int, default=6)
    parser.add_argument("--schemes", nargs="*", default=["s3", "gs"], help="others keep their rows")
    options = parser.parse_args()
    os.environ |= {"AWS_ACCESS_KEY_ID": "made-up", "AWS_SECRET_ACCESS_KEY": "made-up"}
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    servers = load_servers()
    facts: dict[str, Any] = {}
    with servers.serve() as places, tempfile.TemporaryDirectory() as folder:
        servers.places.update(places)
        bench = Bench(servers, Path(folder))

        def note(name: str, found: Any) -> None:
            facts[name] = found
            print(f"{name}: {found}", flush=True)

        for scheme in options.schemes:
            note(f"{scheme}, never answers", bench.silent(scheme))
            for where in ("local", "bucket"):
                for seconds in options.seconds:
                    name = f"{scheme}, parts {where}, closed for {seconds:g} s"
                    note(name, bench.closed_for(scheme, where, seconds))
                note(f"{scheme}, parts {where}, closed", bench.closed_for_good(scheme, where))
            for share in options.fractions:
                for fault in servers.FAULTS:
                    for where in ("local", "bucket"):
                        name = f"{scheme}, parts {where}, {share:.0%} {fault}"
                        note(name, bench.spoilt(scheme, where, fault, share, options.builds))
    kept = RESULTS / "outages.json"
    if kept.exists():
        facts = {**json.loads(kept.read_text())["runs"], **facts}
    write_results("outages", PACKAGES, {"runs": dict(sorted(facts.items()))})


if __name__ == "__main__":
    main()
