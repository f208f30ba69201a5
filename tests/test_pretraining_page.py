"""The page of a pretraining run: what stands on top, whatever was asked."""

import json
import re
import runpy
import sys
from pathlib import Path

import oct_vjepa
import pytest
from oct_io import PhantomTree, SourceConfig, open_source
from oct_io.space.transforms import AugmentConfig

PRETRAIN = Path(__file__).parent.parent / "apps" / "pretrain"
TREE = PhantomTree(
    participants=4, shape=(4, 40, 32), split_fractions=(1.0, 0.0, 0.0), devices=("phantom_a",),
    jobs=1,
)  # fmt: skip
ROW = {"step": 3, "loss": 0.5, "target_std": 0.9, "volumes_per_s": 7.0}
FACTS = {"runtime": "cpu", "device": "cpu", "precision": "fp32"}


def document(name, auroc):
    """What was said of a label."""
    metrics = {"auroc": [auroc, 0.5, 0.99], "balanced_accuracy": [0.8, 0.7, 0.9]}
    card = {"metrics": metrics, "participants": 4}
    untrained = {"name": "random init", "card": card, "gain": {"difference": [0.1, 0.05, 0.2]}}
    own = {"name": "pretrained", "card": card, "gain": None}
    return {"question": {"name": name}, "headline": "auroc", "candidates": [own, untrained]}


@pytest.fixture
def write_page(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(PRETRAIN)
    report, samples = (runpy.run_path(str(PRETRAIN / f"{one}.py")) for one in ("report", "samples"))
    for name in ("samples", "pairing"):
        sys.modules.pop(name, None)
    config = SourceConfig(
        root=str(tmp_path / "data"), cache=str(tmp_path / "cache"), window="tiny", jobs=1,
        phantom=TREE,
    )  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text(json.dumps(ROW) + "\n")
    (tmp_path / "provenance.json").write_text(json.dumps(FACTS))
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    source, encoder = open_source(config), oct_vjepa.Encoder(oct_vjepa.EncoderConfig(depth=1))

    def write(probes):
        fed = samples["PretrainSamples"](
            source.volumes, [0, 1], oct_vjepa.MaskingConfig(), augment=AugmentConfig(),
            encoder=encoder.config, seed=0,
        )  # fmt: skip
        encoders = {"pretrained": encoder}
        return report["write_report"](tmp_path, source, fed, encoders, probes, method="V-JEPA 2")

    return lambda probes: write(probes).read_text()


def test_every_label_that_was_asked_has_a_tile(write_page):
    asked = {"thin": 0.61, "fluid": 0.62, "drusen": 0.63, "folded": 0.64, "site": 0.65}
    page = write_page([document(name, auroc) for name, auroc in asked.items()])
    tiles = dict(re.findall(r'<div class="tile"><b>([^<]+)</b><span>([^<]+)</span>', page))
    told = {f"AUROC {name}": f"{auroc:.2f}" for name, auroc in asked.items()}
    assert {label: value for value, label in tiles.items() if "AUROC" in label} == told
    assert tiles["0.500"] == "loss at the end"


def test_a_run_that_asked_nothing_tells_of_itself_alone(write_page):
    page = write_page([])
    assert "No labels were named" in page
    assert "AUROC" not in page
    assert page.count('<div class="tiles">') == 1
