r"""Where is the fluid? Asked of tokens of frozen encoders that have seen other people's scans.

    uv run python benchmarks/real_patches.py DUKE \
      units=runs/units-seed1/encoder,runs/units-seed2/encoder \
      "voxels alone=runs/voxels-seed1/encoder,runs/voxels-seed2/encoder" --write

The encoders were pretrained without labels on the data of benchmarks/real_bscans.py, in five folds
(`oct-io split PATIENTS --column dme --folds 5`), two of them left out:

    uv run apps/pretrain $DATA experiment=bscans masking=mae loop.steps=1250 seed=1 \
      data.excluded_splits=[fold-0,fold-1] loop.evaluate_every=0 run_dir=runs/voxels-seed1
    uv run apps/pretrain ... objective.voxel_weight=0.33 objective.unit_weight=0.67 \
      run_dir=runs/units-seed1

DUKE is the folder `data` of benchmarks/real_fluid.py: 110 Spectralis B-scans of 10 patients whom no
encoder has seen, fluid marked in 78. NAME=ENCODER[,ENCODER] adds another candidate, read alike.

Each patch of 8 x 16 voxels is asked whether a twentieth of it or more is fluid, by a logistic
regression on what three blocks, first, middle and last, say of it, the means of that over 3 x 3 and
5 x 5 patches around it, and its row in the grid. Two patients are tested, the next two choose the
strength, six are fitted on, or the first two or one of those with fluid, in five rounds. A patient
counts as the area under the ROC curve, and as the average precision, of all patches of theirs;
means over patients, intervals from patients and seeds drawn again. Beside it stand random init of
as many seeds, and what nobody learned: the row alone, the patch's voxels, principal components of
it and its eight neighbours, one random ReLU layer of its voxels, or of those of its neighbours too,
and a bank of classical filters; and together with the latter the tokens of the first encoder and
of random init.

Here `experiment=bscans` stands for what it was until results/real_bscans_filter_targets.json:
objective=vjepa21_voxels_smoke masking=multiblock loop.steps=2700 loop.evaluate_every=300, and what
is given beside it goes before that.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from oct_io import CachedVolumes, ScanRecord
from oct_launch import print_table
from oct_vjepa import Encoder
from oct_vjepa.evaluation.patch_probe import (
    METRICS,
    blocks_between,
    mark_patches,
    patch_probe,
    read_around,
    read_tokens,
)
from oct_vjepa.probes.patchwork import NeighbourPca, PatchFilters, PatchVoxels, RandomUnits
from oct_vjepa.probes.protocol import Round
from oct_vjepa.scores.measured import Measured, compare_measured, measure_card
from real_fluid import IMAGES, PER_PATIENT, open_duke
from writing import as_cell, rounded, write_results

PATCH, GRID = (1, 8, 16), (1, 8, 16)
UNITS = 576  # as many as three blocks of the encoder are wide
COMPONENTS = 96
RANDOM, FILTERS = "random init", "filter bank"
BOOTSTRAP = 2000

Tokens = NDArray[np.float32]


def leave_pairs_out(people: NDArray[np.int64]) -> list[Round]:
    """Two patients after the other are tested, the next two choose the epoch."""
    pairs, count_ = people // 2, int(people.max()) // 2 + 1
    return [
        Round(
            f"patients {2 * pair + 1} and {2 * pair + 2}",
            (pairs != pair) & (pairs != (pair + 1) % count_),
            pairs == (pair + 1) % count_,
            pairs == pair,
        )
        for pair in range(count_)
    ]


def read_duke(folder: Path) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """B-scans and fluid as `data.flatten=true data.window=64x256` cuts them, (N, 1, 64, 256)."""
    with TemporaryDirectory() as out:
        names = [f"img_{number}.png" for number in range(IMAGES)]
        return read_in_order(open_duke(folder, Path(out)), names)


def read_in_order(
    volumes: CachedVolumes, names: Sequence[str]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Voxels of the scans of these names, and those that the first class marks, (N, Z, Y, X)."""
    rows = {key: row for row, key in enumerate(volumes.ids)}
    order = [rows[ScanRecord(path=name).key] for name in names]
    grey = np.stack([volumes[row] for row in order])
    return grey, np.stack([volumes.mask(row) == 1 for row in order])


def say(encoder: Encoder, grey: NDArray[np.uint8]) -> Tokens:
    """What the first, the middle and the last block say of each patch, (N, patches, 3 width)."""
    blocks = blocks_between(encoder.config.depth)
    return read_tokens(encoder, grey, blocks=blocks, batch_size=IMAGES // 5).astype(np.float32)


def unlearned(grey: NDArray[np.uint8]) -> Mapping[str, Tokens]:
    """What is read off the voxels of a patch, (N, patches, features); labels are not looked at."""
    makers = {
        "voxels of the patch": PatchVoxels(patch=PATCH),
        "PCA of 3 x 3 patches": NeighbourPca(patch=PATCH, components=COMPONENTS, seed=0),
        "random layer": RandomUnits(patch=PATCH, units=UNITS, seed=0),
        "random layer of 3 x 3 patches": RandomUnits(patch=PATCH, units=UNITS, seed=0, around=True),
        FILTERS: PatchFilters(patch=PATCH),
    }
    found = {name: maker.fit(grey).transform(grey) for name, maker in makers.items()}
    return {"row of the patch": np.zeros((len(grey), int(np.prod(GRID)), 0), np.float32), **found}


def candidates(
    named: Mapping[str, Sequence[Path]], grey: NDArray[np.uint8]
) -> dict[str, list[Tokens]]:
    """Features of each candidate, one array a seed; the first is the reference."""
    encoders = {
        name: [Encoder.from_pretrained(path) for path in paths] for name, paths in named.items()
    }
    found = {name: [say(one, grey) for one in seeds] for name, seeds in encoders.items()}
    random = []
    for seed, one in enumerate(next(iter(encoders.values()))):
        torch.manual_seed(seed)
        random.append(say(Encoder(one.config), grey))
    plain = {name: [one] for name, one in unlearned(grey).items()}
    reference = next(iter(found))
    both = {
        f"{name} + {FILTERS}": [np.concatenate([one, plain[FILTERS][0]], axis=2) for one in seeds]
        for name, seeds in ((reference, found[reference]), (RANDOM, random))
    }
    return found | {RANDOM: random} | plain | both


def ask(
    features: Mapping[str, Sequence[Tokens]],
    present: NDArray[np.bool_],
    people: NDArray[np.int64],
    rounds: Sequence[Round],
    patients: int,
) -> list[dict[str, Any]]:
    """A row for each candidate that learns from so many patients of each round."""
    rounds = [few(one, people, present, patients) for one in rounds]
    readings: dict[str, list[list[Measured]]] = {}
    for name, seeds in features.items():
        readings[name] = [
            patch_probe(read_around(one, GRID), present, people, rounds) for one in seeds
        ]
        print(f"{patients} patients: {name}", flush=True)
    reference, draws = next(iter(features)), {"seed": 0, "bootstrap": BOOTSTRAP}
    gains, gains_together = (
        {
            metric: compare_measured(readings, METRICS, metric, reference=one, **draws)
            for metric in METRICS
        }
        for one in (reference, f"{reference} + {FILTERS}")
    )
    return [
        {
            "fitted_on": patients,
            "candidate": name,
            "seeds": len(found),
            **{key: rounded(value) for key, value in measure_card(found, METRICS, **draws).items()},
            "reference_over_it": over_it(gains, name),
            "reference_together_over_it": over_it(gains_together, name),
            "patients_behind": None if name == reference else behind(readings, reference, name),
        }
        for name, found in readings.items()
    ]


def over_it(gains: Mapping[str, Mapping[str, Any]], name: str) -> dict[str, list[float]]:
    """Difference, its interval and p after Holm's correction, for each metric."""
    return {
        metric: [*rounded(gain[name].difference), round(gain[name].p_holm, 4)]
        for metric, gain in gains.items()
        if name in gain
    }


def few(one: Round, people: NDArray[np.int64], present: NDArray[np.bool_], patients: int) -> Round:
    """The round with the first so many of the patients to fit, of those who have fluid."""
    amounts = {who: int(present[people == who].sum()) for who in np.unique(people[one.fit])}
    kept = [who for who, amount in amounts.items() if amount][:patients]
    return one._replace(fit=one.fit & np.isin(people, kept))


def behind(readings: Mapping[str, Sequence[Sequence[Measured]]], first: str, second: str) -> int:
    """Patients in whom the mean area of the first over its seeds exceeds that of the second."""
    means = []
    for name in (first, second):
        areas = [
            np.concatenate([found.values_NM[:, 0] for found in seed]) for seed in readings[name]
        ]
        means.append(np.mean(areas, axis=0))
    return int(np.sum(means[0] > means[1]))


def named_paths(text: str) -> tuple[str, list[Path]]:
    """NAME=ENCODER[,ENCODER] of the command line."""
    name, _, paths = text.partition("=")
    return name, [Path(path) for path in paths.split(",")]


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a line for each candidate."""
    print_table(
        ["fitted on", "candidate", *METRICS, "reference over it"],
        [
            [str(row["fitted_on"]), row["candidate"], *(as_cell(row[key]) for key in METRICS),
             as_cell(row["reference_over_it"].get("auroc"))]
            for row in rows
        ],
    )  # fmt: skip


def main() -> None:
    """Ask, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("duke", type=Path)
    parser.add_argument("encoders", nargs="+", type=named_paths, help="NAME=ENCODER[,ENCODER]")
    parser.add_argument("--patients", type=int, nargs="*", default=[6, 2, 1], help="to fit on")
    parser.add_argument("--into", default="real_patches", help="results/INTO.json")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    grey, fluid = read_duke(options.duke)
    features = candidates(dict(options.encoders), grey)
    people, present = np.arange(IMAGES) // PER_PATIENT, mark_patches(fluid, GRID)
    rounds = leave_pairs_out(people)
    rows = [
        row for count in options.patients for row in ask(features, present, people, rounds, count)
    ]
    show(rows)
    if options.write:
        write_results(
            options.into,
            ("oct-io", "oct-vjepa", "numpy", "scikit-learn"),
            {"data": "duke_dme", "phantom": False, "patients": IMAGES // PER_PATIENT,
             "patches": int(present.size), "with_fluid": int(present.sum()), "rows": rows},
        )  # fmt: skip


if __name__ == "__main__":
    main()
