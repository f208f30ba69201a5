"""Errors are values that workers answer with."""

import pickle

from oct_io import ScanError, read_manifest
from oct_io.catalog import headers
from oct_io.catalog.headers import read_headers


def test_the_error_of_a_scan_survives_the_way_from_a_worker():
    error = pickle.loads(pickle.dumps(ScanError("a.dcm", "decode", "cut off")))
    assert (error.path, error.stage, error.reason) == ("a.dcm", "decode", "cut off")
    assert str(error) == "a.dcm: decode: cut off"


def test_a_bad_header_stops_no_worker(phantom_tree, monkeypatch):
    monkeypatch.setattr(headers, "WORTH", 1)
    monkeypatch.setattr(headers, "_in_order", None)  # what would read the rest in this process
    paths = [record.path for record in read_manifest(phantom_tree)]
    found = list(read_headers(phantom_tree, ["participants.tsv", *paths[:3]], jobs=2))
    assert isinstance(found[0], ScanError)
    assert not any(isinstance(one, ScanError) for one in found[1:])
