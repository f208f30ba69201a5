"""One range request to any filesystem, checked against what the store announced."""

import errno
import os
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from oct_io.storage.buckets import GCS, S3, contact_with, current_storage, schemes_of
from oct_io.storage.outages import with_retries
from oct_io.storage.verdicts import CutOff, Redirected, TooLarge, status_of

CHUNK = 1 << 20


class Refused(OSError):
    """The store answered with an HTTP status that is not a success.

    Attributes:
        status: the status.
    """

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP status {status}")
        self.status = status


def fetch_range(filesystem: Any, path: str, start: int, end: int, *, whole: bool = False) -> bytes:
    """Fetch bytes `start` to `end` of a file, fewer where it ends before, as one request.

    Args:
        filesystem: as from `open_filesystem`.
        path: path within it.
        start: first byte.
        end: byte after the last.
        whole: refuse, before its bytes are fetched, a file that is longer than `end`.

    Raises:
        TooLarge: see `whole`.
        StoreError: the store cannot be used now.
        OSError: or whatever else the filesystem raises about the file.
    """
    schemes = schemes_of(filesystem)
    fetch: Callable[..., Any] = _from_anywhere if filesystem.async_impl else _from_memory
    for names, one in ((frozenset({"file"}), _from_disk), (S3, _from_s3), (GCS, _from_gcs)):
        fetch = one if schemes & names else fetch
    content: bytes = with_retries(
        filesystem, path, lambda: fetch(filesystem, path, start, end, whole)
    )
    return content


def _from_disk(_: Any, path: str, start: int, end: int, whole: bool) -> bytes:
    if not stat.S_ISREG(Path(path).stat().st_mode):  # opening a pipe would wait forever
        raise IsADirectoryError(errno.EISDIR, "not a file")
    with Path(path).open("rb") as file:
        known = os.fstat(file.fileno())
        _check_size(known.st_size, end, whole)
        file.seek(start)
        content = file.read(max(0, min(end, known.st_size) - start))
        if os.fstat(file.fileno()).st_mtime_ns != known.st_mtime_ns:
            raise CutOff(errno.EAGAIN, "it changed while it was read")
    _check_length(content, start, end, known.st_size)
    return content


def _from_memory(filesystem: Any, path: str, start: int, end: int, whole: bool) -> bytes:
    return _unannounced(filesystem.cat_file(path, start=start, end=end + whole), start, end, whole)


async def _from_anywhere(filesystem: Any, path: str, start: int, end: int, whole: bool) -> bytes:
    content = await filesystem._cat_file(path, start=start, end=end + whole)
    return _unannounced(content, start, end, whole)


def _unannounced(content: bytes, start: int, end: int, whole: bool) -> bytes:
    _check_size(start + len(content), end, whole)
    return bytes(content)


async def _from_s3(filesystem: Any, path: str, start: int, end: int, whole: bool) -> bytes:
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
        return b""  # nothing lies at `start`: the file ends before
    body, span = found["Body"], found.get("ContentRange")
    try:
        size = _announced(span, found["ContentLength"])
        _check_size(size, end, whole)
        # A store that does not know ranges sends the file from its beginning.
        content = await _read_at_most(body.iter_chunks(CHUNK), start, end, span, filesystem)
    finally:
        body.close()
    _check_length(content, start, end, size)
    return content


async def _from_gcs(filesystem: Any, path: str, start: int, end: int, whole: bool) -> bytes:
    import aiohttp

    config = current_storage()
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
        contact_with(filesystem).hear(found.status)
        if found.status == 416:
            return b""
        if found.status >= 300:
            raise _refusal(found.status)
        span = found.headers.get("Content-Range")
        size = _announced(span, found.content_length)
        _check_size(size, end, whole)
        parts = found.content.iter_chunked(CHUNK)
        content = await _read_at_most(parts, start, end, span, filesystem)
    _check_length(content, start, end, size)
    return content


async def _read_at_most(
    parts: AsyncIterator[bytes], start: int, end: int, span: str | None, filesystem: Any
) -> bytes:
    """The bytes that were asked for; each part that comes is a sign of life."""
    amount = end - start if span else end
    content = bytearray()
    async for part in parts:
        contact_with(filesystem).hear()
        content += part
        if len(content) >= amount:
            break
    return bytes(content[0 if span else start : amount])


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
    if status < 400:
        return Redirected()
    if status in (404, 410):
        return FileNotFoundError(errno.ENOENT, "no such file")
    if status == 403:
        return PermissionError(errno.EACCES, "no permission")
    return Refused(status)
