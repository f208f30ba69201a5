"""What do positions in millimetres do against positions in patches, on scans of different spacing?

Reads finished runs of `apps/pretrain` on the phantom whose devices differ in spacing alone, each
scan stretched to one shape. An arm is what positions count ("index", "length"); runs with the
window `tiny`, which brings all scans to one grid, are an arm of their own.

    uv run apps/pretrain -m experiment=phantom_spacing encoder.position_unit=index,length seed=0,1,2
    python benchmarks/positions.py runs/phantom_spacing-*

Every encoder is frozen, and a logistic regression is fitted on its pooled tokens:

- "all devices": on the training participants of all devices, tested on all test participants;
- "unseen device": on the training participants of all devices but one, tested on the test
  participants of that one; each device in turn, the mean of their AUROCs. The encoder has seen all
  spacings in pretraining, the probe has not.

Differences are paired: both sides are read on the same 1,000 resamplings of the test participants,
for each seed, and for the means over the seeds. Beside them stand the encoder as it was before
training, and the axial profile, which needs no encoder.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import oct_io
from finished_runs import FinishedRun, read_run
from numpy.typing import NDArray
from oct_launch import print_table
from oct_vjepa.evaluation.features import load_or_embed
from oct_vjepa.measures.units import Interval, Units, auroc, interval_of, resample_weights
from oct_vjepa.probes.baselines import axial_profile
from oct_vjepa.probes.linear import BOOTSTRAP, probe_sides
from writing import as_cell, write_results

FEATURES = Path("runs/data/features")
COLUMNS = ("thin", "fluid", "drusen")
POOLS = ("mean_std", "max")
REFERENCE, RANDOM, AXIAL = "index", "random init", "axial profile"
ALL, UNSEEN = "all devices", "unseen device"
SHOWN = ("tested", "label", "pool", "features", "auroc_of_seeds", "over_index", "over_random_init")


class Answer(NamedTuple):
    """AUROC of one probe on the test participants of a part, and on resamplings of them."""

    units: Units
    auroc: float
    samples_R: NDArray[np.float64]  # the same resamplings for all probes of a part


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One label of the volumes of one cache, and the parts of them that are tested on."""

    column: str
    examples: oct_io.LabelledVolumes
    parts: dict[str, tuple[NDArray[np.bool_], NDArray[np.bool_]]] = field(default_factory=dict)

    @classmethod
    def of(cls, source: oct_io.Source, column: str) -> "Question":
        """All devices, then each of them left out of the probe's training."""
        examples = source.labelled(column)
        device = np.array([entry.device for entry in examples.volumes.entries])
        held = examples.held_out
        parts = {ALL: (~held, held)}
        for name in sorted(set(device.tolist())):
            parts[name] = (~held & (device != name), held & (device == name))
        return cls(column=column, examples=examples, parts=parts)

    def ask(self, part: str, values_ND: NDArray[np.float32]) -> Answer:
        """Fit on one side of the part, score the other."""
        fit, test = self.parts[part]
        y, people = self.examples.labels, self.examples.participants
        scores = probe_sides(  # the intervals asked for are those of differences
            values_ND, y, people, fit, test, seed=0, bootstrap=1
        )
        weights = resample_weights(
            scores.units, bootstrap=BOOTSTRAP, seed=list(self.parts).index(part)
        )
        return Answer(scores.units, scores.auroc, auroc(scores.units, weights))


Answers = dict[tuple[str, str, str], dict[str, list[Answer]]]
"""(label, pool, features) to part to one answer a seed."""


def main() -> None:
    """Measure, print, write."""
    runs = sorted((read_run(folder) for folder in _folders()), key=lambda run: run.seed)
    arms = sorted({_arm(run) for run in runs}, key=lambda arm: (arm != REFERENCE, arm))
    seeds = {arm: [run.seed for run in runs if _arm(run) == arm] for arm in arms}
    if len({tuple(numbers) for numbers in seeds.values()}) > 1:
        raise SystemExit(f"every arm must have the same seeds: {seeds}")
    answers: Answers = {}
    made_up = True
    for cache in dict.fromkeys(run.data.cache for run in runs):
        members = [run for run in runs if run.data.cache == cache]
        source = oct_io.open_source(members[0].data)
        made_up &= source.made_up
        questions = [Question.of(source, column) for column in COLUMNS]
        for run in members:
            _ask_run(run, questions, answers)
        if _arm(members[0]) in (REFERENCE, "length"):
            profile = axial_profile(questions[0].examples.volumes)
            _ask_all(questions, AXIAL, {"": profile}, answers)
    rows = _rows(answers)
    print(f"{'made-up scans (phantom); ' if made_up else ''}{questions[0].examples.describe()}")
    shown = [row for row in rows if row["tested"] in (ALL, UNSEEN)]
    print_table(SHOWN, [[as_cell(row[name]) for name in SHOWN] for row in shown])
    facts = {
        "command": f"python benchmarks/positions.py {' '.join(sorted(map(_name, runs)))}",
        "made_up_data": made_up,
        "volumes": questions[0].examples.describe(),
        "steps": {_name(run): run.steps for run in runs},
        "seeds": next(iter(seeds.values())),
        "probes": rows,
    }
    write_results("positions", ["torch", "scikit-learn", "numpy"], facts)


def _folders() -> list[Path]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folders of finished pretraining runs")
    return cast(list[Path], parser.parse_args().runs)


def _arm(run: FinishedRun) -> str:
    """What its positions count, and the window where that gives all scans one spacing."""
    unit, window = run.encoder.config.position_unit, oct_io.WINDOWS[run.data.window]
    return (
        unit if window.extent_mm == oct_io.space.windows.WHOLE_FIELD else f"{unit}, {window.name}"
    )


def _name(run: FinishedRun) -> str:
    return f"runs/{run.folder.name}"


def _ask_run(run: FinishedRun, questions: Sequence[Question], answers: Answers) -> None:
    """Probe what a run trained, and what it began with."""
    examples = questions[0].examples
    encoders = {_arm(run): run.encoder}
    if (
        _arm(run) == REFERENCE
    ):  # untrained attention looks everywhere alike, whatever positions count
        encoders[RANDOM] = run.untrained
    for name, encoder in encoders.items():
        print(f"{name}, seed {run.seed}", flush=True)
        features = load_or_embed(
            encoder,
            examples.volumes,
            volumes_fingerprint=examples.fingerprint,
            folder=FEATURES,
            pools=POOLS,
            spacing=examples.volumes.spacings,
        )
        _ask_all(questions, name, features, answers)


def _ask_all(
    questions: Sequence[Question],
    name: str,
    features: Mapping[str, NDArray[np.float32]],
    answers: Answers,
) -> None:
    for question in questions:
        for pool, values_ND in features.items():
            found = answers.setdefault((question.column, pool, name), {})
            for part in question.parts:
                found.setdefault(part, []).append(question.ask(part, values_ND))


def _rows(answers: Answers) -> list[dict[str, Any]]:
    """One line for each label, pool, way of testing and kind of features."""
    rows = []
    for (column, pool, name), found in sorted(answers.items(), key=lambda item: item[0][:2]):
        devices = [part for part in found if part != ALL]
        ways = {ALL: [ALL], UNSEEN: devices} | {f"{UNSEEN} {one}": [one] for one in devices}
        index = answers.get((column, pool, REFERENCE)) if name not in (REFERENCE, RANDOM) else None
        before = answers.get((column, pool, RANDOM)) if name != RANDOM else None
        for way, parts in ways.items():
            ours = [found[part] for part in parts]
            row: dict[str, Any] = {"tested": way, "label": column, "pool": pool, "features": name}
            seeds = [_of_seed(ours, number) for number in range(len(ours[0]))]
            row["auroc_of_seeds"] = [round(_mean(one), 4) for one in seeds]
            row["auroc_mean"] = round(_mean(ours), 4)
            row["over_index"] = row["over_index_of_seeds"] = row["over_random_init"] = None
            if index is not None:
                theirs = [index[part] for part in parts]
                row["over_index"] = _over(ours, theirs)
                row["over_index_of_seeds"] = [
                    _over(one, _of_seed(theirs, number)) for number, one in enumerate(seeds)
                ]
            if before is not None:
                row["over_random_init"] = _over(ours, [before[part] for part in parts])
            rows.append(row)
    return rows


def _of_seed(parts: Sequence[Sequence[Answer]], number: int) -> list[list[Answer]]:
    return [[part[number]] for part in parts]


def _mean(parts: Sequence[Sequence[Answer]]) -> float:
    return float(np.mean([one.auroc for part in parts for one in part]))


def _over(ones: Sequence[Sequence[Answer]], others: Sequence[Sequence[Answer]]) -> list[float]:
    return [round(value, 4) for value in difference(ones, others)]


def difference(ones: Sequence[Sequence[Answer]], others: Sequence[Sequence[Answer]]) -> Interval:
    """Mean AUROC of `ones` minus that of `others`, over parts of the data and over seeds.

    Args:
        ones: part, then seed; parts have test participants of their own.
        others: likewise, with the same test participants in each part.

    Raises:
        ValueError: two answers of a part are not about the same participants.
    """
    samples = []
    for left, right in zip(ones, others, strict=True):
        labels, groups = left[0].units.labels_N, left[0].units.groups_N
        for one in (*left, *right):
            same = np.array_equal(one.units.labels_N, labels)
            if not same or not np.array_equal(one.units.groups_N, groups):
                raise ValueError("the two sides were not tested on the same participants")
        sides = [np.mean([one.samples_R for one in side], axis=0) for side in (left, right)]
        samples.append(sides[0] - sides[1])
    return interval_of(_mean(ones) - _mean(others), np.mean(samples, axis=0))


if __name__ == "__main__":
    main()
