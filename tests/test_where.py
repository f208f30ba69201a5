"""`mode=patches` from the command line to the last file: where it is, from frozen tokens."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from oct_judge.masks.patches import Patches, check_rounds
from oct_launch import Mistake
from oct_vjepa import Encoder, EncoderConfig
from oct_vjepa.boards.runs import read_run
from oct_vjepa.boards.standings import make_board
from oct_vjepa.probes.protocol import Round

NETWORK = {
    "input_shape": (8, 64, 64),
    "patch_size": (2, 8, 16),
    "width": 24,
    "depth": 4,
    "heads": 2,
}
GRID = [4, 8, 4]
PHANTOM = (
    "mode=patches", "data.name=where", "data.phantom.participants=16", "data.phantom.eyes=[R]",
    "data.phantom.annotations=true", "data.phantom.lesion_prevalence=0.9",
    "data.phantom.split_fractions=[0.5,0.0,0.5]", "data.phantom.jobs=1", "data.jobs=1",
    "bootstrap=100",
)  # fmt: skip
EVERYBODY = [
    *("pretrained", "random init", "encoder other", "row of the patch", "voxels of the patch"),
    *("PCA of patch and neighbours", "random layer", "random layer of patch and neighbours"),
    *("filter bank", "pretrained + filter bank", "random init + filter bank"),
]


@pytest.fixture(scope="module")
def encoder(place):
    torch.manual_seed(0)
    config = EncoderConfig(**NETWORK, input_mean=60.0, input_std=50.0)
    Encoder(config).save_pretrained(place / "where-encoder")
    Encoder(replace(config, depth=2)).save_pretrained(place / "where-other")
    Encoder(replace(config, patch_size=(2, 16, 16))).save_pretrained(place / "where-coarse")
    return place / "where-encoder"


@pytest.fixture(scope="module")
def words(place, encoder):
    """The words of a command line that ends in a folder of this name."""

    def of(name, *more):
        return (
            "finetune", f"encoder={encoder}", f"data.root={place / 'where-data'}", *PHANTOM,
            f"data.cache={place / 'where-cache'}", f"features={place / name}-features/kept",
            f"run_dir={place / name}", *more,
        )  # fmt: skip

    return of


@pytest.fixture(scope="module")
def found(call_app, words, place):
    more = ("data.annotations=[mask]", "compare.fractions=[0.6]", "compare.turns=2", "seeds=2")
    more += (f'compare.encoders=["other={place}/where-other"]',)
    outcome = call_app(*words("where", *more))
    assert outcome.code == 0, outcome.errors[-2000:]
    return place / "where", json.loads((place / "where" / "results.json").read_text()), outcome


@pytest.mark.slow
def test_everybody_says_where_the_fluid_is(found):
    _, document, outcome = found
    assert [row["name"] for row in document["candidates"]] == EVERYBODY
    assert document["mode"] == "patches"
    assert document["headline"] == "auroc"
    assert document["blocks"] == [0, 1, 3]
    assert document["question"]["counted"] == ["IRF"]
    assert 0 < document["question"]["held"]["IRF"] < document["question"]["tested"]
    for row in document["candidates"]:
        metrics = row["card"]["metrics"]
        assert set(metrics) == {"auroc", "average_precision", "auroc_IRF", "average_precision_IRF"}
        for value, low, high in metrics.values():
            assert 0 <= low <= value <= high <= 1
    assert document["sentence"] in outcome.out
    assert "AUROC, patch by patch" in document["sentence"]


@pytest.mark.slow
def test_the_model_it_leaves_says_of_scans_what_it_said_in_the_test(found, call_app, place, words):
    folder, document, outcome = found
    model = folder / "model"
    assert f"model: {model}" in outcome.out
    about = json.loads((model / "model.json").read_text())
    assert (about["kind"], about["levels"]) == ("patches", [0, 1, 3])
    card = (model / "README.md").read_text()
    assert document["sentence"] in card
    assert f"IRF from {about['cutoffs']['IRF']:.4g}" in card

    out = place / "located"
    asked = ("finetune", f"predict={place / 'where-data'}", f"model={model}", "data.jobs=1")
    told = call_app(*asked, f"out={out}", f"data.cache={place / 'where-new-cache'}")
    assert told.code == 0, told.errors[-2000:]
    assert f"maps: {out / 'maps'}" in told.out
    rows = pq.read_table(out / "predictions.parquet").to_pylist()
    assert len(rows) == 16, "all scans, fitted on or not"
    assert not (out / "participants.csv").exists()
    fine = 0
    for row in rows:
        with np.load(out / "maps" / f"{row['scan']}.npz") as one:
            chance, names, step = one["chance"], one["names"].tolist(), one["spacing_mm"]
        assert (chance.shape, names, step.shape) == ((1, *GRID), ["IRF"], (3,))
        if row["flags"]:
            assert row["mean_IRF"] is None
        else:
            fine += 1
            assert row["mean_IRF"] == pytest.approx(chance.mean(), rel=1e-5)
            assert row["max_IRF"] == pytest.approx(chance.max(), rel=1e-5)
            assert row["share_IRF"] == pytest.approx((chance >= about["cutoffs"]["IRF"]).mean())
        kept = folder / "patches" / f"{row['scan']}.npz"
        if kept.exists():
            with np.load(kept) as one:
                assert np.abs(1 / (1 + np.exp(-one["scores"])) - chance).max() < 1e-4
    assert fine, "of so few to fit on most others are strange"

    told = call_app(*asked, f"out={place / 'located-wrong'}", "segment.dicom=true")
    assert told.code == 2
    assert "draws no masks" in told.errors


@pytest.mark.slow
def test_who_sees_grey_levels_is_more_precise_than_the_place_alone(found):
    """Of eight participants to fit on a PCA already is; an untrained encoder need not be."""
    rows = {row["name"]: row["card"]["metrics"] for row in found[1]["candidates"]}
    precise = {name: one["average_precision_IRF"][0] for name, one in rows.items()}
    assert precise["PCA of patch and neighbours"] > precise["row of the patch"] + 0.1
    question = found[1]["question"]
    by_luck = question["held"]["IRF"] / question["tested"]
    assert min(precise.values()) > 1.5 * by_luck


@pytest.mark.slow
def test_a_gain_is_the_encoder_less_the_other(found):
    own, *others = found[1]["candidates"]
    assert own["gain"] is None
    for row in others:
        value, low, high = row["gain"]["difference"]
        assert low <= value <= high
        there = [one["card"]["metrics"]["auroc"][0] for one in (own, row)]
        assert value == pytest.approx(there[0] - there[1], abs=1e-9)


@pytest.mark.slow
def test_few_masks_are_asked_of_everybody_and_a_look_is_counted(found):
    folder, document, _ = found
    assert [row["candidate"] for row in document["efficiency"]] == EVERYBODY
    assert {row["fraction"] for row in document["efficiency"]} == {0.6}
    assert {tuple(row["participants"].values()) for row in document["efficiency"]} == {(6, 2)}
    told = json.loads((folder / "provenance.json").read_text())
    assert document["test_touches"] == told["test_touches"] == 1


@pytest.mark.slow
def test_each_tested_scan_is_kept_and_three_are_shown(found):
    folder, document, _ = found
    kept = sorted((folder / "patches").glob("*.npz"))
    assert len(kept) == 8, "of the test participants, an eye each"
    held = 0
    for file in kept:
        with np.load(file) as one:
            assert one["scores"].shape == one["present"].shape == (1, *GRID)
            assert one["names"].tolist() == ["IRF"]
            held += int((one["present"][0] & one["known"]).sum())
    assert held == document["question"]["held"]["IRF"]
    assert (folder / "report.html").read_text().count("<img") == 4


@pytest.mark.slow
def test_a_leaderboard_has_the_numbers_of_its_table(found):
    folder, document, _ = found
    board = make_board([read_run(folder)], bootstrap=100)
    rows = {row["name"]: row["card"]["metrics"] for row in document["candidates"]}
    alone = [name for name in EVERYBODY if not name.startswith("pretrained")]
    assert sorted(one.entry.name for one in board.standings) == sorted(["where-encoder", *alone])
    assert board.participants == 8
    for one in board.standings:
        told = rows["pretrained" if one.entry.name == "where-encoder" else one.entry.name]
        assert len(one.entry.seeds) == 2
        assert one.metrics.keys() == told.keys()
        for metric, (value, *_) in told.items():
            assert one.metrics[metric].value == pytest.approx(value)


@pytest.mark.slow
def test_another_encoder_is_asked_with_its_own_blocks_and_differs(found):
    rows = {row["name"]: row for row in found[1]["candidates"]}
    other, own = rows["encoder other"], rows["pretrained"]
    assert other["card"]["metrics"]["auroc"] != own["card"]["metrics"]["auroc"]
    assert other["gain"]["p_holm"] >= other["gain"]["p"]


@pytest.mark.slow
def test_layers_are_found_too(call_app, words, place):
    words = words(
        "where-layers", "data.annotations=[layers]", "segment.boundaries=[ILM,RPE,BM]",
        "segment.blocks=[3]", f"data.cache={place / 'where-layers-cache'}", "segment.patches=400",
        "segment.classes=[ILM to RPE]",
    )  # fmt: skip
    outcome = call_app(*words)
    assert outcome.code == 0, outcome.errors[-2000:]
    document = json.loads((place / "where-layers" / "results.json").read_text())
    assert document["question"]["counted"] == ["ILM to RPE"]
    assert document["blocks"] == [3]
    assert document["candidates"][0]["card"]["metrics"]["auroc"][0] > 0.8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["data.annotations=[]"], "mode=patches learns one thing: data.annotations=[mask]"),
        (["data.phantom.annotations=false", "data.phantom.participants=6"], "has a mask"),
        (["segment.classes=[drusen]"], "segment.classes (drusen) must be among IRF"),
        (["segment.blocks=[9]"], "segment.blocks ([9]) must be ascending blocks from 0 to 3"),
        (["segment.blocks=[1,1]"], "segment.blocks ([1, 1]) must be different blocks"),
        (["segment.patches=3"], "segment.patches (3) must be at least 100"),
        (["segment.around=[4]"], "segment.around (4) must be odd, 3 or more"),
        (['compare.encoders=["coarse=PLACE/where-coarse"]'], "it would be asked another question"),
    ],
)
def test_a_mistake_is_told_in_one_line(call_app, words, found, place, given, said):
    more = [f"data.cache={place / 'unmarked-cache'}", f"data.root={place / 'unmarked'}"]
    unmarked = more if "data.phantom.annotations=false" in given else []
    given = [one.replace("PLACE", str(place)) for one in given]
    outcome = call_app(*words("where-wrong", "data.annotations=[mask]", *given, *unmarked))
    assert outcome.code == 2, outcome.errors[-2000:]
    assert said in outcome.errors
    assert "Traceback" not in outcome.errors


@pytest.mark.slow
def test_encoders_of_others_have_no_tokens_to_ask(call_app, words, found, tmp_path, monkeypatch):
    (tmp_path / "stranger.py").write_text(
        "class make:\n    fingerprint = 'theirs'\n    def embed(self, volumes): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    theirs = 'compare.encoders=["theirs=stranger:make"]'
    outcome = call_app(*words("where-wrong", "data.annotations=[mask]", theirs))
    assert outcome.code == 2, outcome.errors[-2000:]
    assert "compare.encoders (theirs): mode=patches reads tokens" in outcome.errors


@pytest.mark.parametrize(
    ("present", "part"), [([0, 1, 1, 1], "to fit"), ([1, 1, 0, 0], "tested"), ([1, 1, 0, 1], "")]
)
def test_a_class_that_no_patch_of_a_round_holds_is_named(present, part):
    held = np.zeros((2, 4, 6), bool)
    held[0, :, 0] = True
    held[1, :, 5] = present
    patches = Patches(
        study=None,
        grid=(1, 2, 3),
        classes=[1, 2],
        names=["IRF", "SRF"],
        present=held,
        known=np.ones((4, 6), bool),
    )
    rows = np.eye(4, dtype=bool)
    rounds = [Round("fold 1", rows[0], rows[1], rows[2] | rows[3])]
    if not part:
        check_rounds(patches, rounds)
        return
    with pytest.raises(Mistake, match=f"SRF: of the scans {part} in round 'fold 1' no patch"):
        check_rounds(patches, rounds)
