"""One range request to any filesystem, checked against what the store announced, and repeated."""

import asyncio
import errno
import json
import os
import secrets
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from oct_io.storage.buckets import GCS, S3, StorageConfig, current_storage, schemes_of

T = TypeVar("T")

LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
"""Errors that the next try would meet again."""

PASSING_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP answers that say "later": timeout, too many requests, SlowDown, broken gateway."""

PASSING_ERRNO = frozenset(
    {errno.EIO, errno.EAGAIN, errno.EBUSY, errno.ESTALE, errno.EPIPE, errno.ENETDOWN}
    | {errno.ETIMEDOUT, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETRESET, errno.ENOBUFS}
    | {getattr(errno, "EREMOTEIO", errno.EIO)}
)
"""What disks over a network, and s3fs for statuses of 500 and 503, report while they recover."""

FIRST_WAIT_S, LONGEST_WAIT_S = 0.25, 20.0
CHUNK = 1 << 20


class CutOff(OSError):
    """Fewer bytes came than were announced."""


class TooLarge(OSError):
    """The file is larger than its reader allows."""


class Refused(OSError):
    """The store answered with an HTTP status that is not a success.

    Attributes:
        status: the status.
    """

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP status {status}")
        self.status = status


class Answer(NamedTuple):
    """Bytes of a file, and what the store said about the whole of it."""

    content: bytes
    size: int | None  # of the whole file
    tag: str  # changes when the file does; "" if the store gives none


def fetch_range(filesystem: Any, path: str, start: int, end: int, *, whole: bool = False) -> Answer:
    """Fetch bytes `start` to `end` of a file, fewer where it ends before, as one request.

    Args:
        filesystem: as from `open_filesystem`.
        path: path within it.
        start: first byte.
        end: byte after the last.
        whole: refuse, before its bytes are fetched, a file that is longer than `end`.

    Raises:
        TooLarge: see `whole`.
        OSError: or whatever else the filesystem raises.
    """
    schemes = schemes_of(filesystem)
    if "file" in schemes:
        return _from_disk(path, start, end, whole)
    if schemes & S3:
        return _in_time(filesystem, _from_s3, path, start, end, whole)
    if schemes & GCS:
        return _in_time(filesystem, _from_gcs, path, start, end, whole)
    limited = {"timeout": current_storage().give_up_s} if filesystem.async_impl else {}
    content = bytes(filesystem.cat_file(path, start=start, end=end + whole, **limited))
    _check_size(start + len(content), end, whole)
    return Answer(content, None, "")


def _in_time(filesystem: Any, ask: Callable[..., Any], *arguments: Any) -> Answer:
    """Run a request on fsspec's own thread, and cancel it when the time for a file is over."""
    from fsspec.asyn import sync

    config = current_storage()
    answer: Answer = sync(
        filesystem.loop, ask, filesystem, *arguments, config, timeout=config.give_up_s
    )
    return answer


def _from_disk(path: str, start: int, end: int, whole: bool) -> Answer:
    if not stat.S_ISREG(Path(path).stat().st_mode):  # opening a pipe would wait forever
        raise IsADirectoryError(errno.EISDIR, "not a file")
    with Path(path).open("rb") as file:
        known = os.fstat(file.fileno())
        _check_size(known.st_size, end, whole)
        file.seek(start)
        content = file.read(max(0, min(end, known.st_size) - start))
    _check_length(content, start, end, known.st_size)
    return Answer(content, known.st_size, f"{known.st_mtime_ns}")


async def _from_s3(
    filesystem: Any, path: str, start: int, end: int, whole: bool, _config: StorageConfig
) -> Answer:
    bucket, key, version = filesystem.split_path(path)
    which = {"VersionId": version} if version else {}
    asked = f"bytes={start}-{end - 1}"
    try:
        found = await filesystem._call_s3(
            "get_object", Bucket=bucket, Key=key, Range=asked, **which
        )
    except OSError as error:
        if status_of(error) != 416:
            raise
        return Answer(b"", None, "")  # nothing lies at `start`: the file ends before
    body, span = found["Body"], found.get("ContentRange")
    try:
        size = _announced(span, found["ContentLength"])
        _check_size(size, end, whole)
        # A store that does not know ranges sends the file from its beginning.
        content = await body.read() if span else (await body.read(end))[start:]
    finally:
        body.close()
    _check_length(content, start, end, size)
    return Answer(content, size, str(found.get("ETag") or ""))


async def _from_gcs(
    filesystem: Any, path: str, start: int, end: int, whole: bool, config: StorageConfig
) -> Answer:
    import aiohttp

    await filesystem._set_session()
    limits = aiohttp.ClientTimeout(
        total=None, sock_connect=config.connect_timeout_s, sock_read=config.read_timeout_s
    )
    # identity: a bomb of compressed zeros is not unpacked on arrival
    asked = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
    async with filesystem.session.get(
        filesystem.url(path),
        params=filesystem._get_params({}),
        headers=filesystem._get_headers(asked),
        timeout=limits,
    ) as found:
        if found.status == 416:
            return Answer(b"", None, "")
        if found.status >= 400:
            raise _refusal(found.status)
        span = found.headers.get("Content-Range")
        size = _announced(span, found.content_length)
        _check_size(size, end, whole)
        amount = end - start if span else end
        content = bytes(await _read_at_most(found.content, amount))[0 if span else start :]
    _check_length(content, start, end, size)
    return Answer(content, size, found.headers.get("ETag", ""))


async def _read_at_most(stream: Any, amount: int) -> bytearray:
    content = bytearray()
    async for part in stream.iter_chunked(CHUNK):
        content += part
        if len(content) >= amount:
            break
    return content[:amount]


def _announced(span: str | None, length: int | None) -> int | None:
    """Size of the whole file, from "bytes 0-9/200" or, where all of it is sent, its length."""
    if span is None:
        return length
    total = span.rsplit("/", 1)[-1]
    return int(total) if total.isdigit() else None


def _check_size(size: int | None, limit: int, whole: bool) -> None:
    if whole and size is not None and size > limit:
        raise TooLarge(f"{size:,} bytes, more than {limit:,}")


def _check_length(content: bytes, start: int, end: int, size: int | None) -> None:
    wanted = None if size is None else max(0, min(end, size) - start)
    if wanted is not None and len(content) != wanted:
        raise CutOff(errno.EIO, f"{len(content):,} of {wanted:,} bytes came")


def _refusal(status: int) -> OSError:
    if status in (404, 410):
        return FileNotFoundError(errno.ENOENT, "no such file")
    if status in (401, 403):
        return PermissionError(errno.EACCES, "no permission")
    return Refused(status)


def status_of(error: BaseException) -> int | None:
    """HTTP status behind an error of s3fs, gcsfs or aiohttp; None if it has none."""
    for one in (error, error.__cause__):  # s3fs raises OSError from the client's error
        response = getattr(one, "response", None)
        if isinstance(response, dict):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            return status if isinstance(status, int) else None
    for name in ("status", "code"):
        value = getattr(error, name, None)
        if isinstance(value, int):
            return value
    return None


def is_passing(error: BaseException) -> bool:
    """Whether the same request may succeed later: the transport failed, not the question."""
    if isinstance(error, (*LASTING, TooLarge)):
        return False
    if isinstance(error, (ConnectionError, TimeoutError, asyncio.TimeoutError, CutOff)):
        return True
    if isinstance(error, json.JSONDecodeError):  # half a listing of gcsfs
        return True
    if isinstance(error, _transport_errors()):  # before statuses: aiohttp gives a cut body a 400
        return True
    status = status_of(error)
    if status is not None:
        return status in PASSING_STATUS
    return isinstance(error, OSError) and error.errno in PASSING_ERRNO


def _transport_errors() -> tuple[type[BaseException], ...]:
    """Transport errors of what is loaded; an error of a module that is not cannot have come."""
    named = {
        "aiohttp": ("ClientConnectionError", "ClientPayloadError"),
        "botocore.exceptions": ("HTTPClientError", "IncompleteReadError", "ResponseParserError"),
        "botocore.parsers": ("ResponseParserError",),
        "fsspec.exceptions": ("FSTimeoutError",),
        "requests.exceptions": ("ConnectionError", "Timeout", "ChunkedEncodingError"),
    }
    found = []
    for module, names in named.items():
        loaded = sys.modules.get(module)
        found += [getattr(loaded, name) for name in names if hasattr(loaded, name)]
    return tuple(found)


def with_retries(call: Callable[[], T]) -> T:
    """Repeat `call` after a transport error, waiting about twice as long each time.

    The waits have jitter, so that workers which were turned away together do not come back
    together. How often, and for how long, is up to `StorageConfig.tries` and `give_up_s`.

    Raises:
        Exception: the last one, or at once one that would come again (no such file, no permission).
    """
    config, started = current_storage(), time.monotonic()
    for attempt in range(1, config.tries + 1):
        try:
            return call()
        except Exception as error:
            longest = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**attempt)
            wait_s = longest * (500 + secrets.randbelow(500)) / 1000
            over = time.monotonic() - started + wait_s > config.give_up_s
            if attempt == config.tries or over or not is_passing(error):
                raise
        time.sleep(wait_s)
    raise AssertionError("tries is at least 1")
