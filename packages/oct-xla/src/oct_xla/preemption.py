"""A request to stop, noticed at the end of a step."""

import signal
import threading
from types import FrameType, TracebackType


class StopRequest:
    """Notes SIGTERM while it is entered; the loop saves and returns at the next step boundary.

    Outside the main thread signals cannot be caught, and none are.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: signal.Handlers | object = None

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.requested = True
