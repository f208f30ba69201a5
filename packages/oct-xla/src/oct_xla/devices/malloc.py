"""glibc's malloc on a CPU: what one step frees is kept for the next."""

import ctypes
import os

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Of mallopt(3), by their numbers in malloc.h."""

_NEVER, _LARGEST = -1, 32 * 2**20  # the most that glibc takes for MMAP_THRESHOLD on 64 bits
_FIRST = 128 * 2**10  # both thresholds as a process begins
_CHOICES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_")


def keep_freed_memory() -> bool:
    """Have glibc keep the memory that a step frees; tells whether it does from now on.

    A training step frees what the next one takes: activations and gradients. glibc maps what is
    large and gives back the top of its heap once enough of it is free. Whether anything lies above
    the gradients that holds them there is luck, and turns with the first save: without it each step
    has its memory zeroed anew by the kernel, up to a third of its time. It is for the whole
    process, whose resident memory then stays at its peak. What the environment says of these
    thresholds stands; other allocators are not touched.

    Where addresses are limited (`ulimit -v`, `-d`) tensors are mapped one by one from the start: of
    the heap counts what a batch that was too large has left there, free but in pieces, and it fits
    no tensor of a smaller one.
    """
    if _chosen():
        return False
    if _limited():
        give_freed_memory_back()
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is None:  # macOS, musl
        return False
    return bool(mallopt(MMAP_THRESHOLD, _LARGEST) and mallopt(TRIM_THRESHOLD, _NEVER))


def _chosen() -> bool:
    """Whether the environment says of these thresholds what they are."""
    tuned = "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    return tuned or any(name in os.environ for name in _CHOICES)


def _limited() -> bool:
    if os.name != "posix":
        return False
    import resource  # not on Windows

    kinds = (resource.RLIMIT_AS, resource.RLIMIT_DATA)
    return any(resource.getrlimit(one)[0] != resource.RLIM_INFINITY for one in kinds)


def give_freed_memory_back() -> None:
    """Undo `keep_freed_memory`, and give what is free to the kernel, where memory is short.

    What larger micro-batches have left in pieces fits no tensor; mapped one by one, each that is
    freed is whole again.
    """
    if _chosen() or os.name != "posix":
        return
    process = ctypes.CDLL(None)
    if hasattr(process, "mallopt") and hasattr(process, "malloc_trim"):
        process.mallopt(MMAP_THRESHOLD, _FIRST)
        process.mallopt(TRIM_THRESHOLD, _FIRST)
        process.malloc_trim(0)
