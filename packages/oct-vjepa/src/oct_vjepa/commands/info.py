"""The command `oct-vjepa info`: what a folder of weights holds."""

import argparse
from dataclasses import asdict
from typing import Any

from oct_vjepa.model.encoder import Encoder


def add(commands: Any) -> None:
    """Add the command to the subparsers of the program."""
    parser = commands.add_parser("info", help="configuration, parameters and tokens of an encoder")
    parser.add_argument("folder", help="folder or URL with config.json and model.safetensors")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
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
