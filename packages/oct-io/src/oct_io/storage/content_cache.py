"""Fetched files kept on a local disk: whole or absent, verified, bounded, shared by processes.

Why not fsspec's simplecache, filecache or blockcache: where four processes wanted the same eight
files, they fetched 16, 9 and 10 (ours 8), the first gave two of the processes a wrong file; all
three gave eight wrong files of eight after a byte of each was flipped, and knew no limit of size
(benchmarks/kept_files.py).
"""

import errno
import fcntl
import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from oct_io.errors import TreeError

MARK = "oct-io-content-cache"
ENTRIES, WRITING, LOCKS, USED = "entries", "writing", "locks", "used_bytes"
MAX_LABEL = 4096  # bytes of an entry's first line


class ContentCache:
    """A folder of fetched files that any number of processes read and fill at the same time.

    Each file lies under a hash of its address, so that no name tells whose scan it is. Its first
    line holds size, SHA-256 and change token; a file that does not fit them is deleted and fetched
    again. A file is written beside its place, brought to disk and renamed. While one process
    fetches a file, the others that want it wait, and then find it. Locks are the system's, which
    frees them however a process ends.

    Attributes:
        folder: where it lies; its owner alone may enter.
        max_bytes: size that the kept files stay below. Files being written come on top.
    """

    def __init__(self, folder: str | Path, max_bytes: int) -> None:
        """Use `folder`, which is made if it is not there.

        Raises:
            TreeError: something else lies there.
        """
        self.folder, self.max_bytes = Path(folder).expanduser(), max_bytes
        mark = self.folder / MARK
        if mark.exists():
            return
        taken = self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir()))
        if taken and not mark.exists():  # another process may just have made it
            raise TreeError(f"{folder}: exists and is not a content cache; give another place")
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder.chmod(0o700)
        mark.touch()

    def read(
        self, address: str, fetch: Callable[[], bytes], token: Callable[[], str] | None = None
    ) -> bytes:
        """Content of `address`: the kept one if it is whole and current, else what `fetch` gives.

        Args:
            address: what stands for the file; only its hash is written down.
            fetch: gets the file; called by one process at a time.
            token: gets what changes when the file does; None to believe that it never does.
        """
        key = hashlib.sha256(b"oct-io-content:" + address.encode()).hexdigest()
        now = token() if token is not None else None
        kept = self._load(key, now)
        if kept is not None:
            return kept
        with self._locked(key):
            kept = self._load(key, now)  # another process may have fetched it meanwhile
            if kept is not None:
                return kept
            content = fetch()
            try:
                self._store(key, content, now or "")
            except OSError as error:
                # Whoever reads has its bytes; a full disk makes the next time slower, not wrong.
                reason = os.strerror(error.errno) if error.errno else type(error).__name__
                warnings.warn(f"content cache: a file was not kept ({reason})", stacklevel=2)
            return content

    def purge(self) -> int:
        """Delete all kept files, and return how many there were."""
        with self._locked("all"):
            files = list(self._entries())
            for path in files:
                path.unlink(missing_ok=True)
            self._sweep()
            (self.folder / USED).unlink(missing_ok=True)
            return len(files)

    def used_bytes(self) -> int:
        """Size of all kept files, counted while no process adds or deletes one."""
        with self._locked("all"):
            return sum(size for _, size, _ in self._listed())

    def _place(self, key: str) -> Path:
        return self.folder / ENTRIES / key[:2] / key

    def _load(self, key: str, token: str | None) -> bytes | None:
        path = self._place(key)
        try:
            with path.open("rb") as file:
                label = json.loads(file.readline(MAX_LABEL))
                content = file.read(int(label["size"]) + 1)
                found = hashlib.sha256(content).hexdigest()
                whole = len(content) == label["size"] and found == label["sha256"]
                known = str(label["token"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, OSError):  # a damaged label, or a bad sector
            whole = False
        if not whole:
            path.unlink(missing_ok=True)
            return None
        if token is not None and known != token:
            return None
        with suppress(FileNotFoundError):  # evicted meanwhile
            os.utime(path)  # the least recently used goes first
        return content

    def _store(self, key: str, content: bytes, token: str) -> None:
        """Write one entry; the caller holds its lock."""
        found = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        label = json.dumps({**found, "token": token}).encode() + b"\n"
        size = len(label) + len(content)
        if size > self.max_bytes or len(label) > MAX_LABEL:
            return
        place, writing = self._place(key), self.folder / WRITING / key
        for path in (place, writing):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            with os.fdopen(
                os.open(writing, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb"
            ) as f:
                f.write(label)
                f.write(content)
                f.flush()
                os.fsync(f.fileno())
            with self._locked("all"):
                self._make_room(size)
                writing.replace(place)
            _sync_folder(place.parent)
        except OSError:
            writing.unlink(missing_ok=True)
            raise

    def _make_room(self, size: int) -> None:
        """Note that `size` bytes come, and delete what was not used for longest if they are many.

        Listing the folder for each file would be slow, so a note says how much lies there. It is
        written before the file comes, so that a process that dies between makes it too high, which
        the next listing mends.
        """
        note = self.folder / USED
        try:
            used = int(note.read_text())
        except (FileNotFoundError, ValueError):
            used = self.max_bytes + 1
        if used + size > self.max_bytes:
            self._sweep()
            listed = sorted(self._listed(), key=lambda one: one[2])
            used = sum(one[1] for one in listed)
            for path, freed, _ in listed:
                if used + size <= self.max_bytes:
                    break
                path.unlink(missing_ok=True)
                used -= freed
        note.write_text(str(used + size))

    def _sweep(self) -> None:
        """Delete what processes that were killed left half written."""
        for path in (self.folder / WRITING).glob("*"):
            with suppress(BlockingIOError), self._locked(path.name, wait=False):
                path.unlink(missing_ok=True)

    def _entries(self) -> Iterator[Path]:
        return (self.folder / ENTRIES).glob("*/*")

    def _listed(self) -> Iterator[tuple[Path, int, int]]:
        """Path, size and time of last use of each entry."""
        for path in self._entries():
            with suppress(FileNotFoundError):
                known = path.stat()
                yield path, known.st_size, known.st_mtime_ns

    @contextmanager
    def _locked(self, key: str, *, wait: bool = True) -> Iterator[None]:
        """Hold the lock of one key; its file goes when nobody holds it.

        Raises:
            BlockingIOError: it is held and `wait` is false.
        """
        path = self.folder / LOCKS / key
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        while True:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                if _is_at(handle, path):
                    break
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)  # its last holder deleted the file between our two calls
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            os.close(handle)


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:  # some file systems over a network cannot
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(handle)
