"""Work on a thread beside the training, one at a time, whose failure is a text."""

import threading
import time
from collections.abc import Callable

from oct_xla.errors import CheckpointError

_LOOK_S = 0.05


class Writing:
    """A save in flight; begins at once.

    A daemon thread: whoever ends the process without waiting leaves a temporary folder, no more.
    Where there is no memory for a thread, the training waits for the save.

    Args:
        work: writes; nothing it uses may change meanwhile.
    """

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self._failure = ""
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="oct-xla-save", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self._run()

    def _run(self) -> None:
        try:
            self._work()
        except CheckpointError as error:
            self._failure = str(error)
        except BaseException as error:  # a defect of ours: raised again where it is waited for
            self._error = error

    @property
    def failed(self) -> bool:
        """Whether it is over and did not succeed."""
        return not self._thread.is_alive() and bool(self._failure or self._error)

    def wait(self) -> str:
        """Wait until it is over; returns why it failed, or nothing."""
        if self._thread.ident is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error
        return self._failure

    def wait_for(
        self, enough: Callable[[], bool], *, then_s: float, look: Callable[[], object]
    ) -> str | None:
        """Wait until it is over, or `enough` of it for `then_s` seconds; None if it goes on.

        Whoever calls this may leave it: it then ends by itself, or with the process. `look` is
        called now and then.
        """
        since: float | None = None
        while self._thread.is_alive():
            if since is None and enough():
                since = time.monotonic()
            if since is not None and time.monotonic() - since >= then_s:
                return None
            self._thread.join(_LOOK_S)
            if self._thread.is_alive():
                look()
        return self.wait()
