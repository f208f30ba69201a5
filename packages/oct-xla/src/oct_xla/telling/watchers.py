"""Looking into a run from outside: a trace of some steps, the stacks of a process that hangs."""

import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Self

from torch.profiler import ProfilerActivity, profile, record_function

from oct_xla.folder.journal import say


class Profiler:
    """Traces some steps of this process with torch.profiler.

    Args:
        steps: to trace, counted from 1.
        folder: where `rank-0.json` and so on go; None traces nothing.
        rank: of this process.
        cuda: whether kernels of a GPU belong to it.
        devices: traces what torch.profiler does not see, into a folder of its own `rank-0`.
    """

    def __init__(
        self,
        steps: range,
        folder: Path | None,
        *,
        rank: int,
        cuda: bool,
        devices: Callable[[Path], AbstractContextManager[None]] = lambda folder: nullcontext(),
    ) -> None:
        self._steps = steps if folder is not None else range(0)
        self._devices, self._beside = devices, ExitStack()
        self._path = None if folder is None else folder / f"rank-{rank}.json"
        self._activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
        self._running: profile | None = None

    def step(self, number: int) -> AbstractContextManager[object]:
        """Return the context of one step."""
        if number not in self._steps:
            return nullcontext()
        if self._running is None:
            self._begin_devices()
            self._running = profile(activities=self._activities)
            self._running.start()
        return self._record(number)

    def _begin_devices(self) -> None:
        assert self._path is not None  # or there are no steps
        try:
            self._beside.enter_context(self._devices(self._path.with_suffix("")))
        except (OSError, RuntimeError) as error:  # no trace is worth a run
            say(f"{self._path}: no trace of the devices: {error}")

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
            self._beside.close()
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


EXIT_HUNG = 1
FIRST_TIMES = 4  # XLA compiles in the first step, and caches are cold
_TURNS = 20


class HangWatch:
    """Ends this process, with the stack of every thread, when a run has stood still for too long.

    A process that hangs makes all others wait for it in a collective, which no exception of Python
    can interrupt. So a thread beside the training counts turns without progress, and ends the
    process from there. It counts turns, not time: a machine that was suspended has not hung.

    Args:
        after_s: how long nothing may move, the first step `FIRST_TIMES` as long; 0 watches nothing.
        rank: of this process.
        leave: ends the process; tests give their own.
    """

    def __init__(
        self, after_s: float, *, rank: int, leave: Callable[[int], object] = os._exit
    ) -> None:
        self._after_s, self._rank, self._leave = after_s, rank, leave
        self._doing, self._turns, self._allowed = "the start", 0, FIRST_TIMES * _TURNS
        self._paused = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="oct-xla-hang", daemon=True)

    def __enter__(self) -> Self:
        if self._after_s:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def beat(self, doing: str, *, first: bool = False) -> None:
        """Say that there is progress, and what comes next.

        Args:
            doing: in the words of the line that tells of a hang.
            first: whether it may take `FIRST_TIMES` as long.
        """
        self._doing, self._turns = doing, 0
        self._allowed = (FIRST_TIMES if first else 1) * _TURNS

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let the caller's own code take as long as it likes."""
        self._paused = True
        try:
            yield
        finally:
            self._paused, self._turns = False, 0

    def _watch(self) -> None:
        while not self._over.wait(self._after_s / _TURNS):
            self._turns += not self._paused
            if self._turns > self._allowed:
                self._tell()
                # Others tell theirs within a turn; who leaves takes connections they wait for.
                over = self._over.wait(self._after_s / _TURNS)
                if not over and self._turns > self._allowed:  # it has not gone on meanwhile
                    self._leave(EXIT_HUNG)
                    return

    def _tell(self) -> None:
        waited_s = self._after_s * self._allowed / _TURNS
        faulthandler.dump_traceback(file=2, all_threads=True)
        # At once: lines of several processes mix.
        sys.stderr.write(
            f"error: process {self._rank}: {self._doing} has not ended in {waited_s:g} s"
            " (loop.hang_after_s): another process hangs, or a device, disk or bucket does not"
            " answer; the stacks above say where, and the same command goes on from the newest"
            " checkpoint\n"
        )
        sys.stderr.flush()
