"""glibc's malloc on a CPU: what one step frees is kept for the next."""

import ctypes
import os

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Of mallopt(3), by their numbers in malloc.h."""

_NEVER, _LARGEST = -1, 32 * 2**20  # the most that glibc takes for MMAP_THRESHOLD on 64 bits
_CHOICES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_")


def keep_freed_memory() -> bool:
    """Have glibc keep the memory that a step frees; tells whether it does from now on.

    A training step frees what the next one takes: activations and gradients. glibc maps what is
    large and gives back the top of its heap once enough of it is free. Whether anything lies above
    the gradients that holds them there is luck, and turns with the first save: without it each step
    has its memory zeroed anew by the kernel, up to a third of its time. It is for the whole
    process, whose resident memory then stays at its peak. What the environment says of these
    thresholds stands; other allocators are not touched.
    """
    if any(name in os.environ for name in _CHOICES):
        return False
    if "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is None:  # macOS, musl
        return False
    return bool(mallopt(MMAP_THRESHOLD, _LARGEST) and mallopt(TRIM_THRESHOLD, _NEVER))
