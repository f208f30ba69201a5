"""What each record of a cache is, one at a time or as columns of all of them."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from operator import index as to_int
from typing import Any, NamedTuple, overload

import numpy as np
import pyarrow as pa
from numpy.typing import DTypeLike, NDArray

from oct_io.scan.flags import FLAGS

ANNOTATED = ("layers", "mask", "annotation_at", "annotation_sha256")
"""Columns of caches that were asked for annotations; others do not have them."""

AT_ONCE = 1 << 14  # entries that a loop over all of them makes at a time

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
        white_rule: what said so: 8 bits, stated bits, voxels; None in a cache older than that.
        layers: names of its boundaries, in the order in which they lie in the cache.
        mask: names of the classes of its mask; none if it has no mask.
        annotation_at: byte of its shard's file of annotations at which they begin; None without.
        annotation_sha256: of their bytes.
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
    white_rule: str | None = None
    layers: tuple[str, ...] = ()
    mask: tuple[str, ...] = ()
    annotation_at: int | None = None
    annotation_sha256: str = ""

    def placed(self, shard: int, slot: int, annotations: int = 0) -> "CacheEntry":
        """Return the same entry at its place in the cache.

        `annotations` is where those of its part begin in the file of the shard.
        """
        at = None if self.annotation_at is None else self.annotation_at + annotations
        return replace(self, shard=shard, slot=slot, annotation_at=at)

    def from_source(self, source: str) -> "CacheEntry":
        """Return the same entry, not yet placed, of a scan in the given state."""
        return replace(self, source=source, shard=0, slot=0)


def entry_from_tree(tree: dict[str, Any]) -> CacheEntry:
    """Turn the JSON form of an entry back into one."""
    values: dict[str, Any] = {
        key: tuple(one) if isinstance(one, list) else one for key, one in tree.items()
    }
    return CacheEntry(**values)


def entry_from_row(row: dict[str, Any]) -> CacheEntry:
    """Turn a row of the table (`oct_io.cache.table`) back into an entry."""
    row["flags"], row["sha256"] = row["flags"].split(), row["sha256"].hex()
    if "annotation_at" in row:
        row["layers"], row["mask"] = json.loads(row["layers"]), json.loads(row["mask"])
        row["annotation_sha256"] = (row["annotation_sha256"] or b"").hex()
    return entry_from_tree(row)


class Record(NamedTuple):
    """Where a record lies, and what its bytes are."""

    number: int  # among all records of the cache
    shard: int
    slot: int
    sha256: bytes


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

    A loop over a million entries takes a quarter of a minute. Who needs one property of all takes
    `column`, `coded` or `triples`, which take milliseconds.

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
        return entry_from_row(row)

    def __iter__(self) -> Iterator[CacheEntry]:
        for first in range(0, len(self), AT_ONCE):
            yield from map(entry_from_row, self._rows(first, first + AT_ONCE).to_pylist())

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
        return self.table.take(_as_column(self.numbers[first:end]))

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
        return column if self.numbers is None else column.take(_as_column(self.numbers))

    def coded(self, name: str) -> Coded:
        """A property that is text, of all entries; `flags` have spaces between them."""
        found = self.column(name).dictionary_encode().combine_chunks()
        return Coded(_as_array(found.indices, np.int32), found.dictionary.to_pylist())

    def triples(self, name: str) -> NDArray[np.float64]:
        """A property of three numbers, of all entries, (N, 3)."""
        parts = [_as_array(part.flatten(), np.float64) for part in self.column(name).chunks]
        return np.concatenate([np.empty(0), *parts]).reshape(-1, 3)

    def hashes(self) -> NDArray[np.bytes_]:
        """SHA-256 of each record, 32 bytes each; of it and its annotations, where there are any."""
        parts = [_as_array(part, "S32") for part in self.column("sha256").chunks]
        found = np.concatenate([np.empty(0, "S32"), *parts])
        if not self.annotated:
            return found
        others = self.column("annotation_sha256").to_pylist()
        for number, other in enumerate(others):
            if other is not None:
                found[number] = hashlib.sha256(found[number].ljust(32, b"\0") + other).digest()
        return found

    @property
    def annotated(self) -> bool:
        """Whether the cache was asked for annotations."""
        return ANNOTATED[0] in self.table.column_names

    def annotation_names(self, kind: str) -> list[tuple[str, ...]]:
        """Lists of names that entries of the whole cache have as `kind`, layers or mask."""
        if not self.annotated:
            return []
        return [tuple(json.loads(text)) for text in self.table.column(kind).unique().to_pylist()]

    def with_annotation(self, kind: str) -> NDArray[np.int64]:
        """Numbers of the entries that have any of `kind`, layers or mask."""
        if not self.annotated:
            return np.empty(0, np.int64)
        found = self.coded(kind)
        return np.flatnonzero(found.among(text for text in found.words if json.loads(text)))

    def place(self, number: int) -> tuple[int, int]:
        """Shard of an entry, and its slot there.

        Raises:
            IndexError: there is no such entry.
        """
        if self._places is None:
            self._places = self._whole_numbers("shard"), self._whole_numbers("slot")
        row = self._row(number)
        return int(self._places[0][row]), int(self._places[1][row])

    def record(self, number: int) -> Record:
        """Where the record of an entry lies, and its hash.

        Raises:
            IndexError: there is no such entry.
        """
        shard, slot = self.place(number)
        row = self._row(number)
        return Record(row, shard, slot, self.table.column("sha256")[row].as_py())

    def _whole_numbers(self, name: str) -> NDArray[np.int32]:
        parts = [_as_array(part, np.int32) for part in self.table.column(name).chunks]
        return np.concatenate([np.empty(0, np.int32), *parts])

    def count_flags(self) -> dict[str, int]:
        """How many entries have each flag; those that none has are left out."""
        flags = self.coded("flags")
        times = np.bincount(flags.codes, minlength=len(flags.words)).tolist()
        counts = dict.fromkeys(FLAGS, 0)
        for names, number in zip(flags.words, times, strict=True):
            for name in names.split():
                counts[name] = counts.get(name, 0) + number
        return {name: number for name, number in counts.items() if number}

    def count_whites(self) -> dict[str, int]:
        """How many scans have which grey level as white and by which rule: "4095 by voxels"."""
        levels, rules = (self.column(name).to_pylist() for name in ("white", "white_rule"))
        pairs = Counter((level or 0, rule) for level, rule in zip(levels, rules, strict=True))
        return {
            f"{level or 'unknown'} by {rule}" if rule else f"{level or 'unknown'}": number
            for (level, rule), number in sorted(pairs.items(), key=str)
        }

    def mixed_whites(self) -> list[str]:
        """Devices whose scans have more than one grey level as white."""
        levels, devices = self.column("white").to_pylist(), self.coded("device")
        pairs = set(zip(devices.codes.tolist(), levels, strict=True))
        times = Counter(code for code, _ in pairs)
        return sorted(devices.words[code] for code, number in times.items() if number > 1)

    def without_flags(self, flags: Iterable[str]) -> NDArray[np.int64]:
        """Numbers of the entries that have none of these flags."""
        found, unwanted = self.coded("flags"), set(flags)
        bad = [names for names in found.words if unwanted & set(names.split())]
        return np.flatnonzero(~found.among(bad))


def _as_array(part: pa.Array, dtype: DTypeLike) -> NDArray[Any]:
    """The values of a column without gaps; `to_numpy` gives them as well, but imports pandas."""
    if not len(part):
        return np.empty(0, dtype)
    start = part.offset * np.dtype(dtype).itemsize
    return np.frombuffer(part.buffers()[1], dtype, len(part), start)


def _as_column(numbers: NDArray[np.int64]) -> pa.Array:
    """Numbers for `take`, which imports pandas where it is given an array."""
    whole = np.ascontiguousarray(numbers)
    return pa.Array.from_buffers(pa.int64(), len(whole), [None, pa.py_buffer(whole)])
