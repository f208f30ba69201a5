"""`oct-io inspect FILE`: what one scan is."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from oct_io.commands import Commands, add_command
from oct_io.readers import read_header, read_volume
from oct_io.render import draw_montage, write_png


def add(commands: Commands) -> None:
    """Describe the arguments."""
    command = add_command(commands, "inspect", _run)
    command.add_argument("file", metavar="FILE")
    command.add_argument("--png", type=Path, metavar="OUT", help="also decode, and draw B-scans")


def _run(options: argparse.Namespace) -> None:
    """Say what a scan is, without saying whose."""
    header = read_header(options.file)
    spacing = "unknown" if header.spacing is None else _numbers(header.spacing, " x ")
    table = Table("property", "value", title="scan")
    rows = {
        "bscans x rows x columns": " x ".join(map(str, header.shape)),
        "bits": str(header.bits),
        "spacing, mm": f"{spacing} (from {header.spacing_source})",
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
    if options.png:
        write_png(draw_montage(read_volume(options.file)), options.png)


def _numbers(values: Sequence[float], between: str) -> str:
    return between.join(f"{value:.6g}" for value in values)
