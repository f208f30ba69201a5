"""What a run tells while it trains: a file of JSON lines, and whoever else listens."""

import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from oct_xla.errors import RunFolderError
from oct_xla.folder.files import write_atomically

Row = Mapping[str, float]
"""Name to number; `step` counts finished optimiser steps."""


class Sink(Protocol):
    """Takes the rows of a run; only the first process has any."""

    def write(self, row: Row) -> None:
        """Take one row."""
        ...

    def close(self) -> None:
        """Finish; no row follows."""
        ...


class Journal:
    """`metrics.jsonl`: one JSON object a line, complete up to the last step that was logged.

    Opened for a resume, it drops the rows after the resumed step, which will come again, and lines
    that a crash has torn; where one is broken before the last, the old file is kept beside it. Rows
    that a full disk refuses are kept in memory and written when there is room.

    Args:
        path: the file; its folder is made.
        step: finished steps at the start; 0 for a new run.

    Attributes:
        dropped: rows that were left out because they come again.

    Raises:
        RunFolderError: if the file cannot be read or written.
    """

    def __init__(self, path: Path, step: int = 0) -> None:
        self._path, self._waiting, self._told = path, b"", False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.dropped = self._cut(step)
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            self._end = os.fstat(self._file).st_size
        except OSError as error:
            raise RunFolderError(
                f"{path}: cannot be written: {error.strerror or error}; free space or choose"
                " another run_dir"
            ) from error

    def _cut(self, step: int) -> int:
        if not self._path.exists():
            return 0
        lines = _lines(self._path)
        rows = [_row(line) for line in lines]
        whole = [row for row in rows if row is not None]
        kept = [row for row in whole if row["step"] <= step]
        if None in rows[:-1]:
            aside = self._path.with_name(f"{self._path.name}.damaged")
            aside.write_bytes(self._path.read_bytes())
            number = rows.index(None) + 1
            say(f"{self._path}: line {number} is not a row of metrics; kept as {aside.name}")
        text = "".join(_line(row) for row in kept)
        if text != self._path.read_text(encoding="utf-8", errors="replace"):
            write_atomically(self._path, text)
        return len(whole) - len(kept)

    def write(self, row: Row) -> None:
        """Append one row; it survives the end of this process at once."""
        self._waiting += _line(row).encode()
        try:
            self._flush()
        except OSError as error:
            os.truncate(self._file, self._end)  # half a line would spoil the next one
            if not self._told:
                self._told = True
                say(
                    f"{self._path}: {error.strerror}; rows wait in memory until there is room,"
                    " the run goes on"
                )

    def close(self) -> None:
        """Close the file; says so if rows are lost."""
        try:
            self._flush()
        except OSError as error:
            os.truncate(self._file, self._end)
            count = self._waiting.count(b"\n")
            say(f"{self._path}: {error.strerror}; the last {count} rows are lost")
        os.close(self._file)

    def _flush(self) -> None:
        written = 0
        while written < len(self._waiting):
            written += os.write(self._file, self._waiting[written:])
        self._end += written
        self._waiting, self._told = b"", False


def read_rows(path: Path) -> list[dict[str, float]]:
    """Return the rows of a journal, without a torn last line; none if there is no file.

    Numbers that are not finite are stored as null and come back as NaN.

    Raises:
        RunFolderError: if a line before the last is not a row.
    """
    if not path.exists():
        return []
    rows: list[dict[str, float]] = []
    lines = _lines(path)
    for number, line in enumerate(lines, start=1):
        row = _row(line)
        if row is not None:
            rows.append(row)
        elif number < len(lines):
            raise RunFolderError(
                f"{path}: line {number} is not a row of metrics; take the line out, or train on,"
                " which mends the file"
            )
    return rows


def _lines(path: Path) -> list[str]:
    # Not splitlines(): a damaged byte may look like one of its many line ends.
    return [line for line in path.read_text(encoding="utf-8", errors="replace").split("\n") if line]


def _row(line: str) -> dict[str, float] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not isinstance(row.get("step"), int | float):
        return None
    if not all(value is None or isinstance(value, int | float) for value in row.values()):
        return None
    return {key: math.nan if value is None else value for key, value in row.items()}


def _line(row: Row) -> str:
    # JSON has no NaN; null is what every reader understands.
    plain = {k: v if math.isfinite(v) else None for k, v in row.items()}
    return json.dumps(plain, allow_nan=False) + "\n"


def say(text: str) -> None:
    """Tell the user one line on stderr."""
    print(" ".join(text.split()), file=sys.stderr, flush=True)
