"""A finished model in a folder: it answers as what was fitted, marks strangers, and is checked."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from oct_vjepa import Encoder, WeightsError, load_model
from oct_vjepa.evaluation.features import embed_volumes
from oct_vjepa.evaluation.readouts import ReadoutConfig, read_out
from oct_vjepa.finished.about import About, MadeFor, MemberAbout
from oct_vjepa.finished.folder import write_about
from oct_vjepa.finished.member import Scored, learn_novelty, save_novelty
from oct_vjepa.finished.predictions import STRANGE, join, settle
from oct_vjepa.heads.answer import Answer
from oct_vjepa.heads.build import build_head
from oct_vjepa.heads.configuration import HeadConfig, LossConfig
from oct_vjepa.heads.linear import LinearHead
from oct_vjepa.heads.segmentation import SegmentationHead, Segmenter
from oct_vjepa.heads.supervised import Supervised
from oct_vjepa.measures.target import Target
from oct_vjepa.model.encoder import EncoderConfig
from oct_vjepa.model.pooling import pool_cells
from oct_vjepa.probes.configuration import GridConfig
from oct_vjepa.probes.grid import fit_grid
from oct_vjepa.probes.protocol import Round
from oct_vjepa.scores.calibration import apply_temperature
from safetensors.numpy import load_file

ROWS, SHAPE, READOUT = 60, (4, 16, 24), "all/mean"
CONFIG = EncoderConfig(
    input_shape=SHAPE, patch_size=(2, 4, 8), width=48, depth=2, heads=3, input_mean=100.0,
    input_std=50.0,
)  # fmt: skip
SPACING = (0.12, 0.004, 0.011)


def draw(rows=ROWS, seed=0):
    """Noise, brighter in every second volume."""
    generator = np.random.default_rng(seed)
    sick = np.arange(rows) % 2
    light = generator.normal(100 + 30 * sick, 12)[:, None, None, None]
    return np.clip(light + generator.normal(0, 20, (rows, *SHAPE)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def fitted():
    """Encoder, features of all rows at the readout, the round, and a probe that was fitted."""
    torch.manual_seed(0)
    encoder = Encoder(CONFIG).eval()
    raw = embed_volumes(encoder, draw(), pools=["mean"], layers=range(CONFIG.depth))
    features = read_out(raw, ReadoutConfig(blocks=["all"], pools=["mean"]), CONFIG.depth)
    turn = np.arange(ROWS) // 2 % 3
    one = Round("test", turn == 0, turn == 1, turn == 2)
    target = Target(kind="nominal", values=np.arange(ROWS) % 2, names=("well", "ill"))
    probe = fit_grid(
        "linear", features, target, np.arange(ROWS), one, GridConfig(), balanced=True, seed=0
    )
    return encoder, features[READOUT], one, probe


def about(**changes):
    member = MemberAbout(
        encoder="encoder", probe="members/0", readout=READOUT, temperature=1.7, round="test"
    )
    settings = {
        "question": "illness",
        "kind": "nominal",
        "names": ("well", "ill"),
        "mode": "linear",
        "shape": SHAPE,
        "made_for": MadeFor(seen={"device": ("a", "b")}, spacing=(SPACING, SPACING)),
        "members": (member,),
        "threshold": {"volume": 0.6, "participant": 0.5},
    }
    return About(**settings | changes)


@pytest.fixture
def folder(fitted, tmp_path):
    encoder, features, one, probe = fitted
    place = tmp_path / "model"
    (place / "members" / "0").mkdir(parents=True)
    encoder.save_pretrained(place / "encoder")
    probe.save(place / "members" / "0")
    novelty, usual = learn_novelty(features, one.fit, one.validation)
    save_novelty(novelty, place / "members" / "0")
    told = about()
    member = MemberAbout(**{
        name: getattr(told.members[0], name) for name in MemberAbout.__slots__
    } | {"usual": usual})  # fmt: skip
    write_about(place, about(members=(member,)), lambda told: f"# {told.question}\n")
    return place


def test_it_scores_features_as_the_probe_did_at_its_temperature_bit_for_bit(fitted, folder):
    _, features, _, probe = fitted
    likely = probe.predict({READOUT: features}, at_fit_priors=True)
    found = load_model(folder).score({READOUT: features})
    assert np.array_equal(found.scores_NK, apply_temperature(likely, 1.7))
    assert np.array_equal(found.even_NK, probe.predict({READOUT: features}))


def test_it_scores_volumes_as_it_scores_their_features(fitted, folder):
    model, volumes = load_model(folder), draw()
    said = model.predict(volumes, SPACING, ["a"] * ROWS, batch_size=32)
    assert np.array_equal(said.scores, model.score({READOUT: fitted[1]}).scores_NK)
    assert said.names == ("well", "ill")
    right = [
        one == ("well", "ill")[row % 2] for row, one in enumerate(said.decided) if one
    ]  # fmt: skip
    assert len(right) > ROWS / 2
    assert np.mean(right) > 0.9
    assert said.sets.any(axis=1).mean() > 0.9


def test_scans_that_the_fit_left_out_for_what_reading_found_are_marked(folder):
    told = about(made_for=MadeFor(left_out=("motion", "blink")))
    assert About.from_json(told.as_json()) == told
    write_about(folder, replace(told, members=load_model(folder).about.members), lambda told: "")
    flags = ["", "low_signal", "motion low_signal", "blink"]
    said = load_model(folder).predict(draw()[:4], scan_flags=flags)
    assert ["scan_flags" in one for one in said.flags] == [False, False, True, True]
    assert said.decided[2:] == ("", "")


def test_stripes_are_strange_and_nothing_is_decided_of_them(folder):
    stripes = np.zeros((3, *SHAPE), np.uint8)
    stripes[..., 1::2] = 255
    said = load_model(folder).predict(stripes, SPACING)
    assert said.flags == ((STRANGE,),) * 3
    assert said.decided == ("",) * 3
    assert said.sets.all()
    assert (said.novelty > 1).all()


def test_another_device_or_spacing_is_marked(folder):
    volumes = draw()[:3]
    far = np.array([SPACING, SPACING, (0.24, 0.004, 0.011)])
    said = load_model(folder).predict(volumes, far, ["a", "c", "b"])
    own = [set(one) - {STRANGE} for one in said.flags]
    assert own == [set(), {"device"}, {"spacing"}]
    assert said.decided[1:] == ("", "")


def test_of_several_labels_it_says_which_may_be_there_and_which_are():
    told = about(
        kind="multilabel", names=("thin", "fluid", "scar"), threshold={},
        label_thresholds={"volume": (0.3, 0.3, None), "participant": (None, None, None)},
    )  # fmt: skip
    told = About.from_json(told.as_json())
    scores = np.array([[0.8, 0.5, 0.9], [0.1, 0.71, 0.2], [0.9, 0.9, 0.9]])
    novelty = np.array([0.1, 0.1, 2.0])
    said = settle(told, Scored(scores, scores, novelty), [(), (), ()])
    assert said.sets.tolist() == [[True, False, True], [False, True, True], [True] * 3]
    assert said.certain.tolist() == [[True, False, False], [False, True, False], [False] * 3]
    people = settle(told, Scored(scores, scores, novelty), [(), (), ()], unit="participant")
    assert people.sets.all(), "too few participants to promise anything"
    assert not people.certain.any()


def test_a_spacing_near_those_that_were_seen_is_not_marked(folder):
    near = np.array(SPACING) * 1.04
    said = load_model(folder).predict(draw()[:2], near)
    assert not any("spacing" in one for one in said.flags)


def test_volumes_of_another_shape_are_refused(folder):
    with pytest.raises(ValueError, match=r"volumes\[0\] has shape \(4, 16, 16\); this model takes"):
        load_model(folder).predict(np.zeros((2, 4, 16, 16), np.uint8))


def test_names_that_are_not_as_many_are_refused(folder):
    with pytest.raises(ValueError, match="1 device names for 2 volumes"):
        load_model(folder).predict(draw()[:2], devices=["a"])
    with pytest.raises(ValueError, match=r"spacing \(1, 3\) must be"):
        load_model(folder).predict(draw()[:2], [SPACING])


def test_a_folder_that_is_no_model_is_refused(tmp_path, folder):
    with pytest.raises(WeightsError, match="no finished model"):
        load_model(tmp_path)
    with pytest.raises(WeightsError, match="no finished model"):
        load_model(folder / "encoder")


@pytest.mark.parametrize(
    "name", ["encoder/model.safetensors", "members/0/probe.safetensors", "members/0/probe.json"]
)
def test_a_file_that_was_changed_or_is_missing_is_named(folder, name):
    path = folder / name
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=f"{path.name}: is not what was written"):
        load_model(folder)
    path.unlink()
    with pytest.raises(WeightsError, match=f"{path.name}: is missing"):
        load_model(folder)


def test_model_json_leads_nowhere_out_of_its_folder(folder):
    path = folder / "model.json"
    tree = json.loads(path.read_text())
    tree["files"]["../outside"] = "0" * 64
    path.write_text(json.dumps(tree))
    with pytest.raises(WeightsError, match="no place within the folder"):
        load_model(folder)


def test_a_card_may_be_added_to(folder):
    with (folder / "README.md").open("a") as file:
        file.write("more\n")
    assert load_model(folder).about.question == "illness"


def test_no_row_of_the_fit_is_kept_with_the_novelty(folder):
    kept = load_file(folder / "members" / "0" / "novelty.safetensors")
    assert sorted(kept) == ["axes_KD", "middle_D", "scale_D", "shrinkage", "variance_K"]
    files = sorted(one.suffix for one in folder.rglob("*") if one.is_file())
    assert set(files) == {".json", ".md", ".safetensors"}


def test_what_model_json_says_is_read_as_it_was_written():
    told = about(results={"sentence": "so"}, cutoffs={"ill": 0.25})
    assert About.from_json(json.loads(json.dumps(told.as_json()))) == told
    with pytest.raises(ValueError, match="version 9"):
        About.from_json(told.as_json() | {"version": 9})


def test_several_members_answer_with_their_mean(fitted, folder):
    _, features, one, probe = fitted
    (folder / "members" / "1").mkdir()
    other = Round("other", one.validation, one.fit, one.test)
    target = Target(kind="nominal", values=np.arange(ROWS) % 2, names=("well", "ill"))
    second = fit_grid(
        "linear", {READOUT: features}, target, np.arange(ROWS), other, GridConfig(),
        balanced=True, seed=0,
    )  # fmt: skip
    second.save(folder / "members" / "1")
    members = tuple(
        MemberAbout(encoder="encoder", probe=f"members/{number}", readout=READOUT)
        for number in range(2)
    )
    write_about(folder, about(members=members), lambda told: "")
    likely = [
        apply_temperature(one.predict({READOUT: features}, at_fit_priors=True), 1.0)
        for one in (probe, second)
    ]
    said = load_model(folder).predict(draw(), SPACING)
    assert np.array_equal(said.scores, np.mean(likely, axis=0))
    assert np.isnan(said.novelty).all()


def age_head(blocks):
    """A fresh head on the encoder's output, or on the means of cells of its last block."""
    answer = Answer(kind="regression", unit="years", mean=60.0, scale=9.0)
    if not blocks:
        config = HeadConfig(kind="mlp", pool="mean")
        return build_head(config, width=CONFIG.width, names=["age"], answer=answer, seed=0)
    width = pool_cells(torch.zeros(1, math.prod(CONFIG.grid), CONFIG.width), CONFIG.grid).shape[1]
    head = LinearHead(width=width, classes=["age"], pool="cells", levels=blocks, grid=CONFIG.grid)
    head.answer = answer
    return head


@pytest.mark.parametrize("blocks", [(), (0, 1)])
def test_a_trained_head_answers_as_it_did_in_training(tmp_path, blocks):
    torch.manual_seed(3)
    encoder = Encoder(CONFIG).eval()
    head = age_head(blocks)
    encoder.save_pretrained(tmp_path / "encoder")
    head.save_pretrained(tmp_path / "members" / "0")
    member = MemberAbout(encoder="encoder", head="members/0")
    told = about(kind="regression", names=("age",), unit="years", mode="full", members=(member,))
    write_about(tmp_path, told, lambda told: "")
    volumes = draw(8)
    said = load_model(tmp_path).predict(volumes, SPACING)
    objective = Supervised(encoder, head, LossConfig(kind="regression"))
    with torch.no_grad():
        wanted = objective.eval().predict(torch.from_numpy(volumes).unsqueeze(1))
    assert np.array_equal(said.scores, wanted.double().numpy())
    assert np.allclose(said.ranges[:, 1] - said.ranges[:, 0], 1.2)
    with pytest.raises(ValueError, match="reads volumes, not features"):
        load_model(tmp_path).score({READOUT: np.zeros((1, 4))})


def keep_segmenter(place, levels=(), seeds=(0,)):
    """A model of masks of one member a seed; the segmenters that it must agree with."""
    members, segmenters = [], []
    for seed in seeds:
        torch.manual_seed(seed)
        encoder = Encoder(CONFIG).eval()
        head = SegmentationHead(
            width=CONFIG.width * max(1, len(levels)), classes=["background", "fluid", "scar"],
            patch_size=CONFIG.patch_size,
        )  # fmt: skip
        encoder.save_pretrained(place / f"encoder{seed}")
        head.save_pretrained(place / "members" / str(seed))
        members.append(MemberAbout(encoder=f"encoder{seed}", head=f"members/{seed}"))
        segmenters.append(Segmenter(encoder, head, levels=levels).eval())
    told = about(
        kind="segmentation", names=("background", "fluid", "scar"), mode="segment", threshold={},
        levels=levels, members=tuple(members),
    )  # fmt: skip
    write_about(place, told, lambda told: "")
    return segmenters


@pytest.mark.parametrize(("levels", "seeds"), [((), (0,)), ((0, 1), (0,)), ((), (0, 1))])
def test_a_model_of_masks_draws_what_was_trained_and_marks_strangers(tmp_path, levels, seeds):
    segmenters, volumes = keep_segmenter(tmp_path, levels, seeds), draw(6)
    said = load_model(tmp_path).draw(volumes, SPACING, ["a"] * 5 + ["c"], batch_size=4)
    with torch.no_grad():
        whole = torch.from_numpy(volumes).unsqueeze(1)
        chances = torch.stack([one(whole).softmax(dim=1) for one in segmenters]).mean(dim=0)
    assert said.masks.dtype == np.uint8
    assert np.array_equal(said.masks, chances.argmax(dim=1).numpy())
    assert set(np.unique(said.masks)) == {0, 1, 2}
    assert said.names == ("background", "fluid", "scar")
    assert said.flags == ((),) * 5 + (("device",),)
    assert np.isnan(said.novelty).all()


def test_masks_and_answers_are_not_asked_of_the_wrong_model(folder, tmp_path):
    with pytest.raises(ValueError, match=r"draws no masks: call predict\(volumes\)"):
        load_model(folder).draw(draw(1))
    keep_segmenter(tmp_path / "masks")
    with pytest.raises(ValueError, match=r"draws masks: call draw\(volumes\)"):
        load_model(tmp_path / "masks").predict(draw(1))


def test_participants_are_joined_from_volumes_without_a_mark(folder):
    model = load_model(folder)
    said = model.predict(draw()[:6], SPACING, ["a", "a", "c", "a", "c", "c"])
    people = np.array(["p", "p", "p", "q", "r", "r"])
    names, counts, joined = join(model.about, said, people, np.array(["R", "L"] * 3))
    assert names.tolist() == ["p", "q", "r"]
    unmarked = np.array([not one for one in said.flags])
    assert unmarked[:2].all(), "the drawing changed"
    assert counts.tolist() == [2, 1, 2]
    assert np.allclose(joined.scores[0], said.scores[:2].mean(axis=0))
    assert joined.flags[0] == ()
    assert joined.decided[0] in ("well", "ill")
    assert "device" in joined.flags[2]
    assert joined.decided[2] == ""
