"""Progress for people: a bar on a terminal, plain lines in a log."""

import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from oct_xla.journal import Row


class ProgressSink:
    """Shows step, loss, volumes a second and time left.

    Args:
        steps: of the whole run.
        step: finished at the start.
        console: where to write; standard error by default, so that output can be piped.
    """

    def __init__(self, steps: int, step: int = 0, console: Console | None = None) -> None:
        self._console = Console(file=sys.stderr) if console is None else console
        self._steps, self._first = steps, step
        self._started_s: float | None = None
        self._bar = Progress(
            TextColumn("step"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
            console=self._console,
        )
        self._task = self._bar.add_task("train", total=steps, completed=step, text="")
        if self._console.is_terminal:
            self._bar.start()

    def write(self, row: Row) -> None:
        """Show one row."""
        text = f"loss {row['loss']:.4g}  {row['volumes_per_s']:.3g} volumes/s"
        if self._console.is_terminal:
            self._bar.update(self._task, completed=row["step"], text=text)
            return
        left = self._time_left(row)
        line = f"step {row['step']:.0f}/{self._steps}  {text}  {left}"
        self._console.print(line, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.stop()

    def _time_left(self, row: Row) -> str:
        if self._started_s is None:
            self._started_s, self._first = row["seconds"], int(row["step"])
            return "time left unknown"
        pace = (row["seconds"] - self._started_s) / max(row["step"] - self._first, 1)
        return f"{pace * (self._steps - row['step']):.0f} s left"
