"""The jobs of a sweep on a cluster: handed to its queue by submitit, waited for, and cancelled.

A job that is near its time limit saves, is queued again and goes on. Jobs outlive a sweep that is
killed: the same command waits for them instead of queueing them again. How a job ended it writes as
JSON: submitit pickles what it sends to a node, and nothing that comes back is unpickled.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from types import FrameType
from typing import Any

from oct_launch.console import EXIT_MISTAKE, EXIT_STOPPED, Mistake, one_line
from oct_launch.processes import Stop, run_process

CLUSTERS = ("slurm", "local")
"""local: processes of this machine by the same way, to try it out."""

LOOK_S = 0.5  # between two looks at what jobs leave; submitit asks Slurm itself far more rarely
ASK_S = 2.0  # between two questions to Slurm whether what was cancelled is gone
LOST_S = 60.0  # between two questions to Slurm whether it knows a job at all
GONE_S = 300.0  # for it to be gone; Slurm lets a job go on for 30 s, or what its site has set
TURNS = 1000  # of a job that reaches its time limit again and again
SEEN_S = 15.0  # for what a job has written on another machine to be seen here
OUTCOME = "outcome.json"
UNHEARD_OF = "Invalid job id"  # as Slurm says it, some minutes after a job has ended
SEVERAL = ("nodes", "tasks_per_node", "map_count", "array_parallelism")


@dataclass(frozen=True, slots=True)
class Queue:
    """Where the jobs of a sweep are sent.

    Attributes:
        cluster: one of `CLUSTERS`.
        options: what each job asks for, in submitit's words: timeout_min, gpus_per_node,
            cpus_per_task, mem_gb, slurm_partition and others.
    """

    cluster: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.cluster not in CLUSTERS:
            raise Mistake(f"sweep.on={self.cluster}: must be {' or '.join(CLUSTERS)}")
        if "timeout_min" not in self.options:
            raise Mistake(
                f"sweep.on={self.cluster} needs sweep.timeout_min, the minutes that a job may take "
                "in one turn; else it is 5"
            )
        if several := [one for one in self.options if one.endswith(SEVERAL)]:
            raise Mistake(f"sweep.{several[0]}: a job of a sweep is one process")


class Turn:
    """What a queued job runs: a command, which a signal of the cluster has save and end.

    submitit pickles it, calls it on the node, and calls `checkpoint` before the node is lost.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self.command = tuple(command)
        self._stop = Stop()

    def __call__(self) -> None:
        """Run the command, and write down its exit code and its reason to fail."""
        from submitit import JobEnvironment

        where = JobEnvironment().paths.folder / OUTCOME
        where.unlink(missing_ok=True)  # of a turn before
        signal.signal(signal.SIGTERM, self._cancelled)
        # Slurm sends its warning to every process of a job, and what does not know it would die.
        deaf = ("sh", "-c", f"trap '' {JobEnvironment.USR_SIG}; exec \"$@\"", "turn")
        code, reason = run_process((*deaf, *self.command), self._stop)
        if reason:
            print(f"error: {reason}", file=sys.stderr, flush=True)
        draft = where.with_suffix(".draft")
        draft.write_text(json.dumps({"exit_code": code, "reason": reason}) + "\n")
        draft.replace(where)

    def checkpoint(self) -> Any:
        """Have the command save and end; returns what is queued in its place."""
        from submitit.helpers import DelayedSubmission

        self._stop.ask()
        for process in list(self._stop.running):
            with suppress(ChildProcessError):  # it is not taken from who waits for it already
                os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(Turn(self.command))

    def _cancelled(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._stop.ask()


class Queued:
    """The queue of one sweep.

    Args:
        queue: where its jobs go.
        folder: for submitit's files and what jobs say; all nodes must see it.

    Raises:
        Mistake: no such cluster here, or an option that it does not know.
    """

    def __init__(self, queue: Queue, folder: Path) -> None:
        import submitit

        self._cluster, self._lock = queue.cluster, Lock()
        try:
            self._executor = submitit.AutoExecutor(
                folder / "%j", cluster=queue.cluster, slurm_max_num_timeout=TURNS
            )
            self._executor.update_parameters(**{"name": "oct-sweep", **queue.options})
        except (RuntimeError, ValueError, NameError, TypeError, AssertionError) as error:
            raise Mistake(f"sweep.on={queue.cluster}: {one_line(error)}") from error
        self._folder = folder
        self._asked_s: dict[str, float] = {}
        self._kind = submitit.LocalJob if queue.cluster == "local" else submitit.SlurmJob

    def run(
        self, command: Sequence[str], stop: Stop, begun: str, note: Callable[[str, Path], None]
    ) -> tuple[int, str]:
        """Queue a command and wait for its end; returns its exit code and its reason to fail.

        Args:
            command: the program and its arguments, as on this machine.
            stop: cancels it; a program that has begun saves first.
            begun: the job that an earlier sweep has queued for it, as `note` was told; "" for none.
            note: told the job, and the file with what it says.
        """
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        try:
            job = self._again(begun) or self._submit(command)
        except (FailedJobError, FailedSubmissionError, OSError) as error:
            return EXIT_MISTAKE, f"the queue does not take it: {one_line(error)[-300:]}"
        note(f"{self._cluster}:{job.job_id}", job.paths.stdout)
        while not self._is_over(job) and not stop.asked:
            time.sleep(LOOK_S)
        if stop.asked and not self._is_over(job):
            self._cancel(job)
            self._see_it_gone(job)
        return self._outcome(job, stop)

    def _see_it_gone(self, job: Any) -> None:
        """Wait for the end of a job that was cancelled: one that had begun saves."""
        until = time.monotonic() + GONE_S
        while not self._is_over(job):
            if self._cluster != "local" and job.done(force_check=True):
                return
            if time.monotonic() > until:
                print(f"{job.job_id}: was cancelled, the queue has not said that it is gone")
                return
            time.sleep(ASK_S)

    def _submit(self, command: Sequence[str]) -> Any:
        with self._lock:
            return self._executor.submit(Turn(command))

    def _again(self, begun: str) -> Any:
        """The job of an earlier sweep here, if it is still to be waited for, or has ended well."""
        cluster, _, number = begun.partition(":")
        if cluster != self._cluster:
            return None
        job: Any = self._kind(self._folder / "%j", number)
        well = _written(job) and _read(job)["exit_code"] == 0
        return job if well or not self._is_over(job) else None

    def _is_over(self, job: Any) -> bool:
        over = _written(job) or job.done() or self._is_lost(job)
        # Of processes that another one has started submitit knows nothing.
        return over and not (self._cluster == "local" and _lives(job.job_id))

    def _is_lost(self, job: Any) -> bool:
        """Whether a job of which Slurm keeps no account is not in its queue either."""
        if self._cluster == "local" or job.state != "UNKNOWN":
            return False
        now = time.monotonic()
        if now - self._asked_s.setdefault(job.job_id, now) < LOST_S:
            return False
        self._asked_s[job.job_id] = now
        asked = ["scontrol", "show", "job", job.job_id]
        return UNHEARD_OF in subprocess.run(asked, capture_output=True, text=True).stderr

    def _cancel(self, job: Any) -> None:
        """Have it save and end. Slurm sends SIGTERM first; submitit would kill a local one."""
        if self._cluster == "local":
            with suppress(ProcessLookupError):
                os.kill(int(job.job_id), signal.SIGTERM)
        else:
            job.cancel(check=False)

    def _outcome(self, job: Any, stop: Stop) -> tuple[int, str]:
        until = time.monotonic() + SEEN_S
        while not stop.asked and not _written(job) and time.monotonic() < until:
            time.sleep(LOOK_S)
        if _written(job):
            found = _read(job)
            return int(found["exit_code"]), str(found["reason"])
        if stop.asked:
            return EXIT_STOPPED, ""
        said = f"{job.paths.stdout} has what it said"
        return 1, f"job {job.job_id} left no outcome ({job.state}); {said}"


def _read(job: Any) -> dict[str, Any]:
    """How a job ended, in its own words."""
    found: dict[str, Any] = json.loads((job.paths.folder / OUTCOME).read_text())
    return found


def _written(job: Any) -> bool:
    """Whether a job has said how it ended."""
    return bool((job.paths.folder / OUTCOME).exists())


def _lives(job: str) -> bool:
    """Whether the process that runs a local job is there; Linux alone tells."""
    try:
        return b"submitit" in Path(f"/proc/{job}/cmdline").read_bytes()
    except OSError:
        return False
