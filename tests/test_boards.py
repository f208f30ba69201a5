"""A sweep of evaluations ends in a leaderboard, and asks an encoder again that has changed."""

import csv
import json
import re

import oct_vjepa
import pytest
import torch
from oct_vjepa.cli import main

pytestmark = pytest.mark.drill

ALONE = (
    *("compare.baselines=[thumbnail]", "compare.random_init=false", "compare.ranked=false"),
    *("compare.together=false", "compare.shortcuts=[]", "compare.subgroups=[]", "bootstrap=100"),
    *("training.epochs=1", "training.warmup_epochs=0"),
)


def read_csv(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def read_board(place):
    return read_csv(place / "leaderboard.csv")


def test_a_sweep_ends_in_a_leaderboard_and_trains_a_changed_encoder_anew(smoke, place, run_app):
    folder = place / "moving" / "encoder"
    before = oct_vjepa.Encoder.from_pretrained(smoke.path / "encoder")
    before.save_pretrained(folder)
    sweep = place / "moved"
    asked = (
        *("-m", "experiment=smoke", f"data.root={smoke.data}", f"run_dir={sweep}"),
        *(f"encoder={folder}", "mode=attentive,linear", f"features={place / 'features'}", *ALONE),
    )
    assert run_app("finetune", *asked).code == 0
    first = {row["entry"]: row for row in read_board(sweep)}
    assert first.keys() == {"attentive", "linear", "thumbnail"}
    torch.manual_seed(5)
    oct_vjepa.Encoder(before.config).save_pretrained(folder)
    outcome = run_app("finetune", *asked)
    assert outcome.code == 0, outcome.errors
    assert "not run again" not in outcome.out
    second = {row["entry"]: row for row in read_board(sweep)}
    assert second["linear"]["fingerprint"] != first["linear"]["fingerprint"]
    assert second["thumbnail"]["auroc"] == first["thumbnail"]["auroc"]
    assert run_app("finetune", *asked).out.count("not run again") == 2
    assert main(["leaderboard", str(sweep), "--bootstrap", "100"]) == 0
    assert len(read_board(sweep)) == 3


def sweep_of(folder):
    return {job["name"]: job for job in json.loads((folder / "sweep.json").read_text())["jobs"]}


def test_both_apps_sweep_through_a_queue_and_leave_what_jobs_of_this_machine_leave(place, run_app):
    data, encoders, boards = place / "queue-data", place / "queue-runs", {}
    queue = ("sweep.on=local", "sweep.timeout_min=10")
    outcome = run_app(
        "pretrain", "-m", "experiment=smoke", "runtime=cpu", "seed=0,1", f"data.root={data}",
        f"run_dir={encoders}", "encoder.depth=1", *queue,
    )  # fmt: skip
    assert outcome.code == 0, outcome.errors
    assert outcome.out.count("in the queue") == 2
    jobs = sweep_of(encoders)
    assert {name: job["exit_code"] for name, job in jobs.items()} == {"seed=0": 0, "seed=1": 0}
    assert all((encoders / name / "report.html").exists() for name in jobs)
    assert all(re.search(r"0\.\d+", str(job["headline"])) for job in jobs.values())
    assert len({str(job["headline"]) for job in jobs.values()}) == 2
    # Hydra wants what holds another = in quotes.
    for way, more in {"queued": queue, "here": ()}.items():
        outcome = run_app(
            "finetune", "-m", "experiment=smoke", "runtime=cpu", "task=thin,fluid", "mode=linear",
            f"data.root={data}", f"encoder='{encoders / 'seed=0' / 'encoder'}'", *ALONE,
            f"features={place / 'features' / way}", f"run_dir={place / way}", *more,
        )  # fmt: skip
        assert outcome.code == 0, outcome.errors
        jobs = sweep_of(place / way)
        assert jobs.keys() == {"task=thin", "task=fluid"}
        tables = [read_csv(place / way / f"leaderboard-{name}.csv") for name in ("thin", "fluid")]
        boards[way] = {name: job["headline"] for name, job in jobs.items()}, tables
    headlines, tables = boards["queued"]
    assert {one["question"] for one in headlines.values()} == {"thin", "fluid"}
    assert all(0 <= float(row["auroc"]) <= 1 for rows in tables for row in rows)
    assert boards["queued"] == boards["here"]
