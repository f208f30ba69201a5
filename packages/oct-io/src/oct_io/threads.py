"""CPUs to use, and matrix products in one thread, for equal results on any number of them."""

import os
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any

from threadpoolctl import ThreadpoolController


def one_thread() -> AbstractContextManager[Any]:
    """Keep numpy's matrix products in this thread while the block runs.

    With more threads they add up in another order, and a few voxels of a thousand scans come out
    one grey level off: what 4 and what 64 cores draw or cache would differ. Scans go to one process
    a core anyway, and threads that wait for products this small burn more time than they save.
    """
    return _libraries().limit(limits=1, user_api="blas")


@lru_cache(maxsize=1)
def _libraries() -> ThreadpoolController:
    """Libraries of this process that use threads; looked up once, after numpy has loaded them."""
    return ThreadpoolController()


def usable_cpus() -> int:
    """CPUs this process may use; macOS does not say, and gives those that it has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
