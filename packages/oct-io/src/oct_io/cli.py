"""The command `oct-io`: look at scans, audit, list, split and cache a data set, draw phantoms."""

import argparse
import pkgutil
import sys
from collections.abc import Sequence
from importlib import import_module

from oct_io import commands
from oct_io.errors import OctIoError

OK, USER_ERROR, INTERRUPTED = 0, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 when done, 2 with one line on stderr when the input is at fault.

    Ctrl-C ends it with one line as well, and 130.
    """
    try:
        options = _parser().parse_args(arguments)
        options.run(options)
    except KeyboardInterrupt:
        print("oct-io: interrupted", file=sys.stderr)
        return INTERRUPTED
    except OctIoError as error:
        print(f"oct-io: {error}", file=sys.stderr)
        return USER_ERROR
    except (ValueError, OSError) as error:  # a bad option, or a place that cannot be written
        print(f"oct-io: {' '.join(str(error).split())}", file=sys.stderr)
        return USER_ERROR
    return OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="oct-io", description=__doc__)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in pkgutil.iter_modules(commands.__path__):
        import_module(f"{commands.__name__}.{module.name}").add(subparsers)
    return parser
