"""What goes wrong in a step, told apart: no memory for it, or another process that is gone."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from oct_xla.devices.runtime import Runtime
from oct_xla.errors import FeedError
from oct_xla.steps.memory import out_of_memory

_LEFT = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")
"""What gloo says where the process at the other end is gone."""
_GONE = (
    "another process of this run has ended; its own last line says why, and the same command goes"
    " on from the newest checkpoint"
)
"""No error of ours, which ends a program as a user's mistake: whoever watches over the processes
may start all of them again."""


class TooLarge(Exception):
    """A micro-batch does not fit in memory.

    Attributes:
        everywhere: whether all processes were told and the step was not taken, so that it can be
            tried again. Else this process is in the middle of it, others may wait for it, and only
            a new start helps.
    """

    def __init__(self, *, everywhere: bool) -> None:
        super().__init__()
        self.everywhere = everywhere


@contextmanager
def others_told(
    runtime: Runtime, left_alone: Callable[[], object] = lambda: None
) -> Iterator[None]:
    """Give what fails because another process has ended its own words.

    Args:
        runtime: of the run; of a single process nothing is taken for that.
        left_alone: called before that is raised.

    Raises:
        RuntimeError: if one has.
    """
    try:
        yield
    except RuntimeError as error:
        left = runtime.world > 1 and any(sign in str(error) for sign in _LEFT)
        told = str(error) == _GONE
        if told or left:
            left_alone()
        if left:
            raise RuntimeError(_GONE) from error
        raise


@contextmanager
def told_apart(runtime: Runtime) -> Iterator[None]:
    """Give what fails in a step its own type, or words.

    Raises:
        TooLarge: if memory ran out.
        RuntimeError: if another process has ended.
    """
    try:
        with others_told(runtime):
            yield
    except (RuntimeError, MemoryError, FeedError, ValueError) as error:  # XLA compiling: the last
        if out_of_memory(error):
            raise TooLarge(everywhere=False) from error
        raise
