"""Looking into a run from outside: a trace of some steps, and the stack of a process that hangs."""

import faulthandler
import os
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from torch.profiler import ProfilerActivity, profile, record_function

from oct_xla.journal import say


class Profiler:
    """Traces some steps of this process with torch.profiler.

    Args:
        steps: to trace, counted from 1.
        folder: where `rank-0.json` and so on go; None traces nothing.
        rank: of this process.
        cuda: whether kernels of a GPU belong to it.
    """

    def __init__(self, steps: range, folder: Path | None, *, rank: int, cuda: bool) -> None:
        self._steps = steps if folder is not None else range(0)
        self._path = None if folder is None else folder / f"rank-{rank}.json"
        self._activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
        self._running: profile | None = None

    def step(self, number: int) -> AbstractContextManager[object]:
        """Return the context of one step."""
        if number not in self._steps:
            return nullcontext()
        if self._running is None:
            self._running = profile(activities=self._activities)
            self._running.start()
        return self._record(number)

    @contextmanager
    def _record(self, number: int) -> Iterator[None]:
        with record_function(f"step {number}"):
            yield
        if number == self._steps[-1]:
            self.close()

    def close(self) -> None:
        """Write what was traced, if anything is running."""
        if self._running is None or self._path is None:
            return
        self._running.stop()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._running.export_chrome_trace(str(self._path))
            say(f"{self._path}: trace of steps {self._steps[0]} to {self._steps[-1]}")
        except (OSError, RuntimeError) as error:  # no trace is worth a run
            say(f"{self._path}: no trace: {error}")
        self._running, self._steps = None, range(0)


@contextmanager
def stacks_on_signal() -> Iterator[None]:
    """Have SIGUSR1 print the stack of every thread to stderr; the run goes on.

    `kill -USR1` to each process of a run that hangs shows who waits for whom.
    """
    try:
        faulthandler.register(signal.SIGUSR1, file=2, all_threads=True, chain=False)
    except (AttributeError, RuntimeError, ValueError) as error:  # no such signal on this system
        say(f"process {os.getpid()}: SIGUSR1 shows no stacks: {error}")
        yield
        return
    try:
        yield
    finally:
        faulthandler.unregister(signal.SIGUSR1)
