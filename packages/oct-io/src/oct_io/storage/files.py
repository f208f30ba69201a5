"""Bytes from local disks and buckets: whole files in one request, heads, and folder walks."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from oct_io.errors import ScanError, TreeError
from oct_io.storage.buckets import current_storage, is_bucket, open_filesystem, redact
from oct_io.storage.content_cache import ContentCache
from oct_io.storage.transport import Answer, TooLarge, fetch_range, status_of, with_retries

MAX_FILE_BYTES = 2 << 30
"""The largest legitimate scan has about 260 MB of voxels; 1 GB of voxels is the limit elsewhere."""

Options = Mapping[str, Any]

__all__ = [
    "change_tokens",
    "exists",
    "is_folder",
    "join",
    "list_folder",
    "list_tokens",
    "open_filesystem",
    "read_bytes",
    "read_head",
    "read_range",
    "redact",
    "safe_relative",
    "walk_files",
]


def read_bytes(url: str | Path, *, storage_options: Options | None = None) -> bytes:
    """Whole content of `url`, fetched as one request, or from the content cache if there is one.

    Args:
        url: local path or fsspec URL.
        storage_options: arguments of the fsspec filesystem, above those of the configuration.

    Raises:
        ScanError: stage `fetch`.
    """
    with _fetching(url):
        filesystem, path = open_filesystem(url, storage_options)

        def fetch() -> Answer:
            return with_retries(
                lambda: fetch_range(filesystem, path, 0, MAX_FILE_BYTES, whole=True)
            )

        cache = _content_cache(url)
        if cache is None:
            return fetch().content

        def token() -> str:
            return _change_token(with_retries(lambda: filesystem.info(path)))

        config = current_storage()
        store = config.endpoint_url or os.environ.get("AWS_ENDPOINT_URL", "")
        address = f"{store} {url} {storage_options or ''}"  # buckets elsewhere may share names
        return cache.read(address, fetch, token if config.content_cache_checked else None)


def read_range(
    url: str | Path, start: int, end: int, *, storage_options: Options | None = None
) -> bytes:
    """Bytes `start` to `end` of `url`, fewer where it ends before, fetched as one request.

    Raises:
        ScanError: stage `fetch`.
    """
    with _fetching(url):
        filesystem, path = open_filesystem(url, storage_options)
        return with_retries(lambda: fetch_range(filesystem, path, start, end)).content


def read_head(url: str | Path, size: int, *, storage_options: Options | None = None) -> bytes:
    """First `size` bytes of `url`, or fewer when it is shorter.

    Raises:
        ScanError: stage `fetch`.
    """
    return read_range(url, 0, size, storage_options=storage_options)


def _content_cache(url: str | Path) -> ContentCache | None:
    """Where the content of `url` is kept; None for what lies on this machine anyway."""
    config = current_storage()
    if not config.content_cache or "://" not in str(url):
        return None
    if str(url).startswith(("file:", "local:", "memory:")):
        return None
    return ContentCache(config.content_cache, int(config.content_cache_gb * 1e9))


@contextmanager
def _fetching(url: str | Path) -> Iterator[None]:
    """Turn whatever goes wrong while bytes are fetched into a `ScanError`."""
    where = redact(url)
    try:
        yield
    except TreeError as error:
        raise ScanError(where, "fetch", str(error).removeprefix(f"{where}: ")) from error
    except Exception as error:  # each kind of bucket has errors of its own, and not all are OSError
        raise ScanError(where, "fetch", _reason(error)) from error


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, PermissionError) or str(error).startswith("Forbidden"):  # gcsfs
        return "no permission to read it"
    if isinstance(error, IsADirectoryError | NotADirectoryError):
        return "not a file"
    if isinstance(error, TooLarge):
        return str(error)
    if "Credentials" in type(error).__name__:
        return (
            "no credentials found; set them in the shell, such as AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or storage.anonymous=true for a public bucket"
        )
    status = status_of(error)
    seen = type(error).__name__ if status is None else f"HTTP status {status}"
    return f"transport failed ({seen})"


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
        if is_bucket(filesystem):
            return _bucket_info(filesystem, path) is not None
        return bool(with_retries(lambda: filesystem.exists(path)))


def is_folder(url: str | Path, *, storage_options: Mapping[str, Any] | None = None) -> bool:
    """Whether a folder lies at `url`.

    Raises:
        TreeError: it cannot be asked.
    """
    filesystem, path = open_filesystem(url, storage_options)
    with _reaching(url):
        if is_bucket(filesystem):
            found = _bucket_info(filesystem, path)
            return found is not None and found["type"] == "directory"
        return bool(with_retries(lambda: filesystem.isdir(path)))


def _bucket_info(filesystem: Any, path: str) -> Mapping[str, Any] | None:
    """What lies at `path`; None for nothing.

    Not `exists` and `isdir`: those of buckets answer "no" to some requests that merely failed.
    """
    try:
        return dict(with_retries(lambda: filesystem.info(path)))
    except FileNotFoundError:
        return None
    except PermissionError:
        if "/" in path.strip("/"):
            raise
        return {"type": "directory"}  # its files may be open where the bucket itself is not


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
        raise TreeError(f"{redact(url)}: cannot be reached: {_reason(error)}") from error


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


def list_tokens(root: str | Path) -> dict[str, str]:
    """What changes when a file does, by relative path, of all files below `root`; one listing.

    The tokens are those of `change_tokens`; sorted by path.

    Raises:
        TreeError: it cannot be reached.
    """
    filesystem, base = open_filesystem(root)
    base = base.rstrip("/")
    with _reaching(root):
        found = with_retries(lambda: filesystem.find(base, detail=True))
    paths = sorted(map(str, found))
    return {path[len(base) :].lstrip("/"): _change_token(found[path]) for path in paths}


def walk_files(root: str | Path, suffix: str | tuple[str, ...]) -> Iterator[str]:
    """Sorted paths, relative to `root`, of all files that end in `suffix` or one of them."""
    filesystem, base = open_filesystem(root)
    base = base.rstrip("/")
    with _reaching(root):
        found = with_retries(lambda: filesystem.find(base))
    for path in sorted(found):
        if str(path).lower().endswith(suffix):
            yield str(path)[len(base) :].lstrip("/")
