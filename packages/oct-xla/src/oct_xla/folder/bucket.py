"""Files below a URL, through fsspec; what a store does not do is told in one line."""

import asyncio
import glob
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from oct_xla.errors import CheckpointError
from oct_xla.folder.files import write_atomically

ANSWER_S = 90.0
"""How long a store may take for a listing, a question or a small file: three requests that are lost
on the way, or the 60 s after which gcsfs leaves gRPC alone where only HTTP gets through."""

STILL_S = 300.0
"""How long a copy may take for its next part: 0.6 MB/s for all that s3fs has on its way at once."""

SMALL, PART = 1 << 20, 16 << 20
"""Bytes: of a file that is to be written within `ANSWER_S`, and of a part of a large one in S3. Ten
go at once; of 50 MB each, as s3fs would have them, none comes in time on a slow line."""

LOOK_S = 1.0

TRIES = 5
"""How often a store is asked whose answer came damaged."""

_DAMAGED = ("FlexibleChecksumError", "ResponseParserError", "ChecksumError")
"""What botocore and gcsfs raise of an answer that lacks its end; they do not ask again."""


def is_url(place: object) -> bool:
    """Whether a place lies in a bucket."""
    return isinstance(place, str) and "://" in place


class Bucket:
    """The files below a URL, by names relative to it. Each is written as a whole or not at all.

    A store that is busy is asked again by s3fs and gcsfs themselves, for some seconds each time.
    One that takes connections and never answers would hold them for 8 minutes and more: after
    `ANSWER_S`, or a copy that stood still for `STILL_S`, that is an error like any other.

    Args:
        url: as fsspec takes it. Keys, endpoints and the like come from fsspec's own settings and
            environment (`FSSPEC_S3_ENDPOINT_URL`, ...).
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._local = url.startswith("file:")  # of which none writes a file as a whole
        self._root = ""
        self._opened: Any = None

    @property
    def _files(self) -> Any:
        """The file system, at the first use: an error then comes where errors are told."""
        if self._opened is None:
            import fsspec

            options = {"auto_mkdir": True} if self._local else {}  # as in a bucket
            self._opened, root = fsspec.core.url_to_fs(self.url, **options)
            self._root = root.rstrip("/")
        self._opened.invalidate_cache()  # what another machine has written
        return self._opened

    def names(self, pattern: str = "") -> list[str]:
        """Return the names of all files, or of those that `pattern` ("*/name") fits.

        Raises:
            CheckpointError: if the bucket does not answer; so do all others.
        """
        with self._reaching():
            found = self._ask("glob", pattern) if pattern else self._ask("find", "")
            return sorted(str(one).removeprefix(self._root).lstrip("/") for one in found)

    def size(self, name: str) -> int | None:
        """Return the bytes of a file, None if it is not there."""
        with self._reaching(), suppress(FileNotFoundError):
            return self._size(name)
        return None

    def read(self, name: str) -> bytes | None:
        """Return the content of a small file, None if it is not there."""
        with self._reaching(), suppress(FileNotFoundError):
            check = partial(self._check, name, len)
            return bytes(self._ask("cat_file", name, check=check))
        return None

    def write(self, name: str, content: bytes) -> None:
        """Write a small file, or replace it."""
        with self._reaching():
            files = self._files
            if self._local:
                path = Path(f"{self._root}/{name}")
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, content)
            else:
                most = ANSWER_S if len(content) <= SMALL else STILL_S
                _wait_for(files, "pipe_file", f"{self._root}/{name}", content, most_s=most)

    def put(self, here: Path, name: str) -> None:
        """Copy a file of this machine that does not change meanwhile."""
        with self._reaching():
            files = self._files
            sized = {"chunksize": _part_size(here)} if self.url.startswith("s3") else {}
            _copy(files, "put_file", str(here), f"{self._root}/{name}", **sized)

    def get(self, name: str, here: Path) -> None:
        """Copy a file to this machine."""
        with self._reaching():
            files = self._files
            check = partial(self._check, name, lambda _: here.stat().st_size)
            _copy(files, "get_file", f"{self._root}/{name}", str(here), check=check)

    def remove(self, name: str) -> None:
        """Remove a file, or all below a folder; what is not there is fine."""
        with self._reaching(), suppress(FileNotFoundError):
            self._ask("rm", name, recursive=True)

    def _size(self, name: str) -> int:
        return int(self._ask("info", name)["size"])

    def _check(self, name: str, length: Callable[[Any], int], answer: Any) -> None:
        """Not all clients notice that an answer lacks its end."""
        if length(answer) != self._size(name):
            raise ValueError(f"{name} comes shorter than it is")

    def _ask(self, what: str, name: str, **how: Any) -> Any:
        files = self._files  # which sets the root
        root = glob.escape(self._root) if what == "glob" else self._root
        place = f"{root}/{name}".rstrip("/")
        return _wait_for(files, what, place, most_s=ANSWER_S, **how)

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except ImportError as error:
            raise CheckpointError(
                f"{self.url}: {error}; install fsspec with s3fs for s3:// or gcsfs for gs://"
            ) from error
        except _SilentError as error:
            raise CheckpointError(
                f"{self.url}: cannot be read or written: {error}; check the network and the"
                " address of the store"
            ) from error
        except Exception as error:  # each store raises its own; none of them is ours
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise CheckpointError(
                f"{self.url}: cannot be read or written: {reason}; check the bucket and its keys"
            ) from error


class _SilentError(Exception):
    """Nothing was heard of a request for too long."""


class _Moved:
    """When something was last heard of a request."""

    def __init__(self) -> None:
        self.at = time.monotonic()

    def note(self, *sizes: Any, **more: Any) -> None:
        self.at = time.monotonic()


def _copy(files: Any, what: str, *places: str, **how: Any) -> None:
    from fsspec.callbacks import Callback

    moved = _Moved()
    told = Callback(hooks={"moved": moved.note})
    _wait_for(files, what, *places, most_s=STILL_S, moved=moved, callback=told, **how)


def _wait_for(
    files: Any,
    what: str,
    *places: Any,
    most_s: float,
    moved: _Moved | None = None,
    check: Callable[[Any], None] | None = None,
    **how: Any,
) -> Any:
    """What a method of a file system returns; of one that asks over a network, not for ever.

    All that is asked here may be asked again: files are written as a whole. `check` raises a
    ValueError if an answer came damaged.

    Raises:
        _SilentError: nothing was heard for `most_s` seconds.
    """
    if not files.async_impl:  # a disk, or memory
        return getattr(files, what)(*places, **how)

    def ask() -> Any:
        answer = _ask_once(files, what, *places, most_s=most_s, moved=moved or _Moved(), **how)
        if check is not None:
            check(answer)
        return answer

    for _ in range(TRIES - 1):
        try:
            return ask()
        except Exception as error:
            if not (isinstance(error, ValueError) or type(error).__name__ in _DAMAGED):
                raise
    return ask()


def _ask_once(files: Any, what: str, *places: Any, most_s: float, moved: _Moved, **how: Any) -> Any:
    asked: Future[Any] = asyncio.run_coroutine_threadsafe(
        getattr(files, f"_{what}")(*places, **how), files.loop
    )
    try:
        while not wait([asked], timeout=min(LOOK_S, most_s)).done:
            if time.monotonic() - moved.at > most_s:
                raise _SilentError(f"no answer for {most_s:.0f} s")
        return asked.result()
    finally:
        asked.cancel()


def _part_size(path: Path) -> int:
    """Bytes of a part, in whole megabytes: a store takes no more than 10,000 of them."""
    return max(PART, -(-path.stat().st_size // (5000 << 20)) << 20)
