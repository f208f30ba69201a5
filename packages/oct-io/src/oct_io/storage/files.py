"""Bytes of local disks and buckets: files read and written whole, heads, and folder walks.

All of it goes through `outages`: what passes is asked again, and a store that stays away is a
`StoreError`, never a fact about a file.
"""

import errno
import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from oct_io.errors import ScanError, StoreError, TreeError
from oct_io.storage.buckets import current_storage, is_bucket, open_filesystem, redact, schemes_of
from oct_io.storage.content_cache import ContentCache
from oct_io.storage.disk import files_in, is_hidden, list_disk
from oct_io.storage.outages import with_retries
from oct_io.storage.transport import fetch_range
from oct_io.storage.verdicts import TooLarge, status_of

MAX_FILE_BYTES = 2 << 30
"""The largest legitimate scan has about 260 MB of voxels; 1 GB of voxels is the limit elsewhere."""

Options = Mapping[str, Any]

__all__ = [
    "change_tokens",
    "copy_file",
    "exists",
    "file_size",
    "folder_token",
    "is_folder",
    "join",
    "list_folder",
    "list_subfolders",
    "list_tokens",
    "open_filesystem",
    "read_bytes",
    "read_head",
    "read_if_there",
    "read_range",
    "redact",
    "remove_folder",
    "safe_relative",
    "write_bytes",
]


def read_bytes(url: str | Path, *, storage_options: Options | None = None) -> bytes:
    """Whole content of `url`, fetched as one request, or from the content cache if there is one.

    Args:
        url: local path or fsspec URL.
        storage_options: arguments of the fsspec filesystem, above those of the configuration.

    Raises:
        ScanError: stage `fetch`: not there, no permission, no file, too large.
        StoreError: the store cannot be used now, whatever is asked for.
    """
    with _fetching(url):
        filesystem, path = open_filesystem(url, storage_options)

        def fetch() -> bytes:
            return fetch_range(filesystem, path, 0, MAX_FILE_BYTES, whole=True)

        cache = _content_cache(url)
        if cache is None:
            return fetch()

        def token() -> str:
            return _change_token(_ask(filesystem, "info", path))

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
        return fetch_range(filesystem, path, start, end)


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


def read_if_there(url: str | Path) -> bytes | None:
    """Whole content of `url`, past the content cache; None if nothing lies there.

    Raises:
        TreeError: it cannot be read.
    """
    filesystem, path = open_filesystem(url)
    with _reaching(url):
        try:
            return fetch_range(filesystem, path, 0, MAX_FILE_BYTES, whole=True)
        except FileNotFoundError:
            return None


def write_bytes(url: str | Path, content: bytes) -> None:
    """Let a file appear whole: by a rename after it is on disk, or by one upload.

    Raises:
        TreeError: it cannot be written.
    """
    filesystem, path = open_filesystem(url)
    with _reaching(url):
        if "file" not in schemes_of(filesystem):
            _ask(filesystem, "pipe_file", path, content)
            return
    partial = Path(f"{path}.{uuid.uuid4().hex}")  # two processes may write the same file
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def copy_file(url: str, other: str) -> None:
    """Let the content of `url` lie at `other`, too, in one bucket, which copies it by itself.

    Raises:
        TreeError: it cannot be copied.
    """
    filesystem, path = open_filesystem(url)
    with _reaching(url):
        _ask(filesystem, "cp_file", path, open_filesystem(other)[1])


def file_size(url: str | Path, *, storage_options: Options | None = None) -> int | None:
    """Bytes of a file; None if it is not there.

    Raises:
        TreeError: it cannot be asked.
    """
    filesystem, path = open_filesystem(url, storage_options)
    with _reaching(url):
        found = _info(filesystem, path)
    return None if found is None or found["type"] == "directory" else int(found["size"])


def remove_folder(url: str | Path) -> None:
    """Remove a folder with all that lies in it; nothing happens where none is.

    Raises:
        TreeError: it cannot be removed.
    """
    filesystem, path = open_filesystem(url)
    with _reaching(url), suppress(FileNotFoundError):
        if _info(filesystem, path) is not None:
            _ask(filesystem, "rm", path, recursive=True)


def _ask(filesystem: Any, name: str, path: str, *more: Any, **options: Any) -> Any:
    """Answer of the filesystem's method `name`, asked again while the transport fails."""
    method = getattr(filesystem, f"_{name}" if filesystem.async_impl else name)
    return with_retries(filesystem, path, lambda: method(path, *more, **options))


@contextmanager
def _fetching(url: str | Path) -> Iterator[None]:
    """Turn what goes wrong with one file while its bytes are fetched into a `ScanError`."""
    where = redact(url)
    try:
        yield
    except StoreError:
        raise
    except TreeError as error:
        raise ScanError(where, "fetch", str(error).removeprefix(f"{where}: ")) from error
    except Exception as error:  # each kind of bucket has errors of its own, and not all are OSError
        raise ScanError(where, "fetch", _reason(error)) from error


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    status = status_of(error)
    if isinstance(error, PermissionError) or status in (401, 403):
        return "no permission to read it"
    if str(error).startswith("Forbidden"):  # gcsfs
        return "no permission to read it"
    if isinstance(error, IsADirectoryError):
        return "not a file"
    if isinstance(error, NotADirectoryError):
        return "not a folder"
    if isinstance(error, TooLarge):
        return str(error)
    if isinstance(error, OSError) and error.errno and status is None:
        return f"cannot be read ({errno.errorcode.get(error.errno, error.errno)})"
    seen = type(error).__name__ if status is None else f"HTTP status {status}"
    return f"cannot be read ({seen})"


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


def exists(url: str | Path, *, storage_options: Options | None = None) -> bool:
    """Whether a file or folder lies at `url`.

    Raises:
        TreeError: it cannot be asked.
    """
    filesystem, path = open_filesystem(url, storage_options)
    with _reaching(url):
        return _info(filesystem, path) is not None


def is_folder(url: str | Path, *, storage_options: Options | None = None) -> bool:
    """Whether a folder lies at `url`.

    Raises:
        TreeError: it cannot be asked.
    """
    filesystem, path = open_filesystem(url, storage_options)
    with _reaching(url):
        found = _info(filesystem, path)
        return found is not None and found["type"] == "directory"


def _info(filesystem: Any, path: str) -> Mapping[str, Any] | None:
    """What lies at `path`; None for nothing.

    Not `exists` and `isdir`: those of buckets answer "no" to some requests that merely failed.
    """
    try:
        return dict(_ask(filesystem, "info", path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError:
        if not is_bucket(filesystem) or "/" in path.strip("/"):
            raise
        return {"type": "directory"}  # its files may be open where the bucket itself is not
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return None  # a name that no file can have


def list_folder(url: str | Path, *, storage_options: Options | None = None) -> list[str]:
    """Sorted names of the files in the folder `url`; those of its subfolders are left out.

    Raises:
        TreeError: it cannot be reached.
    """
    filesystem, path = open_filesystem(url, storage_options)
    with _reaching(url):
        return sorted(_files_in(filesystem, path))


def list_subfolders(url: str | Path) -> list[str]:
    """Sorted names of the folders in the folder `url`; none where nothing lies.

    Raises:
        TreeError: it cannot be reached.
    """
    filesystem, path = open_filesystem(url)
    found = []
    with _reaching(url), suppress(FileNotFoundError):
        found = _ask(filesystem, "ls", path, detail=True)
    names = [str(one["name"]).rstrip("/") for one in found if one["type"] == "directory"]
    return sorted(name.rpartition("/")[2] for name in names)


def _files_in(filesystem: Any, path: str) -> dict[str, str]:
    """What changes when a file in a folder does, by name."""
    if "file" in schemes_of(filesystem):
        return {name: _change_token(info) for name, info in files_in(filesystem, path).items()}
    found = _ask(filesystem, "ls", path, detail=True)
    files = [one for one in found if one["type"] == "file"]
    return {str(one["name"]).rpartition("/")[2]: _change_token(one) for one in files}


@contextmanager
def _reaching(url: str | Path) -> Iterator[None]:
    """Turn what a bucket raises, such as missing credentials, into one line."""
    try:
        yield
    except TreeError:
        raise
    except Exception as error:  # each kind of bucket has errors of its own, and not all are OSError
        raise TreeError(f"{redact(url)}: cannot be used: {_reason(error)}") from error


def change_tokens(root: str | Path, relatives: Sequence[str]) -> dict[str, str]:
    """What changes when a file below `root` does, by relative path; "absent" for missing files.

    Size and modification time or entity tag; of a folder ("" for the root itself), a hash over
    those of the files in it. In a bucket, one listing serves all files.
    """
    filesystem, base = open_filesystem(root)
    base = base.rstrip("/")
    if "file" in schemes_of(filesystem):
        paths = {one: _below(base, one) for one in relatives}
        return {one: _state_on_disk(filesystem, path) for one, path in paths.items()}
    with _reaching(root):
        listed = _ask(filesystem, "find", base, detail=True)
    folders: dict[str, dict[str, str]] = {}
    for path, info in listed.items():
        folder, _, name = str(path).rpartition("/")
        folders.setdefault(folder, {})[name] = _change_token(info)
    tokens = {}
    for relative in dict.fromkeys(relatives):
        path = _below(base, relative)
        if path in folders:
            tokens[relative] = folder_token(folders[path])
        else:
            tokens[relative] = _change_token(listed[path]) if path in listed else "absent"
    return tokens


def _below(base: str, relative: str) -> str:
    return f"{base}/{relative}" if relative else base


def _state_on_disk(filesystem: Any, path: str) -> str:
    """What changes with the file or folder at `path`; "absent" if it cannot be asked."""
    with suppress(OSError):
        info = filesystem.info(path)
        if info["type"] != "directory":
            return _change_token(info)
        return folder_token(_files_in(filesystem, path))
    return "absent"


def folder_token(files: Mapping[str, str]) -> str:
    """One token for a folder of what changes when a file in it does, by name.

    Its first part is their size, as in that of a file. Hidden files do not count: a cache that lies
    there keeps its own in them.
    """
    seen = {name: token for name, token in files.items() if not is_hidden(name)}
    named = sorted(f"{name}:{token}" for name, token in seen.items())
    size = sum(int(size) for token in seen.values() if (size := token.split(":")[0]).isdigit())
    return f"{size}:{hashlib.sha256(json.dumps(named).encode()).hexdigest()[:16]}"


def _change_token(info: Mapping[str, Any]) -> str:
    names = ("ETag", "etag", "mtime", "LastModified", "updated")
    changed = next((info[name] for name in names if info.get(name)), "")
    return f"{info.get('size')}:{changed}"


def list_tokens(root: str | Path) -> dict[str, str]:
    """What changes when a file does, by relative path, of all files below `root`; one listing.

    The tokens are those of `change_tokens`; sorted by path. What a listing of a disk does not
    enter, such as links out of the root, is counted in one line of the log.

    Raises:
        TreeError: it cannot be reached.
    """
    filesystem, base = open_filesystem(root)
    base = base.rstrip("/")
    with _reaching(root):
        if "file" in schemes_of(filesystem):
            found, cut = list_disk(filesystem, base or "/"), 0
        else:
            found, cut = _ask(filesystem, "find", base, detail=True), len(base)
    return {path[cut:].lstrip("/"): _change_token(found[path]) for path in sorted(found)}
