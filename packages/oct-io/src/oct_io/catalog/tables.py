"""Tab- and comma-separated tables as rows of text; what a missing cell and an id are.

A row is one line, and each line that is not blank is a row or an error with its number. A quote
that is opened and not closed would otherwise take the lines below it along, and nobody would know.
"""

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from oct_io.errors import ScanError, TreeError
from oct_io.storage.files import read_bytes, redact

MISSING = frozenset({"", "nan", "none", "na", "n/a", "null", "unknown", "not reported"})
ID_COLUMNS = ("participant_id", "person_id")  # AI-READI 1 and 2; AI-READI 3
BOM = b"\xef\xbb\xbf"
MISPLACED = {"\0": "a zero byte", "\r": "a carriage return", "\ufeff": "a byte order mark"}
STRAY = "has a stray quote, or its row goes on in the next line; a row is one line"
RUNS = re.compile(r"[0-9]+|[a-z]+")

Row = dict[str, str]


class Table(NamedTuple):
    """A table that is read line by line; `rows` raises as `read_table` does."""

    where: str
    names: list[str]
    rows: Iterator[tuple[int, list[str]]]  # (number of the line, its cells, as many as names)


def read_table(url: str | Path) -> list[Row]:
    """Rows of a table whose first line names its columns; the separator is the one found there.

    Raises:
        TreeError: not text, no columns, a column twice, or a line that is no row: of another number
            of cells than columns, or with a quote that it opens and does not close.
    """
    return [row for _, row in number_rows(url)]


def number_rows(url: str | Path) -> list[tuple[int, Row]]:
    """Rows as from `read_table`, each with the number of its line in the file.

    Raises:
        TreeError: as `read_table`.
    """
    table = open_table(url)
    return [(line, dict(zip(table.names, cells, strict=True))) for line, cells in table.rows]


def open_table(url: str | Path) -> Table:
    """A table whose rows are made one at a time, for those that have a million.

    Raises:
        TreeError: as `read_table`.
    """
    where = redact(url)
    try:
        content = read_bytes(url).removeprefix(BOM)
    except ScanError as error:
        raise TreeError(f"{where}: {error.reason}") from error
    lines = _lines(content, where)
    _, first = next(lines, (1, ""))
    if not first.strip():
        raise TreeError(f"{where}: the table is empty; its first line must name the columns")
    between = "\t" if "\t" in first else ","
    if between not in first and ";" in first:
        raise TreeError(
            f"{where}: its columns are parted by semicolons; save it with commas or tabs, and with "
            "points in numbers"
        )
    try:
        names = split_line(first, between)
    except ValueError as error:
        raise TreeError(f"{where}: line 1 {error}") from None
    repeated = next((name for name in names if name and names.count(name) > 1), None)
    if repeated is not None:
        raise TreeError(f"{where}: names the column '{repeated[:40]}' twice")
    return Table(where, names, _rows(lines, between, len(names), where))


def _lines(content: bytes, where: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(io.BytesIO(content), start=1):
        try:
            text = line.decode().rstrip("\r\n")
        except UnicodeDecodeError:
            raise TreeError(f"{where}: not a text table (line {number} is not UTF-8)") from None
        for sign, name in MISPLACED.items():
            if sign in text:
                raise TreeError(f"{where}: line {number} holds {name} in the middle of a row")
        yield number, text


def _rows(
    lines: Iterator[tuple[int, str]], between: str, columns: int, where: str
) -> Iterator[tuple[int, list[str]]]:
    for number, text in lines:
        if not text.strip(f"{between} "):
            continue  # as spreadsheets leave them below their last row
        try:
            yield number, split_line(text, between, columns)
        except ValueError as error:
            raise TreeError(f"{where}: line {number} {error}") from None


def split_line(text: str, between: str, columns: int | None = None) -> list[str]:
    """Cells of one line, stripped.

    In comma-separated tables a cell in quotes may hold commas. In tab-separated ones, as AI-READI
    writes them, a tab always ends a cell unless that gives more cells than columns, and a quote
    inside of a cell is a sign like any other.

    Raises:
        ValueError: what is wrong with the line, to be read after "line 7 ".
    """
    if '"' not in text:
        cells = text.split(between)
    elif between == ",":
        cells = _quoted(text, between)
    else:
        cells = text.split(between)
        if columns is not None and len(cells) > columns:
            cells = _quoted(text, between)
        cells = [_unquoted(one.strip()) for one in cells]
    if columns is not None and len(cells) != columns:
        raise ValueError(f"has {len(cells)} cells for {columns} columns")
    return [one.strip() for one in cells]


def _quoted(text: str, between: str) -> list[str]:
    try:
        return next(csv.reader([text], delimiter=between, strict=True))
    except csv.Error as error:
        raise ValueError(f"{STRAY} ({error})") from None


def _unquoted(text: str) -> str:
    """A cell without the quotes around it.

    Raises:
        ValueError: a quote at its start or end that has no partner.
    """
    if not text.startswith('"') and not text.endswith('"'):
        return text
    inner = text[1:-1].replace('""', "")
    if len(text) < 2 or text[0] != text[-1] or '"' in inner:
        raise ValueError(
            "has a stray quote, or its row goes on in the next line; a row is one line"
        )
    return text[1:-1].replace('""', '"')


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
    return (whole.lstrip("0") or "0") if whole.isascii() and whole.isdigit() else whole


def may_be_same(one: str, other: str) -> bool:
    """Whether two ids can be those of one participant: "S1_12" and "12" can, "A7" and "B7" cannot.

    A lone number agrees with an id that ends in it. Case and the signs between letters and digits
    do not matter. An id without a digit, such as ANONYMOUS, says nothing about who it is.
    """
    first, second = sorted((_runs(one), _runs(other)), key=len)
    if not any(map(str.isdigit, first)) or not any(map(str.isdigit, second)):
        return True
    return first == second or (len(first) == 1 and first[0] == second[-1] and first[0].isdigit())


def _runs(id: str) -> list[str]:
    """Letters and numbers of an id, each run of them apart and without leading zeros."""
    return [run.lstrip("0") or "0" for run in RUNS.findall(normal_id(id).lower())]
