"""Ctrl-C is for the process that was started by hand; it ends its workers itself."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Start processes within: they never see Ctrl-C, which a terminal sends to all of them.

    A worker would print a traceback of its own, even while it is still importing. One that arrives
    meanwhile waits until the block ends.
    """
    resource_tracker.ensure_running()  # started later, it would let the signal through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
