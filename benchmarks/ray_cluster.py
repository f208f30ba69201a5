"""A cache made on a Ray cluster: its bytes, what killing costs, what is said, and when it pays.

A head without CPUs and two workers with one each run here as separate processes. Storage is a real
S3 API on this machine, behind a proxy that closes its port.

    python benchmarks/ray_cluster.py [--scans 320] [--only killed wrong_address outage start_up]
"""

import argparse
import importlib.util
import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from oct_io.phantom import PhantomTree, write_phantom_tree
from writing import RESULTS, write_results

TESTS = Path(__file__).parents[1] / "packages/oct-io/tests"
COMMAND = str(Path(sys.executable).with_name("oct-io"))
LIMIT_S = 400
UV = "RAY_ENABLE_UV_RUN_RUNTIME_ENV"  # has an effect below `uv run`
STORED = """
import sys
from oct_io import Window, build_cache, read_manifest
from oct_io.cache.ray_cache import on_ray
from oct_io.errors import StoreError
from oct_io.storage.buckets import StorageConfig, configure_storage

if __name__ == "__main__":
    root, out, parts, endpoint, address = sys.argv[1:]
    configure_storage(StorageConfig(endpoint_url=endpoint, give_up_s=15.0))
    wide = Window(name="wide", extent_mm=(4.0, 0.15, 4.0), shape=(4, 16, 12))
    make_parts = on_ray(address) if address else None
    records = read_manifest(root)
    print("listed", flush=True)
    made = {"shard_bytes": 4 * 4 * 16 * 12, "parts": parts or None, "make_parts": make_parts}
    try:
        print("refused", build_cache(records, root, wide, out, **made).refused)
    except StoreError as error:
        print(f"StoreError: {error}")
        sys.exit(2)
"""


def load(name: str) -> Any:
    """A module of the tests."""
    spec = importlib.util.spec_from_file_location(name, TESTS / f"{name}.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError(TESTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def contents(cache: Path) -> dict[str, bytes]:
    """Bytes of a cache's files; nothing while there is none."""
    return {path.name: path.read_bytes() for path in sorted(cache.glob("*"))}


def hide(said: str, *places: str) -> list[str]:
    """Last lines of a process, without this machine's places and Ray's words on a lost node."""
    for place in places:
        said = said.replace(place, "PLACE")
    own = [line for line in said.splitlines() if line.strip() and "(raylet)" not in line]
    return own[-4:]


class Bench:
    """Scans on the disk, a running cluster, and the cache that each build of them must give."""

    def __init__(self, folder: Path, clusters: Any, cluster: Any, scans: int) -> None:
        self.folder, self.clusters, self.cluster = folder, clusters, cluster
        self.tree = folder / "tree"
        one = PhantomTree(participants=scans // 2, shape=(6, 48, 40), jobs=2)
        write_phantom_tree(self.tree, one)
        self.plain = folder / "plain"

    def command(self, out: Path, *more: str) -> list[str]:
        """`oct-io cache` for a cache at `out`."""
        return [COMMAND, "cache", str(self.tree), str(out), "--window", "tiny_field", *more]

    def timed(self, out: Path, *more: str, **variables: str) -> dict[str, float]:
        """Seconds of the command, and CPU seconds of it, its processes and the cluster's.

        Ray's processes are not waited for by who started them, so their clocks are read while they
        run; what a process does in its last 50 ms is missed.
        """
        environment = {**self.cluster.environment, **variables}
        nodes = [one.pid for one in self.cluster.running]
        before = self.clocks(nodes)
        seen: dict[int, float] = {}
        started = time.monotonic()
        command = self.command(out, *more)
        with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment) as process:
            while process.poll() is None:
                seen |= self.clocks([process.pid, *nodes])
                time.sleep(0.05)
            seconds = time.monotonic() - started
            if process.returncode:
                raise RuntimeError((process.stderr or sys.stdin).read())
        cpu = sum(used - before.get(pid, 0.0) for pid, used in seen.items())
        return {"seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1)}

    def clocks(self, above: list[int]) -> dict[int, float]:
        """CPU seconds of these processes and all below them."""
        found = {}
        below = [one for pid in above for one in self.clusters.descendants(pid)]
        for pid in {*above, *below}:
            with suppress(FileNotFoundError, ProcessLookupError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                found[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return found

    def start(self, out: Path, log: Path) -> subprocess.Popen[bytes]:
        """Begin a build on the cluster."""
        command = self.command(out, "--ray", self.cluster.address)
        with log.open("wb") as file:
            return subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, env=self.cluster.environment
            )

    def killed(self) -> dict[str, Any]:
        """The driver killed with -9, the same command again, and a worker killed during that."""
        out, log = self.folder / "killed", self.folder / "killed.log"
        parts = self.folder / ".killed.building/parts"
        driver = self.start(out, log)
        wait_for(lambda: len(list(parts.glob("part-*.json"))) >= 2, driver)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        kept = {path.name: path.stat().st_mtime_ns for path in parts.glob("part-*.json")}
        driver = self.start(out, log)
        lost = next(iter(wait_for(self.cluster.working, driver).values()))
        self.cluster.kill(lost)
        killed_at = time.monotonic()
        code = driver.wait(LIMIT_S)
        took = time.monotonic() - killed_at
        self.cluster.running.remove(lost)
        lost.wait()
        self.cluster.add("another")
        return {
            "parts kept by the killed driver": len(kept),
            "parts": -(-len(list(self.tree.rglob("*.dcm"))) // 16),
            "exit code of the same command": code,
            "same bytes": contents(out) == contents(self.plain),
            "seconds from the death of a worker to the end": round(took, 1),
            "said": hide(log.read_text(), str(self.folder)),
        }

    def on_a_terminal(self) -> dict[str, Any]:
        """What a terminal shows last while a build runs on the cluster."""
        leader, follower = pty.openpty()
        out = self.folder / "shown"
        command = self.command(out, "--ray", self.cluster.address)
        environment = {**self.cluster.environment, "TERM": "xterm", "COLUMNS": "100"}
        shown = b""
        with subprocess.Popen(command, stdout=follower, stderr=follower, env=environment) as one:
            os.close(follower)
            while True:
                try:
                    shown += os.read(leader, 65536)
                except OSError:  # the other end is closed
                    break
        os.close(leader)
        frames = [part for part in shown.decode(errors="replace").split("\r") if "left" in part]
        last = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", frames[len(frames) // 2]) if frames else ""
        same = contents(out) == contents(self.plain)
        return {"code": one.returncode, "in the middle": last.strip(), "same bytes": same}

    def wrong_address(self) -> dict[str, Any]:
        """Seconds, exit code and line for addresses where no cluster answers."""
        with socket.create_server(("127.0.0.1", 0)) as silent, socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            refused, mute = closed.getsockname()[1], silent.getsockname()[1]
            places = {
                "nobody listens": f"127.0.0.1:{refused}",
                "no such name": "no-such-host.invalid:6379",
                "never answers": f"127.0.0.1:{mute}",
                "ray://": f"ray://127.0.0.1:{mute}",
            }
            return {name: self.refuse(place) for name, place in places.items()}

    def refuse(self, address: str) -> dict[str, Any]:
        """One build with a wrong address."""
        started = time.monotonic()
        command = self.command(self.folder / "never", "--ray", address)
        environment = self.cluster.environment
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        took = round(time.monotonic() - started, 1)
        lines = hide(done.stdout + done.stderr, address.rpartition(":")[2])
        return {"seconds": took, "code": done.returncode, "said": lines}

    def outage(self, servers: Any) -> dict[str, Any]:
        """Builds from a bucket whose port closes, and the same command after it has opened."""
        script = self.folder / "stored.py"
        script.write_text(STORED)
        files = [path for path in self.tree.rglob("*") if path.is_file()]
        chosen = [path for path in files if path.suffix != ".dcm"]
        chosen += sorted(path for path in files if path.suffix == ".dcm")
        names = {f"eyes/data/{path.relative_to(self.tree)}": path for path in chosen}
        servers.fill("s3", {name: path.read_bytes() for name, path in names.items()})
        found: dict[str, Any] = {}
        for where in ("local", "bucket"):
            parts = "s3://eyes/parts" if where == "bucket" else ""
            with servers.Proxy(servers.places["s3"]) as proxy:
                found[f"parts {where}"] = self.cut_off(script, parts, proxy)
        return found

    def cut_off(self, script: Path, parts: str, proxy: Any) -> dict[str, Any]:
        """One of them."""
        where = "bucket" if parts else "local"
        out, plain = self.folder / f"stored-{where}", self.folder / f"stored-{where}-plain"
        begin = [sys.executable, str(script), "s3://eyes/data"]
        command = [*begin, str(out), parts, proxy.url, self.cluster.address]
        log = self.folder / "stored.log"
        with log.open("wb") as file:
            driver = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, env=self.cluster.environment
            )
        wait_for(lambda: "listed" in log.read_text(), driver)
        wait_for(self.cluster.working, driver)
        proxy.shut()
        shut_at = time.monotonic()
        code = driver.wait(LIMIT_S)
        took = round(time.monotonic() - shut_at, 1)
        said = hide(log.read_text(), str(self.folder), proxy.url)
        proxy.open()
        environment = self.cluster.environment
        quiet: dict[str, Any] = {"capture_output": True, "text": True, "env": environment}
        again = subprocess.run(command, **quiet)
        subprocess.run([*begin, str(plain), "", proxy.url, ""], **quiet)
        return {
            "code": code,
            "seconds": took,
            "said": said,
            "the same command again": hide(again.stdout, str(self.folder))[-1:],
            "same bytes": contents(out) == contents(plain) != {},
        }

    def start_up(self, few: int) -> dict[str, Any]:
        """Two processes of this machine, a local Ray of two, and the cluster that runs already."""
        facts: dict[str, Any] = {"scans": few}
        arms: dict[str, tuple[list[str], dict[str, str]]] = {
            "two processes": (["--jobs", "2"], {}),
            "local Ray of two": (["--jobs", "2", "--ray"], {}),
            "local Ray of two, with Ray's own way of uv": (["--jobs", "2", "--ray"], {UV: "1"}),
            "running cluster of two": (["--ray", self.cluster.address], {}),
        }
        for name, (more, variables) in arms.items():
            out = self.folder / f"timed-{len(facts)}"
            facts[name] = self.timed(out, *more, **variables)
            facts[name]["same bytes"] = contents(out) == contents(self.plain)
        return facts


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[bytes]) -> Any:
    """What `condition` gives, once it is something."""
    ends = time.monotonic() + LIMIT_S
    while time.monotonic() < ends and process.poll() is None:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise RuntimeError(f"ended too early ({process.poll()}), or took too long")


@contextmanager
def running(scans: int) -> Iterator[tuple[Bench, Any]]:
    """A bench, with the servers of the tests."""
    os.environ |= {"AWS_ACCESS_KEY_ID": "made-up", "AWS_SECRET_ACCESS_KEY": "made-up"}
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    clusters, servers = load("clusters"), load("servers")
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp())
        stack.callback(shutil.rmtree, folder)
        servers.places.update(stack.enter_context(servers.serve()))
        started = time.monotonic()
        cluster = stack.enter_context(clusters.Cluster())
        print(f"the cluster started in {time.monotonic() - started:.0f} s", flush=True)
        yield Bench(folder, clusters, cluster, scans), servers


def main() -> None:
    """Measure, print and write down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scans", type=int, default=320)
    parts = ("start_up", "killed", "on_a_terminal", "wrong_address", "outage")
    parser.add_argument("--only", nargs="*", default=parts, help="others keep their rows")
    options = parser.parse_args()
    facts: dict[str, Any] = {}
    with running(options.scans) as (bench, servers):
        subprocess.run(bench.command(bench.plain, "--jobs", "1"), check=True)

        def note(name: str, found: Any) -> None:
            facts[name] = found
            print(f"{name}: {json.dumps(found, indent=1)}", flush=True)

        scans = len(list(bench.tree.rglob("*.dcm")))
        todo: dict[str, Callable[[], Any]] = {
            "start_up": lambda: bench.start_up(scans),
            "killed": bench.killed,
            "on_a_terminal": bench.on_a_terminal,
            "wrong_address": bench.wrong_address,
            "outage": lambda: bench.outage(servers),
        }
        for name in options.only:
            note(name, todo[name]())
    kept = RESULTS / "ray_cluster.json"
    if kept.exists():
        facts = {**json.loads(kept.read_text())["runs"], **facts}
    write_results("ray_cluster", ("oct-io", "ray"), {"runs": facts})


if __name__ == "__main__":
    main()
