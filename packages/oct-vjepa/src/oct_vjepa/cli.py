"""The command oct-vjepa: look at saved weights, convert others, list the presets, embed volumes."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict

from oct_vjepa import costs, embed_command
from oct_vjepa.convert import command
from oct_vjepa.encoder import Encoder
from oct_vjepa.weights import WeightsError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 is done, 2 is a mistake the user can cure."""
    parser = argparse.ArgumentParser(prog="oct-vjepa", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    info = commands.add_parser("info", help="configuration, parameters and tokens of an encoder")
    info.add_argument("folder", help="folder or URL with config.json and model.safetensors")
    info.set_defaults(run=run_info)
    command.add(commands)
    costs.add(commands)
    embed_command.add(commands)
    arguments = parser.parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except (WeightsError, ValueError) as error:
        print(f"oct-vjepa: {error}", file=sys.stderr)
        return 2


def run_info(arguments: argparse.Namespace) -> int:
    """Print what is in a folder."""
    print(describe(Encoder.from_pretrained(arguments.folder)))
    return 0


def describe(encoder: Encoder) -> str:
    """Settings of an encoder, one a line, then its tokens and parameters."""
    config = encoder.config
    rows = [*asdict(config).items()]
    rows.append(("tokens", f"{config.tokens} ({' x '.join(str(size) for size in config.grid)})"))
    rows.append(("parameters", f"{sum(weight.numel() for weight in encoder.parameters()):,}"))
    return "\n".join(f"{name:<16}{value}" for name, value in rows)
