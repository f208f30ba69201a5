"""The first sheet of an .xlsx file as rows of text, by the names in its first row.

An .xlsx is a zip of XML (ECMA-376, part 1, section 18): cells hold numbers, or places in a list of
texts that all sheets share. Formulas count by the value that was saved with them.
"""

import re
import zipfile
from io import BytesIO
from xml.etree import ElementTree

from oct_io.errors import TreeError

MAX_UNPACKED = 64 << 20
"""Bytes of one part; the labels of 500 people take some 100 kB."""
SHEET, TEXTS = "xl/worksheets/sheet1.xml", "xl/sharedStrings.xml"
NS = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"


def read_sheet(content: bytes, where: str) -> list[dict[str, str]]:
    """Rows below the first, each with the columns that the first one names; "" for empty cells.

    Raises:
        TreeError: not such a file, too large, or a first row that names nothing.
    """
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            there = set(archive.namelist())
            texts = _texts(_part(archive, TEXTS, where)) if TEXTS in there else []
            sheet = ElementTree.fromstring(_part(archive, SHEET, where))
        grid = [_cells(row, texts) for row in sheet.iter(f"{NS}row")]
    except (zipfile.BadZipFile, ElementTree.ParseError, KeyError, ValueError, IndexError) as error:
        reason = f"not a readable .xlsx ({type(error).__name__}); save it as CSV"
        raise TreeError(f"{where}: {reason}") from None
    filled = [row for row in grid if any(row.values())]
    names = {place: name for place, name in filled[0].items() if name} if filled else {}
    if not names:
        raise TreeError(f"{where}: the sheet is empty; its first row must name the columns")
    return [{name: row.get(place, "") for place, name in names.items()} for row in filled[1:]]


def _part(archive: zipfile.ZipFile, name: str, where: str) -> bytes:
    """One part of the archive.

    Raises:
        TreeError: it is larger than any table of labels.
    """
    if archive.getinfo(name).file_size > MAX_UNPACKED:
        raise TreeError(f"{where}: more than {MAX_UNPACKED:,} bytes")
    with archive.open(name) as stream:
        content = stream.read(MAX_UNPACKED + 1)
    if len(content) > MAX_UNPACKED or b"<!DOCTYPE" in content[:4096]:
        raise TreeError(f"{where}: no sheet of a spreadsheet")
    return content


def _texts(content: bytes) -> list[str]:
    """The shared texts; one may be in several runs of different type."""
    items = ElementTree.fromstring(content).iter(f"{NS}si")
    return ["".join(run.text or "" for run in one.iter(f"{NS}t")) for one in items]


def _cells(row: ElementTree.Element, texts: list[str]) -> dict[str, str]:
    """Letter of the column to the text of the cell."""
    found = {}
    for cell in row.iter(f"{NS}c"):
        place = re.sub(r"[0-9]+", "", cell.get("r", ""))
        value = cell.find(f"{NS}v")
        if cell.get("t") == "inlineStr":
            text = "".join(run.text or "" for run in cell.iter(f"{NS}t"))
        else:
            text = "" if value is None else value.text or ""
            text = texts[int(text)] if cell.get("t") == "s" and text else text
        found[place] = text.strip().removesuffix(".0")
    return found
