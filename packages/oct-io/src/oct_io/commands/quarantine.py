"""`oct-io quarantine CACHE`: what a cache left out."""

import argparse
from pathlib import Path

from oct_io.commands import Commands, add_command
from oct_io.errors import TreeError
from oct_io.quarantine import QUARANTINE, count_stages, read_quarantine


def add(commands: Commands) -> None:
    """Describe the arguments."""
    command = add_command(commands, "quarantine", _run)
    command.add_argument("cache", type=Path, metavar="CACHE")


def _run(options: argparse.Namespace) -> None:
    """Count and list what a cache left out, without naming participants."""
    path = options.cache / QUARANTINE
    if not path.exists():
        raise TreeError(f"{path}: no quarantine here; give the folder of a cache")
    refusals = read_quarantine(path)
    for refusal in refusals:
        print(f"{refusal.key}\t{refusal.suffix}\t{refusal.stage}\t{refusal.reason}")
    print(f"{len(refusals)} refused" + (f" ({count_stages(refusals)})" if refusals else ""))
