"""Reading a cache: resampled volumes by number, each one read of a file of raw voxels.

Of a cache in a bucket, `oct_io.cache.bucket` fetches them.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oct_io.boundaries import in_depth
from oct_io.cache.annotations import Layout, all_classes, renumber, split_layers
from oct_io.cache.bucket import BucketShards, open_in_bucket
from oct_io.cache.entries import CacheEntry, Entries
from oct_io.cache.index import (
    INDEX,
    CacheIndex,
    annotation_name,
    find_spoilt_shard,
    fingerprint,
    read_index,
    shard_name,
)
from oct_io.cache.table import ENTRIES, file_hash
from oct_io.errors import ScanError, TreeError
from oct_io.quarantine import QUARANTINE, Refusal, read_quarantine
from oct_io.space.layers import layers_to_mask
from oct_io.space.resample import Window
from oct_io.storage.kept_records import fill
from oct_io.volume import UNLABELLED, Spacing

OPEN_FILES = 64  # of one process; a cache of a hundred thousand scans has thousands of shards
READ_AHEAD = 16  # volumes of a bucket that are on their way while one is looked at
NOTHING = hashlib.sha256(b"").hexdigest()


def open_cache(
    path: str | Path, *, kept: str | Path = "", kept_gb: float = 100.0
) -> "CachedVolumes":
    """Open the cache that `build_cache` wrote to `path`; no voxel is read yet.

    Args:
        path: folder, or URL of a cache in a bucket.
        kept: of a cache in a bucket, the local folder for its index and for as many of its volumes
            as fit; for one cache at a time.
        kept_gb: size that this folder stays below, in 10^9 bytes.

    Raises:
        TreeError: no cache there, or a shard that is missing or not as long as the index says;
            of one in a bucket, no room for its index.
    """
    if "://" in str(path):
        if not kept:
            raise TreeError(
                "data.kept is not set: a cache in a bucket needs a local folder for its index, and "
                "for as many of its volumes as data.kept_gb allows"
            )
        return CachedVolumes(*open_in_bucket(str(path), kept, kept_gb))
    folder = Path(path)
    index = read_index(folder)
    spoilt = find_spoilt_shard(folder, index)
    if spoilt is not None:
        seen = "is missing" if spoilt.size < 0 else f"has {spoilt.size:,} bytes"
        raise TreeError(
            f"{folder / spoilt.name}: {seen}, the index says {spoilt.wanted:,}; "
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
        """Fill `volume` with the bytes from `start` on."""
        if not fill(self.handle, volume.data.cast("B"), start):
            raise self._too_short()

    def _too_short(self) -> ScanError:
        return ScanError(str(self.path), "fetch", "the shard is missing or too short; build again")

    def __del__(self) -> None:
        if self.handle >= 0:
            os.close(self.handle)


class CachedVolumes:
    """Volumes of a cache, all of one shape; `volumes[i]` is a fresh uint8 array (Z, Y, X).

    A cache that is built anew under its name is not read, since its volumes are others: a shard
    that was open stays what it was, and one that is opened later is an error that says so.

    Reads say where they start, so that forked processes and threads may share open files. It can be
    sent to workers started in any way: pickled, it is the folder and the numbers of a selection,
    and the index is mapped there, as it is here.

    Attributes:
        folder: where the cache lies; of one in a bucket, where its index is kept.
        index: entries and statistics; `entries[i]` describes `volumes[i]`.
        shards: what fetches the volumes of a cache in a bucket; None for one on a disk.
    """

    def __init__(self, folder: Path, index: CacheIndex, shards: BucketShards | None = None) -> None:
        self.folder, self.index, self.shards = folder, index, shards
        self._files: dict[str, _ShardFile] = {}
        self._classes: tuple[str, ...] | None = None
        self._seen: tuple[int, ...] = ()  # state of the index that was last found to be ours

    def __len__(self) -> int:
        return len(self.index.entries)

    def __getitem__(self, number: int) -> NDArray[np.uint8]:
        if self.shards is not None:
            return self.shards.volume(self.entries.record(number)).reshape(self.shape)
        shard, slot = self.index.entries.place(number)
        volume = np.empty(self.shape, dtype=np.uint8)
        size = self.index.shards[shard] * self.index.record_bytes
        self._file(shard_name(shard), size).read_into(volume, slot * volume.nbytes)
        return volume

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return self.each(range(len(self)))

    def ahead(self, numbers: Iterable[int]) -> None:
        """Say which volumes will be asked for next: those of a bucket are fetched meanwhile.

        What was said before and not asked for is forgotten.
        """
        if self.shards is not None:
            self.shards.ahead(map(self.entries.record, numbers))

    def each(self, numbers: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        """The volumes with these numbers, one after the other, read ahead from a bucket."""
        for place, number in enumerate(numbers):
            self.ahead(numbers[place : place + READ_AHEAD])
            yield self[number]

    def mask(self, number: int) -> NDArray[np.uint8]:
        """Classes of the voxels of `volumes[number]`, (Z, Y, X), as places in `mask_classes`.

        `UNLABELLED` where the scan does not reach, and everywhere if it has no mask.
        """
        entry = self.entries[number]
        if not entry.mask:
            return np.full(self.shape, UNLABELLED, np.uint8)
        skipped = Layout.of(self.shape).plane * len(entry.layers)
        labels = self._annotations(entry, skipped).reshape(self.shape)
        return renumber(labels, entry.mask, self.mask_classes)

    def layers(self, number: int) -> dict[str, NDArray[np.float32]]:
        """Rows of `volumes[number]` at which its boundaries lie, (Z, X) each; NaN where unknown."""
        entry = self.entries[number]
        if not entry.layers:
            return {}
        length = Layout.of(self.shape).plane * len(entry.layers)
        return split_layers(entry, self._annotations(entry, 0, length), self.shape)

    def layer_mask(self, number: int, names: Sequence[str]) -> NDArray[np.uint8]:
        """Voxels of `volumes[number]` by the boundaries between which they lie, (Z, Y, X).

        See `oct_io.space.layers.layers_to_mask`; `layer_classes(names)` names the labels.
        """
        return layers_to_mask(self.layers(number), self.shape, names)

    def annotation_bytes(self, number: int) -> bytes:
        """What the cache holds of boundaries and mask of a scan, as written; empty without any."""
        entry = self.entries[number]
        return b"" if entry.annotation_at is None else self._annotations(entry).tobytes()

    def _annotations(
        self, entry: CacheEntry, start: int = 0, length: int | None = None
    ) -> NDArray[np.uint8]:
        """Bytes of an entry's annotations, from one on."""
        assert entry.annotation_at is not None  # who has names has bytes
        whole = Layout.of(self.shape).size(entry)
        if self.shards is not None:
            sha256 = entry.annotation_sha256
            found = self.shards.annotations(entry.shard, entry.annotation_at, whole, sha256)
            return np.frombuffer(found, np.uint8)[start:][:length].copy()
        content = np.empty(whole - start if length is None else length, np.uint8)
        size = self.index.annotation_bytes[entry.shard]
        file = self._file(annotation_name(entry.shard), size)
        file.read_into(content, entry.annotation_at + start)
        return content

    def _file(self, name: str, size: int) -> "_ShardFile":
        file = self._files.get(name)
        if file is None:
            try:
                file = _ShardFile(self.folder / name, size)
            finally:  # after it is open: what lay there before belongs to the index that lies there
                self._require_same_cache()
            with suppress(KeyError, StopIteration, RuntimeError):  # another thread was faster
                while len(self._files) >= OPEN_FILES:
                    self._files.pop(next(iter(self._files)))
            self._files[name] = file
        return file

    def _require_same_cache(self) -> None:
        """Make sure that the cache that lies in the folder is still the one that was opened.

        Raises:
            ScanError: another was put in its place, or none is there.
        """
        try:
            found = os.stat(self.folder / INDEX)
            state = (found.st_ino, found.st_mtime_ns, found.st_ctime_ns)
            same = state == self._seen or read_index(self.folder).entries.digest == (
                self.entries.digest
            )
        except (OSError, TreeError):
            same = False
        if not same:
            reason = "the cache was built again or removed since it was opened; open it again"
            raise ScanError(str(self.folder), "fetch", reason)
        self._seen = state

    def __getstate__(self) -> dict[str, Any]:
        entries = self.index.entries
        state = {"folder": self.folder, "numbers": entries.numbers, "digest": entries.digest}
        return state | {"fingerprint": self.fingerprint, "shards": self.shards}

    def __setstate__(self, state: dict[str, Any]) -> None:
        folder, numbers, fingerprint = state["folder"], state["numbers"], state["fingerprint"]
        index = read_index(folder)
        if index.entries.digest != state["digest"]:
            raise TreeError(f"{folder}: built again since it was opened; open it again")
        if numbers is not None:
            entries = index.entries.take(numbers)
            index = replace(index, entries=entries, fingerprint=fingerprint)
        self.folder, self.index, self.shards = folder, index, state["shards"]
        self._files, self._classes, self._seen = {}, None, ()

    @property
    def entries(self) -> Entries:
        """What each volume is."""
        return self.index.entries

    @property
    def ids(self) -> tuple[str, ...]:
        """Hashed path of the scan of each volume."""
        return tuple(self.entries.column("key").to_pylist())

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
        return self.entries.triples("spacing")

    @property
    def mask_classes(self) -> tuple[str, ...]:
        """Names of the labels of `mask`, of all masks of the cache; empty without any.

        Background is 0, then come fluids, then others by name. Of a selection they are the same.
        """
        if self._classes is None:
            self._classes = all_classes(self.entries.annotation_names("mask"))
        return self._classes

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Boundaries that scans of the cache have, from the vitreous outwards."""
        return tuple(
            in_depth(n for names in self.entries.annotation_names("layers") for n in names)
        )

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
            which = [number for number, entry in enumerate(self.entries) if which(entry)]
        chosen = self.entries.take(which)
        name = fingerprint(self.window, chosen.hashes(), self.index.annotations)
        index = replace(self.index, entries=chosen, fingerprint=name)
        return CachedVolumes(self.folder, index, self.shards)

    def verify(self) -> None:
        """Read every volume and compare it with its hash, and the table of entries with its own.

        Raises:
            ScanError: stage `content`, for the table, or the first record that has changed.
        """
        table = self.folder / ENTRIES
        if self.entries.digest and file_hash(table) != self.entries.digest:
            reason = "it is not what was written; build the cache again"
            raise ScanError(str(table), "content", reason)
        for number, entry in enumerate(self.entries):
            self.ahead(range(number, min(number + READ_AHEAD, len(self))))
            for name, content, digest in (
                (shard_name(entry.shard), self[number].tobytes(), entry.sha256),
                (
                    annotation_name(entry.shard),
                    self.annotation_bytes(number),
                    entry.annotation_sha256 or NOTHING,
                ),
            ):
                if hashlib.sha256(content).hexdigest() != digest:
                    reason = f"record {entry.slot} is not what was written; build the cache again"
                    raise ScanError(str(self.folder / name), "content", reason)
