"""The command oct-vjepa: look at weights, convert, list presets, plan, embed, rank runs."""

import argparse
import sys
from collections.abc import Sequence

from oct_vjepa.commands import convert, embed, info, leaderboard, plan, presets
from oct_vjepa.model.weights import WeightsError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 is done, 2 is a mistake the user can cure, 130 Ctrl-C: a line each."""
    parser = argparse.ArgumentParser(prog="oct-vjepa", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for command in (info, convert, presets, plan, embed, leaderboard):
        command.add(commands)
    arguments = parser.parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except KeyboardInterrupt:
        print("oct-vjepa: interrupted", file=sys.stderr)
        return 130
    except (WeightsError, ValueError, OSError) as error:  # the last: a place that takes no file
        print(f"oct-vjepa: {error}", file=sys.stderr)
        return 2
