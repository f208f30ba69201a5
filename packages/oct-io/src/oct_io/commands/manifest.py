"""`oct-io manifest ROOT`: the scans of a data set, one a line."""

import argparse

from oct_io.commands import Commands, add_command
from oct_io.manifest import read_manifest


def add(commands: Commands) -> None:
    """Describe the arguments."""
    add_command(commands, "manifest", _run).add_argument("root", metavar="ROOT")


def _run(options: argparse.Namespace) -> None:
    """List the scans of a data set as tab-separated text, participants hashed."""
    names = ("participant", "key", "device", "laterality", "region", "protocol")
    print("\t".join((*names, "shape", "refused")))
    for record in read_manifest(options.root):
        shape = "x".join(map(str, record.shape or ()))
        refused = ": ".join(record.refused or ())
        print("\t".join((*(str(getattr(record, name)) for name in names), shape, refused)))
