"""A run folder of an evaluation in a second: answers drawn at random, scored as real ones are."""

import json
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from oct_judge.findings.likelihood import reliability_of
from oct_judge.findings.plane import answers_of
from oct_judge.results import FORMAT, gain_of, sentence_of
from oct_vjepa.measures.measure import HEADLINE
from oct_vjepa.measures.target import Target
from oct_vjepa.scores.cards import as_plain
from oct_vjepa.scores.curves import draw_curves
from oct_vjepa.scores.scorecard import compare
from oct_vjepa.scores.subgroups import subgroup_table
from oct_vjepa.trials.judging import Answer
from oct_vjepa.trials.projection import project_rows
from oct_vjepa.trials.verdict import Panel, card_of, promise_of, units_of

PEOPLE = 60
SETTINGS = {"seed": 0, "bootstrap": 100}
NAMES = {
    "nominal": ("no", "yes"),
    "ordinal": ("none", "some", "$much$"),
    "multilabel": ("thin", "fluid"),
    "regression": ("age",),
    "survival": ("years",),
}
HASHES = [f"{number:016x}" for number in range(0xA0FFEE0000000000, 0xA0FFEE0000000000 + PEOPLE)]


def target_of(kind, rng):
    names = NAMES[kind]
    if kind in ("nominal", "ordinal"):
        values = np.arange(PEOPLE) % len(names)
    elif kind == "multilabel":
        values = rng.integers(0, 2, (PEOPLE, 2))
    elif kind == "regression":
        values = rng.normal(60, 10, PEOPLE)
    else:
        values = np.column_stack([rng.uniform(1, 9, PEOPLE), rng.integers(0, 2, PEOPLE)])
    unit = "years" if kind in ("regression", "survival") else ""
    return Target(kind=kind, values=values, names=names, unit=unit)


def scores_of(target, rng, noise):
    """Scores that know the answer, but for noise."""
    kind, values = target.kind, target.values
    if kind in ("nominal", "ordinal"):
        raw = np.eye(len(target.names))[values] + rng.normal(0, noise, (PEOPLE, len(target.names)))
        return np.exp(raw) / np.exp(raw).sum(axis=1, keepdims=True)
    if kind == "multilabel":
        return 1 / (1 + np.exp(1 - 2 * values + rng.normal(0, noise, values.shape)))
    spread = 10 if kind == "regression" else 3
    known = values if kind == "regression" else -values[:, 0]
    return (known + rng.normal(0, spread * noise, PEOPLE))[:, None]


def answers_with(target, rng, noise, seeds, rounds):
    """Folds that test everybody; validation is the fold after."""
    fold = np.arange(PEOPLE) // 2 % (rounds + 1)
    answers = []
    for seed in range(seeds):
        answers.append([])
        for number in range(rounds):
            scores = scores_of(target, rng, noise)
            test, held = np.flatnonzero(fold == number), np.flatnonzero(fold == number + 1)
            answers[-1].append(
                Answer(
                    round=f"fold {number}", seed=seed, validation_rows=held,
                    calibration_rows=held, test_rows=test, validation=scores[held],
                    calibration=scores[held], test=scores[test], validation_decided=scores[held],
                    calibration_decided=scores[held], test_decided=scores[test],
                    chosen={"readout": "last/mean", "strength": 1.5, "validation": 0.625},
                )
            )  # fmt: skip
    return answers


def write_made_up(folder, kind, *, seeds=1, rounds=1):
    """Write what an evaluation leaves in its folder; returns results.json."""
    rng = np.random.default_rng(3)
    target = target_of(kind, rng)
    people = np.arange(PEOPLE)
    panel = Panel(target=target, people=people, eyes=people)
    noises = {"pretrained": 0.8, "random init": 2.0, "thumbnail": 1.5}
    found = {
        name: answers_with(target, rng, noise, seeds, rounds) for name, noise in noises.items()
    }
    runs = {name: units_of(answers, panel) for name, answers in found.items()}
    differences = {
        one.candidate: one for one in compare(runs, kind, reference="pretrained", **SETTINGS)
    }
    promise = promise_of(found["pretrained"], panel)
    headline = HEADLINE[kind]
    document = {
        "format": FORMAT,
        "made_up_data": True,
        "question": {
            "name": "trial", "kind": kind, "names": list(target.names), "unit": target.unit,
            "fingerprint": "feedc0de",
        },
        "mode": "linear",
        "headline": headline,
        "join": "mean",
        "protocol": {"name": "kfold", "rounds": [f"fold {one}" for one in range(rounds)]},
        "seeds": seeds,
        "split": "train 20 volumes, test 20 volumes",
        "test_touches": 3,
        "candidates": [
            {
                "name": name,
                "card": card_of(answers, panel, **SETTINGS).as_json(),
                "gain": gain_of(differences.get(name)),
                "chosen": [dict(one.chosen) for one in answers[0]],
                "temperature": 1.25,
            }
            for name, answers in found.items()
        ],
        "promise": asdict(promise) if promise else None,
        "subgroups": [
            subgroup_table(
                runs["pretrained"], kind, target.names, np.where(people % 3 == 0, "F", "M"),
                column="sex", **SETTINGS,
            ).as_json()
        ],
        "curves": curves_with(runs, target),
        "efficiency": [
            {
                "candidate": name,
                "fraction": share,
                "participants": {"fit": round(124 * share), "validation": round(44 * share)},
                "headline": [0.5125 + share / 4, 0.45, 0.8],
                "gain": None
                if name == "pretrained"
                else {"difference": [0.0375, -0.1, 0.2], "p_holm": 0.25},
            }
            for name in ("pretrained", "random init", "grey histogram")
            for share in (0.25, 1.0)
        ],
        "novelty": {"strange": 0.0875, "median": 0.6125},
        "elsewhere": {
            "shares": dict.fromkeys(target.names, 1 / len(target.names)),
            "metrics": {"auprc": [0.3175, 0.2, 0.4], "nll": [0.2135, 0.1, 0.3]},
        }
        if target.is_classes
        else None,
        "command": "uv run apps/finetune task=trial data.root=...",
        "allow_seen": True,
        "flow": flow_with(),
        "reliability": reliability_of(runs["pretrained"], target),
        "embedding": {
            "method": "PCA", "readout": "last/mean", "rows": PEOPLE, "shares": [0.4, 0.2],
            "columns": ["@device"],
        },
        "shortcuts": [
            {
                "column": "@device", "values": ["a", "b"], "chance": 0.5, "headline": headline,
                "column_from_features": [0.9133, 0.8125, 0.9877],
                "answer_from_column": [0.6375, 0.5875, 0.7125], "goes_along": True,
            },
            {"column": "@site", "values": ["x", "y"], "chance": 0.5, "why_not": "too few of x"},
        ],
        "maps": {
            "cases": [
                {
                    "right": right, "round": "fold 0", "bscan": 2, "score": 0.8125,
                    "score_is": "probability", "called": "yes", "true": "no",
                    "covered": 0.4375, "strongest": 1.125,
                }
                for right in (True, False)
            ]
        },
    }  # fmt: skip
    document["sentence"] = sentence_of(as_plain(document))
    document = as_plain(document)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(document))
    provenance = {"encoder": "abad1dea", "dataset_fingerprint": "0ddba11", "git_commit": "c0ffee"}
    (folder / "provenance.json").write_text(json.dumps(provenance))
    (folder / "config.yaml").write_text("seed: 7\n")
    write_arrays(folder, target, rng)
    write_predictions(folder, target, runs["pretrained"])
    return document


def curves_with(runs, target):
    if not target.is_counted:
        return {}
    classes = [1] if len(target.names) == 2 and target.is_classes else range(len(target.names))
    return {
        target.names[one]: {
            name: {
                key: curve.as_json()
                for key, curve in draw_curves(
                    runs[name], target.kind, one, seed=0, bootstrap=20
                ).items()
            }
            for name in ("pretrained", "random init")
        }
        for one in classes
    }


def flow_with():
    part = {"round": "fold 0", "part": "test", "volumes": 31, "participants": 29}
    return {
        "scans_found": 79, "scans_unselected": 2,
        "scans_refused": {"decode": 4}, "scans_by_flag": {"clipped": 6},
        "scans_left_out_for_flags": 5, "scans_usable": 68, "scans_without_answer": 8,
        "scans_with_answer": 60, "participants_with_answer": 59, "notes": ["one answer an eye"],
        "split_rule": "folds", "parts": [part | {"by_class": {"yes": 13}}],
    }  # fmt: skip


def write_arrays(folder, target, rng):
    np.savez_compressed(
        folder / "embedding.npz",
        places=project_rows(rng.normal(size=(PEOPLE, 5))).places_N2,
        answer=answers_of(target),
        part=np.where(np.arange(PEOPLE) < 30, "fit", "test"),
        participant=np.array(HASHES),
        **{"column @device": np.where(np.arange(PEOPLE) % 2 == 0, "a", "")},
    )
    pictures = {}
    for number in range(2):
        pictures |= {
            f"bscan {number}": rng.integers(0, 255, (32, 24)).astype(np.uint8),
            f"above {number}": rng.integers(0, 255, (5, 24)).astype(np.uint8),
            f"front map {number}": rng.normal(size=(4, 3)),
            f"above map {number}": rng.normal(size=(5, 3)),
            f"spacing {number}": np.array([0.25, 0.004, 0.01]),
        }
    edges = np.stack(np.meshgrid(np.linspace(4, 36, 6), np.linspace(6, 30, 4), indexing="ij"), -1)
    pictures |= {
        "localizer 0": rng.integers(0, 255, (40, 36)).astype(np.uint8),
        "localizer corners 0": edges,
        "localizer line 0": np.array([[20.0, 6.0], [20.0, 30.0]]),
    }
    np.savez_compressed(folder / "cases.npz", **pictures)


def write_predictions(folder, target, run):
    columns = [f"p_{one}" for one in target.names]
    if not target.is_counted:
        columns = ["risk" if target.kind == "survival" else "predicted"]
    blocks = []
    for seed, rounds in enumerate(run):
        for number, units in enumerate(rounds):
            size = len(units.groups_N)
            block = {
                "candidate": ["pretrained"] * size, "seed": [seed] * size,
                "round": [f"fold {number}"] * size, "part": ["test"] * size,
                "participant": [HASHES[one] for one in units.groups_N],
                "answer": np.asarray(units.labels_N, np.float64).tolist(),
            }  # fmt: skip
            block |= {name: units.scores_NC[:, at] for at, name in enumerate(columns)}
            blocks.append(pa.table(block))
    pq.write_table(pa.concat_tables(blocks), folder / "predictions.parquet")
