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

Differences are paired: both sides are read on the same 1,000 resamplings of the test participants
and seeds, for each seed, and for the means over the seeds. Beside them stand the encoder as it was
before training, and the axial profile, which needs no encoder.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import oct_io
from finished_runs import FinishedRun, read_run
from numpy.typing import NDArray
from oct_launch import print_table
from oct_vjepa.evaluation.features import load_or_embed
from oct_vjepa.measures.target import Target
from oct_vjepa.measures.units import Units, auroc
from oct_vjepa.probes.baselines import axial_profile
from oct_vjepa.probes.configuration import GridConfig
from oct_vjepa.probes.protocol import Round, make_rounds
from oct_vjepa.scores.scorecard import compare
from oct_vjepa.trials.judging import Candidate, answer_frozen
from oct_vjepa.trials.verdict import Panel, units_of
from writing import as_cell, write_results

FEATURES = Path("runs/data/features")
COLUMNS = ("thin", "fluid", "drusen")
POOLS = ("mean_std", "max")
REFERENCE, RANDOM, AXIAL = "index", "random init", "axial profile"
ALL, UNSEEN = "all devices", "unseen device"
SHOWN = ("tested", "label", "pool", "features", "auroc_of_seeds", "over_index", "over_random_init")


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One label of the volumes of one cache, and the parts of them that are tested on."""

    column: str
    examples: oct_io.LabelledVolumes
    panel: Panel
    parts: dict[str, Round] = field(default_factory=dict)

    @classmethod
    def of(cls, source: oct_io.Source, column: str) -> "Question":
        """All devices, then each of them left out of the probe's training."""
        examples = source.labelled(column)
        device = np.array([entry.device for entry in examples.volumes.entries])
        people = np.unique(examples.participants, return_inverse=True)[1].reshape(-1)
        target = Target(kind="nominal", values=examples.labels, names=examples.names)
        parts = {}
        for name in (ALL, *sorted(set(device.tolist()))):
            here = (device == name) | (name == ALL)
            fit, test = ~examples.held_out & (~here | (name == ALL)), examples.held_out & here
            side = np.where(test, "test", np.where(fit, "train", ""))
            (parts[name],) = make_rounds("given", target, people, parts=side, seed=0)
        panel = Panel(target=target, people=people, eyes=people)
        return cls(column=column, examples=examples, panel=panel, parts=parts)

    def ask(self, part: str, values_ND: NDArray[np.float32]) -> Units:
        """Fit on one side of the part, score the other."""
        candidate = Candidate(name=part, readouts=lambda one, seed: {"": values_ND})
        target, people, rounds = self.panel.target, self.panel.people, [self.parts[part]]
        answers = answer_frozen(candidate, "linear", target, people, rounds, GridConfig(), seed=0)
        return units_of([list(answers)], self.panel)[0][0]


Answers = dict[tuple[str, str, str], dict[str, list[Units]]]
"""(label, pool, features) to part to what was said of its test participants, a seed each."""


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


def _of_seed(parts: Sequence[Sequence[Units]], number: int) -> list[list[Units]]:
    return [[part[number]] for part in parts]


def _mean(parts: Sequence[Sequence[Units]]) -> float:
    return float(np.mean([auroc(one)[0] for part in parts for one in part]))


def _over(ones: Sequence[Sequence[Units]], others: Sequence[Sequence[Units]]) -> list[float]:
    """Mean AUROC of `ones` minus that of `others`, over parts and seeds, with its interval.

    Args:
        ones: part, then seed; parts have test participants of their own.
        others: likewise, with the same test participants in each part.
    """
    runs = {"one": list(zip(*ones, strict=True)), "other": list(zip(*others, strict=True))}
    found = compare(runs, "nominal", reference="other", seed=0)[0]
    return [round(value, 4) for value in found.difference]


if __name__ == "__main__":
    main()
