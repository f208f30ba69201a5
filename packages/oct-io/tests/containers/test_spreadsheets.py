"""Sheets as spreadsheet programs save them, written here part by part."""

import zipfile
from pathlib import Path

import pytest
from oct_io import TreeError
from oct_io.containers.spreadsheets import read_sheet


@pytest.fixture(scope="module")
def sheet_file(neighbour):
    return neighbour(str(Path(__file__).parents[1] / "datasets" / "x"), "layouts.py").sheet_file


def test_rows_have_the_names_of_the_first_one_and_gaps_are_empty(tmp_path, sheet_file):
    path = sheet_file(tmp_path / "a.xlsx", [["ID", "Disease"], [10001, "AMD"], [10002.0, None]])
    assert read_sheet(path.read_bytes(), "a.xlsx") == [
        {"ID": "10001", "Disease": "AMD"},
        {"ID": "10002", "Disease": ""},
    ]


def test_what_is_no_sheet_is_refused_with_a_way_out(tmp_path, sheet_file):
    with pytest.raises(TreeError, match="save it as CSV"):
        read_sheet(b"PK", "a.xlsx")
    with pytest.raises(TreeError, match="sheet is empty"):
        read_sheet(sheet_file(tmp_path / "a.xlsx", []).read_bytes(), "a.xlsx")
    with zipfile.ZipFile(tmp_path / "b.xlsx", "w") as archive:
        archive.writestr("xl/worksheets/sheet1.xml", "<!DOCTYPE x [<!ENTITY a 'b'>]><x>&a;</x>")
    with pytest.raises(TreeError, match="no sheet"):
        read_sheet((tmp_path / "b.xlsx").read_bytes(), "b.xlsx")
