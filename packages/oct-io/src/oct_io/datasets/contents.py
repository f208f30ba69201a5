"""From what a recipe found to scans, labels and a split whose parts share nobody."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from oct_io.catalog.manifest import Listing
from oct_io.catalog.participants import LINE
from oct_io.catalog.tables import Row, normal_id
from oct_io.datasets.recipe import PARTS, Found, Item, Recipe
from oct_io.datasets.registry import find_recipe
from oct_io.datasets.tree import Tree
from oct_io.errors import TreeError
from oct_io.labels.splits import Split
from oct_io.labels.tables import LabelTable, LabelTables, agree, id_form, path_form
from oct_io.records.record import ScanRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """A public data set as it lies in a folder.

    Attributes:
        recipe: which set it is.
        listing: its scans.
        labels: what it says of them, and of participants where all of their scans agree.
        split: the official one; None if there is none.
        parts: how many scans each part of it has.
        remarks: what a reader of results must know, a sentence each.
        findings: what is missing or unexpected, a line each; empty if all is as published.
        files: those that the recipe knows, below the root, sorted.
    """

    recipe: Recipe
    listing: Listing
    labels: LabelTables
    split: Split | None
    parts: Mapping[str, int]
    remarks: tuple[str, ...]
    findings: tuple[str, ...]
    files: tuple[str, ...]

    @property
    def participants(self) -> int:
        """How many there are."""
        return len({one.participant for one in self.listing.records})


def open_dataset(name: str, root: str | Path) -> Contents:
    """Look at a copy of a public data set; no scan is decoded.

    Raises:
        ValueError: no recipe of that name.
        TreeError: no such folder, no scan of that set in it, or a table that cannot be used.
    """
    recipe = find_recipe(name)
    tree = Tree(root)
    found = recipe.read(tree)
    found.items = [replace(one, record=_with_id(one.record)) for one in found.items]
    if not found.items:
        why = "; ".join(found.missing)
        raise TreeError(
            f"{tree.where}: no scan of {recipe.title}; expected {recipe.layout}"
            f"{f' ({why})' if why else ''}; get it from {recipe.source}"
        )
    kept, remarks = _settle(found)
    split = _split(kept, recipe)
    records = sorted((one.record for one in kept), key=lambda one: (one.path, one.member))
    return Contents(
        recipe=recipe,
        listing=Listing(records, tree.tokens),
        labels=_tables(kept),
        split=split,
        parts=Counter(one.part for one in kept if one.part),
        remarks=tuple(remarks),
        findings=tuple(_findings(recipe, found, kept, tree)),
        files=tuple(tree.known),
    )


def _with_id(record: ScanRecord) -> ScanRecord:
    """The record with its participant as tables have it: 0012 and 12 are one."""
    return replace(record, participant_id=normal_id(record.participant_id))


def _settle(found: Found) -> tuple[list[Item], list[str]]:
    """Scans without those whose participant is in a later part as well; and the remarks."""
    part_of: dict[str, str] = {}
    for one in found.items:
        owner, before = one.record.participant_id, part_of.get(one.record.participant_id, "")
        part_of[owner] = max((before, one.part), key=lambda part: ("", *PARTS).index(part))
    kept, remarks = [], list(found.remarks)
    moved: list[str] = []
    for one in found.items:
        if one.part == part_of[one.record.participant_id]:
            kept.append(one)
        else:
            moved.append(one.record.participant_id)
    if moved:
        remarks.append(
            f"{len(moved):,} scans are left out, because their {len(set(moved)):,} participants "
            "are in a later part of the official split as well, of train, val and test"
        )
    return kept, remarks


def _split(items: Sequence[Item], recipe: Recipe) -> Split | None:
    if not any(one.part for one in items):
        return None
    parts = {
        name: frozenset(one.record.participant for one in items if one.part == name)
        for name in PARTS
    }
    return Split(parts=parts, rule=f"official split of {recipe.name}")


def _tables(items: Sequence[Item]) -> LabelTables:
    """Rows of scans, and of participants as far as theirs agree; empty if nothing is said."""
    if not any(one.row for one in items):
        return LabelTables(LabelTable())
    columns = dict.fromkeys(name for one in items for name in one.row)
    blank = dict.fromkeys(columns, "")
    rows: dict[str, Row] = {
        one.record.key: blank | one.row | {LINE: str(line)} for line, one in enumerate(items, 1)
    }
    people = agree(rows, {one.record.key: one.record.participant for one in items})
    form = path_form(one.record.path for one in items)
    ids = id_form(one.record.participant_id for one in items)
    return LabelTables(
        LabelTable(rows=people, form=ids, scan_form=ids),
        LabelTable(level="scan", rows=rows, form=form, scan_form=form),
    )


def _findings(recipe: Recipe, found: Found, kept: Sequence[Item], tree: Tree) -> list[str]:
    lines = list(found.missing)
    there = {
        "scans": len(found.items),
        "participants": len({one.record.participant_id for one in found.items}),
    }
    for what, published in recipe.counts.items():
        if there[what] < published:
            lines.append(
                f"{published - there[what]:,} of {published:,} {what} are missing; get them from "
                f"{recipe.source}"
            )
        elif there[what] > published:
            lines.append(
                f"{there[what] - published:,} {what} more than the {published:,} published: "
                "another release, or two copies"
            )
    if unknown := tree.unknown():
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in unknown.items())
        lines.append(f"files that the recipe does not know, and passes over: {kinds}")
    return lines
