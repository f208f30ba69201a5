"""Starting the command of this process again, with memory as empty as at its first start."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import oct_xla

from oct_launch.console import EXIT_AGAIN, one_line

OPEN_FILES = Path("/proc/self/fd")
BEFORE = "OCT_LAUNCH_STARTED_AGAIN"
"""Environment variable: why the command was started again the last time."""


@contextmanager
def restarts() -> Iterator[None]:
    """Start the command again where a run ran out of memory and its next start takes less.

    One process of several is not: whoever started them, such as `torchrun --max-restarts`, starts
    all of them again, and is told by the exit code 75. Nor is one that says the same once more.
    """
    try:
        yield
    except oct_xla.OutOfMemoryError as error:
        if not error.again or os.environ.get(BEFORE) == str(error):
            raise
        alone = "RANK" not in os.environ
        os.environ[BEFORE] = str(error)
        # At once: lines of several processes mix.
        sys.stderr.write(f"{one_line(error)}{'; starting again' if alone else ''}\n")
        if alone:
            start_again()
        sys.exit(EXIT_AGAIN)


def start_again() -> None:
    """Replace this process by one with the same command line; does not return.

    What libraries hold open, such as the lock and the chips of a TPU, is closed on the way.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    for name in os.listdir(OPEN_FILES) if OPEN_FILES.is_dir() else ():
        if int(name) > sys.stderr.fileno():
            _close_on_exec(int(name))
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _close_on_exec(number: int) -> None:
    try:
        os.set_inheritable(number, False)
    except OSError as error:  # the list of open files was one itself
        if error.errno != errno.EBADF:
            raise
