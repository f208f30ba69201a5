"""How long does the first command take, from nothing to its report?

`uv run apps/pretrain` without an argument, `--rounds` times, each in an empty folder: drawing,
writing, caching, training, asking and the report. Told are medians, and each round, of seconds on
the clock and of processor seconds of the whole process with its children, how busy the machine was
before each round, and how many CPUs there are. With --before, a work tree of an earlier commit with
its environment in .venv (`git worktree add ../earlier COMMIT; cd ../earlier; uv sync
--all-packages`), both take turns, and the ratio is one of medians.

What is done stands in --out after each round. Stopped with Ctrl-C or SIGTERM, the same command goes
on from there, as long as commits, CPUs and arguments are the same; what is half done is run again.

    python benchmarks/first_command.py
    python benchmarks/first_command.py --rounds 3 --before ../earlier
    python benchmarks/first_command.py --rounds 1 --given experiment=smoke --out smoke.json

With --judged `uv run apps/finetune` follows in each round, as the README has it, and both are timed
as one, into results/first_two_commands.json.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from writing import RESULTS

ROOT = Path(__file__).resolve().parent.parent
STOPPED = 143


class Took(NamedTuple):
    """Seconds on the clock, and of processors, and how many processes wanted one before."""

    clock_s: float
    cpu_s: float
    load_before: float


def python_of(tree: Path) -> str:
    """The interpreter that has the packages of a work tree.

    Another one would run the app of one commit with the libraries of the other.
    """
    own = tree / ".venv" / "bin" / "python"
    if own.exists():
        return str(own)
    if tree == ROOT:
        return sys.executable
    sys.exit(f"{tree}: no environment in .venv; uv sync --all-packages makes it there")


def commit_of(tree: Path) -> str:
    """Commit of a work tree, with + behind it where files differ from it; "" if there is none."""
    words = ("describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*")
    ask = ["git", "-C", str(tree), *words]
    return subprocess.run(ask, capture_output=True, text=True, check=False).stdout.strip()


def run(tree: Path, given: Sequence[str], *, judged: bool = False) -> Took:
    """Run the app of a work tree to its end, in an empty folder, and then the one that judges.

    Raises:
        CalledProcessError: it has failed.
    """
    load = os.getloadavg()[0]
    apps = [["pretrain", *given], *([["finetune"]] if judged else [])]
    with tempfile.TemporaryDirectory() as folder:
        began_s, before = time.perf_counter(), os.times()
        for app, *words in apps:
            command = [python_of(tree), str(tree / "apps" / app), *words]
            subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        clock_s, after = time.perf_counter() - began_s, os.times()
        if len(list(Path(folder).glob("runs/*/report.html"))) < len(apps):
            sys.exit(f"{tree}: the command left no report")
    used = after.children_user + after.children_system
    used -= before.children_user + before.children_system
    return Took(round(clock_s, 2), round(used, 2), round(load, 1))


def summary(rounds: Sequence[Took]) -> dict[str, Any]:
    """Medians, and all rounds."""
    return {
        "clock_s": statistics.median(one.clock_s for one in rounds),
        "cpu_s": statistics.median(one.cpu_s for one in rounds),
        "rounds": [one._asdict() for one in rounds],
    }


def take_up(out: Path, facts: dict[str, Any]) -> dict[str, list[Took]]:
    """Rounds of each tree that stand in `out` already; none if they are of something else."""
    found = json.loads(out.read_text()) if out.exists() else {}
    same = all(found.get(key) == value for key, value in facts.items())
    done: dict[str, list[Took]] = {}
    for name in facts["commits"]:
        rounds = found.get(name, {}).get("rounds", []) if same else []
        done[name] = [Took(**one) for one in rounds]
    return done


def write(out: Path, facts: dict[str, Any], took: dict[str, list[Took]]) -> None:
    """Write what is known so far, whole or not at all."""
    found = facts | {name: summary(rounds) for name, rounds in took.items() if rounds}
    if "before" in found and "now" in found:
        for name, key in (("times_as_fast", "clock_s"), ("times_less_cpu", "cpu_s")):
            found[name] = round(found["before"][key] / found["now"][key], 2)
    draft = out.with_name(f".{out.name}")
    draft.write_text(json.dumps(found, indent=1) + "\n")
    draft.replace(out)


def main() -> None:
    """Measure, print and write down."""
    parser = argparse.ArgumentParser(description="Time of the first command, as a whole.")
    parser.add_argument("--rounds", type=int, default=5, help="of each tree, earlier ones included")
    parser.add_argument("--now", type=Path, default=ROOT, help="work tree; this one")
    parser.add_argument("--before", type=Path, help="work tree of an earlier commit, with .venv")
    parser.add_argument("--given", nargs="*", default=[], help="arguments of the command")
    parser.add_argument("--judged", action="store_true", help="time apps/finetune after it too")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    kept = "first_two_commands" if options.judged else "first_command"
    out = options.out or RESULTS / f"{kept}.json"
    then = " && uv run apps/finetune" if options.judged else ""
    trees = {"now": options.now} | ({"before": options.before} if options.before else {})
    trees = {name: tree.resolve() for name, tree in trees.items()}  # the command runs elsewhere
    for tree in trees.values():
        python_of(tree)
    facts = {
        "command": f"python benchmarks/{Path(__file__).name}",
        "timed": " ".join(["uv run apps/pretrain", *options.given]) + then,
        "commits": {name: commit_of(tree) for name, tree in trees.items()},
        "cpus": os.cpu_count(),
    }
    took = take_up(out, facts)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the app ends with us
    try:
        for number in range(options.rounds):
            for name, tree in trees.items():
                if len(took[name]) <= number:
                    took[name].append(run(tree, options.given, judged=options.judged))
                    write(out, facts, took)
                    print(f"round {number + 1}: {name:8} {took[name][-1]}", flush=True)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from there")
        sys.exit(STOPPED)


if __name__ == "__main__":
    main()
