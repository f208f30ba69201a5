"""A request to stop, noticed at the end of a step."""

import signal
import threading
import time
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_IMPATIENT_S = 2.0  # torchrun passes a Ctrl-C on that the terminal has sent to each process already


class StopRequest:
    """Notes SIGTERM and SIGINT while it is entered; the loop saves and returns at the next step.

    A second Ctrl-C, some seconds after the first, ends at once without a save. Outside the main
    thread signals cannot be caught, and none are.
    """

    def __init__(self) -> None:
        self.requested = False
        self._interrupted_s: float | None = None
        self._before: dict[signal.Signals, signal.Handlers | object] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for one in _SIGNALS:
                self._before[one] = signal.signal(one, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for one, before in self._before.items():
            # None: a handler that C code has set, which Python cannot set again.
            signal.signal(one, signal.SIG_DFL if before is None else before)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.requested = True
        if number == signal.SIGINT:
            now = time.monotonic()
            first = self._interrupted_s
            if first is not None and now - first > _IMPATIENT_S:
                raise KeyboardInterrupt
            self._interrupted_s = now if first is None else first
