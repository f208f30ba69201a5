"""Rates of a run: volumes a second, and the share of time spent waiting for data."""

import time
from collections.abc import Callable


class StepClock:
    """Counts volumes and waiting between two readings, and the seconds of the whole run.

    Args:
        seconds_before: seconds of training before a resume.
        now: a clock in seconds; tests give their own.
    """

    def __init__(
        self, seconds_before: float = 0.0, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._now = now
        self._start = now() - seconds_before
        self._window_start = now()
        self._waited_s = 0.0
        self._volumes = 0

    def now(self) -> float:
        """Seconds on this clock, for `waited`."""
        return self._now()

    def waited(self, since: float) -> None:
        """Add the time since `since` to the waiting for data."""
        self._waited_s += self._now() - since

    def count(self, volumes: int) -> None:
        """Add the volumes of one step, over all processes."""
        self._volumes += volumes

    @property
    def seconds(self) -> float:
        """Seconds of training, those before a resume included."""
        return self._now() - self._start

    def read(self) -> dict[str, float]:
        """Return the rates since the last reading, and begin anew."""
        passed = max(self._now() - self._window_start, 1e-9)
        rates = {
            "volumes_per_s": self._volumes / passed,
            "data_wait_fraction": min(self._waited_s / passed, 1.0),
            "seconds": self.seconds,
        }
        self._window_start, self._waited_s, self._volumes = self._now(), 0.0, 0
        return rates
