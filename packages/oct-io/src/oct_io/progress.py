"""Progress bars of the commands, on stderr: how many, how fast, how long still."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

Update = Callable[[int, int, int], None]
"""Takes how many are done, how many there are, and how many of those done are bad."""


@contextmanager
def show_progress(what: str) -> Iterator[Update]:
    """Show a bar named `what` until the block ends."""
    bad = TextColumn("{task.fields[bad]}")
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), bad)
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=None, bad="")

        def update(done: int, total: int, bad: int = 0) -> None:
            seen = f"{bad} refused" if bad else ""
            progress.update(task, completed=done, total=total, bad=seen)

        yield update
