"""Tab- and comma-separated tables as rows of text; what a missing cell and an id are."""

import csv
import io
from pathlib import Path

from oct_io.errors import ScanError, TreeError
from oct_io.storage.files import read_bytes, redact

MISSING = frozenset({"", "nan", "none", "na", "n/a", "null", "unknown", "not reported"})
ID_COLUMNS = ("participant_id", "person_id")  # AI-READI 1 and 2; AI-READI 3

Row = dict[str, str]


def read_table(url: str | Path) -> list[Row]:
    """Rows of a table whose first line names its columns; the separator is the one found there.

    Raises:
        TreeError: not text, no columns, or a row with more cells than columns.
    """
    where = redact(url)
    try:
        content = read_bytes(url).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TreeError(f"{where}: not a text table (byte {error.start} is not UTF-8)") from None
    except ScanError as error:
        raise TreeError(f"{where}: {error.reason}") from error
    first = content.split("\n", 1)[0]
    if not first.strip():
        raise TreeError(f"{where}: the table is empty; its first line must name the columns")
    reader = csv.reader(io.StringIO(content), delimiter="\t" if "\t" in first else ",")
    try:
        lines = [line for line in reader if any(cell.strip() for cell in line)]
    except csv.Error as error:
        raise TreeError(f"{where}: line {reader.line_num} is not readable as a table") from error
    names = [name.strip() for name in lines[0]]
    for number, line in enumerate(lines[1:], start=2):
        if len(line) > len(names):
            raise TreeError(f"{where}: row {number} has {len(line)} cells for {len(names)} columns")
    return [dict(zip(names, map(str.strip, line), strict=False)) for line in lines[1:]]


def cell(row: Row, *names: str) -> str:
    """First of the named cells that holds something; "" if none does."""
    for name in names:
        value = row.get(name) or ""
        if value.lower() not in MISSING:
            return value
    return ""


def id_column(row: Row, where: str) -> str:
    """Name of the column of participants, whatever its case.

    Raises:
        TreeError: there is none.
    """
    for name in row:
        if name.lower().replace(" ", "_") in ID_COLUMNS:
            return name
    named = ", ".join(row)
    raise TreeError(f"{where}: needs a column participant_id or person_id; it has: {named[:200]}")


def normal_id(text: str) -> str:
    """Participant id as tables and headers agree on it: "1001", "1001.0" and "01001" are one."""
    whole = text.strip().removesuffix(".0")
    return str(int(whole)) if whole.isascii() and whole.isdigit() else whole
