"""What a probe costs: 20 fitted together or one by one, and on kept features or encoding anew.

OMP_NUM_THREADS=1 python benchmarks/probe_grid.py

CPU seconds. Together: made-up features of 1,000 rows to fit and 250 to choose by, 10 strengths x 2
readouts, the second of which knows nothing; validation alone chooses, as for single ones, and
`folded` is the grid as it is by default, in which the fit rows choose too: five fits of each.
`alone` are grids of one model each. scikit-learn (one
by one) standardises and fits as `probe` does, is asked for AUROC on the same rows, and stops by its
own rule; but for steep ones a second time (`exact`) by the loosest that leaves no larger error than
ours. Spectra: `flat` has independent features, the easiest for scikit-learn; in `steep` standard
deviations fall as 1 / rank, so that features agree with one another; `encoder` is no spectrum: the
default network's own two readouts, random weights, of phantoms with and without drusen and of four
study groups. The difference is the largest in a probability, to scikit-learn run until nothing
moves.

Kept: the default tiny encoder and phantom volumes. Training a linear layer on a frozen encoder sees
every volume anew in every epoch; one epoch of that is measured, and multiplied by 50. `plain` lets
validation alone choose, as a linear layer would; else the fit rows choose too.

Pools: 20 learned ones of mode=attentive on the same encoder and volumes, 2 readouts x 5 learning
rates x 2 decays, for 2 epochs each. The grid keeps the tokens and fits all of them in one pass;
`alone` are 20 grids of one pool, each on tokens that are kept already; `looped` are 20 single ones
that keep nothing, as the loop trains them: an epoch of encoding, times 2 times 20, and `alone`.
"""

import json
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from oct_io.phantom import Phantom, draw_phantom
from oct_judge.candidates import random_encoder
from oct_judge.pools import Tokens, candidates_of, keep_tokens
from oct_judge.recipe import PoolGridConfig, TrainingConfig
from oct_launch import print_table
from oct_vjepa import Encoder, EncoderConfig
from oct_vjepa.evaluation.features import embed_volumes, load_or_embed
from oct_vjepa.evaluation.readouts import ReadoutConfig, read_out
from oct_vjepa.evaluation.token_probe import TokenProbeConfig, fit_token_probes
from oct_vjepa.measures.target import Target
from oct_vjepa.probes.answers import answers_of, weights_of
from oct_vjepa.probes.candidates import Question, fit_linear
from oct_vjepa.probes.configuration import GridConfig
from oct_vjepa.probes.grid import fit_grid
from oct_vjepa.probes.protocol import Round
from oct_xla import pick_runtime
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from writing import write_results

FIT, HELD, ROUNDS = 1000, 250, 3
VOLUMES, EPOCHS, POOL_EPOCHS = 64, 50, 2
POOLS = PoolGridConfig(
    blocks=["last", "all"],
    kinds=["cross_attention"],
    learning_rates=[1e-4, 3e-4, 1e-3, 3e-3, 1e-2],
    weight_decays=[0.01, 0.1],
)
TOLERANCES = (1e-4, 1e-5, 1e-6, 1e-7, 1e-8)  # scikit-learn's own first
CHECKED = (1e-3, 1e-1, 10.0)
STRENGTHS = GridConfig().strengths
PLAIN = GridConfig(folds=0)  # validation alone chooses
SHOWN = (
    *("features", "classes", "spectrum", "together_s", "folded_s", "alone_s", "alone_times"),
    *(
        "one_by_one_s",
        "times",
        "exact_s",
        "exact_times",
        "difference",
        "their_difference",
        "exact_tolerance",
    ),
)
Floats = NDArray[np.float64]


def main() -> None:
    """Measure, print, write."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    rows = []
    for width, classes, spectrum, readouts, labels in asked():
        (ours,) = _timed(partial(together, readouts, labels))
        (folded,) = _timed(partial(together, readouts, labels, GridConfig()), rounds=1)
        (theirs,) = _timed(partial(single, readouts, labels), rounds=1)
        row = {"features": width, "classes": classes, "spectrum": spectrum}
        (own,) = _timed(partial(alone, readouts, labels), rounds=1)
        row |= {"together_s": round(ours, 3), "one_by_one_s": round(theirs, 3)}
        row |= {"folded_s": round(folded, 3)}
        row |= {"times": round(theirs / ours, 1)}
        row |= {"alone_s": round(own, 3), "alone_times": round(own / ours, 1)}
        tried = TOLERANCES[:1] if spectrum == "steep" else TOLERANCES
        error, others = differences(next(iter(readouts.values())), labels, tried)
        row |= {"difference": error, "their_difference": others[0]}
        enough = (one for one, other in zip(tried, others, strict=True) if other <= error)
        row |= {"exact_tolerance": next(enough, None), "exact_s": None, "exact_times": None}
        if row["exact_tolerance"]:
            again = partial(single, readouts, labels, row["exact_tolerance"])
            (exact,) = _timed(again, rounds=1)
            row |= {"exact_s": round(exact, 3), "exact_times": round(exact / ours, 1)}
        rows.append(row)
        print(json.dumps(row), flush=True)
    print_table(SHOWN, [[str(one[name]) for name in SHOWN] for one in rows])
    seen = Seen()
    kept = encoding(seen)
    print(json.dumps(kept))
    pools = learned(seen, kept["epoch_of_encoding_s"])
    print(json.dumps(pools))
    facts = {"rows_fit": FIT, "strengths": list(STRENGTHS), "readouts": 2, "cpu": rows}
    facts |= {"kept": kept, "pools": pools}
    write_results("probe_grid", ["numpy", "torch", "scikit-learn"], facts)


def asked() -> Iterator[tuple[str, int, str, dict[str, Floats], NDArray[np.int64]]]:
    """Widths, classes, kind, readouts and labels of each row."""
    for width, classes, spectrum in product((768, 192), (2, 5), ("flat", "steep")):
        drawn = [draw(width, classes, spectrum, seed) for seed in (0, 1)]
        readouts, labels = {str(one): drawn[one][0] for one in (0, 1)}, drawn[0][1]
        yield str(width), classes, spectrum, readouts, labels
    numbers = np.arange(FIT + HELD)
    drusen, groups = numbers % 2, numbers // 2 % 4
    readouts = encoded(drusen, groups)
    width = " + ".join(str(one.shape[1]) for one in readouts.values())
    yield width, 2, "encoder", readouts, drusen
    yield width, 4, "encoder", readouts, groups


def encoded(drusen: NDArray[np.int64], groups: NDArray[np.int64]) -> dict[str, Floats]:
    """What the default network, with random weights, says of small phantoms."""
    encoder = random_encoder(EncoderConfig(), 0)
    readout = ReadoutConfig(blocks=["last", "all"], pools=["tails"])
    volumes = (
        draw_phantom(
            Phantom(drusen=bool(some), study_group=int(group), shape=encoder.config.input_shape),
            number,
        ).voxels
        for number, (some, group) in enumerate(zip(drusen, groups, strict=True))
    )
    depth = encoder.config.depth
    features = embed_volumes(encoder, volumes, pools=readout.pools, layers=range(depth))
    return dict(read_out(features, readout, depth))


class Seen:
    """Phantom volumes with made-up labels, and the encoder that sees them."""

    def __init__(self) -> None:
        self.voxels = [
            draw_phantom(Phantom(), seed).voxels[:8, :64, :64] for seed in range(VOLUMES)
        ]
        self.spacings = np.tile([0.5, 0.008, 0.0625], (VOLUMES, 1))
        self.encoder = Encoder(EncoderConfig()).eval()
        labels, fit = np.arange(VOLUMES) // 2 % 2, np.arange(VOLUMES) % 2 == 0
        self.target = Target(kind="nominal", values=labels, names=("a", "b"))
        self.on = Round("", fit, ~fit, np.zeros_like(fit))

    def __len__(self) -> int:
        return VOLUMES

    def __getitem__(self, number: int, /) -> NDArray[Any]:
        return self.voxels[number]


def learned(seen: Seen, epoch_s: float) -> dict[str, Any]:
    """20 learned pools in one pass against 20 single ones, with kept tokens and without."""
    depth = seen.encoder.config.depth
    recipe = TrainingConfig(
        mode="attentive", grid=POOLS, epochs=POOL_EPOCHS, patience=POOL_EPOCHS, batch_size=16
    )
    blocks, runtime = POOLS.kept(depth), pick_runtime("cpu")
    candidates = candidates_of(recipe, depth)

    def keep(folder: Path) -> Tokens:
        return keep_tokens(seen.encoder, seen, "probe_grid", folder, 16, runtime, blocks)

    def fit(tokens: Tokens, some: Sequence[TokenProbeConfig]) -> None:
        people = np.arange(VOLUMES)
        asked = (tokens, seen.target, people, seen.on, some)
        fit_token_probes(*asked, balanced=True, seed=0, parts=len(blocks))

    def alone(tokens: Tokens) -> None:
        for one in candidates:
            fit(tokens, [one])

    with tempfile.TemporaryDirectory() as folder:
        (keeping,) = _timed(lambda: keep(Path(folder)), rounds=1)
        tokens = keep(Path(folder))
        grid, single = _timed(lambda: fit(tokens, candidates), lambda: alone(tokens))
    together = keeping + grid
    looped = len(candidates) * POOL_EPOCHS * epoch_s + single
    return {
        "candidates": len(candidates),
        "tokens": list(tokens.shape),
        "epochs": POOL_EPOCHS,
        "keeping_s": round(keeping, 3),
        "grid_s": round(grid, 3),
        "alone_s": round(single, 3),
        "looped_s": round(looped, 3),
        "alone_times": round((keeping + single) / together, 1),
        "looped_times": round(looped / together, 1),
    }


def encoding(seen: Seen) -> dict[str, Any]:
    """A linear probe on kept features against a linear layer trained on a frozen encoder."""
    volumes, encoder, config = seen.voxels, seen.encoder, ReadoutConfig()
    depth = encoder.config.depth

    def probe(folder: str, grid: GridConfig) -> None:
        features = load_or_embed(
            encoder,
            iter(volumes),
            volumes_fingerprint="probe_grid",
            folder=Path(folder),
            pools=config.pools,
            layers=range(depth),
        )
        readouts, people = read_out(features, config, depth), np.arange(VOLUMES)
        fit_grid("linear", readouts, seen.target, people, seen.on, grid, balanced=True, seed=0)

    (epoch,) = _timed(partial(_see_all, encoder, volumes))
    found: dict[str, Any] = {
        "volumes": VOLUMES,
        "encoder": [*encoder.config.input_shape, encoder.config.width, depth],
        "epoch_of_encoding_s": round(epoch, 3),
    }
    for mark, grid in {"": GridConfig(), "_plain": PLAIN}.items():
        with tempfile.TemporaryDirectory() as folder:
            (first,) = _timed(partial(probe, folder, grid), rounds=1)
            (again,) = _timed(partial(probe, folder, grid))
        found |= {f"first_probe{mark}_s": round(first, 3), f"next_probe{mark}_s": round(again, 3)}
        found[f"times_first{mark}"] = round(EPOCHS * epoch / first, 1)
        found[f"times_next{mark}"] = round(EPOCHS * epoch / again, 1)
    return found


@torch.no_grad()
def _see_all(encoder: Encoder, volumes: Sequence[NDArray[Any]]) -> None:
    for start in range(0, VOLUMES, 16):
        encoder(torch.from_numpy(np.stack(volumes[start : start + 16])).unsqueeze(1))


def draw(width: int, classes: int, spectrum: str, seed: int) -> tuple[Floats, NDArray[np.int64]]:
    """Features, and labels that 20 of their directions tell in part."""
    draw = np.random.default_rng(seed)
    axes = np.linalg.qr(draw.normal(size=(width, width)))[0]
    hidden = draw.normal(size=(FIT + HELD, width))
    logits = hidden[:, :20] @ draw.normal(size=(20, classes)) * 0.3
    labels = (logits + draw.gumbel(size=logits.shape)).argmax(axis=1)
    falls = np.arange(1, width + 1) ** (-1.0 if spectrum == "steep" else 0.0)
    return ((hidden * falls) @ axes).astype(np.float32), labels


def alone(readouts: dict[str, Floats], labels: NDArray[np.int64]) -> None:
    """As many grids of one model."""
    for (name, features), strength in product(readouts.items(), STRENGTHS):
        together({name: features}, labels, GridConfig(strengths=(strength,), folds=0))


def together(
    readouts: dict[str, Floats], labels: NDArray[np.int64], grid: GridConfig = PLAIN
) -> None:
    """The grid."""
    fit = np.arange(FIT + HELD) < FIT
    names = tuple("abcde"[: labels.max() + 1])
    target = Target(kind="nominal", values=labels, names=names)
    on = Round("", fit, ~fit, np.zeros_like(fit))
    fit_grid("linear", readouts, target, np.arange(len(fit)), on, grid, balanced=True, seed=0)


def single(
    readouts: dict[str, Floats], labels: NDArray[np.int64], tolerance: float = TOLERANCES[0]
) -> None:
    """As many fits of scikit-learn, each scored."""
    for features, strength in product(readouts.values(), STRENGTHS):
        model = make_pipeline(
            StandardScaler(),
            LogisticRegression(C=strength, class_weight="balanced", tol=tolerance, max_iter=20000),
        ).fit(features[:FIT], labels[:FIT])
        chances = model.predict_proba(features[FIT:])
        two = labels.max() == 1
        roc_auc_score(labels[FIT:], chances[:, 1] if two else chances, multi_class="ovr")


def differences(
    features: Floats, labels: NDArray[np.int64], tolerances: Sequence[float]
) -> tuple[float, list[float]]:
    """The largest in a probability over three strengths: ours, and theirs at each tolerance."""
    x = features.astype(np.float64)
    x = (x - x[:FIT].mean(axis=0)) / x[:FIT].std(axis=0)
    names = tuple("abcde"[: labels.max() + 1])
    fit = Target(kind="nominal", values=labels[:FIT], names=names)
    ask = Question(fit, fit, answers_of(fit), weights_of(fit, balanced=True), True, 0)

    def theirs(strength: float, tolerance: float) -> Floats:
        model = LogisticRegression(
            C=strength, class_weight="balanced", tol=tolerance, max_iter=20000
        )
        return model.fit(x[:FIT], labels[:FIT]).predict_proba(x[FIT:])

    found = []
    for strength in CHECKED:
        truth = theirs(strength, 1e-9)
        ours = fit_linear(x[:FIT], x[FIT:], ask, [strength]).scores[0]
        others = [theirs(strength, one) for one in tolerances]
        found.append([np.abs(truth - one).max() for one in (ours, *others)])
    mine, *rest = (float(f"{one:.1e}") for one in np.max(found, axis=0))
    return mine, rest


def _timed(*calls: Callable[[], object], rounds: int = ROUNDS) -> list[float]:
    """Median CPU seconds of a few calls of each, taken in turn."""
    seconds: list[list[float]] = [[] for _ in calls]
    for call, found in list(zip(calls, seconds, strict=True)) * rounds:
        start = time.process_time()
        call()
        found.append(time.process_time() - start)
    return [median(found) for found in seconds]


if __name__ == "__main__":
    main()
