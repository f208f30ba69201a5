"""Records of one size kept on a local disk, as many as a bound allows; shared by processes.

Training asks for every record once an epoch, in an order that is new each time. Of records that are
ten times too many, one that evicts what was not used for longest would find 1 in 200, and would
write all of them to disk in every epoch; here one in ten is found, and what is written is written
once (`benchmarks/bucket_shards.py` measures both). So who comes first stays.
"""

import fcntl
import hashlib
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from oct_io.errors import TreeError

MARK = "oct-io-kept"
VOLUMES, OWNERS, USERS = "volumes", "owners", "users"
OWNER_BYTES = 8
FIRST_STEP = 16 << 10

logger = logging.getLogger("oct_io.storage")


def fill(handle: int, wanted: memoryview, start: int) -> bool:
    """Fill `wanted` with the bytes of an open file from `start` on; false if it ends before.

    Each step is twice as long as the one before. Linux takes that for reading on: it fetches ahead
    and fills its cache in large pages, which are copied twice as fast the next time. One call for
    all of a record looks like a jump to it, and it does neither.
    """
    done, step = 0, FIRST_STEP
    while done < len(wanted):
        got = os.preadv(handle, [wanted[done : done + step]], start + done)
        if got == 0:
            return False
        done += got
        step *= 2
    return True


class KeptRecords:
    """Some of many records of equal size, in one file of `slots` places.

    Record n may lie in place n modulo `slots` alone, and the first of those that may is kept. So
    the file cannot grow beyond its bound whoever writes, and nobody waits for a lock: of the
    threads of a process one claims a place. A record counts if its SHA-256 is right: what a killed
    process left half written, or two processes wrote at once, is fetched again.
    """

    def __init__(self, folder: Path, *, record_bytes: int, slots: int) -> None:
        self.folder, self.record_bytes, self.slots = folder, record_bytes, slots
        self._full = False
        self._claimed: dict[int, int] = {}
        self._volumes = _open(folder / VOLUMES, slots * record_bytes)
        self._owners = _open(folder / OWNERS, slots * OWNER_BYTES)

    def read_into(self, wanted: memoryview, number: int, sha256: bytes) -> bool:
        """Fill `wanted` with a record; false if it is not kept, or no longer what it was."""
        if not self.slots or self._owner(number) != number:
            return False
        whole = fill(self._volumes, wanted, number % self.slots * self.record_bytes)
        return whole and hashlib.sha256(wanted).digest() == sha256

    def keep(self, number: int, content: memoryview) -> None:
        """Write a record to its place, unless another lies there."""
        if not self.slots or self._full:
            return
        slot, owner = number % self.slots, self._owner(number)
        if owner is None:
            owner = self._claimed.setdefault(slot, number)  # one step, whatever threads there are
        if owner != number:
            return
        try:
            done = 0
            while done < len(content):
                done += os.pwrite(self._volumes, content[done:], slot * self.record_bytes + done)
            os.pwrite(self._owners, (number + 1).to_bytes(OWNER_BYTES), slot * OWNER_BYTES)
        except OSError as error:
            # Whoever reads has its bytes; a full disk makes the next time slower, not wrong.
            self._full = True
            reason = os.strerror(error.errno) if error.errno else type(error).__name__
            logger.warning("%s: no more volumes are kept (%s)", self.folder, reason)

    def _owner(self, number: int) -> int | None:
        """Which record lies in the place of record `number`; None if it is free."""
        start = number % self.slots * OWNER_BYTES
        written = int.from_bytes(os.pread(self._owners, OWNER_BYTES, start))
        return written - 1 if written else None

    def __reduce__(self) -> tuple[object, ...]:
        return _reopen, (self.folder, self.record_bytes, self.slots)

    def __del__(self) -> None:
        for name in ("_volumes", "_owners"):
            with suppress(AttributeError, OSError):
                os.close(getattr(self, name))


def _reopen(folder: Path, record_bytes: int, slots: int) -> KeptRecords:
    return KeptRecords(folder, record_bytes=record_bytes, slots=slots)


def _open(path: Path, size: int) -> int:
    """Open a file that is `size` bytes long, or will be; what was not written takes no room."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    if os.fstat(handle).st_size < size:
        os.ftruncate(handle, size)
    return handle


class KeptFolder:
    """A folder for what belongs to one name, below one that holds nothing of any other.

    Attributes:
        path: where it lies; its owner alone may enter.
    """

    def __init__(self, folder: str | Path, name: str) -> None:
        """Claim `folder` for `name`, and remove what is left there of others.

        Raises:
            TreeError: something else lies there, or another name is in use.
        """
        top = Path(folder).expanduser()
        if not (top / MARK).exists():
            taken = top.exists() and (not top.is_dir() or any(top.iterdir()))
            if taken and not (top / MARK).exists():  # another process may just have made it
                raise TreeError(f"{folder}: exists and keeps no volumes; give another place")
            top.mkdir(parents=True, exist_ok=True, mode=0o700)
            (top / MARK).touch()
        self._top, self.path = top, top / name
        with self.alone():
            self.path.mkdir(exist_ok=True, mode=0o700)
            self._users = os.open(self.path / USERS, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._users, fcntl.LOCK_SH)  # the system frees it however we end
            for other in top.iterdir():
                if other.is_dir() and other.name != name:
                    _remove_unused(other, folder)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the lock of the folder, for which other processes wait."""
        with (self._top / MARK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def __del__(self) -> None:
        with suppress(AttributeError, OSError):
            os.close(self._users)


def _remove_unused(other: Path, folder: str | Path) -> None:
    """Remove what another name left.

    Raises:
        TreeError: somebody uses it.
    """
    handle = os.open(other / USERS, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(other)
    except BlockingIOError:
        raise TreeError(
            f"{folder}: keeps volumes of another cache, or by another bound, for a run that goes "
            "on; give this one a place of its own"
        ) from None
    finally:
        os.close(handle)
