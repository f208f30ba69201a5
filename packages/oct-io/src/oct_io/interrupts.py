"""Ctrl-C is for the process that was started by hand; its workers end when it does."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait


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


def end_with_parent(line: Connection | None = None) -> None:
    """Let this worker end when the process that started it is gone, however that ended.

    `concurrent.futures` tells its workers to end; a process that was killed, or had a SIGTERM, told
    them nothing. They wait for work from a pipe that they hold open themselves, for ever.

    Args:
        line: of a pipe; the worker ends, whatever it does, when the other end is closed, too.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None  # a worker was started by somebody
    ends = [parent.sentinel, *([] if line is None else [line])]
    threading.Thread(target=_await_one, args=(ends,), name="oct-io-parent", daemon=True).start()


def _await_one(ends: list[int | Connection]) -> None:
    wait(ends)
    os._exit(1)
