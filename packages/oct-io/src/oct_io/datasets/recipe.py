"""What a recipe is: how one public data set is laid out, and what it says of its scans."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from oct_io.catalog.tables import Row
from oct_io.datasets.tree import Tree
from oct_io.records.record import ScanRecord

UNKNOWN_MM = (float("nan"), float("nan"), float("nan"))
"""As the spacing of a record: nobody knows it, and windows count voxels."""
UNTRIED = "not verified on the real files"
SECOND_HAND = "as the catalogue EyeDataHub quoted its publisher in 2026; read the publisher's page"
"""Of terms that we could not read where they are stated."""
PARTS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One scan of a set, and what the set says of it.

    Attributes:
        record: the scan.
        row: answers by column, as texts; "" where the set is silent.
        part: of the official split, one of `PARTS`; "" if it is in none.
    """

    record: ScanRecord
    row: Row = field(default_factory=dict, repr=False)
    part: str = ""


@dataclass(kw_only=True, slots=True)
class Found:
    """What a recipe found in a tree.

    Attributes:
        items: scans in any order.
        missing: what is not there and how to get it, a sentence each.
        remarks: what a reader of results must know, a sentence each.
    """

    items: list[Item] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """One public data set.

    Attributes:
        name: as in `data=NAME`.
        title: what it is.
        read: from the files to what they say; raises TreeError for a table that cannot be used.
        bscans: whether its scans are single B-scans, and not volumes.
        layout: the tree below the root, in a line.
        source: where to get it, or where to apply.
        terms: licence or terms of use, and how far we know them.
        spacing: where millimetres come from, or that there are none.
        split: the official split, or that there is none.
        labels: columns of its labels.
        counts: scans and participants as published; empty where the publisher gives none.
        verified: how far it was tried.
        sha256: of the hashes of all files that the recipe knows, see `checksums.digest`; "" where
            nobody here had them all.
    """

    name: str
    title: str
    read: Callable[[Tree], Found]
    bscans: bool
    layout: str
    source: str
    terms: str
    spacing: str
    split: str = "none published"
    labels: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    verified: str = UNTRIED
    sha256: str = ""


def bscan_record(path: str, participant: str, **said: Any) -> ScanRecord:
    """The record of a single B-scan whose millimetres nobody published."""
    return ScanRecord(path=path, participant_id=participant, bscan=True, **said)


def column_name(text: str) -> str:
    """The name of a column as settings take it: "Fluid (IRF)" is fluid_irf."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def answers(row: Row, *leave_out: str) -> Row:
    """A row of a table under `column_name`, without the columns in `leave_out`."""
    return {column_name(name): text for name, text in row.items() if name not in leave_out}
