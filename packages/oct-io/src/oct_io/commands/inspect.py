"""`oct-io inspect FILE`: what one scan is."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from oct_io.catalog.render import draw_enface, draw_montage, write_png
from oct_io.commands import Commands, add_command, plain_console
from oct_io.readers.registry import open_volume
from oct_io.records.sidecars import FolderSidecars
from oct_io.scan.flags import FLAGS, find_flags
from oct_io.scan.header import ScanHeader
from oct_io.volume import OctVolume, Spacing


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
    command.add_argument("--flags", action="store_true", help="also decode, and say what is odd")
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
    if not options.flags and not options.png and not options.enface:
        return
    volume = scan.load()
    _print_flags(volume)
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
    table = Table("property", "value", title="scan")
    rows = {
        "bscans x rows x columns": " x ".join(map(str, header.shape)),
        "bits": str(header.bits),
        "spacing, mm": _spacing(header),
        "confidence": header.spacing_confidence,
        "pattern": header.pattern + (f": {header.pattern_note}" if header.pattern_note else ""),
        "laterality": header.laterality,
        "device": header.device,
        "protocol": header.protocol,
        "region": header.region,
        "transfer syntax": header.transfer_syntax,
    }
    for name, value in rows.items():
        table.add_row(name, value)
    plain_console().print(table)


def _print_flags(volume: OctVolume) -> None:
    found = find_flags(volume)
    table = Table("flag", "what it means", title=f"signal {found.signal_db:.1f} dB")
    for name in found.names:
        seen = volume.lost_bytes if name == "lost_bytes" else ""
        table.add_row(name, seen or FLAGS[name])
    if not found.names:
        table.add_row("none", "")
    plain_console().print(table)


def _spacing(header: ScanHeader) -> str:
    """Millimetres and their source; a line or a circle has them within its B-scans alone."""
    if header.spacing is not None:
        return f"{_numbers(header.spacing, ' x ')} (from {header.spacing_source})"
    within = _numbers((header.row_mm, header.column_mm), " x ")
    return f"unknown between B-scans, {within} within them"


def _numbers(values: Sequence[float], between: str) -> str:
    return between.join(f"{value:.6g}" for value in values)
