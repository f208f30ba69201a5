"""Runs drills and writes down how each ended, how long it took, and of which commit.

A drill breaks something for tens of seconds, and so `uv run pytest` leaves it out. Arguments are
those of pytest: files, tests, -k. Each test is an entry in results/drills.json, written as soon as
it has ended, in place of its last one: entries may be of different commits, and each says which.
CPU seconds are those of the test and of the programs that it started and waited for; what tests of
a file share is counted to the first of them. Beside them stands what a test has told by pytest's
`record_property`.

    python benchmarks/drills.py tests/test_kill.py
    python benchmarks/drills.py packages/oct-xla/tests -k parallel
    python benchmarks/drills.py --list      tells what is written down
"""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from writing import RESULTS, write_results

ROOT = Path(__file__).parent.parent
PACKAGES = ("torch", "torch-xla", "oct-io", "oct-vjepa", "oct-xla")


def known() -> dict[str, dict[str, Any]]:
    """What is written down, by the name of the test."""
    file = RESULTS / "drills.json"
    return json.loads(file.read_text(encoding="utf-8"))["drills"] if file.exists() else {}


def commit() -> str:
    """The commit of the code, with "+" behind it where tracked files differ from it."""

    def ask(*words: str) -> str:
        return subprocess.check_output(["git", "-C", ROOT, *words], text=True).strip()

    results = f":!{(RESULTS / 'drills.json').relative_to(ROOT)}"
    changed = ask("status", "--porcelain", "--untracked-files=no", ":/", results)
    return ask("rev-parse", "HEAD") + ("+" if changed else "")


def machine() -> str:
    """Kind and number of processors."""
    cpus = Path("/proc/cpuinfo")
    lines = cpus.read_text(encoding="utf-8").splitlines() if cpus.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


class Recorder:
    """A plugin of pytest that writes each test down."""

    def __init__(self) -> None:
        self.outcomes: dict[str, str] = {}
        self.told: dict[str, dict[str, Any]] = {}
        self.facts = {"commit": commit(), "machine": machine()}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Time a test, and what it needs, from its beginning to its end."""
        began, load = os.times(), round(os.getloadavg()[0], 1)
        clock_s = time.perf_counter()
        found = yield
        seconds = sum(os.times()[:4]) - sum(began[:4])
        name = Path(item.nodeid).as_posix()
        entry = {
            "outcome": self.outcomes[item.nodeid],
            "clock_s": round(time.perf_counter() - clock_s, 1),
            "cpu_s": round(seconds, 1),
            "load_before": load,
            "date": datetime.now(UTC).date().isoformat(),
            **self.facts,
            **self.told.get(item.nodeid, {}),
        }
        drills = dict(sorted({**known(), name: entry}.items()))
        write_results("drills", PACKAGES, {"drills": drills})
        return found

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the outcome, that of the test unless what it needs failed, and what it has told."""
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[report.nodeid] = report.outcome
            self.told[report.nodeid] = dict(report.user_properties)


def main() -> int:
    """Run the drills that are asked for; returns the exit code of pytest."""
    if sys.argv[1:] == ["--list"]:
        for name, one in known().items():
            seconds = f"{one['cpu_s']:.0f} of CPU, {one['clock_s']:.0f} s"
            print(f"{one['outcome']}, {seconds}, {one['commit'][:8]}, {one['date']}: {name}")
        return 0
    os.environ["OMP_NUM_THREADS"] = "1"
    return int(pytest.main(["-m", "drill", *sys.argv[1:]], plugins=[Recorder()]))


if __name__ == "__main__":
    raise SystemExit(main())
