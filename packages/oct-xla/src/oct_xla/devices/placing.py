"""Batches on the device: the next one is on its way while this one is worked on."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from oct_xla.devices.runtime import Runtime


class Placed:
    """Gives micro-batches on the device, and sends the next one when it is told to.

    Between a pass that was handed to an accelerator and the reading of its numbers the host has
    nothing to do, and the way from its memory to the device is free.

    Args:
        batches: in host memory.
        runtime: sends them. On a CPU nothing is sent, and so nothing is asked for beforehand.
        count: how many will be used; none is asked for beyond.
    """

    def __init__(self, batches: Iterator[Any], runtime: Runtime, *, count: int) -> None:
        self._batches, self._runtime = islice(batches, count), runtime
        self._early = runtime.device.type != "cpu"
        self._coming: Callable[[], Any] | None = None

    def take(self) -> Any:
        """The next micro-batch.

        Raises:
            FeedError: a sample failed.
        """
        coming, self._coming = self._coming or self._send(), None
        return coming()

    def send_next(self) -> None:
        """Begin to send the next micro-batch; what goes wrong is raised when it is taken."""
        if not self._early or self._coming is not None:
            return
        try:
            self._coming = self._send()
        except StopIteration:
            return
        except Exception as error:  # belongs to a step that has not begun
            self._coming = _raising(error)

    def _send(self) -> Callable[[], Any]:
        return self._runtime.send(next(self._batches))


def _raising(error: Exception) -> Callable[[], Any]:
    def fail() -> Any:
        raise error

    return fail
