"""`oct-io inspect FILE`: what one scan is."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from oct_io.catalog.render import draw_enface, draw_montage, write_png
from oct_io.commands import Commands, add_command
from oct_io.readers.registry import open_volume
from oct_io.records.sidecars import FolderSidecars
from oct_io.scan.header import ScanHeader
from oct_io.volume import Spacing


def add(commands: Commands) -> None:
    """Describe the arguments."""
    command = add_command(commands, "inspect", _run)
    command.add_argument("file", metavar="FILE")
    command.add_argument(
        "--root", help="data set that it lies in: its volume.json, and those on the way, count"
    )
    command.add_argument("--member", help="array of an .npz, series of an .e2e")
    command.add_argument(
        "--spacing",
        nargs=3,
        type=float,
        metavar=("BSCAN", "ROW", "COLUMN"),
        help="millimetres, above what the file says",
    )
    command.add_argument("--png", type=Path, metavar="OUT", help="also decode, and draw B-scans")
    command.add_argument("--enface", type=Path, metavar="OUT", help="also draw it from the front")
    command.add_argument(
        "--slab",
        nargs=2,
        type=float,
        metavar=("TOP", "BOTTOM"),
        help="depths in mm between which --enface averages; all of the scan if not given",
    )


def _run(options: argparse.Namespace) -> None:
    """Say what a scan is, without saying whose."""
    if options.slab and not options.enface:
        raise ValueError("--slab needs --enface: it says what that picture averages over")
    scan = open_volume(
        options.file,
        spacing=Spacing(*options.spacing) if options.spacing else None,
        member=options.member,
        sidecar=_said(options.file, options.root),
    )
    _print_header(scan.header)
    if not options.png and not options.enface:
        return
    volume = scan.load()
    if options.png:
        write_png(draw_montage(volume), options.png)
    if options.enface:
        slab = (options.slab[0], options.slab[1]) if options.slab else None
        write_png(draw_enface(volume, depth_mm=slab), options.enface)


def _said(file: str, root: str | None) -> dict[str, Any] | None:
    """What the folders from `root` down to the file say of it; None without a root."""
    if root is None:
        return None
    base = root.rstrip("/")
    if not file.startswith(f"{base}/"):
        raise ValueError(f"--root ({root}) must be a folder above FILE, written like it")
    said = FolderSidecars(base).said(file.removeprefix(f"{base}/").strip("/"))
    return json.loads(said) if said else {}


def _print_header(header: ScanHeader) -> None:
    spacing = "unknown" if header.spacing is None else _numbers(header.spacing, " x ")
    table = Table("property", "value", title="scan")
    rows = {
        "bscans x rows x columns": " x ".join(map(str, header.shape)),
        "bits": str(header.bits),
        "spacing, mm": f"{spacing} (from {header.spacing_source})",
        "confidence": header.spacing_confidence,
        "pattern": f"{header.pattern} {header.pattern_note}".strip(),
        "laterality": header.laterality,
        "device": header.device,
        "protocol": header.protocol,
        "region": header.region,
        "transfer syntax": header.transfer_syntax,
    }
    for name, value in rows.items():
        table.add_row(name, value)
    Console().print(table)


def _numbers(values: Sequence[float], between: str) -> str:
    return between.join(f"{value:.6g}" for value in values)
