"""Threads that read beside the program, and keep it from ending neither by waiting nor by error."""

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from oct_io.storage.outages import start_reader

Answer = TypeVar("Answer")
Work = tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]


class Readers:
    """Some threads, begun as they are needed.

    `concurrent.futures` has the end of a process wait for its threads: one that waits for a store
    in an outage would hold a run that has saved for a quarter of an hour. These end when nobody has
    this object any more, or closes it: what waits for a store then gives up.

    Args:
        count: threads at the most.
        name: of each.
    """

    def __init__(self, count: int, name: str) -> None:
        self._count, self._name = count, name
        self._asked: SimpleQueue[Work | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._stop = threading.Event()
        self._finalizer = weakref.finalize(self, _leave, self._asked, self._threads, self._stop)
        self._finalizer.atexit = False

    def submit(self, function: Callable[..., Answer], *arguments: Any) -> Future[Answer]:
        """Have a thread call the function; its result, or what it raises, is the future's."""
        future: Future[Answer] = Future()
        self._asked.put((future, function, arguments))
        if len(self._threads) < self._count:
            thread = threading.Thread(
                target=_read, args=(self._asked, self._stop), name=self._name, daemon=True
            )
            self._threads.append(thread)
            thread.start()
        return future

    def close(self) -> None:
        """Drop what is not begun, and end the threads; they are not waited for."""
        self._finalizer()


def _read(asked: "SimpleQueue[Work | None]", stop: threading.Event) -> None:
    start_reader(stop)
    while _answer(asked.get()):
        pass  # and hold nothing of the last question while waiting for the next


def _answer(work: Work | None) -> bool:
    """Do what was asked for; False if nobody asks any more."""
    if work is None:
        return False
    future, function, arguments = work
    if future.set_running_or_notify_cancel():
        try:
            future.set_result(function(*arguments))
        except BaseException as error:  # raised again where the answer is asked for
            future.set_exception(error)
    return True


def _leave(
    asked: "SimpleQueue[Work | None]", threads: list[threading.Thread], stop: threading.Event
) -> None:
    stop.set()
    with suppress(Empty):
        while work := asked.get_nowait():
            work[0].cancel()
    for _ in threads:
        asked.put(None)
