"""Encoders of others are asked as they are: a checkpoint is converted on the way, and never run."""

import csv
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from oct_judge.board.entry import entry_of
from oct_judge.board.finish import encoder_of_settings
from oct_judge.checkpoint import CheckpointConfig, open_encoder
from oct_vjepa import Encoder, EncoderConfig, WeightsError
from oct_vjepa.model.weights import weights_fingerprint
from omegaconf import OmegaConf

WIDTH, HEADS, PATCH, SHAPE = 24, 2, (4, 16, 16), (8, 64, 64)


def write_predecessor(path, seed):
    """A file with the predecessor's names and random weights."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator) * 0.2

    state = {"patch_embed.proj.weight": draw(WIDTH, 1, *PATCH), "pos_embed": draw(1, 32, WIDTH)}
    state |= {"patch_embed.proj.bias": draw(WIDTH), "norm.weight": draw(WIDTH)}
    state |= {"norm.bias": draw(WIDTH)}
    for name, (rows, columns) in {
        "attn.qkv": (3 * WIDTH, WIDTH), "attn.proj": (WIDTH, WIDTH),
        "mlp.fc1": (4 * WIDTH, WIDTH), "mlp.fc2": (WIDTH, 4 * WIDTH),
    }.items():  # fmt: skip
        state[f"blocks.0.{name}.weight"] = draw(rows, columns)
        state[f"blocks.0.{name}.bias"] = draw(rows)
    for name in ("norm1", "norm2"):
        state |= {f"blocks.0.{name}.weight": draw(WIDTH), f"blocks.0.{name}.bias": draw(WIDTH)}
    model = OrderedDict((f"context_encoder.{name}", value) for name, value in state.items())
    config = {"image_size": list(SHAPE), "num_heads": HEADS}
    torch.save({"epoch": 3, "model_state_dict": model, "config": config}, path)
    return path


def test_a_checkpoint_of_the_predecessor_is_converted_on_the_way(tmp_path):
    path = write_predecessor(tmp_path / "single.pt", 1)
    encoder, report = open_encoder(str(path), CheckpointConfig())
    assert encoder.config.input_shape == SHAPE
    assert "layout      predecessor (context encoder)" in report
    assert "standardised by itself" in report
    wider = CheckpointConfig(input_shape=(16, 64, 64), input_mean=115.0, input_std=48.0)
    resized, _ = open_encoder(str(path), wider)
    assert resized.config.input_shape == (16, 64, 64)
    assert resized.config.input_mean == 115.0


def test_a_folder_of_ours_is_read_as_it_is_and_its_absence_named(tmp_path):
    config = EncoderConfig(input_shape=SHAPE, patch_size=PATCH, width=24, depth=1, heads=2)
    Encoder(config).save_pretrained(tmp_path / "ours")
    encoder, report = open_encoder(str(tmp_path / "ours"), CheckpointConfig())
    assert (encoder.config, report) == (config, "")
    with pytest.raises(WeightsError, match=r"gone/config\.json: cannot be read"):
        open_encoder(str(tmp_path / "gone"), CheckpointConfig())


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    path = tmp_path / "hostile.pt"
    torch.save({"model_state_dict": {}, "config": Path("x")}, path)
    with pytest.raises(WeightsError, match="refused, it wants to load"):
        open_encoder(str(path), CheckpointConfig())


def test_a_checkpoint_that_was_written_anew_has_another_fingerprint(tmp_path):
    path = write_predecessor(tmp_path / "a.pt", 1)
    other = write_predecessor(tmp_path / "b.pt", 2)
    plain = {"layout": "auto", "part": "auto"}
    found = [
        encoder_of_settings(OmegaConf.create({"weights": str(one), "checkpoint": plain}))
        for one in (path, other, tmp_path / "gone.pt")
    ]
    assert found[0] == weights_fingerprint(open_encoder(str(path), CheckpointConfig())[0])
    assert found[0] != found[1]
    assert found[2] == "", "what cannot be read is no reason to skip a job"


def test_results_say_the_encoder_and_every_setting_that_makes_a_difference():
    settings = OmegaConf.create(
        {"weights": "runs/a/encoder", "mode": "linear", "run_dir": "runs/x", "seed": 3,
         "data": {"root": "somewhere", "window": "small"}, "grid": {"strengths": [1.0]}}
    )  # fmt: skip
    seen = entry_of(OmegaConf.merge(settings, {"allow_seen": True}), "abc")
    assert seen["settings"]["allow_seen"] == "True"
    assert entry_of(OmegaConf.merge(settings, {"allow_seen": False}), "abc") == {
        "encoder": "runs/a/encoder",
        "fingerprint": "abc",
        "settings": {
            "mode": "linear", "seed": "3", "data.window": "small", "grid.strengths": "[1.0]",
        },
    }  # fmt: skip


def test_a_layout_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"checkpoint\.layout \(mae\) must be one of auto"):
        CheckpointConfig(layout="mae")


@pytest.mark.drill
def test_three_checkpoints_of_the_predecessor_are_compared_by_one_command(tmp_path, run_app):
    paths = [write_predecessor(tmp_path / f"{name}.pt", seed) for seed, name in enumerate("abc")]
    outcome = run_app(
        "finetune", "-m", f"encoder={','.join(map(str, paths))}", f"run_dir={tmp_path / 'sweep'}",
        f"data.root={tmp_path / 'data'}", f"features={tmp_path / 'features'}", "data.jobs=1",
        "data.phantom.participants=48", "data.phantom.split_fractions=[0.3,0.3,0.4]",
        "data.phantom.scale=0.5", "data.phantom.eyes=[R]", "data.phantom.arrangements=[]",
        "compare.baselines=[thumbnail]", "compare.random_init=false", "compare.ranked=false",
        "compare.together=false", "compare.maps=0", "bootstrap=100",
        "checkpoint.input_mean=60.0", "checkpoint.input_std=40.0",
    )  # fmt: skip
    assert outcome.code == 0, outcome.errors
    table = (tmp_path / "sweep" / "leaderboard.csv").read_text().splitlines()
    rows = {row["entry"]: row for row in csv.DictReader(table)}
    assert len(rows) == 4, "three encoders, and the thumbnail that all stand beside"
    encoders = [row for name, row in rows.items() if name != "thumbnail"]
    assert len({row["fingerprint"] for row in encoders}) == 3
    assert len({row["auroc"] for row in encoders}) > 1
    assert (tmp_path / "sweep" / "leaderboard.html").exists()
    assert (
        outcome.errors.count("predecessor (context encoder)")
        + outcome.out.count("predecessor (context encoder)")
        == 3
    ), "the report of each conversion"
