"""The command `oct-vjepa convert SRC OUT`."""

import argparse
from dataclasses import fields
from typing import Any

from oct_vjepa.convert.formats import FORMS, read_encoder, write_encoder
from oct_vjepa.convert.layout import LAYOUTS, PARTS, ConversionConfig


def add(commands: Any) -> None:
    """Add the command to the subparsers of the program."""
    parser = commands.add_parser(
        "convert",
        help="weights of V-JEPA 2, 2.1, transformers or the predecessor, to one of our forms",
    )
    parser.add_argument("source", help="file, folder or URL to read")
    parser.add_argument("target", help="folder or file to write")
    parser.add_argument("--to", choices=FORMS, default="encoder", help="what to write")
    parser.add_argument("--layout", choices=LAYOUTS, default="auto", help="what the source is")
    parser.add_argument("--part", choices=PARTS, default="auto", help="which of its encoders")
    for name in ("input-shape", "source-shape", "patch-size"):
        parser.add_argument(f"--{name}", type=int, nargs=3, metavar=("Z", "Y", "X"))
    parser.add_argument("--channels", type=int, help="1 sums the channels of the file")
    parser.add_argument("--heads", type=int, help="where the file does not say")
    parser.add_argument("--input-mean", type=float, help="subtracted from each voxel")
    parser.add_argument("--input-std", type=float, help="divides each voxel")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Read, print the report, write.

    Raises:
        WeightsError: the source cannot be read or the target cannot be written.
    """
    given = {one.name: getattr(arguments, one.name) for one in fields(ConversionConfig)}
    encoder, report = read_encoder(arguments.source, ConversionConfig(**given))
    print(report)
    print(write_encoder(encoder, arguments.target, arguments.to))
    return 0
