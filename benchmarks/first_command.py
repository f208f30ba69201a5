"""How long does the first command take, from nothing to its report?

`uv run apps/pretrain` without an argument, `--rounds` times, each in an empty folder: drawing,
writing, caching, training, asking and the report. Told are medians, and each round, of seconds on
the clock and of processor seconds of the whole process with its children, and how many CPUs there
were and how busy. With --before, a work tree of an earlier commit with its environment in .venv,
both take turns, and the ratio is one of medians.

    python benchmarks/first_command.py
    python benchmarks/first_command.py --rounds 3 --before ../earlier
    python benchmarks/first_command.py --rounds 1 --given experiment=smoke --out smoke.json
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from writing import RESULTS

ROOT = Path(__file__).parent.parent


class Took(NamedTuple):
    """Seconds on the clock, and of processors."""

    clock_s: float
    cpu_s: float


def run(tree: Path, given: list[str]) -> Took:
    """Run the app of a work tree to its end, in an empty folder.

    Raises:
        CalledProcessError: it has failed.
    """
    own = tree / ".venv" / "bin" / "python"
    python = str(own) if tree != ROOT and own.exists() else sys.executable
    with tempfile.TemporaryDirectory() as folder:
        began_s, before = time.perf_counter(), os.times()
        command = [python, str(tree / "apps" / "pretrain"), *given]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        after = os.times()
        if not any(Path(folder).glob("runs/*/report.html")):
            sys.exit(f"{tree}: the command left no report")
    used = after.children_user + after.children_system
    used -= before.children_user + before.children_system
    return Took(round(time.perf_counter() - began_s, 2), round(used, 2))


def summary(rounds: list[Took]) -> dict[str, object]:
    """Medians, and all rounds."""
    clocks, cpus = zip(*rounds, strict=True)
    return {
        "clock_s": statistics.median(clocks),
        "cpu_s": statistics.median(cpus),
        "rounds": [one._asdict() for one in rounds],
    }


def main() -> None:
    """Measure, print and write down."""
    parser = argparse.ArgumentParser(description="Time of the first command, as a whole.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--before", type=Path, help="work tree of an earlier commit")
    parser.add_argument("--given", nargs="*", default=[], help="arguments of the command")
    parser.add_argument("--out", type=Path, default=RESULTS / "first_command.json")
    options = parser.parse_args()
    trees = {"now": ROOT} | ({"before": options.before} if options.before else {})
    load = os.getloadavg()[1]
    took: dict[str, list[Took]] = {name: [] for name in trees}
    for number in range(options.rounds):
        for name, tree in trees.items():
            took[name].append(run(tree, options.given))
            print(f"round {number + 1}: {name:8} {took[name][-1]}", flush=True)
    found: dict[str, object] = {
        "command": " ".join(["uv run apps/pretrain", *options.given]),
        "cpus": os.cpu_count(),
        "load_before": round(load, 1),
        **{name: summary(rounds) for name, rounds in took.items()},
    }
    if options.before:
        medians = [statistics.median(one.clock_s for one in took[name]) for name in trees]
        found["times_as_fast"] = round(medians[1] / medians[0], 2)
    options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
