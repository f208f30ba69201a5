"""How a worker process of the feed starts and ends, and how it tells of a failure."""

import multiprocessing
import os
import signal
import threading
import weakref
from copy import copy
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any

# A forked child inherits the locks of the parent's threads, of which XLA and CUDA have many.
WORKER_START = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"

_started: "weakref.WeakKeyDictionary[BaseProcess, int]" = weakref.WeakKeyDictionary()
"""Each worker, and the process that started it."""


def worker_context() -> BaseContext:
    """Start workers as `WORKER_START` says; what is left of them ends with the program."""
    context: Any = copy(multiprocessing.get_context(WORKER_START))
    start = context.Process

    def begin(*args: Any, **kwargs: Any) -> BaseProcess:
        process: BaseProcess = start(*args, **kwargs)
        _started[process] = os.getpid()
        return process

    context.Process = begin
    ready: BaseContext = context
    return ready


def end_workers() -> None:
    """Kill what loaders have left: it does not hear the SIGTERM that multiprocessing sends it.

    The program would wait for it for ever. A loader leaves workers where somebody keeps the error
    that one of them died of, which holds the loader, or where a sample never comes.
    """
    left = [one for one, owner in list(_started.items()) if owner == os.getpid() and one.is_alive()]
    if left and hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch may raise when a worker dies
    for process in left:
        process.kill()
    for process in left:
        process.join()


def start_worker(worker: int) -> None:
    """Leave signals that stop a run to the training process, which saves first; end with it."""
    del worker
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="oct-xla-parent", daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when the training process is gone, however it ended.

    torch looks whether its parent is another one. That of ours is the fork server, which lives as
    long as one of its workers does: of a killed run, all would stay for ever.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None  # who works for a loader was started by it
    wait([parent.sentinel])
    os._exit(1)


class Failure:
    """An exception on its way from a worker to the training process.

    Attributes:
        text: one line: where, which exception, why.
        error: the exception itself, or None if it came from another process.
    """

    def __init__(self, where: str, error: Exception) -> None:
        reason = " ".join(str(error).split())
        self.text = f"{where}: {type(error).__name__}: {reason}"
        self.error: Exception | None = error

    def __getstate__(self) -> dict[str, object]:
        """Travel between processes as text; not every exception survives the way."""
        return {"text": self.text, "error": None}
