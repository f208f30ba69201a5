"""The records of a cache as a table on disk, mapped into memory and read where it is asked for.

The table is one Arrow IPC file, `entries.arrow`. Opening it reads its last few kilobytes, whatever
the number of records; processes that have it open share its pages.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from operator import index as to_int
from pathlib import Path
from typing import Any, NamedTuple, Self, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from oct_io.scan.flags import FLAGS

ENTRIES = "entries.arrow"
BATCH = 1 << 14  # records that are held until they are written; 25 MB of them

Triple = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheEntry:
    """One resampled scan of a cache; identities are hashed.

    Attributes:
        participant: hashed participant, `hash_participant`.
        key: hashed path of the scan, `ScanRecord.key`.
        device: normalised device name.
        laterality: "R", "L" or "unknown".
        region: anatomic region.
        protocol: normalised protocol token.
        spacing: millimetres between voxel centres of the record.
        spacing_source: where the distance between the scan's B-scans came from.
        origin_mm: from the scan's outer corner to the record's; negative where padded.
        source_shape: (bscans, rows, columns) of the scan.
        source_spacing: millimetres between voxel centres of the scan.
        sha256: of the record's bytes.
        shard: number of the file that holds it.
        slot: position within that file, in records.
        mirrored: columns run from the scan's last to its first.
        source: hash of the scan's record and of the state of its file; "" if not known.
        flags: what is suspicious about the scan, of `oct_io.scan.flags.FLAGS`.
        signal_db: how far its tissue stands out from noise; None in a cache older than flags.
        white: grey level of the scan that became 255; None likewise.
    """

    participant: str
    key: str
    device: str
    laterality: str
    region: str
    protocol: str
    spacing: Triple
    spacing_source: str
    origin_mm: Triple
    source_shape: tuple[int, int, int]
    source_spacing: Triple
    sha256: str
    shard: int
    slot: int
    mirrored: bool = False
    source: str = ""
    flags: tuple[str, ...] = ()
    signal_db: float | None = None
    white: int | None = None

    def placed(self, shard: int, slot: int) -> "CacheEntry":
        """Return the same entry at its place in the cache."""
        return replace(self, shard=shard, slot=slot)

    def from_source(self, source: str) -> "CacheEntry":
        """Return the same entry, not yet placed, of a scan in the given state."""
        return replace(self, source=source, shard=0, slot=0)


NAMES = tuple(one.name for one in fields(CacheEntry))


def entry_from_tree(tree: dict[str, Any]) -> CacheEntry:
    """Turn the JSON form of an entry back into one."""
    values: dict[str, Any] = {
        key: tuple(one) if isinstance(one, list) else one for key, one in tree.items()
    }
    return CacheEntry(**values)


def _schema() -> pa.Schema:
    """Columns by name; `flags` are words with spaces between, `sha256` is bytes."""
    numbers, sizes = pa.list_(pa.float64(), 3), pa.list_(pa.int32(), 3)
    special = {
        **dict.fromkeys(("spacing", "origin_mm", "source_spacing"), numbers),
        "source_shape": sizes,
        "sha256": pa.binary(32),
        "mirrored": pa.bool_(),
        "signal_db": pa.float64(),
        **dict.fromkeys(("shard", "slot", "white"), pa.int32()),
    }
    return pa.schema([(name, special.get(name, pa.string())) for name in NAMES])


def _batch(entries: Sequence[CacheEntry]) -> pa.RecordBatch:
    columns = []
    for field in _schema():
        values = [getattr(entry, field.name) for entry in entries]
        if field.name == "flags":
            values = [" ".join(names) for names in values]
        if field.name == "sha256":
            values = [bytes.fromhex(text) for text in values]
        columns.append(pa.array(values, field.type))
    return pa.record_batch(columns, schema=_schema())


def _entry(row: dict[str, Any]) -> CacheEntry:
    row["flags"], row["sha256"] = row["flags"].split(), row["sha256"].hex()
    return entry_from_tree(row)


class EntryWriter:
    """Writes entries as they come, holding at most `BATCH` of them and those of one call."""

    def __init__(self, path: Path) -> None:
        self._waiting: list[CacheEntry] = []
        self._file = pa.OSFile(str(path), "wb")
        self._table = pa.ipc.new_file(self._file, _schema())

    def add(self, entries: Iterable[CacheEntry]) -> None:
        """Take more entries, each at its place in the cache."""
        self._waiting += entries
        if len(self._waiting) >= BATCH:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._table.write_batch(_batch(self._waiting))
            self._waiting = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        try:
            if failed is None:
                self._flush()
                self._table.close()
        finally:
            self._file.close()


class Coded(NamedTuple):
    """A column of words: which word each record has."""

    codes: NDArray[np.int32]
    words: list[str]  # those that occur, each once

    def among(self, wanted: Iterable[str]) -> NDArray[np.bool_]:
        """Whether the word of each record is one of `wanted`."""
        known = set(wanted)
        return np.array([word in known for word in self.words], bool)[self.codes]

    def texts(self) -> NDArray[np.str_]:
        """The word of each record."""
        return np.array(self.words, np.str_)[self.codes]


class Entries(Sequence[CacheEntry]):
    """Entries of a cache, or some of them; `entries[i]` is made when it is asked for.

    A loop over a million entries takes half a minute. Who needs one property of all takes `column`,
    `coded` or `triples`, which take milliseconds.

    Attributes:
        table: of all entries of the cache.
        numbers: which rows of it these are; None for all, in order.
        digest: SHA-256 of the file that holds the table.
    """

    def __init__(
        self, table: pa.Table, numbers: NDArray[np.int64] | None = None, *, digest: str = ""
    ) -> None:
        self.table, self.numbers, self.digest = table, numbers, digest
        self._places: tuple[NDArray[np.int32], NDArray[np.int32]] | None = None

    def __len__(self) -> int:
        return self.table.num_rows if self.numbers is None else len(self.numbers)

    @overload
    def __getitem__(self, number: int) -> CacheEntry: ...
    @overload
    def __getitem__(self, number: slice) -> "Entries": ...
    def __getitem__(self, number: int | slice) -> "CacheEntry | Entries":
        if isinstance(number, slice):
            return self.take(range(len(self))[number])
        (row,) = self.table.slice(self._row(number), 1).to_pylist()
        return _entry(row)

    def __iter__(self) -> Iterator[CacheEntry]:
        for first in range(0, len(self), BATCH):
            yield from map(_entry, self._rows(first, first + BATCH).to_pylist())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Entries):
            return NotImplemented
        return len(self) == len(other) and all(map(CacheEntry.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{len(self)} entries of a cache>"

    def _row(self, number: int) -> int:
        """Row of the table.

        Raises:
            IndexError: there is no such entry.
        """
        place = range(len(self))[to_int(number)]
        return place if self.numbers is None else int(self.numbers[place])

    def _rows(self, first: int, end: int) -> pa.Table:
        if self.numbers is None:
            return self.table.slice(first, end - first)
        return self.table.take(self.numbers[first:end])

    def take(self, numbers: Iterable[int]) -> "Entries":
        """The entries with these numbers, in that order.

        Raises:
            IndexError: there is no such entry.
        """
        if isinstance(numbers, np.ndarray) and numbers.dtype.kind in "iu":
            chosen = numbers.astype(np.int64)
        else:
            chosen = np.fromiter(map(to_int, numbers), np.int64)
        chosen = np.where(chosen < 0, chosen + len(self), chosen)
        if len(chosen) and not (chosen.min() >= 0 and chosen.max() < len(self)):
            raise IndexError(f"no entry {chosen.max()}; there are {len(self)}")
        rows = chosen if self.numbers is None else self.numbers[chosen]
        return Entries(self.table, rows, digest=self.digest)

    def column(self, name: str) -> pa.ChunkedArray:
        """A property of all entries, in the form that the table has it in."""
        column = self.table.column(name)
        return column if self.numbers is None else column.take(self.numbers)

    def coded(self, name: str) -> Coded:
        """A property that is text, of all entries; `flags` have spaces between them."""
        found = self.column(name).dictionary_encode().combine_chunks()
        return Coded(found.indices.to_numpy(), found.dictionary.to_pylist())

    def triples(self, name: str) -> NDArray[np.float64]:
        """A property of three numbers, of all entries, (N, 3)."""
        parts = [part.flatten().to_numpy() for part in self.column(name).chunks]
        return np.concatenate([np.empty(0), *parts]).reshape(-1, 3)

    def hashes(self) -> NDArray[np.bytes_]:
        """SHA-256 of each record, 32 bytes each."""
        parts = [_bytes_of(part) for part in self.column("sha256").chunks]
        return np.frombuffer(b"".join(parts), "S32")

    def place(self, number: int) -> tuple[int, int]:
        """Shard of an entry, and its slot there.

        Raises:
            IndexError: there is no such entry.
        """
        if self._places is None:
            columns = (self.table.column(name) for name in ("shard", "slot"))
            shards, slots = (column.to_numpy() for column in columns)
            self._places = shards, slots
        row = self._row(number)
        return int(self._places[0][row]), int(self._places[1][row])

    def count_flags(self) -> dict[str, int]:
        """How many entries have each flag; those that none has are left out."""
        flags = self.coded("flags")
        times = np.bincount(flags.codes, minlength=len(flags.words)).tolist()
        counts = dict.fromkeys(FLAGS, 0)
        for names, number in zip(flags.words, times, strict=True):
            for name in names.split():
                counts[name] = counts.get(name, 0) + number
        return {name: number for name, number in counts.items() if number}

    def without_flags(self, flags: Iterable[str]) -> NDArray[np.int64]:
        """Numbers of the entries that have none of these flags."""
        found, unwanted = self.coded("flags"), set(flags)
        bad = [names for names in found.words if unwanted & set(names.split())]
        return np.flatnonzero(~found.among(bad))


def _bytes_of(part: pa.FixedSizeBinaryArray) -> bytes:
    width = part.type.byte_width
    start = part.offset * width
    return memoryview(part.buffers()[1])[start : start + len(part) * width].tobytes()


def collect_entries(entries: Iterable[CacheEntry]) -> Entries:
    """Make a table in memory."""
    listed = list(entries)
    batches = [_batch(listed[n : n + BATCH]) for n in range(0, len(listed), BATCH)]
    return Entries(pa.Table.from_batches(batches, _schema()))


def write_entries(path: Path, entries: Entries) -> None:
    """Write a table to `path`, as `EntryWriter` does."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, _schema()) as out:
        out.write_table(entries.table, max_chunksize=BATCH)


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def map_entries(path: Path, digest: str = "") -> Entries:
    """Map the table at `path`; nothing but its last bytes is read.

    Args:
        path: of a file by `EntryWriter`.
        digest: its SHA-256, if it is known; it is computed otherwise, which reads all of it.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is no such table.
    """
    digest = digest or file_hash(path)
    with pa.memory_map(str(path)) as mapped:
        table = pa.ipc.open_file(mapped).read_all()
    if table.schema != _schema():
        raise ValueError(f"{path} has other columns")
    table.validate()
    return Entries(table, digest=digest)
