"""Does the judge see what is not there? Labels that say nothing, in every mode, many times over.

    uv run python benchmarks/null_phantom.py [--encoder RUN/encoder] [--modes linear,knn]

One tree of phantoms is drawn whose tables say nothing about the voxels (`null`). Each seed deals
the labels anew among the participants and splits them anew, so that seeds differ as new trees
would, and every mode is asked for the label: how often does the 95 % interval of AUROC hold 0.5,
and how often does a conformal set that promises 90 % hold the truth? Twice: with all validation
participants choosing and calibrating (share 0), and with a share of them set apart, as the judge
does by itself. Frozen modes take seconds, and are asked with more seeds. Results of modes that are
not asked stay. Phantom, all of it.
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import oct_io
import oct_vjepa
import oct_xla
from oct_io.phantom.specification import PhantomTree
from oct_judge.asking import ask, ask_trained
from oct_judge.candidates import Cast, Embedder, Rows, random_encoder
from oct_judge.family import Family
from oct_judge.question import FROZEN, TRAINED, FinetuneConfig, ProtocolConfig
from oct_judge.recipe import TrainingConfig
from oct_judge.study import Study
from oct_vjepa.evaluation.readouts import ReadoutConfig
from oct_vjepa.measures.target import Target
from oct_vjepa.probes.holdout import hold_out
from oct_vjepa.probes.protocol import make_rounds
from oct_vjepa.trials.verdict import Panel, card_of, promise_of
from writing import RESULTS, write_results

SMALL = oct_vjepa.EncoderConfig(
    input_shape=(8, 64, 64), patch_size=(2, 16, 16), width=48, depth=3, heads=3, input_std=64.0
)


def main() -> None:
    """Ask every mode with every seed, and write what the intervals and sets held."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--encoder", default="", help="folder of an encoder; a small random one")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--more", type=int, default=100, help="seeds for the sets of frozen modes")
    parser.add_argument("--participants", type=int, default=300)
    parser.add_argument("--modes", default=",".join((*FROZEN, *TRAINED)))
    parser.add_argument("--shares", default=f"0,{ProtocolConfig().calibration}")
    parser.add_argument("--data", type=Path, default=Path("runs/data/null"))
    options = parser.parse_args()
    encoder = random_encoder(SMALL, 0)
    if options.encoder:
        encoder = oct_vjepa.Encoder.from_pretrained(options.encoder)
    source = open_null(options.data, options.participants)
    arms = product(options.modes.split(","), map(float, options.shares.split(",")))
    for mode, share in arms:
        began = time.process_time()
        seeds = range(options.more if mode in FROZEN else options.seeds)
        found = [judge(source, encoder, mode, seed, share, options.data) for seed in seeds]
        held = [low <= 0.5 <= high for low, high, _ in found]
        covered = np.array([kept for _, _, kept in found])
        row = {
            "mode": mode,
            "calibration_share": share,
            "seeds": len(found),
            "intervals_that_hold_0.5": sum(held),
            "among_the_first": [sum(held[: options.seeds]), options.seeds],
            "conformal_promised": 0.9,
            "conformal_covered": round(float(covered.mean()), 4),
            "standard_error": round(float(covered.std() / len(covered) ** 0.5), 4),
            "mean_width": round(float(np.mean([high - low for low, high, _ in found])), 3),
            "cpu_s": round(time.process_time() - began, 1),
        }
        print(json.dumps(row), flush=True)
        keep(row, options.participants)


def keep(row: dict[str, Any], participants: int) -> None:
    """Write a row beside those of other modes and shares, whose earlier results stay."""

    def key(one: dict[str, Any]) -> tuple[int, float]:
        return (*FROZEN, *TRAINED).index(one["mode"]), one["calibration_share"]

    path = RESULTS / "null_phantom.json"
    old = json.loads(path.read_text())["rows"] if path.exists() else []
    rows = sorted([*(one for one in old if key(one) != key(row)), row], key=key)
    facts = {"phantom": True, "participants": participants, "rows": rows}
    write_results("null_phantom", ("oct-io", "oct-vjepa", "oct-xla", "torch"), facts)


def open_null(root: Path, participants: int) -> oct_io.Source:
    """A tree whose labels say nothing about the voxels."""
    tree = PhantomTree(participants=participants, seed=77, null=True, eyes=("R",))
    return oct_io.open_source(
        oct_io.SourceConfig(
            name="null",
            root=str(root / "tree"),
            window="tiny",
            cache=str(root / "cache"),
            phantom=tree,
        )
    )


def judge(
    source: oct_io.Source,
    encoder: oct_vjepa.Encoder,
    mode: str,
    seed: int,
    share: float,
    folder: Path,
) -> tuple[float, float, float]:
    """Ends of the interval of AUROC, and the share of conformal sets that held the truth."""
    examples = source.labelled("thin", test_split="")
    rng = np.random.default_rng(seed)
    people = np.arange(len(examples.values))
    target = Target(kind="nominal", values=rng.permutation(examples.labels), names=examples.names)
    shares = np.linspace(0, 1, len(people), endpoint=False)[rng.permutation(len(people))]
    parts = np.where(shares < 0.4, "train", np.where(shares < 0.7, "val", "test"))
    rounds = make_rounds("given", target, people, parts=parts, seed=seed)
    rounds = hold_out(rounds, target, people, share, seed=seed)
    study = Study(
        name="thin",
        source=source,
        examples=examples,
        target=target,
        panel=Panel(target=target, people=people, eyes=people),
        rounds=rounds,
        rows=Rows.of(examples.volumes, examples.fingerprint),
    )
    config = replace(FinetuneConfig(mode=mode, seed=seed), training=recipe(mode))
    runtime = oct_xla.pick_runtime("cpu")
    family = Family.of_one(encoder)
    if mode in FROZEN:
        embed = Embedder(folder / "features", runtime, ReadoutConfig(), 64)
        answers = ask(config, study, Cast(family, embed, study.rows).pretrained(), mode)
    else:
        with tempfile.TemporaryDirectory() as place:
            answers = ask_trained(config, study, family.of, "null", runtime, Path(place))
    card = card_of(answers, study.panel, seed=seed, bootstrap=1000)
    promise = promise_of(answers, study.panel)
    assert promise is not None
    _, low, high = card.headline
    return low, high, promise.covered


def recipe(mode: str) -> TrainingConfig:
    """Short: what is asked is not how well it learns."""
    return TrainingConfig(mode=mode if mode in TRAINED else "partial", epochs=4, batch_size=16)


if __name__ == "__main__":
    main()
