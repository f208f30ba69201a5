"""`oct-io purge FOLDER`: empty a content cache."""

import argparse
from pathlib import Path

from oct_io.commands import Commands, add_command


def add(commands: Commands) -> None:
    """Describe the arguments."""
    command = add_command(commands, "purge", _run)
    command.add_argument("folder", type=Path, metavar="FOLDER", help="storage.content_cache")


def _run(options: argparse.Namespace) -> None:
    """Delete every fetched file that a content cache keeps."""
    from oct_io.errors import TreeError
    from oct_io.storage.content_cache import MARK, ContentCache

    if not (options.folder / MARK).exists():
        raise TreeError(f"{options.folder}: no content cache lies there")
    print(f"{ContentCache(options.folder, 1).purge()} files deleted")
