"""Outages: which errors pass, asking again until they do, and a line when that takes long.

The clients make each request three times within seconds (see `buckets`). Here stays what they do
not do: bodies that end too soon, outages of minutes, one limit on time for everything, and a word
to whoever waits.
"""

import asyncio
import errno
import inspect
import logging
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from itertools import count
from types import SimpleNamespace
from typing import Any

from oct_io.errors import StoreError
from oct_io.interrupts import end_with_parent
from oct_io.storage.buckets import (
    StorageConfig,
    contact_with,
    current_storage,
    describe_place,
    schemes_of,
    start_worker,
)
from oct_io.storage.verdicts import is_answer, is_passing, named, status_of, wrong_store

FIRST_WAIT_S, LONGEST_WAIT_S = 0.25, 10.0
LOOK_S = 1.0  # how often somebody who waits looks at the clock
SPEAK_S, REPEAT_S = 10.0, 60.0  # when a wait is said for the first time, and again
DISK_S = 10.0  # for a disk over a network to recover; after it, an unreadable sector is a fact

logger = logging.getLogger("oct_io.storage")
_THREAD = threading.local()
_SPOKEN: Any = SimpleNamespace(value=-REPEAT_S)  # when a wait was last said; workers share one
_OVER: Any = SimpleNamespace(value=False)  # whether nobody waits for this process any more


def start_decoder(config: StorageConfig, spoken: Any, over: Any) -> None:
    """Follow `config` as one of several workers, of which one at a time says what is waited for.

    Args:
        config: of the process that started this one, with which it ends.
        spoken: when a wait was last said; of all workers.
        over: is set once nobody waits for them any more: no outage then holds who stopped early.
    """
    global _SPOKEN, _OVER
    _SPOKEN, _OVER = spoken, over
    end_with_parent()
    start_worker(config)


def start_reader(stop: threading.Event) -> None:
    """Let what this thread waits for end once `stop` is set, since nobody wants it any more."""
    _THREAD.stop = stop


def with_retries(filesystem: Any, path: str, question: Callable[[], Any]) -> Any:
    """What `question` returns or its coroutine gives, asked again for as long as transport fails.

    The waits double up to a limit, and have jitter, so that workers which were turned away together
    do not come back together. How long it is tried is up to `StorageConfig`.

    Raises:
        StoreError: the store is out of reach, or refuses all that is asked: no fact about a file.
        Exception: what is one, such as no such file, no permission.
    """
    asking = _Asking(filesystem, path)
    for attempt in count(1):
        try:
            answer = asking.finish(question())
        except StoreError:
            raise
        except Exception as error:
            asking.judge(error)
            longest = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** min(attempt, 10))
            asking.pause(longest * (500 + secrets.randbelow(500)) / 1000)
        else:
            asking.contact.hear()
            return answer
    raise AssertionError("count does not end")


class _Asking:
    """One question: since when it is asked, what went wrong, and how long there is still."""

    def __init__(self, filesystem: Any, path: str) -> None:
        self.filesystem, self.where = filesystem, describe_place(filesystem, path)
        self.contact = contact_with(filesystem)
        self.local = "file" in schemes_of(filesystem)
        self.contact.answered |= self.local  # a disk has no address that could be wrong
        self.started = time.monotonic()
        self.reason = ""

    def seconds(self) -> float:
        return time.monotonic() - self.started

    def patience(self) -> float:
        config = current_storage()
        return config.give_up_s if self.contact.answered else config.first_answer_s

    def what(self) -> str:
        return self.reason or self.contact.refusal or "no answer"

    def finish(self, asked: Any) -> Any:
        """Wait for a coroutine on the filesystem's thread; what is no coroutine is the answer."""
        if not inspect.isawaitable(asked):
            return asked
        loop = self.filesystem.loop
        future: Future[Any] = asyncio.run_coroutine_threadsafe(asked, loop)  # type: ignore[arg-type]
        try:
            while not wait([future], timeout=LOOK_S).done:
                self.look()
                if self.seconds() > self.patience():
                    self.give_up()
            return future.result()
        finally:
            future.cancel()

    def judge(self, error: Exception) -> None:
        """Return if it is worth to ask again; else raise what is to be said.

        Raises:
            StoreError: a store that cannot be used.
            Exception: `error`, if it says something about the file.
        """
        if not is_passing(error):
            wrong = wrong_store(error)
            if wrong is None and not (self.local or is_answer(error)):
                wrong = f"the request failed ({named(error)})"
            if wrong is not None:
                raise StoreError(f"{self.where}: {wrong}") from error
            self.contact.hear()
            raise error
        if status_of(error) is not None:
            self.contact.answered = True  # it is there, only busy
        self.reason = named(error)
        damaged = self.local and getattr(error, "errno", None) == errno.EIO
        if damaged and self.seconds() > DISK_S:
            raise error
        if self.contact.given_up or self.seconds() >= self.patience():
            self.give_up()

    def pause(self, seconds: float) -> None:
        """Wait before the next try, with one try left at the end of the time."""
        until = time.monotonic() + min(seconds, max(0.0, self.patience() - self.seconds()))
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, LOOK_S))
            self.look()

    def look(self) -> None:
        """Say what is waited for, if nothing came for long and nobody said so lately.

        Raises:
            StoreError: nobody waits for it any more.
        """
        stop = getattr(_THREAD, "stop", None)
        if _OVER.value or (stop is not None and stop.is_set()):
            raise StoreError(f"{self.where}: nobody waits for it any more")
        now = time.monotonic()
        since = self.started if self.reason else max(self.started, self.contact.heard_at)
        said = _SPOKEN.value > since and now - _SPOKEN.value < REPEAT_S
        if said or now - since < SPEAK_S:
            return
        _SPOKEN.value = now
        what, limit = self.what(), self.patience()
        logger.warning(
            f"oct-io: waiting for {self.where} for {now - since:.0f} s ({what}); "
            f"gives up after {limit:.0f} s"
        )

    def give_up(self) -> None:
        """Stop asking; who asks next is told after one try.

        Raises:
            StoreError: always.
        """
        before, self.contact.given_up = self.contact.given_up, True
        how = "as a moment ago" if before else f"for {self.seconds():.0f} s"
        tried = f"{self.where}: out of reach {how} ({self.what()})"
        if not self.contact.answered:
            raise StoreError(
                f"{tried}, and it never answered; check storage.endpoint_url and the network, then "
                "give the same command again"
            )
        raise StoreError(
            f"{tried}; what is done is kept and no scan is refused for it: give the same command "
            "again when the store answers, or a larger storage.give_up_s"
        )
