"""Tables lose nothing: each line becomes a row, or an error that names it."""

import re
from zlib import crc32

import numpy as np
import pytest
from oct_io import TreeError, read_manifest, read_participants
from oct_io.catalog.tables import may_be_same, normal_id, number_rows, read_table

NAMES = ("person_id", "filepath", "laterality", "height", "width", "number_of_frames", "note")
HOSTILE = ('"', "\t", ",", "\r", "\0", "\ufeff", "\n", "9" * 1_000_000, '""', "²", "--1", "\x85")


def rows_of(count):
    people = range(1001, 1001 + count)
    return [[f"{n}", f"/s/{n}.npy", "LR"[n % 2], "48", "40", "8", f"n{n - 1001}"] for n in people]


def write(path, rows, between, names=NAMES):
    path.write_text("\n".join(between.join(row) for row in [names, *rows]) + "\n", encoding="utf-8")


@pytest.mark.parametrize("between", ["\t", ","])
def test_a_stray_quote_never_takes_other_lines_along(tmp_path, between):
    path, rows = tmp_path / "manifest.tsv", rows_of(10)
    rows[1][6] = '"left open'
    rows[7][6] = 'and closed"'
    write(path, rows, between)
    with pytest.raises(TreeError, match="line 3 has a stray quote"):
        read_table(path)


def test_a_quote_inside_of_a_tab_separated_cell_is_a_sign_like_any_other(tmp_path):
    path, rows = tmp_path / "manifest.tsv", rows_of(10)
    rows[1][6], rows[5][6], rows[6][6] = '5" wide', '"Macula, 6 x 6"', '"he said ""no"""'
    write(path, rows, "\t")
    assert [row["note"] for row in read_table(path)] == [
        "n0", '5" wide', "n2", "n3", "n4", "Macula, 6 x 6", 'he said "no"', "n7", "n8", "n9",
    ]  # fmt: skip


def test_a_quoted_cell_may_hold_the_separator_but_no_line_end(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('participant_id,note\n1,"a, ""b"""\n')
    assert read_table(path) == [{"participant_id": "1", "note": 'a, "b"'}]
    path.write_text('participant_id\tnote\n1\t"a\tb"\n')
    assert read_table(path) == [{"participant_id": "1", "note": "a\tb"}]
    path.write_text('participant_id,note\n1,x\n2,"a\nb"\n')
    with pytest.raises(TreeError, match=r"t\.csv: line 3 has a stray quote, or its row goes on"):
        read_table(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a\tb\n1\t2\n3\n", "line 3 has 1 cells for 2"),
        ("a,b\n\n\n1,2,3\n", "line 4 has 3 cells for 2"),
        ("a,b\n1,2\x00\n", "line 2 holds a zero byte"),
        ("a,b\r1,2\r", "line 1 holds a carriage return"),
        ("a,b\n\ufeff1,2\n", "line 2 holds a byte order mark"),
        ("a,b,a\n1,2,3\n", "the column 'a' twice"),
        ('a,"b\n1,2\n', "line 1 has a stray quote"),
        (b"a,b\n1,2\n\xff,3\n", r"not a text table \(line 3 is not UTF-8\)"),
    ],
)
def test_a_line_that_is_no_row_is_named(tmp_path, content, words):
    path = tmp_path / "t.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(TreeError, match=words):
        read_table(path)


def test_lines_are_counted_as_an_editor_counts_them(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b"\xef\xbb\xbfa,b\r\n1,2\r\n,,\r\n\r\n3,4\r\n")
    assert number_rows(path) == [(2, {"a": "1", "b": "2"}), (5, {"a": "3", "b": "4"})]


def test_numbers_of_a_million_digits_are_refused_by_row_and_ids_are_text(tmp_path):
    rows = rows_of(4)
    rows[1][3] = "9" * 5000
    rows[2][0] = "8" * 5000
    path = tmp_path / "manifest.tsv"
    write(path, rows, "\t")
    records = read_manifest(tmp_path, manifest=path)
    assert len(records) == 4
    assert [record.refused and record.refused[1] for record in records] == [
        None,
        "line 3 of the manifest: number_of_frames or height or width has over 9 digits",
        None,
        None,
    ]
    assert records[2].participant_id == "8" * 5000
    assert normal_id("000" + "7" * 5000) == "7" * 5000


def spoil(text, rng):
    """One to three hostile things in a table, below its first line."""
    head, body = text.split("\n", 1)
    for _ in range(rng.integers(1, 4)):
        at = rng.integers(len(body))
        kind = rng.random()
        if kind < 0.7:
            body = body[:at] + HOSTILE[rng.integers(len(HOSTILE))] + body[at:]
        elif kind < 0.9:
            body = body[:at] + body[at + rng.integers(1, 7) :]
        else:
            lines = body.split("\n")
            lines.insert(rng.integers(len(lines)), lines[rng.integers(len(lines))])
            body = "\n".join(lines)
    return f"{head}\n{body}"


@pytest.mark.parametrize("between", ["\t", ","])
@pytest.mark.parametrize("read", ["manifest", "participants"])
def test_no_row_of_a_spoilt_table_is_lost_without_a_word(tmp_path, between, read):
    rng, path = np.random.default_rng(crc32(f"{between} {read}".encode())), tmp_path / "t.tsv"
    write(path, rows_of(10), between)
    whole, outcomes = path.read_text(encoding="utf-8"), {"refused": 0, "read": 0}
    for _ in range(250):
        spoilt = spoil(whole, rng)
        path.write_bytes(spoilt.encode())
        lines = [one for one in spoilt.split("\n")[1:] if one.strip(f"{between} \r")]
        said = ""
        try:
            if read == "manifest":
                found = len(read_manifest(tmp_path, manifest=path))
                lines = {file_of(line, between) for line in lines}
            else:
                found = len(read_participants(path))
        except TreeError as error:
            said = str(error)
        outcomes["refused" if said else "read"] += 1
        assert re.search(r"line \d+ ", said) if said else found == len(lines)
    assert min(outcomes.values()) > 10, "both outcomes must have been seen"


def file_of(line, between):
    """What a line of these tables names: two lines of one file are one scan."""
    path = line.split(between)[1].strip().lstrip("/")
    return path if path.endswith(".npy") and path.count(".") == 1 else line


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("A7", "B7", False),
        ("S1_12", "12", True),
        ("S1_12", "S1-012", True),
        ("S1_12", "S2_12", False),
        ("12", "S12_1", False),
        ("1001", "01001.0", True),
        ("1001", "1002", False),
        ("ANONYMOUS", "1001", True),
        ("", "1001", True),
        ("a7", "A7", True),
        ("7" * 5000, "7" * 5000, True),
        ("²7", "7", True),
    ],
)
def test_ids_are_of_one_participant_or_not(one, other, same):
    assert may_be_same(one, other) is same
    assert may_be_same(other, one) is same
