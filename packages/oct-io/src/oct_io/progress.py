"""How far a command is, on stderr: how many, how fast, how long still.

A bar on a terminal; a line now and then where stderr is a file, such as the log of a batch job.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

LINE_S = 10.0  # between two lines of a log

Update = Callable[[int, int, int], None]
"""Takes how many are done, how many there are, and how many of those done are bad."""


class Rate:
    """How fast work goes, not counting what was done before it was first asked."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.start = clock()
        self.before: int | None = None

    def describe(self, done: int, total: int) -> str:
        """Rate and time left, such as "12.5/s, 0:03:20 left"; "" while nothing is known."""
        if self.before is None:  # the first call of a build that goes on counts what was there
            self.before = done if done > 1 else 0
            if self.before:
                self.start = self.clock()
        seconds, fresh = self.clock() - self.start, done - self.before
        if fresh <= 0 or seconds <= 0:
            return ""
        rate = fresh / seconds
        left = round((total - done) / rate)
        hours, minutes = left // 3600, left % 3600 // 60
        return f"{rate:.1f}/s, {hours}:{minutes:02}:{left % 60:02} left"


@contextmanager
def show_progress(what: str) -> Iterator[Update]:
    """Show how far `what` is until the block ends."""
    console = Console(stderr=True)
    with _show_bar(what, console) if console.is_terminal else _write_lines(what, Rate()) as update:
        yield update


@contextmanager
def _show_bar(what: str, console: Console) -> Iterator[Update]:
    texts = TextColumn("{task.fields[speed]}"), TextColumn("{task.fields[bad]}")
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), *texts)
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(what, total=None, bad="", speed="")
        rate = Rate()

        def update(done: int, total: int, bad: int = 0) -> None:
            seen = f"{bad} refused" if bad else ""
            speed = rate.describe(done, total)
            progress.update(task, completed=done, total=total, bad=seen, speed=speed)

        yield update


@contextmanager
def _write_lines(what: str, rate: Rate) -> Iterator[Update]:
    """A line like "scans: 120 of 320, 3 refused, 12.5/s, 0:00:16 left", seldom, and at the end."""
    last = rate.clock()
    unsaid = ""

    def update(done: int, total: int, bad: int = 0) -> None:
        nonlocal last, unsaid
        seen = f"{bad} refused" if bad else ""
        known = f"{done} of {total}", seen, rate.describe(done, total)
        unsaid = f"{what}: {', '.join(filter(None, known))}"
        if rate.clock() - last >= LINE_S:
            print(unsaid, file=sys.stderr, flush=True)
            last, unsaid = rate.clock(), ""

    try:
        yield update
    finally:
        if unsaid:
            print(unsaid, file=sys.stderr, flush=True)
