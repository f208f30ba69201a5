"""Bytes from local disks and buckets: whole files in one request, heads, and folder walks."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import urlsplit

from fsspec.core import url_to_fs

from oct_io.errors import ScanError, TreeError

T = TypeVar("T")

LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
"""Errors that the next try would meet again."""

MAX_FILE_BYTES = 2 << 30
"""The largest legitimate scan has about 260 MB of voxels; 1 GB of voxels is the limit elsewhere."""


def redact(url: str | Path) -> str:
    """Take user, password and query (signed tokens) out of a URL; local paths stay as they are."""
    text = str(url)
    if "://" not in text:
        return text
    parts = urlsplit(text)
    return f"{parts.scheme}://{parts.netloc.rsplit('@', 1)[-1]}{parts.path}"


def with_retries(call: Callable[[], T], *, tries: int = 3, wait_s: float = 0.5) -> T:
    """Repeat `call` after a transport error, waiting twice as long each time.

    Raises:
        OSError: the last one, or at once one that would come again (no such file, no permission).
    """
    for attempt in range(tries):
        try:
            return call()
        except LASTING:
            raise
        except (OSError, TimeoutError):
            if attempt == tries - 1:
                raise
            time.sleep(wait_s * 2**attempt)
    raise ValueError(f"tries ({tries}) must be at least 1")


def open_filesystem(
    url: str | Path, storage_options: Mapping[str, Any] | None = None
) -> tuple[Any, str]:
    """Filesystem of `url` and the path within it.

    Raises:
        TreeError: nothing installed reads this scheme.
    """
    try:
        filesystem, path = url_to_fs(str(url), **(storage_options or {}))
    except (ImportError, ValueError) as error:
        scheme = str(url).split("://", 1)[0]
        raise TreeError(
            f"{redact(url)}: nothing installed reads '{scheme}://'; for s3:// install s3fs, "
            "for gs:// install gcsfs"
        ) from error
    return filesystem, str(path)


def read_bytes(url: str | Path, *, storage_options: Mapping[str, Any] | None = None) -> bytes:
    """Whole content of `url`, fetched as one request.

    Raises:
        ScanError: stage `fetch`.
    """
    return _fetch(url, None, storage_options)


def read_head(
    url: str | Path, size: int, *, storage_options: Mapping[str, Any] | None = None
) -> bytes:
    """First `size` bytes of `url`, or fewer when it is shorter.

    Raises:
        ScanError: stage `fetch`.
    """
    return _fetch(url, size, storage_options)


def _fetch(url: str | Path, size: int | None, storage_options: Mapping[str, Any] | None) -> bytes:
    where = redact(url)
    try:
        filesystem, path = open_filesystem(url, storage_options)
        if size is None:
            known = with_retries(lambda: filesystem.info(path)).get("size") or 0
            if known > MAX_FILE_BYTES:
                raise ScanError(where, "fetch", f"{known:,} bytes, more than {MAX_FILE_BYTES:,}")
            return bytes(with_retries(lambda: filesystem.cat_file(path)))
        return bytes(with_retries(lambda: filesystem.cat_file(path, start=0, end=size)))
    except TreeError as error:
        raise ScanError(where, "fetch", str(error).removeprefix(f"{where}: ")) from error
    except FileNotFoundError as error:
        raise ScanError(where, "fetch", "no such file") from error
    except PermissionError as error:
        raise ScanError(where, "fetch", "no permission to read it") from error
    except (IsADirectoryError, NotADirectoryError) as error:
        raise ScanError(where, "fetch", "not a file") from error
    except ScanError:
        raise
    except Exception as error:  # each kind of bucket has errors of its own, and not all are OSError
        raise ScanError(where, "fetch", f"transport failed ({type(error).__name__})") from error


def join(root: str | Path, relative: str) -> str:
    """Address of `relative` under `root`; `relative` must have passed `safe_relative`."""
    return f"{str(root).rstrip('/')}/{relative}"


def safe_relative(text: str) -> str | None:
    """Path below a root that `text` names, without leading slash; None if it leaves the root."""
    if not text or "\\" in text or "\0" in text or ":" in text:
        return None
    path = PurePosixPath(text.lstrip("/"))
    if text.startswith("//") or ".." in path.parts or not path.parts:
        return None
    return str(path)


def exists(url: str | Path, *, storage_options: Mapping[str, Any] | None = None) -> bool:
    """Whether a file or folder lies at `url`.

    Raises:
        TreeError: it cannot be asked.
    """
    filesystem, path = open_filesystem(url, storage_options)
    with _reaching(url):
        return bool(with_retries(lambda: filesystem.exists(path)))


def is_folder(url: str | Path, *, storage_options: Mapping[str, Any] | None = None) -> bool:
    """Whether a folder lies at `url`.

    Raises:
        TreeError: it cannot be asked.
    """
    filesystem, path = open_filesystem(url, storage_options)
    with _reaching(url):
        return bool(with_retries(lambda: filesystem.isdir(path)))


def list_folder(url: str | Path, *, storage_options: Mapping[str, Any] | None = None) -> list[str]:
    """Sorted names of the files in the folder `url`; those of its subfolders are left out.

    Raises:
        TreeError: it cannot be reached.
    """
    filesystem, path = open_filesystem(url, storage_options)
    with _reaching(url):
        found = with_retries(lambda: filesystem.ls(path, detail=True))
    return sorted(str(one["name"]).rsplit("/", 1)[-1] for one in found if one["type"] == "file")


@contextmanager
def _reaching(url: str | Path) -> Iterator[None]:
    """Turn what a bucket raises, such as missing credentials, into one line."""
    try:
        yield
    except Exception as error:  # each kind of bucket has errors of its own, and not all are OSError
        raise TreeError(f"{redact(url)}: cannot be reached ({type(error).__name__})") from error


def change_tokens(root: str | Path, relatives: Sequence[str]) -> dict[str, str]:
    """What changes when a file below `root` does, by relative path; "absent" for missing files.

    Size and modification time or entity tag. In a bucket, one listing serves all files.
    """
    filesystem, base = open_filesystem(root)
    base = base.rstrip("/")
    protocols = filesystem.protocol
    local = "file" in ((protocols,) if isinstance(protocols, str) else protocols)
    with _reaching(root):
        listed = {} if local else with_retries(lambda: filesystem.find(base, detail=True))
    tokens = {}
    for relative in relatives:
        path = f"{base}/{relative}"
        if local:
            with suppress(OSError):
                listed = {path: filesystem.info(path)}
        info = listed.get(path)
        tokens[relative] = _change_token(info) if info else "absent"
    return tokens


def _change_token(info: Mapping[str, Any]) -> str:
    names = ("ETag", "etag", "mtime", "LastModified", "updated")
    changed = next((info[name] for name in names if info.get(name)), "")
    return f"{info.get('size')}:{changed}"


def walk_files(root: str | Path, suffix: str) -> Iterator[str]:
    """Sorted paths, relative to `root`, of all files whose name ends in `suffix`."""
    filesystem, base = open_filesystem(root)
    base = base.rstrip("/")
    with _reaching(root):
        found = with_retries(lambda: filesystem.find(base))
    for path in sorted(found):
        if str(path).lower().endswith(suffix):
            yield str(path)[len(base) :].lstrip("/")
