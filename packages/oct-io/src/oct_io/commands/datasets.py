"""`oct-io datasets [NAME [DIR]]`: public data sets that are read as they are published."""

import argparse
import csv
from pathlib import Path

from rich.console import Console
from rich.table import Table

from oct_io.commands import Commands, add_command, plain_console
from oct_io.datasets.checksums import compare, digest, hash_files, read_list, write_list
from oct_io.datasets.contents import Contents, open_dataset
from oct_io.datasets.recipe import Recipe
from oct_io.datasets.registry import RECIPES, find_recipe
from oct_io.errors import TreeError


def add(commands: Commands) -> None:
    """Describe the arguments."""
    command = add_command(commands, "datasets", _run)
    command.add_argument("name", metavar="NAME", nargs="?", help="one of them; without it, all")
    command.add_argument("root", metavar="DIR", nargs="?", help="copy of it, to be checked")
    command.add_argument(
        "--labels", type=Path, metavar="FILE", help="write its labels and split, ids in clear"
    )
    command.add_argument(
        "--checksums",
        type=Path,
        metavar="FILE",
        help="compare its files with a list of sha256sum or md5sum, or write one that is not there",
    )


def _run(options: argparse.Namespace) -> None:
    """List public data sets, describe one, or check a copy of it."""
    console = plain_console()
    if options.name is None:
        console.print(_all())
        return
    try:
        recipe = find_recipe(options.name)
    except ValueError as error:
        raise ValueError(f"NAME {error}") from error
    if options.root is None:
        _describe(recipe, console)
        return
    contents = open_dataset(options.name, options.root)
    _report(contents, console)
    if options.labels:
        _write_labels(contents, options.labels)
        print(f"labels: {options.labels}")
    if options.checksums:
        _check_hashes(contents, options.root, options.checksums)


def _all() -> Table:
    table = Table("data=", "what", "scans are", "as published", "terms")
    for one in RECIPES.values():
        kind = "B-scans" if one.bscans else "volumes"
        counts = ", ".join(f"{number:,} {what}" for what, number in one.counts.items())
        table.add_row(one.name, one.title, kind, counts, one.terms)
    return table


def _describe(recipe: Recipe, console: Console) -> None:
    counts = ", ".join(f"{number:,} {what}" for what, number in recipe.counts.items())
    table = Table(recipe.name, recipe.title)
    for name, text in (
        ("tree", recipe.layout),
        ("get it from", recipe.source),
        ("terms", recipe.terms),
        ("as published", counts or "no counts"),
        ("scans are", "single B-scans" if recipe.bscans else "volumes"),
        ("spacing", recipe.spacing),
        ("split", recipe.split),
        ("labels", ", ".join(recipe.labels) or "none of volumes"),
        ("tried", recipe.verified),
    ):
        table.add_row(name, text)
    console.print(table)


def _report(contents: Contents, console: Console) -> None:
    records = contents.listing.records
    console.print(f"{len(records):,} scans of {contents.participants:,} participants")
    if contents.parts:
        parts = ", ".join(f"{part} {count:,}" for part, count in contents.parts.items())
        console.print(f"official split, scans: {parts}")
    finer = contents.labels.finer
    rows = list(finer.rows.values()) if finer is not None else []
    for column in contents.recipe.labels:
        known = sum(bool(row.get(column)) for row in rows)
        console.print(f"label {column}: {known:,} scans")
    for remark in contents.remarks:
        console.print(f"note: {remark}")
    for finding in contents.findings:
        console.print(f"check: {finding}")
    if not contents.findings and contents.recipe.counts:
        console.print("all is as published")
    elif not contents.findings:
        console.print("nothing is missing that can be told: its published counts are not known")
    console.print(f"terms: {contents.recipe.terms}; recipe {contents.recipe.verified}")


def _check_hashes(contents: Contents, root: str, path: Path) -> None:
    """Compare the files of a copy with a list, or write the list.

    Raises:
        TreeError: they differ.
    """
    if path.exists():
        if lines := compare(root, contents.files, read_list(path)):
            raise TreeError("; ".join(lines))
        print(f"checksums: as in {path}")
        return
    hashes = hash_files(root, contents.files)
    write_list(path, hashes)
    found, published = digest(hashes.values()), contents.recipe.sha256
    print(f"checksums: {path}, {len(hashes):,} files, all of them {found}")
    if published:
        same = "are those" if found == published else "are not those"
        print(f"checksums: the files {same} that this recipe was tried on")


def _write_labels(contents: Contents, path: Path) -> None:
    finer = contents.labels.finer
    rows = {} if finer is None else finer.rows
    columns = [name for name in next(iter(rows.values()), {}) if name and not name.startswith("@")]
    part_of = {
        one: part
        for part, people in (contents.split.parts if contents.split else {}).items()
        for one in people
    }
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["filepath", "participant_id", "recommended_split", *columns])
        for one in contents.listing.records:
            row = rows.get(one.key, {})
            whose = [one.path, one.participant_id, part_of.get(one.participant, "")]
            writer.writerow([*whose, *(row.get(column, "") for column in columns)])
