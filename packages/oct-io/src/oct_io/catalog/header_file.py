"""The file of kept headers: rows in blocks, of which one at a time is in memory."""

import heapq
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from oct_io.saving import appearing
from oct_io.scan.header import ScanHeader

VERSION = "2"  # another number where readers see something else in the same file
COLUMNS = ("path", "state", "header", "check")
ROWS = 1 << 12  # of one block

Row = tuple[str, str, str]
"""Name of a scan, its state, and its header as text; of a file that was looked into, whether it is
a scan."""
Known = tuple[str, str]
"""The same without the name."""


class HeaderFile:
    """A file of rows, a block at a time; one that is damaged has those rows that are whole."""

    def __init__(self, path: Path, *, aloud: bool = True) -> None:
        """Open it; without a file, or with another version's, there are no rows.

        `aloud` warns of damage, once.
        """
        self._path, self._aloud = path, aloud
        self._file: Any = None
        self._reader: Any = None
        try:
            self._file = pa.OSFile(str(path))
            reader = pa.ipc.open_file(self._file)
            self._reader = reader if reader.schema.metadata == _about() else None
        except FileNotFoundError:
            pass
        except (OSError, ValueError, pa.ArrowException) as error:
            self._warn(type(error).__name__)

    def rows(self) -> Iterator[tuple[int, Row]]:
        """Number of its block, and row, of all that are whole."""
        for number in range(self._reader.num_record_batches if self._reader else 0):
            yield from ((number, row) for row in self.block(number))

    def block(self, number: int) -> list[Row]:
        """Rows of a block that are whole."""
        assert self._reader is not None
        try:
            batch = self._reader.get_batch(number)
            batch.validate(full=True)
            rows = list(zip(*(batch.column(name).to_pylist() for name in COLUMNS), strict=True))
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            self._warn(type(error).__name__)
            return []
        whole = [row[:3] for row in rows if _check(*row[:3]) == row[3]]
        if len(whole) < len(rows):
            self._warn(f"{len(rows) - len(whole)} rows")
        return whole

    def close(self) -> None:
        """Close it."""
        if self._file is not None:
            self._file.close()

    def _warn(self, what: str) -> None:
        if self._aloud:
            reason = f"{self._path}: damaged ({what}); those headers are read again"
            warnings.warn(reason, stacklevel=2)
        self._aloud = False


def read_rows(path: Path, *, aloud: bool = True) -> Iterator[Row]:
    """Whole rows of a file."""
    with closing(HeaderFile(path, aloud=aloud)) as file:
        yield from (row for _, row in file.rows())


def add_rows(path: Path, rows: Mapping[str, Known]) -> None:
    """Write the file anew with more rows, which stand for those of the same names."""
    old = (row for row in read_rows(path, aloud=False) if row[0] not in rows)
    write_rows(path, heapq.merge(old, ((name, *rows[name]) for name in sorted(rows))))


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write rows, which come sorted, to a file that appears whole; a full disk costs a warning."""
    types = (pa.string(), pa.string(), pa.large_string(), pa.uint32())
    schema = pa.schema(list(zip(COLUMNS, types, strict=True)), metadata=_about())
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    left = iter(rows)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with appearing(path, durable=True, private=True) as part:
            file = pa.OSFile(str(part), "wb")
            with file, pa.ipc.new_file(file, schema, options=options) as out:
                while block := list(islice(left, ROWS)):
                    cells = [*zip(*block, strict=True), [_check(*row) for row in block]]
                    columns = [pa.array(one, kind) for one, kind in zip(cells, types, strict=True)]
                    out.write_batch(pa.record_batch(columns, schema=schema))
    except OSError as error:
        reason = error.strerror or type(error).__name__
        warnings.warn(f"{path}: headers are not kept ({reason})", stacklevel=2)


def _about() -> dict[bytes, bytes]:
    """What a file must say of itself to be used: its version, and the fields that a header has."""
    names = " ".join(one.name for one in fields(ScanHeader))
    return {b"oct-io-headers": VERSION.encode(), b"fields": names.encode()}


def _check(*cells: str) -> int:
    return zlib.crc32("\0".join(cells).encode())
