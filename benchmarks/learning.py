"""What do objectives teach an encoder about lesions that it was never told of? On the phantom.

Reads runs of `apps/pretrain`, folders called ARM-seedN, each arm with the same seeds:

    for s in 0 1 2; do
      run() { uv run apps/pretrain experiment=phantom_lesions seed=$s probe.columns=[] "$@"; }
      run run_dir=runs/learning/vjepa2-seed$s
      run run_dir=runs/learning/vjepa21-seed$s objective=vjepa21_smoke
      for arm in predecessor_asis predecessor_fixed; do
        run run_dir=runs/learning/$arm-seed$s objective=$arm masking=predecessor
      done
      run run_dir=runs/learning/focal-seed$s experiment=phantom_focal
    done
    python benchmarks/learning.py runs/learning/*

Every encoder is frozen. A logistic regression on its pooled tokens is fitted on the participants
outside the test split and scored on those inside; `--attentive` adds V-JEPA 2's attentive probe on
the tokens, `--few` probes that are fitted on few participants. Beside each arm stand the same
encoder with its first random weights, and the axial profile, which needs no encoder. Differences
are paired: mean over the seeds on each side, both read on the same 1,000 resamplings of the test
participants.
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import oct_io
import torch
from finished_runs import FinishedRun, read_run
from numpy.typing import NDArray
from oct_launch import print_table
from oct_vjepa import Encoder
from oct_vjepa.evaluation.features import load_or_embed
from oct_vjepa.evaluation.token_probe import TokenProbeConfig, token_probe
from oct_vjepa.measures.units import Scores
from oct_vjepa.objectives.configuration import DenseJepaConfig
from oct_vjepa.probes.baselines import axial_profile
from oct_vjepa.probes.linear import mean_difference, probe
from oct_vjepa.trials.efficiency import EfficiencyRow, label_efficiency
from writing import as_cell, write_results

FEATURES = Path("runs/data/features")
RANDOM, AXIAL = "random init", "axial profile"
ATTENTIVE = "attentive"
FEW_POOL = LEVELS_POOL = "mean_std"

Key = tuple[str, str]
"""Of a probe: the arm, and the pool; axial profiles have the pool ""."""

Pools = dict[str, NDArray[np.float32]]
"""Pool to (N, D)."""


@dataclass(kw_only=True, slots=True)
class Question:
    """One label column, and every probe that was asked about it, seeds in their order."""

    column: str
    examples: oct_io.LabelledVolumes
    pool: ProcessPoolExecutor
    probes: dict[Key, list[Future[Any]]] = field(default_factory=dict)
    few: dict[str, list[Future[list[EfficiencyRow]]]] = field(default_factory=dict)

    def sides(self, values: NDArray[Any]) -> tuple[list[NDArray[Any]], dict[str, Any]]:
        """Arguments of a probe on `values`, one row a volume."""
        held, y, people = self.examples.held_out, self.examples.labels, self.examples.participants
        rows = [values[~held], y[~held], values[held], y[held]]
        return rows, {"groups_train": people[~held], "groups_test": people[held]}

    def ask_features(self, name: str, pools: Pools, *, seed: int, few: bool) -> None:
        """Probe the pooled features of one encoder, or of a baseline."""
        for pool, values in pools.items():
            rows, groups = self.sides(values)
            asked = self.pool.submit(probe, *rows, **groups, seed=seed)
            self.probes.setdefault((name, pool), []).append(asked)
            if few and pool in ("", FEW_POOL):
                of_few = self.pool.submit(label_efficiency, *rows, **groups, seed=0)
                self.few.setdefault(name, []).append(of_few)  # one seed: the same subsets for all

    def ask_tokens(self, name: str, tokens_NMD: NDArray[np.float32], *, seed: int) -> None:
        """Train the attentive probe on the tokens of one encoder."""
        rows, groups = self.sides(tokens_NMD)
        config = TokenProbeConfig(heads=3, depth=1)
        asked = self.pool.submit(token_probe, *rows, **groups, config=config, seed=seed)
        self.probes.setdefault((name, ATTENTIVE), []).append(asked)

    def scores(self, name: str, pool: str) -> list[Scores]:
        """Results of one kind of features, a seed each; waits for them. None were asked: empty."""
        return [one.result() for one in self.probes.get((name, pool), [])]

    def scores_of_few(self, name: str) -> list[list[EfficiencyRow]]:
        """Likewise, of the probes that were fitted on few participants."""
        return [one.result() for one in self.few.get(name, [])]


def main() -> None:
    """Measure, print, write."""
    options = _options()
    runs = sorted(map(read_run, options.runs), key=lambda run: (_arm(run), run.seed))
    if len({run.dataset_fingerprint for run in runs}) > 1:
        raise SystemExit("these runs saw different data; compare runs of one data set")
    source = oct_io.open_source(runs[0].data)
    pool = ProcessPoolExecutor(
        mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    )
    questions = [
        Question(column=one, examples=source.labelled(one), pool=pool) for one in options.columns
    ]
    volumes, fingerprint = questions[0].examples.volumes, questions[0].examples.fingerprint
    for name, seed, encoder in _encoders(runs):
        print(f"{name}, seed {seed}", flush=True)
        pools = _features(encoder, volumes, fingerprint)
        for question in questions:
            question.ask_features(name, pools, seed=seed, few=options.few)
        if options.attentive:
            tokens = _tokens(encoder, volumes)
            for question in questions:
                question.ask_tokens(name, tokens, seed=seed)
    for question in questions:
        question.ask_features(AXIAL, {"": axial_profile(volumes)}, seed=0, few=options.few)
    references = {_arm(run): _untrained_name(run, runs) for run in runs}
    probes = [row for one in questions for row in _probe_rows(one, references)]
    few = [row for one in questions for row in _few_rows(one, references)]
    _print("probes", probes)
    _print("label efficiency", few)
    names = sorted(run.folder.name for run in runs)
    document = {
        "command": f"python benchmarks/learning.py {' '.join(names)}{_flags(options)}",
        "made_up_data": source.made_up,
        "volumes": questions[0].examples.describe(),
        "runs": {run.folder.name: run.course() for run in runs},
        "probes": probes,
        "label_efficiency": few,
    }
    write_results("learning", ["torch", "scikit-learn", "numpy"], document)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="run folders, ARM-seedN")
    parser.add_argument("--columns", nargs="+", default=["thin", "fluid", "drusen"])
    parser.add_argument("--attentive", action="store_true", help="the attentive probe as well")
    parser.add_argument("--few", action="store_true", help="label efficiency as well")
    return parser.parse_args()


def _flags(options: argparse.Namespace) -> str:
    return "".join(f" --{name}" for name in ("attentive", "few") if getattr(options, name))


def _arm(run: FinishedRun) -> str:
    return re.sub(r"-seed\d+$", "", run.folder.name)


def _encoders(runs: Sequence[FinishedRun]) -> Iterator[tuple[str, int, Encoder]]:
    """Every trained encoder, and what it began with, once for each seed and shape."""
    done = set()
    for run in runs:
        yield _arm(run), run.seed, run.encoder
        name = _untrained_name(run, runs)
        if (name, run.seed) not in done:
            done.add((name, run.seed))
            yield name, run.seed, run.untrained


def _untrained_name(run: FinishedRun, runs: Sequence[FinishedRun]) -> str:
    """Arms whose encoders are of one shape begin with the same weights: the first names them."""
    config = run.encoder.config
    return f"{RANDOM}, as {next(_arm(one) for one in runs if one.encoder.config == config)}"


def _features(encoder: Encoder, volumes: oct_io.CachedVolumes, fingerprint: str) -> Pools:
    """Every pool of the last block, and one pool of four blocks side by side."""
    embed = partial(
        load_or_embed, encoder, volumes, volumes_fingerprint=fingerprint, folder=FEATURES
    )
    levels = DenseJepaConfig().blocks_of(encoder.config.depth)
    deep = embed(pools=(LEVELS_POOL,), layers=levels)[LEVELS_POOL]
    return embed() | {f"{LEVELS_POOL} of {len(levels)} blocks": deep}


@torch.no_grad()
def _tokens(encoder: Encoder, volumes: oct_io.CachedVolumes) -> NDArray[np.float32]:
    encoder.eval()
    parts = []
    for start in range(0, len(volumes), 32):
        stop = min(start + 32, len(volumes))
        batch = np.stack([volumes[number] for number in range(start, stop)])
        parts.append(encoder(torch.from_numpy(batch[:, None])).numpy())
    return np.concatenate(parts)


def _probe_rows(question: Question, references: dict[str, str]) -> list[dict[str, Any]]:
    axial = question.scores(AXIAL, "")
    rows = []
    for name, pool in question.probes:
        results = question.scores(name, pool)
        other = question.scores(references.get(name, ""), pool)
        rows.append(
            {
                "label": question.column,
                "features": name,
                "pool": pool,
                "auroc_of_seeds": [round(one.auroc, 4) for one in results],
                "auroc_mean": round(float(np.mean([one.auroc for one in results])), 4),
                "over_untrained": _difference(results, other),
                "over_axial_profile": _difference(results, axial) if name != AXIAL else None,
            }
        )
    return rows


def _few_rows(question: Question, references: dict[str, str]) -> list[dict[str, Any]]:
    rows = []
    for name in question.few:
        seeds = question.scores_of_few(name)
        others = question.scores_of_few(references.get(name, ""))
        for number, size in enumerate(seeds[0]):
            results = [one for seed in seeds for one in seed[number].results]
            other = [one for seed in others for one in seed[number].results]
            rows.append(
                {
                    "label": question.column,
                    "features": name,
                    "participants": size.participants,
                    "probes": len(results),
                    "auroc_mean": round(float(np.mean([one.auroc for one in results])), 4),
                    "over_untrained": _difference(results, other),
                }
            )
    return rows


def _difference(ones: Sequence[Scores], others: Sequence[Scores]) -> list[float] | None:
    if not others:
        return None
    return [round(one, 4) for one in mean_difference(ones, others, seed=0)]


def _print(title: str, rows: Sequence[dict[str, Any]]) -> None:
    if rows:
        print(f"\n{title}; triples are a difference and its 95 % interval")
        print_table(list(rows[0]), [[as_cell(value) for value in row.values()] for row in rows])


if __name__ == "__main__":
    main()
