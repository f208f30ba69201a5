"""One module a command of `oct-io`: each has `add(commands)`, which describes its arguments.

Every module of this folder is a command. A command parses, calls one function of the library and
prints; it imports what is heavy inside the function that runs it, because all of them are loaded to
know the arguments of one.
"""

import argparse
from collections.abc import Callable
from typing import Protocol

from rich.console import Console


class Commands(Protocol):
    """What `argparse.ArgumentParser.add_subparsers` returns."""

    def add_parser(self, name: str, *, help: str, description: str) -> argparse.ArgumentParser:
        """Add the parser of one command."""


def add_command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], None]
) -> argparse.ArgumentParser:
    """Add the command `name`, described by the first line of `run`'s docstring."""
    about = (run.__doc__ or "").splitlines()[0]
    command = commands.add_parser(name, help=about, description=about)
    command.set_defaults(run=run)
    return command


def plain_console() -> Console:
    """Standard output that prints what is read from files as it stands, brackets and all."""
    return Console(markup=False, emoji=False, highlight=False)
