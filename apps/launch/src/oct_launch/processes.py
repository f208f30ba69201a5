"""The processes of a sweep: started, listened to, and told to stop together."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Thread
from types import FrameType
from typing import IO

THREADS = "OMP_NUM_THREADS"
STARTER = "OCT_LAUNCH_STARTED_BY"
"""Environment variable: the process of a sweep that has started this one."""
IMPATIENT_S = 2.0  # between two Ctrl-C; a shorter time is one, pressed twice
LAST_WORDS_S = 5.0  # for what a run has said before its end to be read
LOOK_S = 1.0  # between two looks whether the sweep is still there


class Stop:
    """A request to stop, handed on to the runs in progress, which save and end.

    A second Ctrl-C, some seconds after the first, ends them at once without a save: a run that
    hangs never saves.
    """

    def __init__(self) -> None:
        self.asked = False
        self.running: list[subprocess.Popen[str]] = []
        self._interrupted_s: float | None = None

    def note(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        del frame
        now, first = time.monotonic(), self._interrupted_s
        if number == signal.SIGINT:
            self._interrupted_s = now if first is None else first
            if first is not None and now - first > IMPATIENT_S:
                for process in list(self.running):
                    process.kill()
                return
        self.ask()

    def ask(self) -> None:
        """Let the runs in progress save and end, and no other begin."""
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
    # A group of its own: Ctrl-C reaches this process alone, which hands on what saves a run.
    process = subprocess.Popen(
        command,
        env={**os.environ, STARTER: str(os.getpid())},
        stdout=subprocess.PIPE if mark else None,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        process_group=0,
    )
    stop.running.append(process)
    if stop.asked:  # while it was starting
        process.terminate()
    reasons: list[str] = []
    said = [(process.stdout, sys.stdout, None), (process.stderr, sys.stderr, reasons)]
    echoes = [Thread(target=_echo, args=(*one, mark), daemon=True) for one in said if one[0]]
    for echo in echoes:
        echo.start()
    code = process.wait()
    stop.running.remove(process)
    # A process that the run has left, such as one of a tracker, may hold its pipes for ever.
    until = time.monotonic() + LAST_WORDS_S
    for echo in echoes:
        echo.join(max(0.0, until - time.monotonic()))
    return (code if code >= 0 else 128 - code), reasons[-1] if reasons else ""  # as a shell's


def _echo(lines: IO[str], to: IO[str], reasons: list[str] | None, mark: str) -> None:
    """Pass on what a run says, but its reason to fail, which goes to `reasons`."""
    with lines:
        for line in lines:
            if reasons is not None and line.startswith("error: "):
                reasons.append(line[7:].strip())
            else:
                to.write(f"{mark}{line}")
                to.flush()


def share_threads(jobs: int) -> None:
    """Give each of several processes its part of the cores, unless the user has said how many."""
    if jobs > 1 and THREADS not in os.environ:
        os.environ[THREADS] = str(max(1, (os.cpu_count() or 1) // jobs))


def end_with_sweep() -> None:
    """Let a run of a sweep save and end when the sweep is gone, however it ended.

    One that was killed has told its runs nothing: they would go on beside those of the same command
    given again. What such a run starts itself is left alone.
    """
    starter, _, started = os.environ.get(STARTER, "").partition(" ")
    if starter and started in ("", str(os.getpid())):  # the latter once it has started again
        os.environ[STARTER] = f"{starter} {os.getpid()}"
        watch = Thread(
            target=_await_end, args=(int(starter),), name="oct-launch-sweep", daemon=True
        )
        watch.start()


def _await_end(starter: int) -> None:
    said = select.poll()
    for stream in (1, 2):
        said.register(stream, 0)  # so that it tells only of a pipe that nobody reads any more
    while os.getppid() == starter:
        if said.poll(LOOK_S * 1000):
            time.sleep(LOOK_S / 10)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream, _ in said.poll(0):
        os.dup2(nowhere, stream)  # else a line on its way to its end keeps the run from saving
    os.kill(os.getpid(), signal.SIGTERM)
