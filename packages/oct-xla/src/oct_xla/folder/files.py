"""Small files that are replaced as a whole or not at all, and folders that one process writes."""

import fcntl
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from oct_xla.errors import OctXlaError, RunFolderError

# A `Path` of "s3://bucket" reads "s3:/bucket"; one letter is a drive of another system.
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def write_atomically(path: Path, text: str | bytes, *, by_several: bool = False) -> None:
    """Replace a small file so that a reader, or a crash, sees the old text or the new one.

    Args:
        path: the file.
        text: its new content.
        by_several: processes may write it at once; one that is killed leaves its draft.

    Raises:
        OSError: if it cannot be written; the old file stays and nothing lies beside it.
    """
    own = f".{os.getpid()}" if by_several else ""
    temporary = path.with_name(f".{path.name}{own}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(text if isinstance(text, bytes) else text.encode())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def fsync_folder(folder: Path) -> None:
    """Flush a folder's list of names to disk, which makes a rename last."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path, error_type: type[OctXlaError]) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        OctXlaError: of the given type, if the file is missing or holds no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise error_type(f"{path}: not a readable JSON file: {error}") from error
    if not isinstance(content, dict):
        raise error_type(f"{path}: holds {type(content).__name__}, not a JSON object")
    return content


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_local(path: Path) -> Path:
    """Return `path`, a folder of this machine's file system.

    Raises:
        RunFolderError: if it is a URL, which would become a local folder called `s3:`.
    """
    if _SCHEME.match(str(path)):
        raise RunFolderError(
            f"{path}: a path cannot name a bucket; give its URL as text, with two slashes"
        )
    return path


def lock_folder(folder: Path, name: str) -> int:
    """Make a folder and lock its file `name`; closing the descriptor unlocks it.

    The kernel unlocks it at the end of the process, also at kill -9; workers do not inherit it.

    Raises:
        RunFolderError: if the folder cannot be written, or another process or call holds the lock.
    """
    try:
        check_local(folder).mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise RunFolderError(
            f"{folder}: cannot be made or written: {error.strerror}; set run_dir to another folder"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise RunFolderError(
            f"{folder}: another process is writing this run; wait for it, stop it, or set run_dir"
        ) from error
    except OSError as error:
        os.close(lock)
        raise RunFolderError(
            f"{folder}: cannot be locked: {error.strerror}; set run_dir to a file system with locks"
        ) from error
    return lock
