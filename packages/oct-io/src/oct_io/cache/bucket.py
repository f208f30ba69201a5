"""A cache that lies in a bucket: its index on this machine, its volumes fetched one by one.

A volume is a range of a shard, so a sample costs its own bytes, whatever the order of samples, and
a host fetches those samples alone that are its own. What is fetched is compared with its SHA-256
and kept where a bound allows (`oct_io.storage.kept_records`).
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oct_io.cache.entries import Record
from oct_io.cache.index import INDEX, CacheIndex, annotation_name, read_index, shard_name
from oct_io.cache.table import ENTRIES, file_hash
from oct_io.errors import ScanError, TreeError
from oct_io.quarantine import QUARANTINE
from oct_io.saving import appearing
from oct_io.storage.buckets import StorageConfig, current_storage, start_worker
from oct_io.storage.files import join, read_if_there, read_range, redact
from oct_io.storage.kept_records import PLACE_BYTES, KeptFolder, KeptRecords
from oct_io.storage.readers import Readers

AT_ONCE = 64 << 20  # bytes of the table of entries that are fetched by one request
TRIES = 2  # for a record whose bytes are not what was written; a second network path may be sound


def open_in_bucket(
    url: str, kept: str | Path, kept_gb: float
) -> "tuple[Path, CacheIndex, BucketShards]":
    """Fetch the index of the cache at `url`, and take up what is kept of its volumes.

    Gives the folder of the index, the index, and what fetches volumes.

    Args:
        url: fsspec URL of a published cache.
        kept: local folder, for this cache alone.
        kept_gb: size that it stays below, in 10^9 bytes, the index included.

    Raises:
        TreeError: no cache there, or no room for its index.
        StoreError: the store is out of reach.
    """
    where, limit = redact(url), int(kept_gb * 1e9)
    content = read_if_there(join(url, INDEX))
    if content is None:
        raise TreeError(f"{where}: no cache here, it lacks {INDEX}; oct-io publish puts one there")
    refused = read_if_there(join(url, QUARANTINE)) or b""
    about, records, record_bytes = _measures(content, where)
    left = limit - len(content) - len(refused) - about["bytes"] - PLACE_BYTES * (1 + records)
    slots = min(records, left // record_bytes)
    if left < 0:
        need = (limit - left) / 1e9
        raise TreeError(f"{where}: its index alone takes {need:.2g} GB, data.kept_gb is {kept_gb}")
    held = KeptFolder(kept, f"{hashlib.sha256(content).hexdigest()[:16]}-{slots}")
    with held.alone():
        with appearing(held.path / QUARANTINE) as part:
            part.write_bytes(refused)
        index = _fetch_rest(url, content, held.path)
    _check_room(held.path, slots * record_bytes, kept_gb)
    volumes = KeptRecords(held.path, record_bytes=record_bytes, slots=slots)
    return held.path, index, BucketShards(url, volumes, held)


def fetch_index(url: str, folder: Path) -> CacheIndex | None:
    """Index of the cache at `url`, with what belongs to it in `folder`; None if there is none.

    Raises:
        TreeError: what lies there is not what was written.
    """
    content = read_if_there(join(url, INDEX))
    return None if content is None else _fetch_rest(url, content, folder)


def _fetch_rest(url: str, content: bytes, folder: Path) -> CacheIndex:
    """Write `content`, the text of an index, beside the table that belongs to it."""
    about, _, _ = _measures(content, redact(url))
    _fetch_table(join(url, ENTRIES), folder / ENTRIES, about["bytes"], about["sha256"])
    with appearing(folder / INDEX) as part:
        part.write_bytes(content)
    return read_index(folder)


def _measures(content: bytes, where: str) -> tuple[dict[str, Any], int, int]:
    """What an index says of its table, how many records there are, and bytes of each."""
    try:
        tree = json.loads(content)
        about, shape = tree["entries"], tree["window"]["shape"]
        return {**about}, int(about["count"]), int(np.prod(shape))
    except (ValueError, KeyError, TypeError) as error:
        raise TreeError(f"{where}: {INDEX} is damaged or too old; publish it again") from error


def _fetch_table(url: str, path: Path, size: int, sha256: str) -> None:
    """Have the table of entries at `path`, fetched unless it lies there.

    Raises:
        TreeError: what lies in the bucket is not what its index says.
    """
    if path.exists() and path.stat().st_size == size and file_hash(path) == sha256:
        return
    with appearing(path) as part:
        with part.open("wb") as file:
            for start in range(0, size, AT_ONCE):
                file.write(read_range(url, start, min(start + AT_ONCE, size)))
        if file_hash(part) != sha256:
            raise TreeError(f"{redact(url)}: not what was written there; publish the cache again")


def _check_room(folder: Path, wanted: int, kept_gb: float) -> None:
    used = sum(one.stat().st_blocks * 512 for one in folder.iterdir())
    free = shutil.disk_usage(folder).free
    if wanted > free + used:
        raise TreeError(
            f"{folder}: up to {wanted:,} bytes of volumes are to be kept (data.kept_gb={kept_gb}), "
            f"the disk has {free:,} free"
        )


class BucketShards:
    """Volumes and annotations of a cache in a bucket, each fetched when it is asked for.

    It can be sent to other processes, which then reach the bucket as this one does.

    Args:
        url: of the cache.
        volumes: where they are kept.
        held: what keeps others out of that place; not sent.
    """

    def __init__(self, url: str, volumes: KeptRecords, held: KeptFolder | None = None) -> None:
        self.url, self._volumes, self._held = url, volumes, held
        self._ahead: dict[int, Future[NDArray[np.uint8]]] = {}
        self._pool: tuple[int, Readers] | None = None

    def volume(self, record: Record) -> NDArray[np.uint8]:
        """The bytes of a record, as an array that nobody else has.

        Raises:
            ScanError: they are not there, or not what was written.
            StoreError: the store is out of reach.
        """
        coming = self._ahead.pop(record.number, None)
        return self._read(record) if coming is None else coming.result()

    def ahead(self, records: Iterable[Record]) -> None:
        """Begin to fetch records that will be asked for next, all at once; forget all others."""
        wanted = {record.number: record for record in records}
        before, self._ahead = self._ahead, {}
        for number, coming in before.items():
            if number in wanted:
                self._ahead[number] = coming
            else:
                coming.cancel()
        for number, record in wanted.items():
            if number not in self._ahead:
                self._ahead[number] = self._threads().submit(self._read, record)

    def annotations(self, shard: int, start: int, size: int, sha256: str) -> bytes:
        """Annotations of one record; they are not kept.

        Raises:
            ScanError: they are not there, or not what was written.
        """
        url = join(self.url, annotation_name(shard))
        return self._fetch(url, start, size, bytes.fromhex(sha256))

    def _read(self, record: Record) -> NDArray[np.uint8]:
        size, slot = self._volumes.record_bytes, record.slot
        volume = np.empty(size, np.uint8)
        if not self._volumes.read_into(volume.data, record.number, record.sha256):
            url = join(self.url, shard_name(record.shard))
            volume[:] = np.frombuffer(self._fetch(url, slot * size, size, record.sha256), np.uint8)
            self._volumes.keep(record.number, volume.data)
        return volume

    def _fetch(self, url: str, start: int, size: int, sha256: bytes) -> bytes:
        for _ in range(TRIES):
            content = read_range(url, start, start + size)
            if len(content) == size and hashlib.sha256(content).digest() == sha256:
                return content
        reason = f"bytes {start:,} to {start + size:,} are not what was written; publish it again"
        raise ScanError(redact(url), "content", reason)

    def _threads(self) -> Readers:
        """Threads of this process; a forked one does not get those of its parent."""
        if self._pool is None or self._pool[0] != os.getpid():
            pool = Readers(current_storage().connections, "oct-io-ahead")
            self._pool = os.getpid(), pool
        return self._pool[1]

    def __reduce__(self) -> tuple[object, ...]:
        return _reached_likewise, (self.url, self._volumes, current_storage())


def _reached_likewise(url: str, volumes: KeptRecords, storage: StorageConfig) -> BucketShards:
    """The shards in another process, which reaches their bucket as the first one does."""
    if current_storage() == StorageConfig():
        start_worker(storage)
    return BucketShards(url, volumes)
