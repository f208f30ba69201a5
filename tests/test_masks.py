"""`mode=segment` from the command line to the last file, and the rivals that answer beside it."""

import json

import numpy as np
import pytest
import torch
from oct_vjepa import Encoder, EncoderConfig

NETWORK = {
    "input_shape": (8, 64, 64),
    "patch_size": (2, 8, 16),
    "width": 24,
    "depth": 2,
    "heads": 2,
}
PHANTOM = (
    "data.name=masks", "data.phantom.participants=12", "data.phantom.eyes=[R]",
    "data.phantom.annotations=true", "data.phantom.lesion_prevalence=0.8",
    "data.phantom.split_fractions=[0.5,0.0,0.5]", "data.phantom.jobs=1", "data.jobs=1",
)  # fmt: skip
SHORT = (
    "mode=segment", "training.epochs=2", "training.batch_size=4", "training.mode=full",
    "bootstrap=100", "segment.unet=false",
)  # fmt: skip
TRIVIAL = ["mean mask", "grey levels"]


@pytest.fixture(scope="module")
def encoder(place):
    torch.manual_seed(0)
    Encoder(EncoderConfig(**NETWORK, input_mean=60.0, input_std=50.0)).save_pretrained(
        place / "masks-encoder"
    )
    return place / "masks-encoder"


@pytest.fixture(scope="module")
def segment(place, encoder, run_app):
    def run(name, *more):
        outcome = run_app(
            "finetune", f"encoder={encoder}", f"data.root={place / 'masks-data'}", *PHANTOM,
            f"data.cache={place / name}-cache", f"run_dir={place / name}", *SHORT, *more,
        )  # fmt: skip
        assert outcome.code == 0, outcome.errors[-2000:]
        return place / name, json.loads((place / name / "results.json").read_text()), outcome

    return run


@pytest.mark.slow
def test_masks_are_drawn_scored_kept_and_shown(segment):
    folder, document, outcome = segment(
        "masks", "data.annotations=[mask]", "segment.dicom=true", "compare.fractions=[0.6]",
        "compare.turns=1",
    )  # fmt: skip
    names = [row["name"] for row in document["candidates"]]
    assert names == ["pretrained", "random init", *TRIVIAL]
    assert document["question"]["names"] == ["background", "IRF"]
    own, *others = document["candidates"]
    assert own["gain"] is None
    for row in others:
        value, low, high = row["gain"]["difference"]
        assert low <= value <= high
        there = [one["card"]["metrics"]["dice"][0] for one in (own, row)]
        assert value == pytest.approx(there[0] - there[1], abs=1e-9)
    assert [row["candidate"] for row in document["efficiency"]] == names
    masks = sorted((folder / "masks").glob("*.npz"))
    assert len(masks) == 6, "of the test participants, an eye each"
    with np.load(masks[0]) as kept:
        assert kept["mask"].shape == NETWORK["input_shape"]
        assert kept["names"].tolist() == ["background", "IRF"]
        assert np.isfinite(kept["spacing_mm"]).all()
    assert len(list((folder / "masks").glob("*.dcm"))) == 6
    assert document["sentence"] in outcome.out
    assert (folder / "report.html").read_text().count("<img") >= 4


@pytest.mark.slow
def test_layers_are_drawn_and_their_thickness_is_told_by_sector(segment, place):
    folder, document, _ = segment(
        "layers", "data.annotations=[layers]", "segment.boundaries=[ILM,RPE,BM]"
    )
    assert document["question"]["boundaries"] == ["ILM", "RPE", "BM"]
    assert document["question"]["counted"] == ["ILM to RPE", "RPE to BM"]
    metrics = document["candidates"][0]["card"]["metrics"]
    mean = np.mean([metrics[f"boundary_um_{one}"][0] for one in ("ILM", "RPE", "BM")])
    assert metrics["boundary_um"][0] == pytest.approx(mean, rel=0.2)
    central = {kind: metrics[f"etdrs_{kind}_um_central"][0] for kind in ("true", "error")}
    assert 100 < central["true"] < 450, "a retina at its fovea, in micrometres"
    assert 0 <= central["error"] < 500
    assert "Thickness" in (folder / "report.html").read_text()


@pytest.mark.slow
def test_a_mistake_is_told_in_one_line(place, encoder, run_app):
    outcome = run_app(
        "finetune", f"encoder={encoder}", f"data.root={place / 'masks-data'}", *PHANTOM,
        f"data.cache={place / 'masks'}-cache", f"run_dir={place / 'wrong'}", *SHORT,
        "data.annotations=[mask]", "training.mode=attentive",
    )  # fmt: skip
    assert outcome.code != 0
    assert "training.mode" in outcome.errors


@pytest.mark.drill
def test_networks_from_scratch_attention_and_other_encoders_answer_in_one_table(
    place, encoder, run_app
):
    outcome = run_app(
        "finetune", f"encoder={encoder}", f"data.root={place / 'rivals-data'}",
        f"data.cache={place / 'rivals-cache'}", f"run_dir={place / 'rivals'}",
        "data.phantom.participants=24", "data.phantom.split_fractions=[0.5,0.0,0.5]",
        "bootstrap=100", "training.epochs=1", "training.batch_size=4", "compare.baselines=[]",
        "compare.networks=[monai_resnet10,monai_densenet121]", "join=attention",
        f'compare.encoders=["again={encoder}"]',
    )  # fmt: skip
    assert outcome.code == 0, outcome.errors[-2000:]
    document = json.loads((place / "rivals" / "results.json").read_text())
    rows = {row["name"]: row["card"]["metrics"]["auroc"] for row in document["candidates"]}
    attention = [f"{one}, attention over volumes" for one in ("pretrained", "random init")]
    networks = ["network monai_resnet10", "network monai_densenet121"]
    assert list(rows) == ["pretrained", "random init", *attention, "encoder again", *networks]
    assert rows["encoder again"] == rows["pretrained"]
