"""A small app whose sweeps tests watch: it squares a number, in a repository of its own."""

import json
import subprocess
import sys
from contextlib import contextmanager

APP = '''
"""Squares a number."""

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from oct_launch import EXIT_STOPPED, Mistake, Sweeping, app


@dataclass(kw_only=True, slots=True)
class SquareConfig:
    """What is squared."""

    run_dir: str = "runs/square"
    """Where the square is written."""

    number: int = 1
    """What is squared."""

    wait_s: float = 0.0
    """Seconds that it takes."""

    reads: str = "read.txt"
    """File that it reads."""


def reading(path):
    return path.read_text() if path.exists() else ""


def finish(place, jobs):
    rows = [f"{job.name} {job.exit_code} {job.reason}" for job in jobs]
    (place / "finished").write_text("; ".join(rows))


def complete(arguments):
    given = any(one.startswith("wait_s=") for one in arguments)
    return [*arguments, *(["wait_s=0.01"] if "number=100" in arguments and not given else [])]


SWEEPING = Sweeping(
    complete=complete,
    has_read=lambda run_dir: reading(run_dir / "read"),
    will_read=lambda settings: reading(Path(settings.reads)),
    finish=finish,
)


def headline(run_dir):
    return {"square": (run_dir / "square").read_text()}


@app("square", SquareConfig, headline=headline, sweeping=SWEEPING)
def square(config, launch):
    if config.number == 2:
        raise Mistake("two is not liked")
    folder = Path(config.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
    (folder / "pid").write_text(str(os.getpid()))
    with (folder / "starts").open("a") as file:
        file.write("x")
    until = time.monotonic() + config.wait_s
    while time.monotonic() < until and not stopped:
        time.sleep(0.02)
    (folder / "read").write_text(reading(Path(config.reads)))
    print(f"squared {config.number}", flush=True)
    if config.number != 7:
        (folder / "square").write_text(str(config.number**2))
    (folder / "imported").write_text(" ".join(sys.modules))
    return EXIT_STOPPED if stopped else 0


if __name__ == "__main__":
    square()
'''
CONFIG = """
defaults:
  - square_schema
  - _self_
  - override hydra/job_logging: none
  - override hydra/hydra_logging: none
hydra: {run: {dir: .}, output_subdir: null}
"""


@contextmanager
def squaring(place):
    """Write the app below a folder, and give what starts it."""
    (place / "apps" / "square").mkdir(parents=True)
    (place / "apps" / "square" / "__main__.py").write_text(APP)
    (place / "configs").mkdir()
    (place / "configs" / "square.yaml").write_text(CONFIG)
    started = []

    def start(*arguments, **more):
        process = subprocess.Popen(
            [sys.executable, "apps/square", *arguments],
            cwd=place,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **more,
        )
        started.append(process)
        return process

    try:
        yield start
    finally:
        for process in started:  # what a failed test has left
            process.kill()
            process.communicate()


def table(path):
    """Jobs of a sweep by name, as its table has them."""
    return {job["name"]: job for job in json.loads(path.read_text())["jobs"]}
