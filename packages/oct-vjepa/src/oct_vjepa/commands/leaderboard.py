"""The command `oct-vjepa leaderboard RUNS...`: finished evaluations of one question, ranked."""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from oct_vjepa.boards.page import sentence_of, text_of, write_board
from oct_vjepa.boards.runs import BoardError, Found, Run, find_runs, read_run
from oct_vjepa.boards.standings import BOOTSTRAP, make_board
from oct_vjepa.boards.tracked import SCHEME, fetch_project


def add(commands: Any) -> None:
    """Add the command to the subparsers of the program."""
    parser = commands.add_parser(
        "leaderboard",
        help="rank finished evaluations of one question, with intervals and paired differences",
        description="Reads results.json and predictions.parquet, or of masks measures.parquet, of "
        "each run and writes leaderboard.csv and leaderboard.html. Runs that differ by their seed "
        "alone are one entry.",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        help=f"run folders, folders that hold some, of a sweep, or {SCHEME}ENTITY/PROJECT",
    )
    parser.add_argument("--out", default="", help="folder to write to (default: the first of RUNS)")
    parser.add_argument("--reference", default="", metavar="ENTRY", help="compare with this one")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: 0)")
    parser.add_argument(
        "--bootstrap", type=int, default=BOOTSTRAP, help=f"samples (default: {BOOTSTRAP})"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Read, rank, print, write; 0 is done, 2 is a mistake the user can cure."""
    try:
        runs, failed = read_all(arguments.runs)
        if not runs:
            raise BoardError(f"{', '.join(arguments.runs)}: no run has ended well")
        board = make_board(
            runs,
            failed=failed,
            reference=arguments.reference,
            seed=arguments.seed,
            bootstrap=arguments.bootstrap,
        )
        first = arguments.runs[0]
        out = arguments.out or ("." if first.startswith(SCHEME) else first)
        paths = write_board(board, Path(out))
    except (BoardError, OSError) as error:
        print(f"oct-vjepa: {error}", file=sys.stderr)
        return 2
    print(text_of(board))
    print(sentence_of(board))
    print(f"leaderboard: {', '.join(map(str, paths))}")
    return 0


def read_all(places: list[str]) -> tuple[list[Run], list[tuple[str, str]]]:
    """Every run of the places, and the jobs of sweeps that left none.

    Raises:
        BoardError: a place holds none, or a run cannot be read.
    """
    local = [one for one in places if not one.startswith(SCHEME)]
    found = find_runs(local) if local else Found([], [])
    runs = [read_run(one) for one in found.runs]
    for place in places:
        if place.startswith(SCHEME):
            with tempfile.TemporaryDirectory(prefix="oct-vjepa-") as scratch:
                fetched = fetch_project(place.removeprefix(SCHEME), Path(scratch))
                runs += [read_run(folder, name) for folder, name in fetched]
    return runs, found.failed
