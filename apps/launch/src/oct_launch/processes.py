"""The processes of a sweep: started, listened to, and told to stop together."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Thread
from types import FrameType
from typing import IO

THREADS = "OMP_NUM_THREADS"


class Stop:
    """A request to stop, handed on to the runs in progress, which save and end."""

    def __init__(self) -> None:
        self.asked = False
        self.running: list[subprocess.Popen[str]] = []

    def note(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        del number, frame
        self.asked = True
        for process in list(self.running):
            process.terminate()


@contextmanager
def signals() -> Iterator[Stop]:
    """Turn SIGINT and SIGTERM into a request to stop."""
    stop = Stop()
    before = {one: signal.signal(one, stop.note) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def run_process(command: Sequence[str], stop: Stop, mark: str = "") -> tuple[int, str]:
    """Run a program to its end; returns its exit code and its reason to fail.

    What it says passes through, but its reason to fail.

    Args:
        command: the program and its arguments.
        stop: terminates it.
        mark: put before each line that it says; "" for a program that runs alone.
    """
    reason = ""
    # A group of its own: Ctrl-C reaches this process alone, which hands on what saves a run.
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE if mark else None,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        process_group=0,
    ) as process:
        stop.running.append(process)
        if stop.asked:  # while it was starting
            process.terminate()
        assert process.stderr is not None
        echo = Thread(target=_echo, args=(process.stdout, mark))
        echo.start()
        for line in process.stderr:
            if line.startswith("error: "):
                reason = line[7:].strip()
            else:
                sys.stderr.write(f"{mark}{line}")
                sys.stderr.flush()
        echo.join()
    stop.running.remove(process)
    code = process.returncode
    return (code if code >= 0 else 128 - code), reason  # a shell's number for a signal


def _echo(lines: IO[str] | None, mark: str) -> None:
    for line in lines or ():
        sys.stdout.write(f"{mark}{line}")
        sys.stdout.flush()


def share_threads(jobs: int) -> None:
    """Give each of several processes its part of the cores, unless the user has said how many."""
    if jobs > 1 and THREADS not in os.environ:
        os.environ[THREADS] = str(max(1, (os.cpu_count() or 1) // jobs))
