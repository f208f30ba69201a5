"""Reading a cache: resampled volumes by number, each one read of a file of raw voxels."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from operator import index as to_int
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oct_io.cache.index import CacheEntry, CacheIndex, fingerprint, read_index, shard_name
from oct_io.errors import ScanError, TreeError
from oct_io.quarantine import QUARANTINE, Refusal, read_quarantine
from oct_io.space.resample import Window
from oct_io.volume import Spacing

OPEN_FILES = 64  # of one process; a cache of a hundred thousand scans has thousands of shards

FIRST_STEP = 16 << 10


def open_cache(path: str | Path) -> "CachedVolumes":
    """Open the cache that `build_cache` wrote to the folder `path`; no voxel is read yet.

    Raises:
        TreeError: no cache there, or a shard that is missing or not as long as the index says.
    """
    folder = Path(path)
    index = read_index(folder)
    for number, records in enumerate(index.shards):
        shard = folder / shard_name(number)
        size = shard.stat().st_size if shard.exists() else -1
        if size != records * index.record_bytes:
            seen = "is missing" if size < 0 else f"has {size:,} bytes"
            raise TreeError(
                f"{shard}: {seen}, the index says {records * index.record_bytes:,}; "
                "delete the cache folder and build it again"
            )
    return CachedVolumes(folder, index)


class _ShardFile:
    """An open shard; closed when nobody reads from it any more."""

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.handle = path, -1
        try:
            self.handle = os.open(path, os.O_RDONLY)
            found = os.fstat(self.handle).st_size
        except OSError as error:
            reason = f"the shard cannot be opened ({type(error).__name__}); build the cache again"
            raise ScanError(str(path), "fetch", reason) from error
        if found != size:
            raise self._too_short()

    def read_into(self, volume: NDArray[np.uint8], start: int) -> None:
        """Fill `volume` with the bytes from `start` on.

        Each step is twice as long as the one before. Linux takes that for reading on: it fetches
        ahead and fills its cache in large pages, which are copied twice as fast the next time. One
        call for all of a volume looks like a jump to it, and it does neither.
        """
        wanted = volume.data.cast("B")
        done, step = 0, FIRST_STEP
        while done < len(wanted):
            got = os.preadv(self.handle, [wanted[done : done + step]], start + done)
            if got == 0:
                raise self._too_short()
            done += got
            step *= 2

    def _too_short(self) -> ScanError:
        return ScanError(str(self.path), "fetch", "the shard is missing or too short; build again")

    def __del__(self) -> None:
        if self.handle >= 0:
            os.close(self.handle)


class CachedVolumes:
    """Volumes of a cache, all of one shape; `volumes[i]` is a fresh uint8 array (Z, Y, X).

    Reads say where they start, so that forked processes and threads may share open files; pickled,
    it holds none. It can be sent to workers started in any way.

    Attributes:
        folder: where the cache lies.
        index: entries and statistics; `entries[i]` describes `volumes[i]`.
    """

    def __init__(self, folder: Path, index: CacheIndex) -> None:
        self.folder, self.index = folder, index
        self._files: dict[int, _ShardFile] = {}

    def __len__(self) -> int:
        return len(self.index.entries)

    def __getitem__(self, number: int) -> NDArray[np.uint8]:
        entry = self.index.entries[to_int(number)]
        volume = np.empty(self.shape, dtype=np.uint8)
        self._file(entry.shard).read_into(volume, entry.slot * volume.nbytes)
        return volume

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (self[number] for number in range(len(self)))

    def _file(self, number: int) -> "_ShardFile":
        file = self._files.get(number)
        if file is None:
            size = self.index.shards[number] * self.index.record_bytes
            file = _ShardFile(self.folder / shard_name(number), size)
            with suppress(KeyError, StopIteration, RuntimeError):  # another thread was faster
                while len(self._files) >= OPEN_FILES:
                    self._files.pop(next(iter(self._files)))
            self._files[number] = file
        return file

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "index": self.index, "_files": {}}

    @property
    def entries(self) -> tuple[CacheEntry, ...]:
        """What each volume is."""
        return self.index.entries

    @property
    def ids(self) -> tuple[str, ...]:
        """Hashed path of the scan of each volume."""
        return tuple(entry.key for entry in self.entries)

    @property
    def window(self) -> Window:
        """What was cut out of each scan."""
        return self.index.window

    @property
    def shape(self) -> tuple[int, int, int]:
        """(Z, Y, X) of every volume."""
        return self.index.window.shape

    @property
    def spacing(self) -> Spacing:
        """Millimetres between voxel centres of every volume.

        Raises:
            ValueError: the window takes the whole field of each scan; see `spacings`.
        """
        return self.index.window.spacing

    @property
    def spacings(self) -> NDArray[np.float64]:
        """Millimetres between voxel centres of each volume, (N, 3) along (bscan, row, column)."""
        return np.array([entry.spacing for entry in self.entries], np.float64).reshape(-1, 3)

    @property
    def mean(self) -> float:
        """Mean of all voxels of the cache, 0 to 255; not of a selection."""
        return self.index.mean

    @property
    def std(self) -> float:
        """Standard deviation of all voxels of the cache; not of a selection."""
        return self.index.std

    @property
    def fingerprint(self) -> str:
        """Hash of window and records; equal for equal volumes, whatever their order."""
        return self.index.fingerprint

    @property
    def quarantined(self) -> tuple[Refusal, ...]:
        """Scans that were left out when the cache was built."""
        path = self.folder / QUARANTINE
        return read_quarantine(path) if path.exists() else ()

    def select(self, which: Callable[[CacheEntry], bool] | Iterable[int]) -> "CachedVolumes":
        """Volumes for which `which(entry)` is true, or those with the given numbers, in that order.

        Statistics stay those of the whole cache, so that a selection is normalised alike.
        """
        if callable(which):
            chosen = tuple(entry for entry in self.entries if which(entry))
        else:
            chosen = tuple(self.entries[to_int(number)] for number in which)
        name = fingerprint(self.window, (entry.sha256 for entry in chosen))
        return CachedVolumes(self.folder, replace(self.index, entries=chosen, fingerprint=name))

    def verify(self) -> None:
        """Read every volume and compare it with its hash.

        Raises:
            ScanError: stage `content`, for the first record that has changed.
        """
        for number, entry in enumerate(self.entries):
            if hashlib.sha256(self[number].tobytes()).hexdigest() != entry.sha256:
                path = str(self.folder / shard_name(entry.shard))
                reason = f"record {entry.slot} is not what was written; build the cache again"
                raise ScanError(path, "content", reason)
