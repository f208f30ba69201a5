"""`oct-io phantom OUT`: a made-up data set."""

import argparse
from pathlib import Path

from oct_io.commands import Commands, add_command
from oct_io.progress import show_progress


def add(commands: Commands) -> None:
    """Describe the arguments."""
    command = add_command(commands, "phantom", _run)
    command.add_argument("out", type=Path, metavar="OUT")
    command.add_argument("--participants", type=int, default=None)
    command.add_argument("--seed", type=int, default=None)
    command.add_argument("--jobs", type=int, default=None, help="processes; 0 for one a CPU")


def _run(options: argparse.Namespace) -> None:
    """Draw a made-up data set in AI-READI's layout."""
    from oct_io.phantom import PhantomTree, write_phantom_tree

    names = ("participants", "seed", "jobs")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    with show_progress("phantoms") as update:
        tree = PhantomTree(**given)
        write_phantom_tree(options.out, tree, lambda done, total: update(done, total, 0))
