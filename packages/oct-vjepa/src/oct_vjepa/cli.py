"""The command oct-vjepa: say what is in a folder of saved weights."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict

from oct_vjepa.encoder import Encoder
from oct_vjepa.weights import WeightsError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 is done, 2 is a mistake the user can cure."""
    parser = argparse.ArgumentParser(prog="oct-vjepa", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    info = commands.add_parser("info", help="configuration, parameters and tokens of an encoder")
    info.add_argument("folder", help="folder with config.json and model.safetensors")
    arguments = parser.parse_args(argv)
    try:
        encoder = Encoder.from_pretrained(arguments.folder)
    except WeightsError as error:
        print(f"oct-vjepa: {error}", file=sys.stderr)
        return 2
    print(describe(encoder))
    return 0


def describe(encoder: Encoder) -> str:
    """Settings of an encoder, one a line, then its tokens and parameters."""
    config = encoder.config
    rows = [*asdict(config).items()]
    rows.append(("tokens", f"{config.tokens} ({' x '.join(str(size) for size in config.grid)})"))
    rows.append(("parameters", f"{sum(weight.numel() for weight in encoder.parameters()):,}"))
    return "\n".join(f"{name:<16}{value}" for name, value in rows)
