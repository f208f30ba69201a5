"""How a worker process of the feed starts, and how it tells of a failure."""

import multiprocessing
import signal

# A forked child inherits the locks of the parent's threads, of which XLA and CUDA have many.
WORKER_START = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


def start_worker(worker: int) -> None:
    """Leave signals that stop a run to the training process, which saves first."""
    del worker
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


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
