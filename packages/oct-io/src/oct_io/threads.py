"""Matrix products in the calling thread alone, for equal results on any number of cores."""

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
