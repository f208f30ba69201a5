"""Building a cache: decode each scan once, resample it, and write raw voxels that training maps.

A cache is a folder of `shard-00000.u8` files (records of Z x Y x X bytes), `quarantine.jsonl` and
`index.json`. It appears whole under its name or not at all.
"""

import fcntl
import hashlib
import json
import math
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from oct_io.decoding import NO_GUARD, Decoded, Outcome, decode_in_order
from oct_io.errors import TreeError
from oct_io.index import (
    INDEX,
    VERSION,
    CacheEntry,
    CacheIndex,
    fingerprint,
    read_index,
    shard_name,
    write_index,
)
from oct_io.manifest import ScanRecord
from oct_io.quarantine import QUARANTINE, Refusal, check_share, refuse, write_quarantine
from oct_io.resample import Window
from oct_io.storage import change_tokens

SHARD_BYTES = 64 << 20


class Progress(Protocol):
    """Called after each scan, in order."""

    def __call__(self, done: int, total: int, bad: int, /) -> None:
        """Take the number of scans done so far, of all, and of those refused."""


def build_cache(
    records: Sequence[ScanRecord],
    root: str | Path,
    window: Window,
    out: str | Path,
    *,
    jobs: int = 1,
    progress: Progress | None = None,
    max_bad_fraction: float = 0.5,
    shard_bytes: int = SHARD_BYTES,
) -> CacheIndex:
    """Resample every scan of `records` into the cache folder `out`, and return its index.

    Returns at once what lies in `out` if that was built from the same scans (path, size, time of
    change), records and window. Otherwise builds beside `out` and renames when all is on disk; a
    killed build leaves `out` as it was. Two builds of one cache wait for each other. The result
    does not depend on `jobs`.

    Args:
        records: as from `read_manifest(root)`, or some of them.
        root: what the records' paths are relative to.
        window: what to cut out, and how finely to sample it.
        out: local folder; created, or replaced if it holds a cache of something else.
        jobs: processes that decode; 0 for one a CPU.
        progress: called after each scan.
        max_bad_fraction: share of refused scans above which the data set itself is at fault.
        shard_bytes: about the size of one shard file.

    Raises:
        TreeError: nothing to cache, too many bad scans, no room, or `out` is something else.
    """
    folder = Path(out)
    if not records:
        raise TreeError(f"{folder}: no scans to cache")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        inputs = _hash_inputs(records, root, window)
        old = _standing(folder)
        if old is not None and old.inputs == inputs:
            return old
        _check_room(folder, len(records), window)
        building = folder.with_name(f".{folder.name}.building")
        shutil.rmtree(building, ignore_errors=True)  # left by a build that was killed
        building.mkdir(mode=0o700)
        try:
            with closing(_Build(building, window, shard_bytes)) as build:
                outcomes = decode_in_order(records, root, window, jobs=jobs)
                for done, (record, outcome) in enumerate(zip(records, outcomes, strict=True), 1):
                    build.add(record, outcome)
                    if progress is not None:
                        progress(done, len(records), len(build.refusals))
                    check_share(build.refusals, len(records), max_bad_fraction)
                index = build.finish(inputs)
            _put_in_place(building, folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)
        return index


def _standing(folder: Path) -> CacheIndex | None:
    """Index of the whole cache that lies in `folder`; None if there is nothing worth keeping.

    Raises:
        TreeError: something lies there that is no cache.
    """
    if not (folder / INDEX).exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise TreeError(f"{folder}: exists and is not a cache; give another place for it")
        return None
    try:
        old = read_index(folder)
    except TreeError:
        return None  # damaged, or of another version: what a build is for
    return old if _is_whole(folder, old) else None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder`; the system frees it however the process ends.

    Raises:
        RuntimeError: the lock is held by the process that started this one as its worker. A script
            that builds a cache outside of `if __name__ == "__main__":` runs again in each worker.
    """
    with (folder.parent / f".{folder.name}.lock").open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            if "__mp_main__" in sys.modules and file.read() == str(os.getppid()).encode():
                raise RuntimeError(NO_GUARD) from None
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(str(os.getpid()).encode())
        file.flush()
        yield


def _hash_inputs(records: Sequence[ScanRecord], root: str | Path, window: Window) -> str:
    tokens = change_tokens(root, [record.path for record in records if not record.refused])
    listed = [[asdict(record), tokens.get(record.path, "")] for record in records]
    content = json.dumps([VERSION, asdict(window), sorted(map(json.dumps, listed))])
    return hashlib.sha256(content.encode()).hexdigest()


def _is_whole(folder: Path, index: CacheIndex) -> bool:
    sizes = [(folder / shard_name(number), n) for number, n in enumerate(index.shards)]
    return all(path.exists() and path.stat().st_size == n * index.record_bytes for path, n in sizes)


def _check_room(folder: Path, scans: int, window: Window) -> None:
    wanted = scans * math.prod(window.shape)
    free = shutil.disk_usage(folder.parent).free
    if wanted > free:
        raise TreeError(f"{folder}: the cache takes {wanted:,} bytes, the disk has {free:,} free")


def _put_in_place(building: Path, folder: Path) -> None:
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    building.rename(folder)
    _sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@dataclass(slots=True)
class _Shard:
    file: BinaryIO
    records: int = 0


class _Build:
    """A cache under construction in a folder of its own."""

    def __init__(self, folder: Path, window: Window, shard_bytes: int) -> None:
        self.folder, self.window = folder, window
        self.per_shard = max(1, shard_bytes // math.prod(window.shape))
        self.entries: list[CacheEntry] = []
        self.refusals: list[Refusal] = []
        self.histogram = np.zeros(256, dtype=np.int64)
        self.shards: list[int] = []
        self.open_shard: _Shard | None = None

    def add(self, record: ScanRecord, outcome: Outcome) -> None:
        """Append a decoded scan, or note why it is left out."""
        if isinstance(outcome, Decoded):
            self._append(outcome)
        else:
            self.refusals.append(refuse(record.key, record.path, *outcome))

    def close(self) -> None:
        """Let go of the shard that is open, if a build ends early."""
        if self.open_shard is not None:
            self.open_shard.file.close()

    def _append(self, decoded: Decoded) -> None:
        shard = self.open_shard
        if shard is None or shard.records == self.per_shard:
            self._close_shard()
            file = (self.folder / shard_name(len(self.shards))).open("wb")
            shard = self.open_shard = _Shard(file)
        shard.file.write(decoded.voxels)
        place = replace(decoded.entry, shard=len(self.shards), slot=shard.records)
        self.entries.append(place)
        self.histogram += np.bincount(np.frombuffer(decoded.voxels, dtype=np.uint8), minlength=256)
        shard.records += 1

    def _close_shard(self) -> None:
        if self.open_shard is None:
            return
        file = self.open_shard.file
        file.flush()
        os.fsync(file.fileno())
        file.close()
        self.shards.append(self.open_shard.records)
        self.open_shard = None

    def finish(self, inputs: str) -> CacheIndex:
        """Write quarantine and index, the index last, and bring all of it to disk."""
        self._close_shard()
        mean, std, percentiles = _statistics(self.histogram)
        index = CacheIndex(
            window=self.window,
            entries=tuple(self.entries),
            shards=tuple(self.shards),
            mean=mean,
            std=std,
            percentiles=percentiles,
            inputs=inputs,
            fingerprint=fingerprint(self.window, (entry.sha256 for entry in self.entries)),
            refused=len(self.refusals),
        )
        write_quarantine(self.folder / QUARANTINE, self.refusals)
        _sync_folder(self.folder)
        write_index(self.folder / INDEX, index)
        for name in (QUARANTINE, INDEX):
            _sync_folder(self.folder / name)
        _sync_folder(self.folder)
        return index


def _statistics(histogram: NDArray[np.int64]) -> tuple[float, float, tuple[float, float, float]]:
    levels, share = np.arange(256), histogram / max(1, histogram.sum())
    mean = float((share * levels).sum())
    std = float(np.sqrt((share * (levels - mean) ** 2).sum()))
    below = np.cumsum(share)
    low, middle, high = (float(np.searchsorted(below, part)) for part in (0.01, 0.5, 0.99))
    return mean, std, (low, middle, high)
