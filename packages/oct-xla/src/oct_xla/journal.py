"""What a run tells while it trains: a file of JSON lines, and whoever else listens."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

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

    Opened for a resume, it drops the rows after the resumed step, which will come again, and a last
    line that a crash has torn.

    Args:
        path: the file; its folder is made.
        step: finished steps at the start; 0 for a new run.
    """

    def __init__(self, path: Path, step: int = 0) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [row for row in read_rows(path) if row["step"] <= step]
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text("".join(_line(row) for row in rows), encoding="utf-8")
        temporary.replace(path)
        self._file = path.open("a", encoding="utf-8")

    def write(self, row: Row) -> None:
        """Append one row; it survives the end of this process at once."""
        self._file.write(_line(row))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_rows(path: Path) -> list[dict[str, float]]:
    """Return the rows of a journal, without a torn last line; none if there is no file.

    Numbers that are not finite are stored as null and come back as NaN.

    Raises:
        ValueError: if a line before the last is not a row.
    """
    if not path.exists():
        return []
    rows: list[dict[str, float]] = []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            rows.append({k: math.nan if v is None else v for k, v in row.items()})
            row["step"]
        except (ValueError, KeyError, AttributeError) as error:
            if number == len(lines):
                break
            raise ValueError(f"{path}: line {number} is not a row of metrics: {error}") from error
    return rows


def _line(row: Row) -> str:
    # JSON has no NaN; null is what every reader understands.
    plain = {k: v if math.isfinite(v) else None for k, v in row.items()}
    return json.dumps(plain, allow_nan=False) + "\n"
