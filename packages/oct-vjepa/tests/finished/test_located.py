"""A finished model of patches: it says what the regression said, and refuses what is not its."""

import dataclasses

import numpy as np
import pytest
import torch
from oct_vjepa import Encoder, WeightsError, load_model
from oct_vjepa.evaluation.patch_probe import ask_patches, read_around, read_tokens
from oct_vjepa.finished.about import PATCHES, About, MadeFor, MemberAbout
from oct_vjepa.finished.folder import write_about
from oct_vjepa.finished.located import mean_of_patches
from oct_vjepa.finished.member import learn_novelty, save_novelty
from oct_vjepa.heads.linear import PatchHead
from oct_vjepa.model.encoder import EncoderConfig
from oct_vjepa.probes.protocol import Round

ROWS, SHAPE, BLOCKS, AROUND = 36, (4, 16, 24), [0, 1], (3,)
CONFIG = EncoderConfig(
    input_shape=SHAPE, patch_size=(2, 4, 8), width=48, depth=2, heads=3, input_mean=100.0,
    input_std=50.0,
)  # fmt: skip


def draw():
    """Noise; in two scans of three one or two patches are brighter, and say so."""
    generator = np.random.default_rng(0)
    light = generator.normal(100, 20, (ROWS, *SHAPE))
    present = np.zeros((ROWS, int(np.prod(CONFIG.grid))), bool)
    for row in range(ROWS):
        for _ in range(row % 3):
            z, y, x = (int(generator.integers(side)) for side in CONFIG.grid)
            light[row, 2 * z : 2 * z + 2, 4 * y : 4 * y + 4, 8 * x : 8 * x + 8] += 60
            present[row, np.ravel_multi_index((z, y, x), CONFIG.grid)] = True
    return light.clip(0, 255).astype(np.uint8), present


@pytest.fixture(scope="module")
def asked():
    """Encoder, what was fitted, the round, and tokens of all rows."""
    torch.manual_seed(0)
    encoder, (volumes, present) = Encoder(CONFIG).eval(), draw()
    tokens = read_tokens(encoder, volumes, blocks=BLOCKS)
    turn = np.arange(ROWS) // 3 % 3
    one = Round("test", turn == 0, turn == 1, turn == 2)
    features = read_around(tokens, CONFIG.grid, AROUND)
    return encoder, ask_patches(features, present, np.arange(ROWS), one), one, tokens


def write(place, asked, **changes):
    encoder, said, one, tokens = asked
    home = place / "members" / "0"
    head = PatchHead.from_regression(
        said.weights_D[None],
        np.array([said.bias]),
        classes=["lesion"],
        grid=CONFIG.grid,
        around=AROUND,
    )
    head.levels = tuple(BLOCKS)
    head.save_pretrained(home)
    encoder.save_pretrained(place / "encoder")
    novelty, usual = learn_novelty(mean_of_patches(tokens), one.fit, one.validation)
    save_novelty(novelty, home)
    member = MemberAbout(encoder="encoder", head="members/0", round="test", usual=usual)
    settings = {
        "question": "masks",
        "kind": PATCHES,
        "names": ("lesion",),
        "mode": "patches",
        "shape": SHAPE,
        "made_for": MadeFor(seen={"device": ("a",)}),
        "members": (member,),
        "cutoffs": {"lesion": 0.4},
        "levels": tuple(BLOCKS),
    }
    write_about(place, About(**settings | changes), lambda told: f"# {told.question}\n")
    return place


def test_it_says_of_each_patch_what_the_regression_said(asked, tmp_path):
    _, said, one, _ = asked
    rows = np.flatnonzero(one.test)
    found = load_model(write(tmp_path, asked)).locate(draw()[0][rows], batch_size=5)
    assert found.chances.shape == (len(rows), 1, *CONFIG.grid)
    assert found.names == ("lesion",)
    likely = 1 / (1 + np.exp(-said.scores_NT.reshape(found.chances[:, 0].shape)))
    assert np.abs(found.chances[:, 0] - likely).max() < 1e-4
    held = draw()[1][rows].reshape(found.chances[:, 0].shape)
    assert np.median(found.chances[:, 0][held]) > np.quantile(found.chances[:, 0][~held], 0.9)


def test_strangers_are_marked_and_have_a_map(asked, tmp_path):
    model = load_model(write(tmp_path, asked))
    stripes = np.zeros((2, *SHAPE), np.uint8)
    stripes[..., 1::2] = 255
    found = model.locate(stripes, devices=["a", "b"])
    assert found.flags == (("strange",), ("device", "strange"))
    assert np.isfinite(found.chances).all()


def test_what_it_does_not_do_is_refused_by_name(asked, tmp_path):
    model, (volumes, _) = load_model(write(tmp_path, asked)), draw()
    for ask in (model.predict, model.draw):
        with pytest.raises(ValueError, match=r"says what patches hold: call locate\(volumes\)"):
            ask(volumes[:1])
    with pytest.raises(ValueError, match=r"volumes\[0\] has shape"):
        model.locate(volumes[:1, :2])
    other = dataclasses.replace(model, about=dataclasses.replace(model.about, kind="nominal"))
    with pytest.raises(ValueError, match=r"call predict\(volumes\)"):
        other.locate(volumes[:1])


def test_a_head_on_another_encoder_is_refused(asked, tmp_path):
    _, *rest = asked
    torch.manual_seed(0)
    shallow = Encoder(dataclasses.replace(CONFIG, depth=1))
    with pytest.raises(WeightsError, match=r"its head reads blocks \[0, 1\].* has 1 of width 48"):
        load_model(write(tmp_path, (shallow, *rest)))
