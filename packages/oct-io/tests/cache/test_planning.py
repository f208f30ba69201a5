"""What a cache of many files takes before its first scan is decoded."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

PROGRAM = """
import resource, sys
from pathlib import Path
from oct_io import Window, build_cache
from oct_io.catalog.manifest import list_scans

class Planned(Exception):
    pass

def make_parts(plan, numbers, seen):
    print(len(plan.records), flush=True)
    raise Planned

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

root, before = Path(sys.argv[1]), peak()
out = root.with_name("cache")
found = list_scans(root, cache=out)
window = Window(name="tiny", extent_mm=(6, 1, 6), shape=(2, 8, 8))
try:
    build_cache(found.records, root, window, out, make_parts=make_parts, tokens=found.tokens)
except Planned:
    print(peak() - before)
"""


def plan(place, files):
    """Bytes that listing and planning took at the most, above what importing takes."""
    root = place / "tree"
    root.mkdir(parents=True)
    said = {"spacing_mm": [0.05, 0.004, 0.01], "laterality": "L", "participant_from": "folder"}
    (root / "volume.json").write_text(json.dumps(said))
    for number in range(files):
        folder = root / f"{number // 100:04}"
        if number % 100 == 0:
            folder.mkdir()
        if number % 20_000 == 0:  # a file system ends at some number of links
            original = place / f"{number}.npy"
            np.save(original, np.full((4, 8, 8), number // 20_000, dtype=np.uint8))
        os.link(original, folder / f"{number % 100:02}.npy")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, root], capture_output=True, text=True, check=True
    )
    scans, taken = map(int, done.stdout.split())
    assert scans == files
    return taken


@pytest.mark.drill
def test_a_hundred_thousand_files_are_listed_and_planned_in_bounded_memory(tmp_path):
    few, many = plan(tmp_path / "few", 10_000), plan(tmp_path / "many", 100_000)
    assert many < 300e6
    assert (many - few) / 90_000 < 2500, "bytes a file: path, state and record of each are held"
