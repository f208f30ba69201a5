"""The model that an evaluation leaves, and `predict=`: equal scores, marks, kills, refusals."""

import json
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from oct_io import PhantomTree, SourceConfig, open_cache, open_source, write_phantom_tree
from oct_io.space.perturbations import PERTURBATIONS
from oct_vjepa import Encoder, EncoderConfig, load_model
from oct_vjepa.evaluation.features import embed_batch, load_or_embed
from oct_vjepa.evaluation.readouts import ReadoutConfig, read_out
from oct_vjepa.trials.projection import project_rows

ALONE = ("compare.baselines=[grey histogram]", "compare.together=false", "compare.ranked=false",
         "bootstrap=100", "data.jobs=1", "readout.blocks=[all]", "readout.pools=[mean_std]",
         "data.phantom.participants=48", "data.phantom.split_fractions=[0.3,0.3,0.4]",
         "data.phantom.scale=0.5", "data.phantom.eyes=[R,L]",
         "data.phantom.arrangements=[]")  # fmt: skip


class Finished(NamedTuple):
    """An evaluation of an encoder with random weights."""

    run: Path
    data: Path
    settings: tuple[str, ...]

    @property
    def results(self) -> dict:
        return json.loads((self.run / "results.json").read_text())

    @property
    def model(self) -> Path:
        return self.run / "model"


@pytest.fixture(scope="module")
def finished(tmp_path_factory, call_app):
    place = tmp_path_factory.mktemp("finished")
    torch.manual_seed(0)
    config = EncoderConfig(
        input_shape=(8, 64, 64), patch_size=(2, 8, 16), width=24, depth=2, heads=3, input_mean=60,
        input_std=40,
    )  # fmt: skip
    Encoder(config).save_pretrained(place / "encoder")
    Encoder(config).save_pretrained(place / "other")
    settings = (
        *ALONE, f"encoder={place / 'encoder'}", f"data.root={place / 'data'}",
        f"features={place / 'features'}",
    )  # fmt: skip
    outcome = call_app(
        "finetune", *settings, f"run_dir={place / 'run'}", "compare.perturbed=true",
        f'compare.encoders=["other={place / "other"}"]',
    )  # fmt: skip
    assert outcome.code == 0, outcome.errors
    assert f"model: {place / 'run' / 'model'}" in outcome.out.replace("\n", "")
    return Finished(place / "run", place / "data", settings)


def source_config(finished):
    root = finished.data
    return SourceConfig(root=str(root), cache=f"{root}-cache-tiny", window="tiny", jobs=1)


def test_the_model_scores_test_participants_as_the_results_say_bit_for_bit(finished):
    found = open_source(source_config(finished)).labelled("thin")
    model = load_model(finished.model)
    encoder = model.members[0].encoder
    features = load_or_embed(
        encoder, iter(found.volumes), volumes_fingerprint=found.fingerprint, pools=["mean_std"],
        folder=finished.data.parent / "features", layers=range(2), spacing=found.volumes.spacings,
    )  # fmt: skip
    readouts = read_out(features, ReadoutConfig(blocks=["all"], pools=["mean_std"]), 2)
    scores = model.score(readouts).scores_NK
    wanted = pq.read_table(finished.run / "predictions.parquet").to_pylist()
    wanted = {
        one["participant"]: (one["p_false"], one["p_true"])
        for one in wanted
        if (one["candidate"], one["part"]) == ("pretrained", "test")
    }
    assert len(wanted) > 10
    for person, said in wanted.items():
        rows = np.flatnonzero(found.participants == person)
        eyes = [scores[rows[found.eyes[rows] == eye]].mean(axis=0) for eye in ("L", "R")]
        assert tuple(np.mean(eyes, axis=0)) == said


def test_the_card_has_the_numbers_and_says_phantom(finished):
    card = (finished.model / "README.md").read_text()
    auroc = finished.results["candidates"][0]["card"]["metrics"]["auroc"]
    assert f"| auroc | {auroc[0]:.3f} ({auroc[1]:.3f} to {auroc[2]:.3f}) |" in card
    assert finished.results["sentence"] in card
    assert "made-up retinas (phantoms)" in card
    assert "Any real scan: it knows phantoms only" in card
    tested = finished.results["candidates"][0]["card"]["participants"]
    assert f"Tested on {tested} participants" in card
    headings = [line[3:] for line in card.splitlines() if line.startswith("## ")]
    assert headings == ["Model details", "Intended use", "Not intended", "Data", "Metrics",
                        "Subgroups", "Caveats"]  # fmt: skip


def test_a_card_says_if_a_range_has_no_end(finished):
    from oct_judge.finished.card import write_card

    about = load_model(finished.model).about
    promise = {"promised": 0.9, "covered": 1.0, "size": None, "single": None, "empty": None}
    results = {**about.results, "promise": promise}
    threshold = {"volume": 3.0, "participant": None}
    told = replace(
        about, kind="regression", names=("age",), unit="years", results=results, cutoffs={},
        threshold=threshold,
    )  # fmt: skip
    card = write_card(told)
    assert "ranges promise to hold the truth of 90% of participants" in card
    assert "of 100.0%, and were without end." in card
    assert "Too few participants were left for calibration to promise anything" in card


def test_the_model_says_for_what_it_was_made(finished):
    about = load_model(finished.model).about
    assert about.window["name"] == "tiny"
    assert set(about.made_for.seen["device"]) <= {"phantom_a", "phantom_b", "phantom_c"}
    assert about.made_up
    assert 0 < about.threshold["participant"] < 1
    assert about.results["test_touches"] == finished.results["test_touches"]


def test_spoilt_volumes_have_a_headline_for_each_way_and_strength(finished):
    found = finished.results["perturbations"]
    assert found["metric"] == "auroc"
    assert found["strengths"] == [0, 1, 2, 3, 4, 5]
    shown = ["pretrained", "random init", "encoder other", "grey histogram"]
    assert list(found["candidates"]) == shown
    rows = {one["name"]: one["card"]["metrics"]["auroc"] for one in finished.results["candidates"]}
    for name, kinds in found["candidates"].items():
        assert list(kinds) == list(PERTURBATIONS)
        for triples in kinds.values():
            assert len(triples) == 6
            assert triples[0] == rows[name]
            assert all(low <= value <= high for value, low, high in triples)
    histogram = found["candidates"]["grey histogram"]
    assert histogram["gain"][5] != histogram["gain"][0]
    assert found["candidates"]["encoder other"] != found["candidates"]["pretrained"]
    page = (finished.run / "report.html").read_text()
    mean = np.mean([value for value, _, _ in histogram["gain"][1:]])
    assert "Side by side" in page
    assert f"{mean:.3f}" in page[page.index("Side by side") :]


def test_predictions_are_those_of_the_model(finished, tmp_path, call_app):
    out = tmp_path / "out"
    outcome = call_app(
        "finetune", f"predict={finished.data}", f"model={finished.model}", f"out={out}",
        "data.jobs=1", "batch_size=10",
    )  # fmt: skip
    assert outcome.code == 0, outcome.errors
    assert "made-up retinas: its answers mean nothing" in outcome.out
    volumes = open_cache(out / "cache")
    rows = pq.read_table(out / "predictions.parquet").to_pylist()
    assert [one["scan"] for one in rows] == list(volumes.ids)
    assert len(rows) == 96
    said = load_model(finished.model).predict(volumes, volumes.spacings, batch_size=10)
    assert [one["p_true"] for one in rows] == said.scores[:, 1].tolist()
    marked = [bool(one["flags"]) for one in rows]
    assert sum(marked) < 48
    assert all(bool(one["decided"]) != mark for one, mark in zip(rows, marked, strict=True))
    people = pq.read_table(out / "participants.parquet").to_pylist()
    assert len(people) == 48
    assert "path" not in rows[0]
    text = (out / "predictions.csv").read_text() + (out / "participants.csv").read_text()
    assert ".dcm" not in text
    assert text.startswith("scan,participant,eye,device,p_false,p_true,decided,set,novelty,flags")


def test_scans_of_nobody_are_not_taken_for_those_of_one_participant(finished):
    from oct_io.records.record import NOBODY
    from oct_judge.finished.scored import participants_of, score_rows

    model, volumes = load_model(finished.model), open_cache(f"{finished.data}-cache-tiny")
    rows = score_rows(model, volumes, range(6))
    place = rows.column_names.index("participant")
    owners = [NOBODY, NOBODY, "a", NOBODY, "b", "a"]
    said = participants_of(model, rows.set_column(place, "participant", [owners])).to_pylist()
    scans = rows.column("scan").to_pylist()
    alone = {scans[0], scans[1], scans[3]}
    assert {one["participant"] for one in said} == {"a", "b", *alone}
    assert all(one["scans"] == 1 for one in said if one["participant"] in alone)


def test_what_was_killed_goes_on_and_ends_alike(finished, tmp_path, call_app):
    from oct_judge.finished.scored import score_parts

    def predict(out):
        arguments = (f"predict={finished.data}", f"model={finished.model}", f"out={out}",
                     f"data.cache={finished.data}-cache-tiny", "batch_size=16")  # fmt: skip
        assert call_app("finetune", *arguments).code == 0
        return [(out / name).read_bytes() for name in ("predictions.csv", "predictions.parquet",
                                                       "participants.csv")]  # fmt: skip

    whole = predict(tmp_path / "whole")
    half = tmp_path / "half"
    half.mkdir()
    about = (tmp_path / "whole" / "predictions.json").read_bytes()
    (half / "predictions.json").write_bytes(about)
    volumes = open_cache(f"{finished.data}-cache-tiny")
    work = score_parts(load_model(finished.model), volumes, half, batch_size=16)
    assert [next(work), next(work)] == [16, 32]
    work.close()
    second = half / "parts" / "part-000000016.parquet"
    before = second.stat().st_mtime_ns
    following = score_parts(load_model(finished.model), volumes, half, batch_size=16)
    assert next(following) == 16
    assert next(following) == 32
    assert second.stat().st_mtime_ns == before
    assert predict(half) == whole


@pytest.mark.drill
def test_kill_9_costs_a_batch(finished, tmp_path, start, finish, run_app):
    def arguments(out):
        return (f"predict={finished.data}", f"model={finished.model}", f"out={out}",
                f"data.cache={finished.data}-cache-tiny", "batch_size=1")  # fmt: skip

    out = tmp_path / "killed"
    process = start("finetune", *arguments(out))
    while len(list((out / "parts").glob("part-*"))) < 3 and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    finish(process)
    assert (out / "parts").exists(), "it was done before it was killed"
    assert run_app("finetune", *arguments(out)).code == 0
    assert run_app("finetune", *arguments(tmp_path / "whole")).code == 0
    for name in ("predictions.csv", "participants.csv", "predictions.parquet"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_noise_is_marked_as_strange_and_paths_are_written_if_asked(finished, tmp_path, call_app):
    scans = tmp_path / "scans"
    scans.mkdir()
    for number in range(2):
        noise = np.random.default_rng(number).integers(0, 256, (8, 64, 64), dtype=np.uint8)
        np.savez(scans / f"noise{number}.npz", voxels=noise)
    (scans / "volume.json").write_text(json.dumps({"spacing_mm": [0.5, 0.008, 0.0625]}))
    (scans / "torn.npz").write_bytes((scans / "noise0.npz").read_bytes()[:200])
    outcome = call_app(
        "finetune", f"predict={scans}", f"model={finished.model}", f"out={tmp_path / 'out'}",
        "data.jobs=1", "predict_paths=true",
    )  # fmt: skip
    assert outcome.code == 0, outcome.errors
    rows = pq.read_table(tmp_path / "out" / "predictions.parquet").to_pylist()
    assert [one["path"] for one in rows] == ["noise0.npz", "noise1.npz", "torn.npz"]
    for one in rows[:2]:
        assert {"strange", "device"} <= set(one["flags"].split())
        assert one["decided"] == ""
        assert one["set"] == "false|true"
        assert one["novelty"] > 1
    assert rows[2]["flags"] == "not_scored"
    assert rows[2]["stage"] in ("parse", "decode")
    assert rows[2]["p_true"] is None


def radial(place, *devices):
    tree = PhantomTree(participants=4, scale=0.04, devices=devices, jobs=1)
    write_phantom_tree(place, tree)
    return place


def test_radial_scans_are_not_scored_and_the_others_are(finished, tmp_path, call_app):
    scans = radial(tmp_path / "scans", "cirrus_mac_oct", "spectralis_onh_rc_hr_oct")
    out = tmp_path / "out"
    outcome = call_app(
        "finetune", f"predict={scans}", f"model={finished.model}", f"out={out}", "data.jobs=1"
    )
    assert outcome.code == 0, outcome.errors
    rows = pq.read_table(out / "predictions.parquet").to_pylist()
    refused = [one for one in rows if one["flags"] == "not_scored"]
    assert {one["stage"] for one in refused} == {"geometry"}
    assert all("radial" in one["reason"] for one in refused)
    others = [one for one in rows if one["flags"] != "not_scored"]
    assert others
    assert all("device" in one["flags"].split() for one in others)


def one_line(outcome):
    assert outcome.code == 2, outcome.errors
    lines = [line for line in outcome.error_lines if line.startswith("error: ")]
    assert len(lines) == 1
    assert "Traceback" not in outcome.errors
    return lines[0]


def test_a_folder_of_radial_scans_alone_ends_in_one_line(finished, tmp_path, call_app):
    scans = radial(tmp_path / "scans", "spectralis_onh_rc_hr_oct")
    line = one_line(
        call_app("finetune", f"predict={scans}", f"model={finished.model}",
                 f"out={tmp_path / 'out'}", "data.jobs=1")
    )  # fmt: skip
    assert "no prediction: 8 of 8 scans cannot be used (8 geometry)" in line
    assert "radial" in line


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("data.window=macula6",), "data.window (macula6) is not the model's (tiny)"),
        (("data.mirror_left=true",), "data.mirror_left (True) is not the model's (False)"),
        (("task=age",), "task does nothing in finetune; predict= takes it from the model"),
        (("model=NOWHERE",), "NOWHERE: no finished model"),
    ],
)
def test_what_does_not_fit_the_model_ends_in_one_line(finished, tmp_path, call_app, more, said):
    settings = (f"predict={finished.data}", f"out={tmp_path / 'out'}")
    model = () if more[0].startswith("model=") else (f"model={finished.model}",)
    assert said in one_line(call_app("finetune", *settings, *model, *more))
    assert not (tmp_path / "out").exists()


def test_predictions_of_other_scans_are_not_written_over(finished, tmp_path, call_app):
    out = tmp_path / "out"
    first = (f"model={finished.model}", f"out={out}", "data.jobs=1")
    scans = radial(tmp_path / "scans", "cirrus_mac_oct")
    assert call_app("finetune", f"predict={scans}", *first).code == 0
    line = one_line(call_app("finetune", f"predict={finished.data}", *first))
    assert "holds predictions of other scans or another model; give out=DIR" in line


def test_folds_leave_a_model_of_all_their_members(finished, tmp_path, call_app):
    outcome = call_app(
        "finetune", *finished.settings, f"run_dir={tmp_path / 'run'}", "protocol.name=kfold",
        "protocol.folds=3", "compare.random_init=false", "compare.baselines=[]",
    )  # fmt: skip
    assert outcome.code == 0, outcome.errors
    model = load_model(tmp_path / "run" / "model")
    assert len(model.members) == 3
    assert len({one.about.round for one in model.members}) == 3
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert "the mean of 3 models, one a round" in card
    volumes = open_cache(f"{finished.data}-cache-tiny")
    said = model.predict([volumes[0]], volumes.spacings[0])
    assert said.scores.sum() == pytest.approx(1)


@pytest.mark.slow
def test_an_encoder_of_bscans_is_asked_about_volumes_and_answers_for_new_ones(
    finished, tmp_path, call_app
):
    thin = EncoderConfig(
        input_shape=(1, 64, 64), patch_size=(1, 8, 16), width=24, depth=2, heads=3, input_mean=60,
        input_std=40,
    )  # fmt: skip
    Encoder(thin).save_pretrained(tmp_path / "thin")
    asked = [
        *finished.settings, f"encoder={tmp_path / 'thin'}", f"run_dir={tmp_path / 'run'}",
        "compare.perturbed=true", "compare.maps=1", "compare.ranked=true",
    ]  # fmt: skip
    refused = call_app("finetune", *asked, "mode=full")
    assert refused.code == 2
    assert "gives volumes of (8, 64, 64), but the encoder" in refused.errors
    outcome = call_app("finetune", *asked)
    assert outcome.code == 0, outcome.errors
    assert "takes 1 of 8 B-scans at a time" in outcome.out + outcome.errors
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    rows = {one["name"]: one["card"]["metrics"]["auroc"] for one in found["candidates"]}
    spoilt = found["perturbations"]["candidates"]
    for name in ("pretrained", "random init"):
        assert all(triples[0] == rows[name] for triples in spoilt[name].values())
    assert "random init, grey ranks" in rows
    assert len(np.load(tmp_path / "run" / "cases.npz")["above map 0"]) > 1

    out = tmp_path / "out"
    outcome = call_app(
        "finetune", f"predict={finished.data}", f"model={tmp_path / 'run' / 'model'}", f"out={out}",
        "data.jobs=1", "batch_size=10",
    )  # fmt: skip
    assert outcome.code == 0, outcome.errors
    volumes = open_cache(out / "cache")
    said = load_model(tmp_path / "run" / "model").predict(volumes, volumes.spacings, batch_size=10)
    rows = pq.read_table(out / "predictions.parquet").to_pylist()
    assert [one["p_true"] for one in rows] == said.scores[:, 1].tolist()
    with pytest.raises(ValueError, match="this model takes"):
        load_model(tmp_path / "run" / "model").predict([volumes[0][:4]])


def test_a_trained_mode_leaves_encoder_and_head(finished, tmp_path, call_app):
    run = tmp_path / "run"
    outcome = call_app(
        "finetune", *finished.settings, f"run_dir={run}", "mode=full", "training.epochs=1",
        "compare.random_init=false", "training.warmup_epochs=0",
    )  # fmt: skip
    assert outcome.code == 0, outcome.errors
    model = load_model(run / "model")
    assert model.members[0].head is not None
    volumes = open_cache(f"{finished.data}-cache-tiny")
    said = model.predict(volumes, volumes.spacings)
    rows = pq.read_table(run / "predictions.parquet").to_pylist()
    people = volumes.entries.coded("participant").texts()
    for one in rows[:5]:
        if (one["candidate"], one["part"]) == ("pretrained", "test"):
            own = said.scores[people == one["participant"]].mean(axis=0)
            assert own[1] == pytest.approx(one["p_true"], abs=1e-5)
    check_what_is_shown_is_what_answers(run, volumes, people)
    facts = json.loads((run / "provenance.json").read_text())
    trained = set(facts["participants_in_training"])
    tested = {one["participant"] for one in rows if one["part"] == "test"}
    assert trained
    assert not trained & tested
    assert trained < set(people)
    swapped = one_line(
        call_app(
            "finetune", *finished.settings, f"run_dir={tmp_path / 'swapped'}", "test_split=train",
            f"encoder={next((run / 'model').rglob('encoder'))}",
        )
    )  # fmt: skip
    assert "error: 15 of 15 test participants took part in pretraining this encoder" in swapped


def check_what_is_shown_is_what_answers(run, volumes, people):
    """Picture and shortcuts are of the fine-tuned encoder; the one before stands beside it."""
    document = json.loads((run / "results.json").read_text())
    assert document["embedding"]["encoder"] == "fine-tuned"
    encoder = Encoder.from_pretrained(run / "model" / "encoder").eval()
    shown = np.load(run / "embedding.npz")
    assert sorted(shown["participant"].tolist()) == sorted(people.tolist())
    batch = np.stack([volumes[number] for number in range(len(volumes))])
    tokens = embed_batch(encoder, batch, pools=["mean"])["mean"]
    places = project_rows(tokens).places_N2
    mine, theirs = (one[np.argsort(one[:, 0])] for one in (places, shown["places"]))
    np.testing.assert_allclose(theirs, mine, rtol=1e-3, atol=1e-4)
    page = (run / "report.html").read_text()
    for line in document["shortcuts"]:
        assert len(line["column_before_training"]) == 3
    assert document["shortcuts"]
    assert "before fine-tuning" in page
    assert "as it was fine-tuned" in page


@pytest.mark.parametrize(
    ("how", "name"), [("attention", "attention over volumes"), ("pairs", "pairs")]
)
def test_a_model_keeps_what_reads_all_volumes_of_a_participant(
    how, name, finished, tmp_path, call_app
):
    """Scores of the test's participants come out of the folder as the run measured them."""
    run, out = tmp_path / "run", tmp_path / "out"
    outcome = call_app("finetune", *finished.settings, f"run_dir={run}", f"join={how}")
    assert outcome.code == 0, outcome.errors
    given = (f"predict={finished.data}", f"model={run / 'model'}", f"out={out}", "data.jobs=1")
    outcome = call_app("finetune", *given, "batch_size=7")
    assert outcome.code == 0, outcome.errors
    people = pq.read_table(out / "participants.parquet").to_pylist()
    assert len(people) == 48
    for one in people:  # a scan with a mark is left out
        assert ("alone" in one["flags"].split()) == (how == "pairs" and one["scans"] == 1)
    said = {one["participant"]: one["p_true"] for one in people if one["scans"] == 2}
    measured = [
        one
        for one in pq.read_table(run / "predictions.parquet").to_pylist()
        if one["candidate"] == f"pretrained, {name}" and one["part"] == "test"
    ]
    assert len(measured) == 19
    both = [one for one in measured if one["participant"] in said]
    assert len(both) >= 12
    for one in both:
        assert said[one["participant"]] == pytest.approx(one["p_true"], abs=2e-4)
    columns = pq.read_table(out / "predictions.parquet").column_names
    assert not [one for one in columns if one.startswith("_")]
    card = (run / "model" / "README.md").read_text()
    document = json.loads((run / "results.json").read_text())
    rows = {one["name"]: one["card"]["metrics"]["auroc"] for one in document["candidates"]}
    own, mean = (f"{rows[one][0]:.3f}" for one in (f"pretrained, {name}", "pretrained"))
    assert f"(`join={how}`), with AUROC {own}" in card
    assert f"the mean over their volumes had {mean}" in card
