"""`oct-io publish CACHE URL`: put a cache into a bucket, to train from it there."""

import argparse
from pathlib import Path

from oct_io.cache.publishing import publish_cache
from oct_io.commands import Commands, add_command
from oct_io.progress import show_progress
from oct_io.storage.files import redact


def add(commands: Commands) -> None:
    """Describe the arguments."""
    command = add_command(commands, "publish", _run)
    command.add_argument("cache", type=Path, metavar="CACHE")
    command.add_argument("url", metavar="URL", help="folder in a bucket, for this cache alone")


def _run(options: argparse.Namespace) -> None:
    """Copy a cache to a bucket, from which hosts train without a copy of it."""
    with show_progress("files") as update:
        sent = publish_cache(options.cache, options.url, lambda done, total: update(done, total, 0))
    print(f"{sent} files sent; data.cache={redact(options.url)} data.kept=DIR trains from there")
