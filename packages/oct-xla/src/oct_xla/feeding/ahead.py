"""Batches that a thread takes over from the data workers, one ahead of the training."""

import atexit
import threading
import weakref
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any, NamedTuple

from oct_xla.feeding.workers import end_workers

_LEAVE_S = 5.0  # as long as torch waits for a worker

_threads: "weakref.WeakKeyDictionary[threading.Thread, SimpleQueue[bool]]" = (
    weakref.WeakKeyDictionary()
)
"""Each thread that takes batches, and where it is asked for them."""


class _Found(NamedTuple):
    """What came: a batch, or why there is none."""

    batch: Any
    error: BaseException | None


class Ahead(Iterator[Any]):
    """Gives what another iterator gives, and has the next of it taken meanwhile.

    A batch that a worker has made is not here yet: its memory is asked for at a socket of that
    worker, and a thread of the loader that tells the worker its next one takes turns with ours.
    Where the CPUs are busy, each of these waits is milliseconds.

    Args:
        batches: used by the thread alone, from the first batch on, and let go with this iterator.
    """

    def __init__(self, batches: Iterator[Any]) -> None:
        self._asked: SimpleQueue[bool] = SimpleQueue()
        self._found: SimpleQueue[_Found] = SimpleQueue()
        self._begun = self._over = False
        # The thread does not know this object, so that it ends when nobody asks any more.
        self._thread = threading.Thread(
            target=_take, args=(batches, self._asked, self._found), name="oct-xla-feed", daemon=True
        )

    def __next__(self) -> Any:
        """The next batch.

        Raises:
            FeedError: what the iterator raises.
        """
        if self._over:
            raise StopIteration
        if not self._begun:
            self._begin()
        batch, error = self._found.get()
        if error is not None:
            self._over = True
            raise error
        self._asked.put(True)
        return batch

    def _begin(self) -> None:
        self._begun = True
        self._thread.start()
        _threads[self._thread] = self._asked
        weakref.finalize(self, _leave, self._asked, self._thread).atexit = False
        self._asked.put(True)


def _take(batches: Iterator[Any], asked: "SimpleQueue[bool]", found: "SimpleQueue[_Found]") -> None:
    while asked.get():
        try:
            found.put(_Found(next(batches), None))
        except BaseException as error:  # raised again where the batch is asked for
            found.put(_Found(None, error))
            return


def _leave(asked: "SimpleQueue[bool]", thread: threading.Thread) -> None:
    """End the thread, and with it the workers."""
    asked.put(False)
    thread.join(_LEAVE_S)


@atexit.register
def _end() -> None:
    """End the workers of the program and the threads that wait for them.

    A thread gives back what its loader shares with workers. One that the program's end stops
    halfway leaves a semaphore of which Python warns. This runs before the exit function of
    `multiprocessing`, which waits for workers: the import of `workers` has registered that.
    """
    threads = list(_threads.items())
    for _, asked in threads:
        asked.put(False)
    end_workers()
    for thread, _ in threads:
        thread.join(2 * _LEAVE_S)
