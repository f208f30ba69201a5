"""What an evaluation leaves behind: numbers, predictions, the model, and a page."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from oct_launch import Stages
from oct_vjepa.measures.measure import HEADLINE
from oct_vjepa.measures.units import Interval
from oct_vjepa.saving import write_text, write_whole
from oct_vjepa.scores.cards import Difference, ScoreCard, as_plain
from oct_vjepa.scores.curves import draw_curves
from oct_vjepa.scores.scorecard import compare
from oct_vjepa.scores.subgroups import subgroup_table
from oct_vjepa.scores.words import word
from oct_vjepa.trials.judging import Answers
from oct_vjepa.trials.prevalence import measure_elsewhere
from oct_vjepa.trials.verdict import (
    card_of,
    groups_of,
    mean_temperature,
    promise_of,
    units_of,
)

from oct_judge.asking import PARTS, Everyone, draw_subsets, subset_sizes
from oct_judge.candidates import PRETRAINED, RANDOM, RANKED, UNSEEING, Cast
from oct_judge.question import NAMED_ENCODER, NETWORK, FinetuneConfig
from oct_judge.rivals.encoders import Named
from oct_judge.study import Study, nameless

FORMAT = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """All that was asked, and what was answered.

    Attributes:
        config: of the evaluation.
        study: the question.
        cast: who was asked.
        answers: of each candidate; the encoder first.
        few: candidate, share of the labels, answers.
        touches: by how many settings these test participants have been scored.
        encoders: those of `compare.encoders`.
    """

    config: FinetuneConfig
    study: Study
    cast: Cast
    answers: Everyone
    few: Sequence[tuple[str, float, Answers]]
    touches: int
    encoders: Sequence[Named] = ()


def describe(found: Found, stages: Stages) -> dict[str, Any]:
    """results.json: every number, plain; intervals are a value and the ends of 95 %."""
    config, study = found.config, found.study
    target, panel = study.target, study.panel
    settings: dict[str, Any] = {"seed": config.seed, "bootstrap": config.bootstrap}
    cards: dict[str, ScoreCard] = {}
    for number, (name, answers) in enumerate(found.answers.items()):
        stages("scoring", number + 1, len(found.answers))
        cards[name] = card_of(answers, panel, **settings)
    runs = {name: units_of(answers, panel) for name, answers in found.answers.items()}
    differences = differences_of(runs, target.kind, **settings)
    answers = found.answers[PRETRAINED]
    document: dict[str, Any] = {
        "format": FORMAT,
        "made_up_data": study.source.made_up,
        "question": {
            "name": config.task.name,
            "kind": target.kind,
            "names": list(target.names),
            "unit": target.unit,
            "fingerprint": study.fingerprint(),
        },
        "mode": config.mode,
        # Fewer than the volumes have, where the encoder goes through them stack by stack.
        "bscans_at_once": found.cast.family.config.input_shape[0],
        "bscans": study.rows.bscans,
        "headline": HEADLINE[target.kind],
        "join": config.join,
        "protocol": asdict(config.protocol) | {"rounds": [one.name for one in study.rounds]},
        "seeds": config.seeds,
        "split": nameless(study.examples.describe()),
        "test_touches": found.touches,
        "candidates": [
            {
                "name": name,
                "card": card.as_json(),
                "gain": gain_of(differences.get(name)),
                "chosen": [dict(one.chosen) for rounds in found.answers[name] for one in rounds],
                "temperature": mean_temperature(found.answers[name], target),
            }
            for name, card in cards.items()
        ],
        "promise": as_plain(asdict(promise)) if (promise := promise_of(answers, panel)) else None,
        "subgroups": subgroups_of(found, runs[PRETRAINED]),
        "curves": curves_of(found, runs),
        "efficiency": efficiency_of(found),
        "few_validation": config.compare.few_validation,
        "novelty": novelty_of(answers),
        "elsewhere": elsewhere_of(found),
    }
    document["sentence"] = sentence_of(document)
    return as_plain(document)


def interval_of(plain: Sequence[float | None]) -> Interval:
    """Three plain numbers as an interval; what is not defined is NaN."""
    return Interval(*(float("nan") if one is None else float(one) for one in plain))


def differences_of(runs: Mapping[str, Any], kind: str, **settings: int) -> dict[str, Difference]:
    """What each candidate has over the encoder, by name: on grey ranks over the encoder there.

    The encoder on grey ranks is compared with itself on volumes as they are. Each of the two
    groups is a family of comparisons of its own for Holm's correction.
    """
    judge = PRETRAINED + RANKED
    ranked = {one: run for one, run in runs.items() if judge in runs and one.endswith(RANKED)}
    plain = {one: run for one, run in runs.items() if one == judge or one not in ranked}
    found = compare(plain, kind, reference=PRETRAINED, **settings)
    if len(ranked) > 1:
        found += compare(ranked, kind, reference=judge, **settings)
    return {one.candidate: one for one in found}


def gain_of(difference: Difference | None) -> dict[str, Any] | None:
    """What the encoder has over a candidate: the difference turned round."""
    if difference is None:
        return None
    value, low, high = difference.difference
    return as_plain(asdict(difference)) | {"difference": [-value, -high, -low]}


def sentence_of(document: Mapping[str, Any]) -> str:
    """The result in one sentence that says whether the encoder was worth it."""
    rows = {one["name"]: one for one in document["candidates"]}
    metric, question = document["headline"], document["question"]["name"]
    own = interval_of(rows[PRETRAINED]["card"]["metrics"][metric])
    phantom = "On made-up retinas: " if document["made_up_data"] else ""
    said = f"{phantom}{question}: {word(metric)} {own.text()} of the encoder ({document['mode']})"
    parts = []
    if RANDOM in rows:
        parts.append(f"{over(rows[RANDOM])} its random init")
    if best := best_baseline(document):
        parts.append(f"{over(rows[best])} the best baseline, {best}")
    return f"{said}; {', and '.join(parts)}." if parts else f"{said}."


def over(row: Mapping[str, Any]) -> str:
    """`+0.113 (0.043 to 0.196) over`, and whether that is more than luck."""
    gain = interval_of(row["gain"]["difference"])
    told = gain.low > 0 or gain.high < 0
    return f"{gain.text('+')} over" if told else f"{gain.text('+')}, which may be luck, over"


def best_baseline(document: Mapping[str, Any]) -> str:
    """The one of the best headline with features that nobody learned; "" if there is none."""
    metric = document["headline"]
    alone = {
        one["name"]: one["card"]["metrics"][metric][0]
        for one in document["candidates"]
        if one["name"] != RANDOM
        and not one["name"].startswith(
            (PRETRAINED, f"{RANDOM},", NETWORK, NAMED_ENCODER, *UNSEEING)
        )
        and not one["name"].endswith(RANKED)
    }
    known = {name: value for name, value in alone.items() if value is not None}
    return max(known, key=lambda name: known[name]) if known else ""


def subgroups_of(found: Found, runs: Any) -> list[dict[str, Any]]:
    """A table for each column that has values to compare; choices as those of the card."""
    study, config = found.study, found.config
    decided = None
    if study.target.is_counted:
        decided = units_of(found.answers[PRETRAINED], study.panel, part="test_decided")
    told = study.examples.columns
    columns = {one: told[one] for one in config.compare.subgroups if one in told}
    tables = []
    for column, values in groups_of(columns, study.panel.people).items():
        table = subgroup_table(
            runs,
            study.target.kind,
            study.target.names,
            values,
            column=column,
            seed=config.seed,
            bootstrap=config.bootstrap,
            decided=decided,
        )
        tables.append(table.as_json())
    return tables


def curves_of(found: Found, runs: Mapping[str, Any]) -> dict[str, Any]:
    """Curves of the encoder and of its random init, for each class or label."""
    target = found.study.target
    if not target.is_counted:
        return {}
    classes = [1] if target.is_classes and len(target.names) == 2 else range(len(target.names))
    return {
        target.names[one]: {
            name: {
                key: curve.as_json()
                for key, curve in draw_curves(
                    runs[name], target.kind, one, seed=found.config.seed
                ).items()
            }
            for name in (PRETRAINED, RANDOM)
            if name in runs
        }
        for one in classes
    }


def efficiency_of(found: Found) -> list[dict[str, Any]]:
    """The headline after fitting on a share of the labels, and what the encoder has over each."""
    study, config = found.study, found.config
    settings: dict[str, Any] = {"seed": config.seed, "bootstrap": config.bootstrap}
    rows = []
    for fraction in dict.fromkeys(fraction for _, fraction, _ in found.few):
        asked = {name: answers for name, share, answers in found.few if share == fraction}
        drawn = draw_subsets(config, study.rounds, study.target, study.panel.people, fraction)
        sizes = subset_sizes(drawn, study.panel.people)
        runs = {name: units_of(answers, study.panel) for name, answers in asked.items()}
        settings["turns"] = config.compare.turns_of(fraction)
        found_against = compare(runs, study.target.kind, reference=PRETRAINED, **settings)
        differences = {one.candidate: one for one in found_against}
        for name, answers in asked.items():
            card = card_of(answers, study.panel, **settings)
            rows.append(
                {
                    "candidate": name,
                    "fraction": fraction,
                    "participants": sizes,
                    "headline": list(card.headline),
                    "gain": gain_of(differences.get(name)),
                }
            )
    return rows


def elsewhere_of(found: Found) -> dict[str, Any] | None:
    """The encoder's probabilities where classes have the shares of `compare.prevalence`."""
    config, study = found.config, found.study
    shares = config.compare.prevalence
    if not shares:
        return None
    metrics = measure_elsewhere(
        found.answers[PRETRAINED],
        study.panel,
        study.rounds,
        shares,
        seed=config.seed,
        bootstrap=config.bootstrap,
    )
    named = dict(zip(study.target.names, shares, strict=True))
    return {"shares": named, "metrics": {name: list(one) for name, one in metrics.items()}}


def novelty_of(answers: Answers) -> dict[str, Any] | None:
    """Share of test rows that lie further from the fit rows than 19 of 20 validation rows."""
    found = [one.novelty for rounds in answers for one in rounds if one.novelty is not None]
    if not found:
        return None
    together = np.concatenate(found)
    return {"strange": float((together > 1).mean()), "median": float(np.median(together))}


def write_results(run_dir: Path, found: Found, document: Mapping[str, Any]) -> None:
    """Write everything; participants appear as hashes."""
    text = json.dumps(document, indent=1, ensure_ascii=False)
    write_text(run_dir / "results.json", text + "\n")
    write_predictions(run_dir, found)


def write_predictions(run_dir: Path, found: Found) -> None:
    """predictions.parquet: every candidate, seed, round and part; predictions.csv: the encoder's.

    One row a participant and answer, with calibrated scores.
    """
    study = found.study
    names = names_by_person(study)
    columns = [f"p_{one}" for one in study.target.names]
    if not study.target.is_counted:
        columns = ["risk" if study.target.kind == "survival" else "predicted"]
    decided = decided_columns(found, columns)
    blocks: list[pa.Table] = []
    for candidate, answers in found.answers.items():
        for part in PARTS:
            for rounds, run in zip(answers, units_of(answers, study.panel, part=part), strict=True):
                for one, units in zip(rounds, run, strict=True):
                    block: dict[str, Any] = {
                        "candidate": [candidate] * len(units.groups_N),
                        "seed": [one.seed] * len(units.groups_N),
                        "round": [one.round] * len(units.groups_N),
                        "part": [part] * len(units.groups_N),
                        "participant": names[units.groups_N].tolist(),
                        "answer": np.asarray(units.labels_N, np.float64).tolist(),
                    }
                    block |= {
                        name: units.scores_NC[:, number] for number, name in enumerate(columns)
                    }
                    block |= decided[len(blocks)]
                    blocks.append(pa.table(block))
    table = pa.concat_tables(blocks)
    write_whole(run_dir / "predictions.parquet", lambda path: pq.write_table(table, path))
    own = table.filter((pc.field("candidate") == PRETRAINED) & (pc.field("part") == "test"))
    write_whole(run_dir / "predictions.csv", lambda path: _write_csv(path, own, study, columns))


def decided_columns(found: Found, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Scores that choices are taken from, in which classes weigh alike; a dictionary a block."""
    if not found.study.target.is_counted:
        columns = []
    return [
        {f"decided_{name}": units.scores_NC[:, number] for number, name in enumerate(columns)}
        for answers in found.answers.values()
        for part in PARTS
        for run in units_of(answers, found.study.panel, part=f"{part}_decided")
        for units in run
    ]


def _write_csv(path: Path, table: pa.Table, study: Study, columns: Sequence[str]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["participant", "seed", "round", "answer", *columns])
        for row in table.to_pylist():
            answer = row["answer"]
            if study.target.is_classes:
                answer = study.target.names[int(answer)]
            scores = [f"{row[name]:.6f}" for name in columns]
            writer.writerow([row["participant"], row["seed"], row["round"], answer, *scores])


def names_by_person(study: Study) -> NDArray[Any]:
    """Hash of each participant, by number."""
    names = np.zeros(int(study.panel.people.max()) + 1, dtype=study.examples.participants.dtype)
    names[study.panel.people] = study.examples.participants
    return names


def table_of(document: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows for a terminal and a page: each candidate with what the encoder gains."""
    metric, kind = document["headline"], document["question"]["kind"]
    shown = [metric]
    if kind in ("nominal", "ordinal", "multilabel"):
        shown += ["balanced_accuracy", "auprc", "ece"]
    elif kind == "regression":
        shown += ["mae"]
    rows = []
    for one in document["candidates"]:
        values = [interval_of(one["card"]["metrics"][name]).text() for name in shown]
        gain = interval_of(one["gain"]["difference"]).text("+") if one["gain"] else ""
        likely = one["gain"]["p_holm"] if one["gain"] else None
        p = "" if likely is None else f"{likely:.3f}"
        rows.append([one["name"], *values, gain, p])
    headings = ["features", *map(word, shown)]
    return [*headings, "encoder over it", "p (Holm)"], rows
