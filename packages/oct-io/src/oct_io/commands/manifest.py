"""`oct-io manifest ROOT`: the scans of a data set, one a line, or written down as a manifest."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from oct_io.catalog.listing import (
    participants_from_folders,
    participants_from_table,
    write_manifest,
)
from oct_io.catalog.manifest import ScanRecord, read_manifest
from oct_io.catalog.selection import Selection, select_scans
from oct_io.commands import Commands, add_command
from oct_io.progress import show_progress


def add(commands: Commands) -> None:
    """Describe the arguments."""
    command = add_command(commands, "manifest", _run)
    command.add_argument("root", metavar="ROOT")
    for name, example in (("device", "topcon_triton"), ("region", "Macula"), ("laterality", "L")):
        command.add_argument(
            f"--{name}", action="append", default=[], help=f"only these, such as {example!r}"
        )
    command.add_argument("--min-frames", type=int, default=0, metavar="N")
    command.add_argument("--max-frames", type=int, default=0, metavar="N")
    command.add_argument(
        "--participant-from",
        metavar="folder|TABLE:COLUMN",
        help="where scans that name no participant get theirs: the folder they lie in, or a column "
        "of a table that has a column filepath",
    )
    command.add_argument(
        "--cache", type=Path, metavar="CACHE", help="keep headers beside this cache of these scans"
    )
    command.add_argument("--out", type=Path, metavar="FILE", help="write a manifest, ids in clear")


def _run(options: argparse.Namespace) -> None:
    """List the scans of a data set, participants hashed, or write a manifest of them."""
    with show_progress("headers") as update:
        records = read_manifest(
            options.root,
            cache=options.cache,
            jobs=0,
            progress=lambda done, total: update(done, total, 0),
        )
    wanted = Selection(
        devices=options.device,
        regions=options.region,
        lateralities=options.laterality,
        min_bscans=options.min_frames,
        max_bscans=options.max_frames,
    )
    records = _with_participants(select_scans(records, wanted), options.participant_from)
    if options.out is None:
        _print(records)
        return
    write_manifest(options.out, records)
    refused = sum(record.refused is not None for record in records)
    seen = f", {refused} of them not readable" if refused else ""
    print(f"{len(records)} scans in {options.out}{seen}", file=sys.stderr)


def _with_participants(records: list[ScanRecord], source: str | None) -> list[ScanRecord]:
    if source is None:
        return records
    if source == "folder":
        return participants_from_folders(records)
    table, found, column = source.rpartition(":")
    if not found or not table:
        raise ValueError(f"--participant-from ({source}) must be 'folder' or TABLE:COLUMN")
    return participants_from_table(records, table, column)


def _print(records: Sequence[ScanRecord]) -> None:
    names = ("participant", "key", "device", "laterality", "region", "protocol")
    print("\t".join((*names, "shape", "refused")))
    for record in records:
        shape = "x".join(map(str, record.shape or ()))
        refused = ": ".join(record.refused or ())
        print("\t".join((*(str(getattr(record, name)) for name in names), shape, refused)))
