"""Many small questions to one store: in flight together to a bucket, in turn on a disk."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import TypeVar

from oct_io.storage.buckets import current_storage
from oct_io.storage.outages import start_reader

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def ask_together(
    root: str | Path, question: Callable[[Item], Answer], items: Sequence[Item]
) -> list[Answer]:
    """What `question` says of each of `items`, in their order.

    Args:
        root: local folder or fsspec URL that the questions go to.
        question: may be asked in another thread; what it raises first is raised here.
        items: what is asked about.
    """
    if "://" not in str(root) or len(items) < 2:
        return [question(one) for one in items]
    stop = Event()
    threads = min(current_storage().connections, len(items))
    pool = ThreadPoolExecutor(threads, "oct-io-ask", initializer=start_reader, initargs=(stop,))
    try:
        return list(pool.map(question, items))
    finally:
        stop.set()  # whoever still waits for an outage need not
        pool.shutdown(wait=False, cancel_futures=True)
