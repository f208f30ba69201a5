"""Outages: which errors pass, asking again until they do, and a line when that takes long.

The clients make each request three times within seconds (see `buckets`). Here stays what they do
not do: bodies that end too soon, outages of minutes, one limit on time for everything, and a word
to whoever waits.
"""

import asyncio
import errno
import inspect
import json
import logging
import secrets
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from itertools import count
from types import SimpleNamespace
from typing import Any

from oct_io.errors import StoreError
from oct_io.storage.buckets import (
    Redirected,
    StorageConfig,
    contact_with,
    current_storage,
    describe_place,
    schemes_of,
    start_worker,
)

FIRST_WAIT_S, LONGEST_WAIT_S = 0.25, 10.0
LOOK_S = 1.0  # how often somebody who waits looks at the clock
SPEAK_S, REPEAT_S = 10.0, 60.0  # when a wait is said for the first time, and again
DISK_S = 10.0  # for a disk over a network to recover; after it, an unreadable sector is a fact

LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
"""Errors that the next try would meet again."""

PASSING_ERRNO = frozenset(
    {errno.EIO, errno.EAGAIN, errno.EBUSY, errno.ESTALE, errno.EPIPE, errno.ENETDOWN}
    | {errno.ETIMEDOUT, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETRESET, errno.ENOBUFS}
    | {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EHOSTDOWN}
    | {getattr(errno, "EREMOTEIO", errno.EIO)}
)
"""What disks over a network, and s3fs for statuses of 500 and 503, report while they recover."""

PASSING_CODES = frozenset(
    {"RequestTimeout", "Throttling", "ThrottlingException", "ThrottledException"}
    | {"RequestLimitExceeded", "RequestThrottled", "TooManyRequestsException", "SlowDown"}
)
"""S3's words for "later" that may come with status 400."""

KEY_CODES = frozenset(
    {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"}
    | {"TokenRefreshRequired", "RequestTimeTooSkewed", "UnrecognizedClientException"}
)
"""S3's words for a key that is wrong for all files, not for one."""

REGION_CODES = frozenset(
    {"AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException"}
)
NO_KEY = (
    "no credentials found; set them in the shell, such as AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY, or storage.anonymous=true for a public bucket"
)

logger = logging.getLogger("oct_io.storage")
_THREAD = threading.local()
_SPOKEN: Any = SimpleNamespace(value=-REPEAT_S)  # when a wait was last said; workers share one


class CutOff(OSError):
    """Fewer bytes came than were announced, or the file changed while it was read."""


class TooLarge(OSError):
    """The file is larger than its reader allows."""


def start_decoder(config: StorageConfig, spoken: Any) -> None:
    """Follow `config` as one of several workers, of which one at a time says what is waited for."""
    global _SPOKEN
    _SPOKEN = spoken
    start_worker(config)


def start_reader(stop: threading.Event) -> None:
    """Let what this thread waits for end once `stop` is set, since nobody wants it any more.

    Python waits for the threads of a pool when it ends: without this, for as long as an outage.
    """
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
            wrong = _wrong_store(error)
            if wrong is None and not (self.local or _is_answer(error)):
                wrong = f"the request failed ({_named(error)})"
            if wrong is not None:
                raise StoreError(f"{self.where}: {wrong}") from error
            self.contact.hear()
            raise error
        if status_of(error) is not None:
            self.contact.answered = True  # it is there, only busy
        self.reason = _named(error)
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
        if stop is not None and stop.is_set():
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


def _named(error: BaseException) -> str:
    status = status_of(error)
    return type(error).__name__ if status is None else f"HTTP status {status}"


def _wrong_store(error: BaseException) -> str | None:
    """What is wrong with address or key, so that all files fail alike; None if it is not that."""
    code, status = code_of(error), status_of(error)
    if _is_redirect(error):
        to = f" to {error}" if isinstance(error, Redirected) and str(error) else ""
        return f"the store redirects{to}; set storage.endpoint_url and storage.region to its own"
    if code in REGION_CODES or (status is not None and 300 < status < 400):
        return f"wrong region or endpoint ({code or status}); set storage.region to the bucket's"
    if code in KEY_CODES or status in (401, 407) or "RefreshError" in type(error).__name__:
        return f"the key is refused ({code or _named(error)}); set a valid one in the shell"
    if "Credentials" in type(error).__name__:
        return NO_KEY
    return None


def _is_redirect(error: BaseException) -> bool:
    """Whether the store sends elsewhere, once or in a circle; clients wrap the latter."""
    seen: list[BaseException] = [error]
    for one in seen:  # which grows; clients wrap errors in errors
        behind = (one.__cause__, one.__context__, getattr(one, "kwargs", {}).get("error"))
        seen += [other for other in behind if other is not None and other not in seen]
    circle = any(type(one).__name__ == "TooManyRedirects" for one in seen)
    return circle or isinstance(error, Redirected)


def _is_answer(error: BaseException) -> bool:
    """Whether the store said something about one file."""
    status = status_of(error)
    said = isinstance(error, (*LASTING, TooLarge)) or str(error).startswith("Forbidden")  # gcsfs
    return said or (status is not None and 400 <= status < 500)


def _client_error(error: BaseException) -> dict[str, Any]:
    for one in (error, error.__cause__):  # s3fs raises OSError from the client's error
        response = getattr(one, "response", None)
        if isinstance(response, dict):
            return response
    return {}


def code_of(error: BaseException) -> str:
    """S3's word behind an error of s3fs, such as SlowDown; "" if there is none."""
    return str(_client_error(error).get("Error", {}).get("Code", ""))


def status_of(error: BaseException) -> int | None:
    """HTTP status behind an error of s3fs, gcsfs or aiohttp; None if it has none."""
    value = _client_error(error).get("ResponseMetadata", {}).get("HTTPStatusCode")
    for name in ("status", "code"):  # the second of aiohttp's errors only warns
        value = getattr(error, name, None) if value is None else value
    return value if isinstance(value, int) and value > 0 else None


def passes(status: int) -> bool:
    """Whether an HTTP status says "later": time-out, too many requests, a broken gateway."""
    return status in (408, 425, 429) or (status >= 500 and status not in (501, 505))


def is_passing(error: BaseException) -> bool:
    """Whether the same request may succeed later: the transport failed, not the question."""
    if code_of(error) in PASSING_CODES:
        return True
    if isinstance(error, (*LASTING, TooLarge)) or _is_redirect(error):
        return False
    if isinstance(error, (ConnectionError, TimeoutError, asyncio.TimeoutError, CutOff)):
        return True
    if isinstance(error, json.JSONDecodeError):  # half a listing of gcsfs
        return True
    if isinstance(error, _transport_errors()):  # before statuses: aiohttp gives a cut body a 400
        return True
    status = status_of(error)
    if status is not None:
        return passes(status)
    return isinstance(error, OSError) and error.errno in PASSING_ERRNO


def _transport_errors() -> tuple[type[BaseException], ...]:
    """Transport errors of what is loaded; an error of a module that is not cannot have come."""
    boto = ("HTTPClientError", "ConnectionError", "IncompleteReadError", "ResponseParserError")
    named = {
        "aiohttp": ("ClientConnectionError", "ClientPayloadError"),
        "botocore.exceptions": boto,
        "botocore.parsers": ("ResponseParserError",),
        "fsspec.exceptions": ("FSTimeoutError",),
        "google.auth.exceptions": ("TransportError",),
        "requests.exceptions": ("ConnectionError", "Timeout", "ChunkedEncodingError"),
        "socket": ("gaierror",),
    }
    found = []
    for module, names in named.items():
        loaded = sys.modules.get(module)
        found += [getattr(loaded, name) for name in names if hasattr(loaded, name)]
    return tuple(found)
