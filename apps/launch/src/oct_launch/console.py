"""How the apps talk to a terminal: one line for a mistake, bars or plain lines for progress."""

import errno
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.progress import TimeRemainingColumn as TimeLeft
from rich.table import Table

EXIT_MISTAKE, EXIT_STOPPED, EXIT_INTERRUPTED = 2, 143, 130
EXIT_AGAIN = 75
"""Of a process that wants to be started again, as it is: EX_TEMPFAIL of sysexits.h."""

LINE_EVERY = 30.0
"""Seconds after which a stage has a line in a log even if it has not come far."""

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
CLOSED = {errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
"""What a disk says that has no room, and one that takes or gives nothing."""


class Mistake(Exception):
    """Something only the user can put right; the text is one line that says how."""


@contextmanager
def mistakes(*kinds: type[BaseException], where: str = "") -> Iterator[None]:
    """Turn these errors into `Mistake`; for the part of an app that checks what the user asked.

    `where` stands before what the error says.
    """
    try:
        yield
    except kinds as error:
        raise Mistake(where + one_line(error)) from error


@contextmanager
def exit_codes(
    *kinds: type[BaseException], known: Callable[[], tuple[type[BaseException], ...]] = tuple
) -> Iterator[None]:
    """End the process with code 2 and one line on stderr for a `Mistake` or one of `kinds`.

    So it ends for a disk that is full or closed, and with 130 for Ctrl-C. Any other error keeps its
    traceback: it is ours, not the user's.

    Args:
        kinds: errors whose text tells the user what to put right.
        known: gives more of them, once there is an error.
    """
    try:
        yield
    except KeyboardInterrupt:
        _end("interrupted; the same command goes on from what is whole", EXIT_INTERRUPTED)
    except Exception as error:
        if isinstance(error, (Mistake, *kinds, *known())):
            _end(f"error: {one_line(error)}", EXIT_MISTAKE)
        if not isinstance(error, OSError) or error.errno not in FULL | CLOSED:
            raise
        where = f"{error.filename}: " if error.filename else ""
        cure = "free space" if error.errno in FULL else "let it be used, or name another place"
        text = f"error: {where}{os.strerror(error.errno)}; {cure}, then give the same command again"
        _end(text, EXIT_MISTAKE)


def _end(text: str, code: int) -> NoReturn:
    # At once: print writes the line and its end apart, and lines of several processes mix.
    sys.stderr.write(f"{text}\n")
    sys.exit(code)


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Let Ctrl-C end the process without a word, for the seconds in which torch is imported.

    Compiled code that meets Python's own way of it ends with an abort. After it Ctrl-C is an
    exception, also where the app began as this does, since until then there is nothing to save.
    """
    before = signal.getsignal(signal.SIGINT)
    if before not in (signal.default_int_handler, signal.SIG_DFL):
        yield  # Ctrl-C is ignored, or somebody waits for it
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def one_line(error: BaseException) -> str:
    """The text of an error on one line, without the internals that configuration errors append."""
    text = " ".join(str(error).split())
    if argument := getattr(error, "override", ""):  # Hydra: what it could not read
        text = f"{argument}: {text}"
    return re.split(r" (?:full_key|object_type)[:=]", text)[0].replace("\x1b", "")


def print_whole(text: str) -> None:
    """Print a long text; who closes the pipe after its beginning, as `head` does, is no error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Else the interpreter complains at its end that it cannot flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table to standard output, as wide as it needs to be."""
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    width = max(Console().width, 130)
    Console(highlight=False, markup=False, width=width).print(table)


class Stages:
    """Progress of the steps before training: a bar each on a terminal, lines in a log.

    In a log a stage is told at each fifth, and when its last line is `LINE_EVERY` old.
    """

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description:<22}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeLeft(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._fifths: dict[str, int] = {}
        self._said: dict[str, float] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        """Say that `done` of `total` are done of the stage called `what`."""
        if self._console.is_terminal:
            if what not in self._tasks:
                self._tasks[what] = self._bars.add_task(what, total=total)
            self._bars.update(self._tasks[what], completed=done, total=total)
            return
        fifth, now = 5 * done // max(total, 1), time.monotonic()
        if self._fifths.get(what) != fifth or now - self._said[what] > LINE_EVERY:
            self._fifths[what], self._said[what] = fifth, now
            self.say(f"{what}: {done} of {total}")

    def say(self, text: str) -> None:
        """Print a line of its own, unbroken."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()
