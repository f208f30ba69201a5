"""How much memory does a cache take before its first scan is decoded, with many files in a tree?

A tree of hard links to a few small .npy files, 100 in a folder, is listed and a cache of it is
planned, as `oct-io cache` does both; nothing is decoded. Four questions, each answered by a fresh
process that reports its CPU seconds (its children included) and its peak of resident memory, less
what importing alone takes:

- listing the tree for the first time, headers read by two processes and kept beside the cache;
- listing it once more;
- that, and planning the cache: the state of every file hashed, and the parts that are missing;
- that, and all that Ray Data would be given to make the parts.

A million files, in memory so that no disk is waited for:

    TMPDIR=/dev/shm python benchmarks/tree_scale.py
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from oct_io import Window, build_cache
from oct_io.cache.making import MakeParts, Seen
from oct_io.cache.parts import Plan
from oct_io.cache.ray_cache import describe_parts
from oct_io.catalog.manifest import Listing, list_scans
from oct_io.readers.sidecar import FOLDER_SIDECAR
from writing import write_results

WINDOW = Window(name="tiny", extent_mm=(6, 1, 6), shape=(2, 8, 8))
SHAPE = (128, 16, 16)
SAID = {"spacing_mm": [0.047, 0.004, 0.012], "laterality": "L", "participant_from": "folder"}
LINKS = 20_000  # of one file; a file system may end at 65,000
A_FOLDER = 100


BEFORE = {
    "10000 files": {"first_mb": 140, "again_mb": 93, "given_mb": 93, "given_cpu_s": 2.0},
    "30000 files": {"first_mb": 243, "again_mb": 187, "given_mb": 187, "given_cpu_s": 10.4},
    "100000 files": {"first_mb": 538, "again_mb": 517, "planned_mb": 515},
}
"""Above imports, at commit 8624889: headers were kept and written as one table of Python texts, and
the hash of all scans was made anew for each part."""


class PlannedError(Exception):
    """All is planned."""


def write_tree(root: Path, count: int) -> None:
    """Hard links to a file for every `LINKS` of them."""
    originals = root.with_name("originals")
    originals.mkdir()
    root.mkdir()
    (root / FOLDER_SIDECAR).write_text(json.dumps(SAID))
    for n in range(count):
        original = originals / f"{n // LINKS}.npy"
        if n % LINKS == 0:
            np.save(original, np.full(SHAPE, n // LINKS, dtype=np.uint8))
        place = root / f"{n // A_FOLDER:05}" / f"{n % A_FOLDER:02}.npy"
        if n % A_FOLDER == 0:
            place.parent.mkdir()
        os.link(original, place)


def list_tree(root: Path, jobs: int = 1) -> Listing:
    """As `oct-io cache` does."""
    return list_scans(root, cache=root.with_name("cache"), jobs=jobs)


def build(root: Path, make_parts: MakeParts) -> None:
    """Begin to build, up to the first part."""
    listing = list_tree(root)
    out = root.with_name("cache")
    try:
        build_cache(
            listing.records, root, WINDOW, out, make_parts=make_parts, tokens=listing.tokens
        )
    except PlannedError:
        return
    raise AssertionError("the build did not ask for its parts")


def importing(root: Path) -> int:
    """Nothing but what it takes to begin."""
    return 0


def first(root: Path) -> int:
    """List the tree, of which nothing is known."""
    return len(list_tree(root, jobs=2).records)


def again(root: Path) -> int:
    """List it with headers that are kept."""
    return len(list_tree(root).records)


def planned(root: Path) -> int:
    """List it, and plan the cache."""
    scans = 0

    def make(plan: Plan, numbers: Sequence[int], seen: Seen) -> None:
        nonlocal scans
        scans = len(plan.records)
        assert len(numbers) == len(plan.numbers())
        raise PlannedError

    build(root, make)
    return scans


def given(root: Path) -> int:
    """List it, plan the cache, and go through what Ray Data is given."""
    scans = 0

    def make(plan: Plan, numbers: Sequence[int], seen: Seen) -> None:
        nonlocal scans
        for rows in describe_parts(plan, numbers):
            scans += sum(len(json.loads(row["task"])["records"]) for row in rows)
        raise PlannedError

    build(root, make)
    return scans


QUESTIONS: dict[str, Callable[[Path], int]] = {
    one.__name__: one for one in (importing, first, again, planned, given)
}


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def answer(question: str, root: str) -> None:
    """Answer a question in this process, and print what it took."""
    before, start = _cpu_seconds(), time.perf_counter()
    scans = QUESTIONS[question](Path(root))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    row = {"cpu_s": _cpu_seconds() - before, "wall_s": time.perf_counter() - start}
    print(json.dumps({**row, "peak_mb": peak, "scans": scans}))


def ask(question: str, root: Path) -> dict[str, float]:
    """Answer a question in a fresh process."""
    command = [sys.executable, __file__, "--answer", question, str(root)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    row: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return row


def main() -> None:
    """Measure, print and write down."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--answer", nargs=2, metavar=("QUESTION", "ROOT"))
    parser.add_argument("--files", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--only", nargs="*", default=[*QUESTIONS][1:], choices=[*QUESTIONS])
    options = parser.parse_args()
    if options.answer:
        answer(*options.answer)
        return
    rows: dict[str, Any] = {}
    for count in options.files:
        with tempfile.TemporaryDirectory() as name:
            root = Path(name) / "tree"
            write_tree(root, count)
            imported = ask("importing", root)["peak_mb"]
            for question in options.only:
                row = ask(question, root)
                assert row["scans"] == count, row
                row["above_imports_mb"] = row["peak_mb"] - imported
                row["kb_a_file"] = row["above_imports_mb"] * 1e3 / count
                rows[f"{question}, {count} files"] = row
                told = "  ".join(f"{key} {value:.1f}" for key, value in row.items())
                print(f"{question:10}{count:>8}  {told}", flush=True)
    settings = {"shape": SHAPE, "a_folder": A_FOLDER, "load": os.getloadavg()[0]}
    facts = {"settings": settings, "before": BEFORE, "rows": rows}
    write_results("tree_scale", ("oct-io", "pyarrow", "numpy"), facts)


if __name__ == "__main__":
    main()
