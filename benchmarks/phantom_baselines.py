"""Can what nobody learned tell the lesions that are only an order of parts? Phantom, all of it.

    python benchmarks/phantom_baselines.py [--encoders RUN/encoder ...]

Draws both eyes of made-up participants with every lesion of `oct_io.phantom.arrangements`, display
and roll-off of each scan differing at random, cut as `data.window=tiny`. On the features of each
trivial baseline a linear probe is fitted: strength chosen on validation participants, AUROC of test
participants. Beside them an oracle that is told where the marks and layers lie, wrong by a few
micrometres, and reads the voxels there, but not the label; and an encoder with random weights.

Labels of an eye are asked of each eye, scores averaged within the participant. `asymmetry` is asked
of one eye and of the mean over both, which cannot know it, and of pairs: means and distances of the
features of the two eyes. What two visits or the order of B-scans tell: phantom_visits.py.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from oct_io.phantom import SURFACES, PhantomTree, PhantomTruth, draw_phantom_with_truth
from oct_io.phantom.arrangements import FOLDED, paint_marks
from oct_io.phantom.scans import Scan, list_scans
from oct_io.phantom.tables import SPLITS
from oct_io.phantom.tree import draw_participants
from oct_io.space.resample import WINDOWS, place, resample
from oct_vjepa import Encoder
from oct_vjepa.evaluation.features import embed_volumes
from oct_vjepa.measures.target import Target
from oct_vjepa.measures.units import Units, aggregate_units
from oct_vjepa.presets.choices import ENCODERS
from oct_vjepa.probes.baselines import BASELINES
from oct_vjepa.probes.grid import fit_grid
from oct_vjepa.probes.protocol import Round
from oct_vjepa.scores.scorecard import headline_interval
from writing import write_results

WINDOW = WINDOWS["tiny"]
TREE = PhantomTree(
    participants=1200,
    seed=11,
    split_fractions=(0.5, 0.2, 0.3),
    arrangements=("inverted", "misplaced", "texture", "asymmetry"),
    gain_sd_db=1.5,
    roll_off_sd_db_per_mm=1.0,
)
ENCODER = replace(ENCODERS["cpu_smoke"].config(), patch_size=(2, 8, 16))
RANDOM_SEEDS = 2
EYE_LABELS = ("inverted", "misplaced", "texture")
FITTED = 400  # volumes that patch PCA and the random layer are fitted on
ERROR_UM, ERROR_MM = 8.0, 0.05  # of the oracle, in depth and across

Floats = NDArray[np.floating[Any]]


class Cohort(NamedTuple):
    """Two scans of every participant: right eye before left, or first visit before second."""

    volumes: NDArray[np.uint8]  # (2N, *window)
    told: Floats  # (2N, D), what the oracle reads
    labels: dict[str, NDArray[np.int64]]  # (N,)
    parts: NDArray[np.str_]  # (N,)


def draw_cohort(tree: PhantomTree) -> Cohort:
    """Draw all scans, and read them as the oracle does."""
    people = draw_participants(tree)
    scans = list_scans(tree, people, people)
    volumes, told = zip(*map(_draw, scans), strict=True)
    return Cohort(
        np.stack(volumes),
        np.stack(told),
        {
            name: np.array([name in one.arranged for one in people], np.int64)
            for name in tree.arrangements
        },
        np.array([one.split for one in people]),
    )


def _draw(scan: Scan) -> tuple[NDArray[np.uint8], Floats]:
    volume, truth = draw_phantom_with_truth(scan.spec, scan.person.seed)
    cut = resample(volume, WINDOW).voxels
    across, down, along = place(volume, WINDOW).matrices
    which = (scan.spec.laterality == "R", scan.spec.acquisition)
    rng = np.random.default_rng([scan.person.seed % 2**32, *which[: 1 + bool(which[1])]])
    read = []
    for template in templates(scan, truth, rng):
        seen = np.einsum("zb,brc->zrc", across, template)
        seen = np.einsum("yr,zrc,xc->zyx", down, seen, along, optimize=True)
        total = np.abs(seen).sum()
        read.append(float((seen * cut).sum() / total) if total > 0.5 else 0.0)
    if FOLDED in scan.spec.arranged:
        read.append(obliqueness(truth, rng))
    return cut, np.array(read, np.float32)


def obliqueness(truth: PhantomTruth, rng: np.random.Generator) -> float:
    """How Bruch's membrane rises along B-scans where it rises across them, in square micrometres.

    It is taken to lie deeper or less deep under each A-scan than it does, by `ERROR_UM`.
    """
    membrane = truth.surfaces_um[SURFACES.index("choroid")]
    membrane = membrane + ERROR_UM * rng.standard_normal(membrane.shape)
    across, along = (rise - rise.mean() for rise in np.gradient(membrane))
    return float((across * along).mean())


def templates(scan: Scan, truth: PhantomTruth, rng: np.random.Generator) -> Iterator[Floats]:
    """Where each lesion's halves would lie if all marks were laid alike, above the fovea and below.

    The layers are taken to lie deeper or less deep than they do, and the marks aside, by errors of
    `ERROR_UM` and `ERROR_MM`.
    """
    grid = scan.spec.grid
    surfaces = truth.surfaces_um + np.float32(ERROR_UM * rng.standard_normal())
    for name, marks in truth.marks.items():
        for below in (False, True):
            moved = [
                replace(
                    mark,
                    bscan_mm=mark.bscan_mm + ERROR_MM * rng.standard_normal(),
                    nasal_mm=mark.nasal_mm + ERROR_MM * rng.standard_normal(),
                    sign=1,
                )
                for mark in marks
                if (mark.bscan_mm > 0) == below
            ]
            blank = np.ones(grid.shape, np.float32)
            paint_marks(blank, grid, surfaces, {name: moved}, fovea_mm=truth.fovea_mm, effect=1.0)
            yield np.log(blank)


Asked = Callable[[Floats, Cohort], dict[str, list[float]]]
"""Features of each scan to AUROC and the ends of its interval, by question."""


def ask(features: Floats, cohort: Cohort, label: str, *, eyes: int, seed: int = 0) -> list[float]:
    """AUROC of a linear probe on test participants, and the ends of its 95 % interval.

    Args:
        features: (N * eyes, D), the eyes of a participant one after the other.
        cohort: labels and splits.
        label: which is asked.
        eyes: rows a participant.
        seed: of the bootstrap.
    """
    return interval_of([answers(features, cohort, label, eyes=eyes, seed=seed)], seed=seed)


def answers(features: Floats, cohort: Cohort, label: str, *, eyes: int, seed: int = 0) -> Units:
    """What a linear probe says of the test participants; arguments as `ask` has them."""
    fit, choose, test = (np.repeat(cohort.parts == part, eyes) for part in SPLITS)
    values = np.repeat(cohort.labels[label], eyes)
    people = np.repeat(np.arange(len(cohort.parts)), eyes)
    target = Target(kind="nominal", values=values, names=("no", "yes"))
    found = fit_grid(
        "linear",
        {"": features},
        target,
        people,
        Round("given", fit, choose, test),
        balanced=False,
        seed=seed,
    )
    scores = found.predict({"": features[test]})
    return aggregate_units(scores, target.take(test), people[test])


def interval_of(seeds: list[Units], *, seed: int = 0) -> list[float]:
    """Mean AUROC of the answers of each seed, and the ends of its 95 % interval."""
    headline = headline_interval([[one] for one in seeds], "nominal", seed=seed)
    return [round(value, 3) for value in headline]


def ask_eyes(features: Floats, cohort: Cohort) -> dict[str, list[float]]:
    """Every question of one visit, as the docstring on top says, of features of each eye."""
    found = {label: ask(features, cohort, label, eyes=2) for label in EYE_LABELS}
    return found | ask_twos(features, cohort, "asymmetry", "one eye")


def ask_twos(
    features: Floats, cohort: Cohort, label: str, alone: str = "one visit"
) -> dict[str, list[float]]:
    """A question of two scans: of the first alone, of the mean over both, and of pairs."""
    asked = {alone: features[::2], "mean": mean_of(features), "pairs": pairs_of(features)}
    return {f"{label}, {how}": ask(one, cohort, label, eyes=1) for how, one in asked.items()}


def mean_of(features: Floats) -> Floats:
    """The mean over the two scans of each participant."""
    return (features[::2] + features[1::2]) / 2


def pairs_of(features: Floats) -> Floats:
    """The mean over the two scans of each participant, and their distance."""
    return np.concatenate([mean_of(features), np.abs(features[::2] - features[1::2])], axis=1)


def all_features(cohort: Cohort, encoders: list[str]) -> Iterator[tuple[str, Floats]]:
    """Features of each scan by who made them, one after the other."""
    volumes = cohort.volumes
    yield "oracle", cohort.told
    fit = np.flatnonzero(np.repeat(cohort.parts == "train", 2))[:FITTED]
    for name, make in BASELINES.items():
        yield name, make(0).fit(volumes[fit]).transform(volumes)
    known = volumes[fit].astype(np.float32)
    asked: dict[str, Encoder] = {}
    for seed in range(RANDOM_SEEDS):
        torch.manual_seed(seed)
        own = replace(ENCODER, input_mean=float(known.mean()), input_std=float(known.std()))
        asked[f"random init, seed {seed}"] = Encoder(own)
    asked |= {folder: Encoder.from_pretrained(folder) for folder in encoders}
    for name, encoder in asked.items():
        yield name, tails_of(encoder, volumes)


def tails_of(encoder: Encoder, volumes: NDArray[np.uint8]) -> Floats:
    """Features of each scan, all blocks side by side, as `apps/pretrain` reads them."""
    layers = range(encoder.config.depth)
    return embed_volumes(encoder, volumes, pools=["tails"], layers=layers)["tails"]


def measure(name: str, about: str, tree: PhantomTree, asked: Asked) -> None:
    """Draw `tree`, ask everybody, print, and write results/NAME.json.

    Args:
        name: of the benchmark.
        about: its docstring.
        tree: the phantom; `--participants` changes how many it has.
        asked: features of each scan to what is told of them.
    """
    parser = argparse.ArgumentParser(description=about.partition("\n")[0])
    parser.add_argument("--encoders", nargs="*", default=[], help="folders of trained encoders")
    parser.add_argument("--participants", type=int, default=tree.participants)
    options = parser.parse_args()
    cohort = draw_cohort(replace(tree, participants=options.participants))
    rows = {}
    for who, features in all_features(cohort, options.encoders):
        rows[who] = asked(features, cohort)
        print(f"{who:20}", *(f"{key} {one[0]:.3f}" for key, one in rows[who].items()), flush=True)
    facts = {
        "phantom": True,
        "participants": {part: int((cohort.parts == part).sum()) for part in SPLITS},
        "oracle_error": {"um": ERROR_UM, "mm": ERROR_MM},
        "auroc": rows,
    }
    write_results(name, ("oct-io", "oct-vjepa", "torch", "numpy"), facts)


if __name__ == "__main__":
    measure("phantom_baselines", __doc__ or "", TREE, ask_eyes)
