"""The command `oct-vjepa embed`: features of a folder or of any source, in one file."""

import argparse
import sys
import time
from pathlib import Path

from oct_vjepa.evaluation.embedding import EmbeddingConfig, EmbeddingError, embed_source
from oct_vjepa.evaluation.sources import SUFFIXES, SourceError, open_source
from oct_vjepa.evaluation.tables import FORMATS, TableError
from oct_vjepa.model.configuration import POOLS
from oct_vjepa.model.encoder import Encoder
from oct_vjepa.model.pooling import FURTHER_POOLS
from oct_vjepa.model.weights import WeightsError

LINE_EVERY_S = 5.0  # between two lines of progress


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `embed` to the commands of a parser; `run` carries it out."""
    embed = commands.add_parser(
        "embed",
        help="features of many volumes, in one file",
        description="Writes the features of many volumes to one file. Stopped, even killed, the "
        "same command goes on where it was.",
    )
    embed.add_argument("src", help=f"folder of {', '.join(SUFFIXES)}, or what --source takes")
    embed.add_argument("out", help="file to write, .parquet or .safetensors")
    embed.add_argument("--encoder", required=True, help="folder of a saved encoder")
    embed.add_argument(
        "--source",
        default="",
        metavar="MODULE:FUNCTION",
        help="opens SRC: returns something with a length, numbered volumes and `ids`, such as "
        "oct_io:open_cache",
    )
    embed.add_argument("--format", default="", choices=FORMATS, help="if OUT's suffix is neither")
    embed.add_argument(
        "--pool",
        action="append",
        choices=POOLS + FURTHER_POOLS,
        help="how tokens become one vector; give it again for more (default: mean)",
    )
    embed.add_argument(
        "--layers",
        type=int,
        nargs="+",
        default=[],
        metavar="N",
        help="blocks to pool side by side, from 0 and ascending (default: the last)",
    )
    embed.add_argument("--tokens", action="store_true", help="keep all tokens too")
    embed.add_argument("--batch", type=int, default=8, help="volumes in one pass (default: 8)")
    embed.add_argument("--device", default="cpu", help="as torch names it (default: cpu)")
    embed.add_argument(
        "--save-every", type=float, default=10.0, metavar="S", help="seconds a kill may cost"
    )
    embed.add_argument("--restart", action="store_true", help="throw away what is there")
    embed.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command; 0 is done, 2 is a mistake the user can cure."""
    try:
        config = EmbeddingConfig(
            pools=arguments.pool or ["mean"],
            tokens=arguments.tokens,
            layers=arguments.layers,
            batch_size=arguments.batch,
            format=arguments.format,
            device=arguments.device,
            save_every_s=arguments.save_every,
        )
        source = open_source(arguments.src, arguments.source)
        encoder = Encoder.from_pretrained(arguments.encoder)
        fresh = embed_source(
            encoder,
            source,
            Path(arguments.out),
            config,
            restart=arguments.restart,
            report=Progress(),
        )
    except (EmbeddingError, SourceError, TableError, WeightsError, ValueError) as error:
        print(f"oct-vjepa: {error}", file=sys.stderr)
        return 2
    print(f"{arguments.out}: {'written' if fresh else 'is there already, from the same job'}")
    return 0


class Progress:
    """Lines on stderr: how many volumes are done, how fast, and how long it will take."""

    def __init__(self) -> None:
        self.started = self.spoken = 0.0
        self.before = -1

    def __call__(self, done: int, volumes: int) -> None:
        """Say something if it is time, and at the start and the end."""
        now = time.monotonic()
        if self.before < 0:
            self.started, self.before, self.spoken = now, done, now
            again = f"; {done:,} were done before" if done else ""
            print(f"{volumes:,} volumes{again}", file=sys.stderr)
            return
        if done < volumes and now - self.spoken < LINE_EVERY_S:
            return
        self.spoken = now
        rate = (done - self.before) / max(now - self.started, 1e-9)
        left = "" if done == volumes else f", {spell((volumes - done) / rate)} left"
        print(f"{done:,} of {volumes:,} volumes, {rate:.3g} a second{left}", file=sys.stderr)


def spell(seconds: float) -> str:
    """A duration as text."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
