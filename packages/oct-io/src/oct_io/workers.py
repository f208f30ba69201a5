"""Processes that work for this one; each may be killed at any moment, and nobody waits for it."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, wait
from copy import copy
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from oct_io.interrupts import uninterrupted

Answer = TypeVar("Answer")

LOOK_S = 1.0  # how often somebody who waits looks whether all of them live
GRACE_S = 5.0  # for the pool to find out by itself, as it does but for what `Workers` is for


class Workers(ProcessPoolExecutor):
    """Spawned processes, of which one that is killed in the middle of an answer breaks the pool.

    As `ProcessPoolExecutor` has it, the thread that takes answers waits for the rest of that one
    for ever, since all other processes, and this one, hold the pipe open. A process whose memory
    the system wants is likeliest to be killed just then: it holds its answer twice.

    Args:
        jobs: how many.
        initializer: called in each of them first.
        arguments: of that.
    """

    def __init__(
        self, jobs: int, initializer: Callable[..., object], arguments: tuple[Any, ...] = ()
    ) -> None:
        # Not forked: callers may hold threads, and file systems of buckets do not survive it.
        context: Any = copy(multiprocessing.get_context("spawn"))
        start, self._all = context.Process, list[BaseProcess]()

        def begin(*given: Any, **named: Any) -> BaseProcess:
            process: BaseProcess = start(*given, **named)
            self._all.append(process)
            return process

        context.Process = begin
        super().__init__(jobs, mp_context=context, initializer=initializer, initargs=arguments)

    def begin(self, work: Callable[..., Answer], *given: Any) -> Future[Answer]:
        """Have it done; who does it is not to see Ctrl-C."""
        with uninterrupted():
            return self.submit(work, *given)

    def answer(self, asked: Future[Answer]) -> Answer:
        """What was asked for.

        Raises:
            BrokenProcessPool: a process has ended before its time; so ends all that was asked.
            Exception: what the work has raised.
        """
        while not wait([asked], timeout=LOOK_S).done:
            if self._lost() and not wait([asked], timeout=GRACE_S).done:
                self._give_up()
        return asked.result()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End them, and the thread that takes answers, though it waits for the rest of one."""
        if self._lost():
            self._give_up()
        super().shutdown(wait, cancel_futures=cancel_futures)

    def _lost(self) -> bool:
        return bool(connection.wait([one.sentinel for one in self._all], timeout=0))

    def _give_up(self) -> None:
        """Close all ends into which an answer is written, so that the thread comes to its end."""
        for one in self._all:
            one.kill()
        if self._result_queue is not None:
            self._result_queue._writer.close()  # type: ignore[attr-defined]
