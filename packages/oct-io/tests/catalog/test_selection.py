"""Choosing scans by what the manifest says of them."""

import pytest
from oct_io import ScanRecord, TreeError
from oct_io.catalog.selection import Selection, select_scans

RECORDS = [
    ScanRecord(
        path=f"{number}.dcm", device=device, region=region, laterality=eye, shape=(bscans, 4, 4)
    )
    for number, (device, region, eye, bscans) in enumerate([
        ("topcon_triton", "Macula, 6 x 6", "L", 320),
        ("topcon_triton", "Optic Disc", "R", 256),
        ("zeiss_cirrus", "Macula", "R", 128),
        ("unknown", "Macula", "unknown", 8),
    ])
]  # fmt: skip


def chosen(**settings):
    return [int(record.path[0]) for record in select_scans(RECORDS, Selection(**settings))]


def test_an_empty_selection_keeps_everything_in_order():
    assert chosen() == [0, 1, 2, 3]


def test_settings_of_one_kind_add_and_those_of_two_kinds_narrow():
    assert chosen(devices=["topcon_triton", "zeiss_cirrus"]) == [0, 1, 2]
    assert chosen(devices=["Topcon Triton"], lateralities=["right"]) == [1]
    assert chosen(regions=["macula,6x6"]) == [0]
    assert chosen(regions=["Macula"]) == [2, 3], "a region of its own, not all sizes of it"


def test_the_number_of_bscans_has_bounds_that_are_included():
    assert chosen(min_bscans=128, max_bscans=256) == [1, 2]
    assert chosen(min_bscans=256) == [0, 1]
    assert chosen(max_bscans=8) == [3]
    with pytest.raises(ValueError, match=r"max_bscans \(3\) must be at least min_bscans \(5\)"):
        Selection(min_bscans=5, max_bscans=3)


def test_what_exists_but_not_together_is_told():
    with pytest.raises(TreeError, match="none of 4 scans is of the devices, regions, eyes"):
        chosen(devices=["zeiss_cirrus"], regions=["Optic Disc"])
