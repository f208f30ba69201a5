"""A Ray cluster as it is started by hand: a head and workers, each with processes of its own."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_raylet_start_wait_time_s": "120",  # a busy machine
    "RAY_health_check_period_ms": "1000",  # a worker counts as dead after 5 s, not 20
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}
STORE = "--object-store-memory=80000000"  # bytes of shared memory; parts do not go through it


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def descendants(pid):
    """Numbers and command lines of all processes below `pid`."""
    below, parents = {pid}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
                line = (entry / "cmdline").read_bytes().decode(errors="replace")
            except (FileNotFoundError, ProcessLookupError):
                continue
            parents[int(entry.name)] = (int(stat.rpartition(")")[2].split()[1]), line)
    grown = True
    while grown:
        grown = {one for one, (parent, _) in parents.items() if parent in below} - below
        below |= grown
    return {one: parents[one][1] for one in below if one in parents and one != pid}


class Cluster:
    """A head without CPUs of its own and workers with one each, until the block ends.

    Args:
        workers: how many.
    """

    def __init__(self, workers=2):
        self.workers, self.port = workers, free_port()
        self.environment = {**os.environ, "RAY_AUTH_MODE": "disabled", **QUIET}
        self.address = f"127.0.0.1:{self.port}"
        self.running = []

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="ray", dir="/tmp")  # sockets: 107 bytes
        head = ["--head", f"--port={self.port}", "--num-cpus=0", "--include-dashboard=false"]
        head += [f"--temp-dir={self.folder.name}/s"]
        try:
            self.start("head", *head)
            for number in range(self.workers):
                self.add(f"worker-{number}")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def add(self, name):
        """One more worker; gives the process that started it."""
        ports = f'--resources={{"{name}": 1}}'
        return self.start(name, f"--address={self.address}", "--num-cpus=1", ports)

    def start(self, name, *arguments):
        """Start a node and wait until it says so: two that start at once starve each other."""
        log = Path(self.folder.name, f"{name}.log")
        ray = str(Path(sys.executable).with_name("ray"))
        with log.open("w") as file:
            process = subprocess.Popen(
                [ray, "start", "--block", STORE, *arguments],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=self.environment,
                start_new_session=True,
            )
        self.running.append(process)
        ends = time.monotonic() + 120
        while "Ray runtime started" not in log.read_text():
            if process.poll() is not None or time.monotonic() > ends:
                raise RuntimeError(f"Ray's {name} does not start: {log.read_text()[-2000:]}")
            time.sleep(0.1)
        return process

    def working(self):
        """Workers in the middle of a part: numbers of their raylets' starters, by process."""
        found = {}
        for starter in self.running[1:]:
            for pid, line in descendants(starter.pid).items():
                if line.startswith("ray::") and "Map" in line:
                    found[pid] = starter
        return found

    def kill(self, starter):
        """Kill a node's raylet with -9, as if its machine had gone."""
        for pid, line in descendants(starter.pid).items():
            if "raylet/raylet" in line.split("\0")[0]:
                os.kill(pid, signal.SIGKILL)

    def stop(self):
        """End all that was started, workers first."""
        below = [pid for one in self.running for pid in descendants(one.pid)]
        for process in reversed(self.running):
            process.terminate()
        for process in self.running:
            with suppress(subprocess.TimeoutExpired):
                process.wait(8)
        for pid in [*below, *(one.pid for one in self.running if one.poll() is None)]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self.running:
            process.wait()
        self.folder.cleanup()
