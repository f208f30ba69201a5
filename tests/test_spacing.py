"""Scans of different spacing, each stretched to one shape, from the files to both reports."""

import json

import numpy as np
import oct_io
import pytest
from oct_vjepa import Encoder, embed_volumes
from safetensors.numpy import load_file

pytestmark = pytest.mark.slow

DATA = (
    "data.window=tiny_field", "data.phantom.split_fractions=[0.5,0.0,0.5]",
    "data.phantom.devices=[phantom_narrow,phantom_medium,phantom_wide]",
    "data.phantom.participants=24", "data.phantom.eyes=[R]", "data.phantom.arrangements=[]",
)  # fmt: skip


@pytest.fixture(scope="module")
def lengths(place, call_app):
    """A finished run with positions in millimetres on the whole fields of three devices."""
    run_dir, root = place / "lengths", place / "fields"
    outcome = call_app(
        "pretrain", "experiment=smoke", f"run_dir={run_dir}", f"data.root={root}", *DATA,
        "encoder.position_unit=length", "encoder.position_scale=[0.5625,0.0171875,0.0703125]",
        "loop.steps=4", "probe.columns=[thin]", "probe.bootstrap=100", "probe.baselines=[]",
    )  # fmt: skip
    assert outcome.code == 0, outcome.errors
    return run_dir, root


def test_a_run_counts_in_the_millimetres_of_each_scan_and_ends_in_a_report(lengths):
    run_dir, root = lengths
    volumes = oct_io.open_cache(f"{root}-cache-tiny_field")
    fields_mm = np.unique(volumes.spacings * volumes.shape, axis=0)
    assert fields_mm[:, 0] == pytest.approx([3.0, 4.5, 6.0])
    assert Encoder.from_pretrained(run_dir / "encoder").config.position_unit == "length"
    page = (run_dir / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 4, "curves, probes, masks and features"


def test_an_evaluation_gives_an_encoder_the_same_spacings_as_pretraining(place, lengths, call_app):
    run_dir, root = lengths
    outcome = call_app(
        "finetune", f"encoder={run_dir / 'encoder'}", f"data.root={root}", *DATA, "task=thin",
        f"run_dir={place / 'lengths-thin'}", f"features={place / 'features'}", "bootstrap=100",
        "compare.baselines=[]", "compare.ranked=false", "compare.shortcuts=[]", "compare.maps=0",
    )  # fmt: skip
    assert outcome.code == 0, outcome.errors
    document = json.loads((place / "lengths-thin" / "results.json").read_text())
    assert document["candidates"][0]["name"] == "pretrained"
    encoder, volumes = (
        Encoder.from_pretrained(run_dir / "encoder"),
        oct_io.open_cache(f"{root}-cache-tiny_field"),
    )
    layers = range(encoder.config.depth)
    wanted = embed_volumes(encoder, volumes, spacing=volumes.spacings, layers=layers)["mean"]
    kept = [load_file(one)["mean"] for one in (place / "features").glob("*.safetensors")]
    assert any(one.shape == wanted.shape and np.allclose(one, wanted, atol=1e-4) for one in kept)
