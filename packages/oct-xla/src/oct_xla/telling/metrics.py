"""What a run measures of itself, and who is told: clock, memory, and sinks that cannot end it."""

import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import torch

from oct_xla.devices.runtime import Runtime
from oct_xla.folder.journal import Sink, say
from oct_xla.telling.work import Work

PARTS = ("data", "wait", "save")
"""What else than computing a step's time goes to: waiting for a batch; for the device's numbers and
for the other processes; for a checkpoint to be copied and, where that is asked for, written."""

CLOCKS = frozenset(
    (
        *("volumes_per_s", "seconds", "peak_memory_gb", "mfu"),
        *("slowest_process", "slowest_over_median"),
        "compilations",  # since the process began
        *("data_wait_fraction", "wait_fraction", "save_fraction", "compute_fraction"),
    )
)
"""Columns of a row that differ between two runs of equal numbers."""

STRAGGLES = 1.3
"""A process whose steps take this many times the median of all, in two rows, is named."""
NOISE_S = 0.01
"""How much longer they must take as well."""


class StepClock:
    """Counts volumes and where the time goes between two readings, and the seconds of the run.

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
        self._spent_s = dict.fromkeys(PARTS, 0.0)
        self._volumes, self._steps = 0, 0

    def now(self) -> float:
        """Seconds on this clock, for `spent`."""
        return self._now()

    def spent(self, part: str, since: float) -> None:
        """Add the time since `since` to one of `PARTS`."""
        self._spent_s[part] += self._now() - since

    def count(self, volumes: int) -> None:
        """Add the volumes of one step, over all processes."""
        self._volumes += volumes
        self._steps += 1

    @property
    def own_s(self) -> float:
        """Seconds a step since the last reading, without what was spent waiting or saving."""
        others = self._spent_s["wait"] + self._spent_s["save"]
        return max(self._now() - self._window_start - others, 0.0) / max(self._steps, 1)

    @property
    def seconds(self) -> float:
        """Seconds of training, those before a resume included."""
        return self._now() - self._start

    def read(self) -> dict[str, float]:
        """Return the rates since the last reading, and begin anew."""
        passed = max(self._now() - self._window_start, 1e-9)
        data, wait, save = (min(self._spent_s[part] / passed, 1.0) for part in PARTS)
        rates = {
            "volumes_per_s": self._volumes / passed,
            "data_wait_fraction": data,
            "wait_fraction": wait,
            "save_fraction": save,
            "compute_fraction": max(1.0 - data - wait - save, 0.0),
            "seconds": self.seconds,
        }
        self._window_start, self._volumes, self._steps = self._now(), 0, 0
        self._spent_s = dict.fromkeys(PARTS, 0.0)
        return rates


class Metrics:
    """Completes each row with rates and memory, and hands it to the sinks.

    A sink that raises is named once on stderr and dropped; the run goes on.

    Args:
        sinks: who is told; on the first process only.
        seconds_before: seconds of training before a resume.
        runtime: whose memory counts, and whose processes are compared.
        work: what a volume costs and the devices can; None tells no MFU.
    """

    def __init__(
        self,
        sinks: Sequence[Sink],
        *,
        seconds_before: float,
        runtime: Runtime,
        work: Work | None = None,
    ) -> None:
        self.clock = StepClock(seconds_before)
        self._sinks, self._runtime, self._work = list(sinks), runtime, work
        self._suspect, self._named = -1, -1

    def tell(self, row: dict[str, float]) -> dict[str, float]:
        """Return the row with rates and peak memory, after telling everyone.

        All processes call it: it compares their times.
        """
        row = {**row, **self._compare(int(row["step"])), **self.clock.read()}
        row["peak_memory_gb"] = peak_memory_gb(self._runtime.device)
        if self._work is not None:
            row["mfu"] = self._work.mfu(row["volumes_per_s"])
        for sink in list(self._sinks):
            try:
                sink.write(row)
            except Exception as error:  # whatever a tracker raises is not worth a run
                self._drop(sink, error)
        return row

    def _compare(self, step: int) -> dict[str, float]:
        """Find the process whose own part of a step takes longest; name it where it straggles.

        It is the time of the host, its wait for data included. A slow GPU shows here only as far as
        the host waits for it before the processes agree.
        """
        if self._runtime.world == 1:
            return {}
        every = [float(text) for text in self._runtime.share(f"{self.clock.own_s:.6f}")]
        median, longest = statistics.median(every), max(every)
        slowest = every.index(longest)
        straggles = step > 1 and longest > max(STRAGGLES * median, median + NOISE_S)
        again, self._suspect = slowest == self._suspect, slowest if straggles else -1
        if straggles and again and slowest != self._named and self._runtime.rank == 0:
            self._named = slowest  # once, until it is another one
            say(
                f"step {step}: process {slowest} takes {longest:.3g} s of its own for a step, the"
                f" median is {median:.3g} s; all wait for it"
            )
        return {"slowest_process": slowest, "slowest_over_median": longest / max(median, 1e-9)}

    def close(self) -> None:
        """Close every sink that is left."""
        for sink in self._sinks:
            try:
                sink.close()
            except Exception as error:
                say(f"{_name(sink)} did not close: {_reason(error)}")
        self._sinks = []

    def _drop(self, sink: Sink, error: Exception) -> None:
        self._sinks.remove(sink)
        say(f"{_name(sink)} is told no more: {_reason(error)}; the run goes on without it")


def peak_memory_gb(device: torch.device) -> float:
    """Return the most memory used so far in 10^9 bytes: of a GPU, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def _name(sink: Sink) -> str:
    return type(sink).__name__


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:300]}"
