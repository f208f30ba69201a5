"""Does anything that is damaged crash, hang, fill the memory, start a program, or lose a row?

Damages files of every format, folders of them, and every table that is read beside scans, and reads
each of them in a process with limits: 10 s of CPU, 256 MB above what its libraries take. Each
mutant has a seed of its own; `--only NUMBER` makes one again and shows what became of it.

    python benchmarks/mutants.py --count 10000 --seed 7
"""

import argparse
import importlib.util
import json
import os
import stat
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from writing import write_results

READERS = Path(__file__).parents[1] / "packages/oct-io/tests/readers"
STREAMS = 0.3  # share of DICOM files with their codestreams, offset tables, groups and bombs
PACKAGES = ("oct-io", "pydicom", "imagecodecs", "numpy", "nibabel", "tifffile", "pillow")
ALLOWED = {"read", "refused", "refused by the manifest"}
PROMISES = ("leak", "crash", "hang", "memory", "started", "rows lost", "several lines")


def load(name: str) -> Any:
    """A module of the tests of the readers."""
    spec = importlib.util.spec_from_file_location(name, READERS / f"{name}.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError(READERS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def set_trap(folder: Path) -> Path:
    """Put a `gs` before all others on the path; what is returned exists once it was started."""
    started, program = folder / "started", folder / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho 10.0\ntouch {started}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    os.environ["PATH"] = f"{program.parent}:{os.environ['PATH']}"
    return started


def read_streams(fuzzing: Any, folder: Path, count: int, seed: int, jobs: int) -> list[Any]:
    """(family, kind, base, outcome, answer) of damaged DICOM files."""
    root = folder / "streams"
    root.mkdir()
    mutants = fuzzing.write_tree(root, count, seed)
    warm = [root / one.path for one in mutants if one.kind == "none"]
    answers = fuzzing.read_all(root, mutants, warm, jobs)
    nothing = {"outcome": "refused by the manifest", "reason": "", "s": 0.0}
    damaged = [one for one in mutants if one.kind != "none"]
    return [("DICOM", one.kind, one.base, answers.get(one.path, nothing)) for one in damaged]


def read_others(damage: Any, fuzzing: Any, folder: Path, wanted: Any, seed: int, jobs: int) -> Any:
    """(family, kind, number, answer) of all other formats, folders and tables."""
    bases = damage.write_bases(folder / "bases")
    asked = damage.ask_all(fuzzing, bases, wanted, seed, folder, jobs)
    return [(one.family, one.kind, one.number, answer) for one, answer in asked]


def main() -> None:
    """Measure, print and write down."""
    command = argparse.ArgumentParser(description=__doc__)
    command.add_argument("--count", type=int, default=10_000)
    command.add_argument("--seed", type=int, default=7)
    command.add_argument("--jobs", type=int, default=2)
    command.add_argument("--only", type=int, help="number of one mutant that is no DICOM file")
    options = command.parse_args()
    fuzzing, damage = load("fuzzing"), load("damage")
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        started = set_trap(folder)
        if options.only is not None:
            print(read_others(damage, fuzzing, folder, [options.only], options.seed, 1))
            return
        streams = int(options.count * STREAMS)
        found = read_streams(fuzzing, folder, streams, options.seed, options.jobs)
        rest = range(options.count - len(found))
        found += read_others(damage, fuzzing, folder, rest, options.seed, options.jobs)
        trapped = started.exists()
    outcomes: dict[str, Counter[str]] = {}
    for family, _, _, answer in found:
        outcomes.setdefault(family, Counter())[answer["outcome"]] += 1
    broken = [
        {"family": family, "kind": kind, "mutant": which, **answer}
        for family, kind, which, answer in found
        if answer["outcome"] in PROMISES
    ]
    for family, counts in outcomes.items():
        print(f"{family:14} {sum(counts.values()):6}  {dict(counts.most_common())}")
    for one in broken:
        print(json.dumps(one)[:400])
    slowest = max(answer["s"] for *_, answer in found)
    print(f"{len(found)} mutants, {len(broken)} broke a promise; the slowest took {slowest:.1f} s")
    facts = {
        "count": len(found),
        "seed": options.seed,
        "cap_bytes": fuzzing.CAP_BYTES,
        "seconds": round(time.monotonic() - start),
        "slowest_s": round(slowest, 2),
        "broken": {name: sum(one["outcome"] == name for one in broken) for name in PROMISES},
        "gs_started": trapped,
        "outcomes": {family: dict(sorted(counts.items())) for family, counts in outcomes.items()},
    }
    write_results("mutants", PACKAGES, facts)
    sys.exit(bool(broken or trapped))


if __name__ == "__main__":
    main()
