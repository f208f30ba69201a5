"""Where is it? From top to bottom: encoder, source, patches, probes, numbers, report."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import oct_xla
from oct_launch import Launch, Stages, mistakes, print_table
from oct_vjepa.evaluation.patch_probe import LEAST, METRICS
from oct_vjepa.probes.protocol import Round
from oct_vjepa.saving import write_text
from oct_vjepa.scores.measured import compare_measured, measure_card

from oct_judge.beginning import in_run_folder, open_tested, open_token_rivals
from oct_judge.board.entry import entry_of
from oct_judge.candidates import PRETRAINED
from oct_judge.family import Family
from oct_judge.findings.origin import command_of
from oct_judge.finished.patch_model import keep_patch_model
from oct_judge.masks.measuring import write_measures
from oct_judge.masks.patches import Patches, mark
from oct_judge.masks.results import (
    document_of,
    efficiency_of,
    gain_cells,
    gain_of,
    in_short,
    note_origin,
    subgroups_of,
)
from oct_judge.masks.study import open_masks, refuse_unread
from oct_judge.masks.where_page import write_where_page
from oct_judge.masks.witnesses import Said, Sayings, Witnesses, readings_of
from oct_judge.question import FinetuneConfig
from oct_judge.touches import touch_tested

TASK = "patches"
HEADLINE = METRICS[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundPatches:
    """All that was asked, and what was said.

    Attributes:
        config: of the evaluation.
        patches: the question.
        blocks: of the encoder that were read.
        sayings: of each candidate; the encoder first.
        few: candidate, share of the participants with masks, sayings.
        subsets: of a share, the rounds as they were asked in each turn.
        touches: by how many settings these test participants have been scored.
        command: that repeats the run.
    """

    config: FinetuneConfig
    patches: Patches
    blocks: list[int]
    sayings: dict[str, Sayings]
    few: Sequence[tuple[str, float, Sayings]]
    subsets: Callable[[float], list[list[Round]]]
    touches: int
    command: str


def run_patches(config: FinetuneConfig, launch: Launch) -> int:
    """Run what `config` asks for; returns the exit code."""
    refuse_unread(launch, "compare.perturbed")
    return in_run_folder(config, launch, evaluate_patches)


def evaluate_patches(
    config: FinetuneConfig,
    launch: Launch,
    family: Family,
    runtime: oct_xla.Runtime,
    folder: oct_xla.RunFolder,
) -> int:
    """Ask everybody of every patch, and write it to a claimed folder; returns the exit code."""
    with Stages() as stages:
        study = open_tested(config, family, open_masks, stages)
        patches = mark(config, study, family.config.grid)
        rivals = open_token_rivals(config, study, family.config)
        cast = Witnesses(
            config=config, patches=patches, family=family, runtime=runtime, rivals=rivals
        )
        with mistakes(ValueError):  # such as a block that the encoder lacks
            sayings = cast.ask(stages)
            few = cast.ask_with_few_masks()
        if runtime.rank != 0:
            return 0
        touches = touch_tested(config, study, family)
        found = FoundPatches(
            config=config,
            patches=patches,
            blocks=cast.blocks(),
            sayings=sayings,
            few=few,
            subsets=cast.subsets,
            touches=touches,
            command=command_of(launch.app, launch.given),
        )
        document = describe_patches(found)
        document["entry"] = entry_of(launch.settings, family.fingerprint())
        write_patches(folder.path, found, document)
        readings = {name: readings_of(one) for name, one in sayings.items()}
        write_measures(folder.path, study, config, patches.metrics, readings)
        told = note_origin(folder.path, config, study, family, runtime, touches)
        model = keep_patch_model(folder.path, cast, sayings[PRETRAINED][0], document, told)
    table = patch_table(document)
    report = write_where_page(folder.path, patches, first_said(found), document, table, told)
    print_table(*table)
    print(document["sentence"])
    print(f"model: {folder.name_of(model)}")
    print(f"report: {folder.name_of(report)}")
    return 0


def describe_patches(found: FoundPatches) -> dict[str, Any]:
    """results.json: every number, plain; intervals are a value and the ends of 95 %."""
    config, patches, study = found.config, found.patches, found.patches.study
    draws = {"seed": config.seed, "bootstrap": config.bootstrap}
    readings = {name: readings_of(one) for name, one in found.sayings.items()}
    gains = compare_measured(readings, patches.metrics, HEADLINE, reference=PRETRAINED, **draws)
    held = np.any([one.test for one in study.rounds], axis=0)
    candidates = [
        {
            "name": name,
            "card": {"metrics": measure_card(readings[name], patches.metrics, **draws)},
            "gain": gain_of(gains.get(name)),
            "chosen": [{"strength": one.chosen} for rounds in sayings for one in rounds],
        }
        for name, sayings in found.sayings.items()
    ]
    few = [(name, fraction, readings_of(one)) for name, fraction, one in found.few]
    question = {
        "counted": list(patches.names),
        "unit": "",
        "grid": list(patches.grid),
        "least": LEAST,
        "tested": int(patches.known[held].sum()),
        "held": {
            name: int((present & patches.known)[held].sum())
            for name, present in zip(patches.names, patches.present, strict=True)
        },
    }
    return document_of(
        config, study, kind=TASK, headline=HEADLINE, question=question, touches=found.touches,
        candidates=candidates,
        efficiency=efficiency_of(
            config, study, few, patches.metrics, HEADLINE, subsets=found.subsets
        ),
        further={"blocks": found.blocks, "around": list(config.segment.around)},
        subgroups=subgroups_of(config, study, readings[PRETRAINED], patches.metrics, METRICS),
        command=found.command,
    )  # fmt: skip


def patch_table(document: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows for a terminal and a page: each candidate with what the encoder gains."""
    names = document["question"]["counted"]
    several = ["AUROC", "average precision"] if len(names) > 1 else []
    headings = [
        *several,
        *(f"{one}, {name}" for name in names for one in ("AUROC", "average precision")),
    ]
    columns = [HEADLINE, "average_precision"] if several else []
    columns += [f"{one}_{name}" for name in names for one in ("auroc", "average_precision")]
    rows = []
    for one in document["candidates"]:
        metrics = one["card"]["metrics"]
        cells = [in_short(metrics[k], um=False) for k in columns]
        rows.append([one["name"], *cells, *gain_cells(one["gain"])])
    return ["candidate", *headings, "encoder over it, AUROC", "p (Holm)"], rows


def first_said(found: FoundPatches) -> dict[int, tuple[Said, int]]:
    """Row to what the encoder said of it, and its number there: of several rounds the first."""
    said: dict[int, tuple[Said, int]] = {}
    for one in found.sayings[PRETRAINED][0]:
        for number, row in enumerate(one.rows.tolist()):
            said.setdefault(row, (one, number))
    return said


def write_patches(run_dir: Path, found: FoundPatches, document: Mapping[str, Any]) -> None:
    """Write results.json, and patches/KEY.npz of each tested scan as the encoder sees it.

    A file holds `scores` (classes, Z, Y, X) float32 of the grid, log-odds that a patch holds a
    class, `present` of the same shape, `known` (Z, Y, X), and `names` of the classes.
    """
    text = json.dumps(document, indent=1, ensure_ascii=False)
    write_text(run_dir / "results.json", text + "\n")
    folder, patches = run_dir / "patches", found.patches
    folder.mkdir(exist_ok=True)
    keys, shape = patches.study.volumes.ids, (len(patches.names), *patches.grid)
    for row, (said, number) in first_said(found).items():
        np.savez_compressed(
            folder / f"{keys[row]}.npz",
            scores=said.scores[:, number].reshape(shape).astype(np.float32),
            present=patches.present[:, row].reshape(shape),
            known=patches.known[row].reshape(patches.grid),
            names=np.array(patches.names),
        )
