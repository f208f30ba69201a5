"""A sweep of evaluations ends in a leaderboard, and asks an encoder again that has changed."""

import csv

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


def read_board(place):
    return list(csv.DictReader((place / "leaderboard.csv").read_text().splitlines()))


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
