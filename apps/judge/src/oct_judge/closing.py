"""The end of a pretraining run: the encoder that it left is asked for each of its label columns.

The same question, participants, probe and rivals as `uv run apps/finetune task.column=COLUMN`, so
that both say the same of one encoder; fewer rivals, and nothing beyond scores.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import oct_io
import oct_vjepa
import oct_xla
from oct_io.labels.questions import LabelQuestion
from oct_launch import Mistake, Stages, mistakes
from oct_vjepa.probes.protocol import Round
from oct_vjepa.trials.judging import Candidate, Readouts

from oct_judge.asking import ask, ask_everyone
from oct_judge.candidates import RANDOM, UNSEEING, Cast, Embedder
from oct_judge.family import Family
from oct_judge.question import ComparisonConfig, FinetuneConfig, ProbeConfig
from oct_judge.results import Found, describe, interval_of
from oct_judge.study import Study, open_study
from oct_judge.touches import touch_tested

SHOWN = {"auroc": "AUROC", "balanced_accuracy": "balanced accuracy"}
INITIAL = "initial"
"""The encoder that training began with, where it was given one."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One question, put as finetune puts it."""

    config: FinetuneConfig
    study: Study


def open_questions(config: ProbeConfig, source: oct_io.Source, *, seed: int) -> list[Asked]:
    """What will be asked; what cannot be is told now, not after training.

    Raises:
        TreeError: no such label, or no volume with one.
        Mistake: too few participants to fit, choose and test, or a column that holds no classes.
    """
    asked = []
    for column in config.columns:
        question = question_of(config, column, seed=seed)
        study = open_study(question, source)
        if not study.target.is_classes:
            raise Mistake(
                f"probe.columns ({column}) holds no classes; when training is over, uv run "
                f"apps/finetune task.column={column} asks for it"
            )
        asked.append(Asked(question, study))
    return asked


def question_of(config: ProbeConfig, column: str, *, seed: int) -> FinetuneConfig:
    """What finetune would be told, with fewer rivals and nothing beyond scores."""
    return FinetuneConfig(
        task=LabelQuestion(column=column),
        seed=seed,
        bootstrap=config.bootstrap,
        features=config.features,
        compare=ComparisonConfig(
            baselines=list(config.baselines),
            together=False,
            ranked=False,
            subgroups=[],
            shortcuts=[],
        ),
    )


def ask_questions(
    asked: list[Asked],
    encoder: oct_vjepa.Encoder,
    initial: oct_vjepa.Encoder | None,
    runtime: oct_xla.Runtime,
    run_dir: Path,
    stages: Stages,
    seen: Collection[str] = (),
) -> list[dict[str, Any]]:
    """Ask the encoder and its rivals; what results.json would say of each question.

    Args:
        asked: the questions.
        encoder: that the run has left.
        initial: that it began with, where it was given one; one more rival.
        runtime: of the run. Its group of processes may be left already: one process asks.
        run_dir: of the run.
        stages: told of progress.
        seen: hashed participants whom the encoder learned from; those of them who are tested are
            counted under `tested_seen`.

    Raises:
        Mistake: a baseline that does not exist.
    """
    casts: dict[str, Cast] = {}
    documents = []
    for one in asked:
        config, study = one.config, one.study
        embed = Embedder(Path(config.features), runtime, config.readout, config.batch_size)
        # Most columns label the same volumes: what learns nothing of them is computed once.
        cast = casts.setdefault(
            study.rows.fingerprint, Cast(Family.of_one(encoder), embed, study.rows)
        )
        cast.forget_fitted(study.rounds)
        with mistakes(ValueError):
            answers = ask_everyone(config, study, cast, runtime, run_dir, stages)
            if initial is not None:
                readouts = embed(initial, study.rows)
                first = Candidate(name=INITIAL, readouts=partial(_always, readouts))
                answers[INITIAL] = ask(config, study, first, config.mode)
        touches = touch_tested(config, study, cast.family)
        found = Found(
            config=config, study=study, cast=cast, answers=answers, few=[], touches=touches
        )
        met = len(set(study.tested).intersection(seen))
        documents.append(describe(found, stages) | {"tested_seen": met})
    return documents


def _always(readouts: Readouts, _round: Round, _seed: int) -> Readouts:
    return readouts


def sentence_of_all(documents: Sequence[Mapping[str, Any]]) -> str:
    """What pretraining was worth, in one sentence for a reader who knows no metric."""
    worth = _worth(documents)
    start = "From scans alone, without being told a single diagnosis, the network "
    if not worth.better:
        names = _list([*worth.open, *worth.worse], "or")
        return f"{start}has not been shown to tell {names} better than before it was trained."
    said = f"{start}has learned to tell {_list(worth.better)} better than before it was trained"
    if worth.best == worth.better:
        return f"{said}, and better than any simple measurement of the scan."
    if worth.best:
        return f"{said}, and {_list(worth.best)} better than any simple measurement of the scan."
    return f"{said}."


def remarks_of_all(documents: Sequence[Mapping[str, Any]]) -> list[str]:
    """What that sentence leaves out, and what "better" means in it; a sentence each."""
    worth, said = _worth(documents), []
    if worth.better and worth.open:
        said.append(f"Of {_list(worth.open)} it cannot be said that training helped.")
    if worth.worse:
        said.append(f"It tells {_list(worth.worse)} worse than before it was trained.")
    if worth.beaten:
        said.append(f"A simple measurement of the scan tells {_list(worth.beaten)} better than it.")
    if not worth.best:
        said.append("For no label is it surely better than every simple measurement beside it.")
    if seen := [one for one in documents if one.get("tested_seen")]:
        told = ", ".join(f"{one['tested_seen']} of {one['question']['name']}" for one in seen)
        said.append(
            f"The network has learned from scans of participants who are tested here ({told}), "
            "without their labels: of new people it may know less. Leave them out by a split."
        )
    said.append("“Better” is said where luck in who was tested does not explain it (95 %).")
    return said


class _Worth(NamedTuple):
    """Labels by what can be said of them."""

    better: list[str]
    worse: list[str]
    open: list[str]
    best: list[str]  # of the better ones, those better than every simple measurement
    beaten: list[str]  # those that a simple measurement tells better


def _worth(documents: Sequence[Mapping[str, Any]]) -> _Worth:
    worth = _Worth([], [], [], [], [])
    for document in documents:
        name = str(document["question"]["name"])
        gains = {
            str(one["name"]): one["gain"]["difference"]
            for one in document["candidates"]
            if one["gain"]
        }
        _, low, high = gains[RANDOM]
        (worth.better if low > 0 else worth.worse if high < 0 else worth.open).append(name)
        simple = [gain for who, gain in gains.items() if who not in (RANDOM, INITIAL, *UNSEEING)]
        if low > 0 and all(above > 0 for _, above, _ in simple):
            worth.best.append(name)
        if any(below < 0 for _, _, below in simple):
            worth.beaten.append(name)
    return worth


def rows_of_all(documents: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of one table of all questions."""
    rows = []
    for document in documents:
        for one in document["candidates"]:
            metrics, gain = one["card"]["metrics"], one["gain"]
            values = [interval_of(metrics[name]).text() for name in SHOWN]
            over = interval_of(gain["difference"]).text("+") if gain else ""
            rows.append([document["question"]["name"], one["name"], *values, over])
    return ["label", "features", *SHOWN.values(), "pretrained over it"], rows


def _list(names: list[str], word: str = "and") -> str:
    return f" {word} ".join([", ".join(names[:-1])] * (len(names) > 1) + names[-1:])
