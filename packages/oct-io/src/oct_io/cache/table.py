"""The table of a cache's entries on disk: written as they come, mapped into memory to be read.

It is one Arrow IPC file, `entries.arrow`. Opening it reads its last few kilobytes, whatever the
number of records; processes that have it open share its pages. Nobody writes to it: a new one takes
its name.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Self

import pyarrow as pa

from oct_io.cache.entries import ANNOTATED, CacheEntry, Entries

ENTRIES = "entries.arrow"
LATER = ("white_rule",)  # columns that older tables lack, and that nothing rests on
BATCH = 1 << 14  # records that are held until they are written; 25 MB of them


def _schema(*, annotated: bool) -> pa.Schema:
    """Columns by name; `flags` are words with spaces between, hashes bytes, other lists JSON."""
    every = [one.name for one in fields(CacheEntry)]
    names = [name for name in every if annotated or name not in ANNOTATED]
    numbers, sizes = pa.list_(pa.float64(), 3), pa.list_(pa.int32(), 3)
    special = {
        **dict.fromkeys(("spacing", "origin_mm", "source_spacing"), numbers),
        "source_shape": sizes,
        "sha256": pa.binary(32),
        "mirrored": pa.bool_(),
        "signal_db": pa.float64(),
        **dict.fromkeys(("shard", "slot", "white"), pa.int32()),
        "annotation_at": pa.int64(),
        "annotation_sha256": pa.binary(32),
    }
    return pa.schema([(name, special.get(name, pa.string())) for name in names])


def _batch(entries: Sequence[CacheEntry], *, annotated: bool) -> pa.RecordBatch:
    columns, schema = [], _schema(annotated=annotated)
    for field in schema:
        values = [getattr(entry, field.name) for entry in entries]
        if field.name == "flags":
            values = [" ".join(names) for names in values]
        if field.name == "sha256":
            values = [bytes.fromhex(text) for text in values]
        if field.name == "annotation_sha256":
            values = [bytes.fromhex(text) or None for text in values]
        if field.name in ("layers", "mask"):
            values = [json.dumps(names) for names in values]
        columns.append(pa.array(values, field.type))
    return pa.record_batch(columns, schema=schema)


class EntryWriter:
    """Writes entries as they come, holding at most `BATCH` of them and those of one call."""

    def __init__(self, path: Path, *, annotated: bool = False) -> None:
        self._waiting: list[CacheEntry] = []
        self._annotated = annotated
        self._file = pa.OSFile(str(path), "wb")
        self._table = pa.ipc.new_file(self._file, _schema(annotated=annotated))

    def add(self, entries: Iterable[CacheEntry]) -> None:
        """Take more entries, each at its place in the cache."""
        self._waiting += entries
        if len(self._waiting) >= BATCH:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._table.write_batch(_batch(self._waiting, annotated=self._annotated))
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


def collect_entries(entries: Iterable[CacheEntry]) -> Entries:
    """Make a table in memory, of entries without annotations."""
    listed = list(entries)
    starts = range(0, len(listed), BATCH)
    batches = [_batch(listed[n : n + BATCH], annotated=False) for n in starts]
    return Entries(pa.Table.from_batches(batches, _schema(annotated=False)))


def write_entries(path: Path, entries: Entries) -> None:
    """Write a table to `path`, as `EntryWriter` does."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, entries.table.schema) as out:
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
    schema = _schema(annotated=ANNOTATED[0] in table.column_names)
    for name in set(LATER) - set(table.column_names):
        table = table.append_column(name, pa.nulls(len(table), schema.field(name).type))
    if set(table.column_names) != set(schema.names) or table.select(schema.names).schema != schema:
        raise ValueError(f"{path} has other columns")
    table.validate()
    table = table.select(schema.names)
    return Entries(table, digest=digest)
