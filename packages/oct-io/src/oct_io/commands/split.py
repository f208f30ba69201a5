"""`oct-io split ROOT`: who is for training and who for testing, participants hashed."""

import argparse
from collections import Counter
from pathlib import Path

from rich.table import Table

from oct_io.catalog.participants import hash_ids
from oct_io.commands import Commands, add_command, plain_console
from oct_io.labels.classes import load_class_names, load_labels
from oct_io.labels.splits import make_split, write_split
from oct_io.labels.tables import read_people


def add(commands: Commands) -> None:
    """Describe the arguments."""
    command = add_command(commands, "split", _run)
    command.add_argument("root", metavar="ROOT", help="data set, or its table of participants")
    command.add_argument("--column", default="study_group", help="label, or preset, to balance")
    command.add_argument("--folds", type=int, default=5, help="where no split is recommended")
    command.add_argument("--seed", type=int, default=0, help="of the folds")
    command.add_argument("--out", type=Path, metavar="FILE", help="write the split to this table")
    command.add_argument(
        "--ignore-recommended",
        action="store_true",
        help="make folds even where the table recommends a split",
    )


def _run(options: argparse.Namespace) -> None:
    """Split participants: as their table recommends, else into folds balanced by label and site."""
    rows = hash_ids(read_people(options.root, options.column))
    split = make_split(
        rows,
        options.column,
        folds=options.folds,
        seed=options.seed,
        recommended=not options.ignore_recommended,
    )
    labels, names = load_labels(rows, options.column), load_class_names(rows, options.column)
    table = Table("part", "participants", *names, title=f"participants by {options.column}")
    for part, people in split.parts.items():
        counts = Counter(labels[one] for one in people if one in labels)
        table.add_row(part, str(len(people)), *(str(counts[i]) for i in range(len(names))))
    plain_console().print(table)
    print(split.describe())
    if options.out:
        write_split(options.out, split)
        print(f"split: {options.out}")
