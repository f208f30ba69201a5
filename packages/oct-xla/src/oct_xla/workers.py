"""How a worker process of the feed starts, and how it tells of a failure."""

import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import wait

# A forked child inherits the locks of the parent's threads, of which XLA and CUDA have many.
WORKER_START = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


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
