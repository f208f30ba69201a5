"""Keeps a training going on a pod that may be taken away."""

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pod import COMING, EXIT_MISTAKE, EXIT_STOPPED, GONE, Failure, Pod, Preempted
from workers import Worker

UNREACHED = 5
"""Looks in a row at which a pod that is said to be well may not answer."""


def keep_running(
    pod: Pod,
    record: Path,
    commit: str,
    begin: Callable[[], None],
    *,
    restarts: int,
    every_s: float,
) -> None:
    """Begin a training, and again after each end that is not its own, until it is done.

    Args:
        pod: may be still in the queue.
        record: what `create` asked for.
        commit: that the workers are to have.
        begin: brings it there and starts.
        restarts: how often to begin again.
        every_s: seconds between two looks.

    Raises:
        Failure: it was stopped, has ended with code 2, or has used up its restarts; or gcloud knows
            no such pod at the first look.
    """
    ours, gone, known, missed = False, False, False, 0
    while True:
        try:
            if gone:
                ask_again(pod, record)
                gone = False
            state, known = pod.state(), True
            if state in GONE:
                raise Preempted(f"{pod.name} is {state}")
            if state not in COMING:
                why = judge(pod.workers(), commit, ours=ours)
                if why == "done":
                    return
                if why and ours:
                    restarts = _spend(restarts, why)
                if why:
                    begin()
                ours, missed = True, 0
        except Preempted as failure:
            restarts = _spend(restarts, str(failure))
            ours, gone, missed = False, True, 0
        except Failure as failure:
            missed += 1
            if failure.code != 1 or missed == UNREACHED or not known:
                raise
            print(f"{failure}; tried again in {every_s:g} s", file=sys.stderr)
        if pod.dry:
            print("# and after a preemption, before the same again:")
            ask_again(pod, record)
            return
        time.sleep(every_s)


def judge(workers: Sequence[Worker], commit: str, *, ours: bool) -> str:
    """Why the training must begin; "done", or nothing while it runs.

    Args:
        workers: all of them.
        commit: that they are to have.
        ours: whether what they run, or ran last, was begun or found running before.

    Raises:
        Failure: it was stopped, needs a person, or is not the one to keep.
    """
    runs = [one.run for one in workers]
    if ours and any(run.endswith(",stopped") for run in runs):
        raise Failure("the training was stopped; `keep` or `start` goes on", EXIT_STOPPED)
    if ours and "ended:2" in runs:
        raise Failure("the training ended with code 2: `follow` shows its line", EXIT_MISTAKE)
    if workers and all(one.running for one in workers):
        if {one.commit for one in workers} != {commit}:
            raise Failure(f"a training of another commit runs on {workers[0].host}", EXIT_MISTAKE)
        return ""
    if not ours:
        return "first start"
    if all(run == "ended:0" for run in runs):
        return "done"
    return f"the training is {', '.join(runs)}"


def ask_again(pod: Pod, record: Path) -> None:
    """Make the same request anew: a Spot pod that was taken away cannot be restarted.

    Raises:
        Failure: `create` did not make it, so nobody has said that it may cost money.
    """
    if not record.exists() and not pod.dry:
        raise Failure(f"{record} is missing: `create` did not ask for {pod.name}", EXIT_MISTAKE)
    asked = json.loads(record.read_text()) if record.exists() else ["..."]
    try:
        pod.delete(quiet=True)
    except Failure as failure:  # if it is still there, the next command says so
        print(f"{failure}; asked for again all the same", file=sys.stderr)
    pod.create(asked)


def _spend(restarts: int, why: str) -> int:
    if not restarts:
        raise Failure(f"{why}, and --restarts is used up", EXIT_MISTAKE)
    print(f"{why}: begins again, {restarts - 1} more times at most", file=sys.stderr)
    return restarts - 1
