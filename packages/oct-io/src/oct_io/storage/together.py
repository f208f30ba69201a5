"""Many small questions to one store: in flight together to a bucket, in turn on a disk."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from oct_io.storage.buckets import current_storage
from oct_io.storage.readers import Readers

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
    readers = Readers(current_storage().connections, "oct-io-ask")
    try:
        return [answer.result() for answer in [readers.submit(question, one) for one in items]]
    finally:
        readers.close()  # whoever still waits for an outage need not
