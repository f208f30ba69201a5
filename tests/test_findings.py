"""What an evaluation finds beyond scores, on a phantom with two devices."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from oct_io import PhantomTree, SourceConfig, open_source
from oct_io.labels.questions import LabelQuestion
from oct_judge.asking import ask, ask_trained, ask_with_few_labels
from oct_judge.candidates import PRETRAINED, RANDOM, Cast, Embedder
from oct_judge.family import Family
from oct_judge.findings.cases import cases_of
from oct_judge.findings.further import look_further
from oct_judge.findings.shortcuts import ask_column
from oct_judge.question import ComparisonConfig, FinetuneConfig
from oct_judge.recipe import TrainingConfig
from oct_judge.results import Found, describe
from oct_judge.study import open_study
from oct_launch import Stages
from oct_vjepa import Encoder, EncoderConfig
from oct_vjepa.evaluation.readouts import ReadoutConfig
from oct_vjepa.measures.target import Target

TREE = PhantomTree(
    participants=24,
    shape=(8, 64, 64),
    jobs=1,
    devices=("phantom_a", "phantom_b"),
    split_fractions=(0.5, 0.0, 0.5),
)
SMALL = EncoderConfig(input_shape=(8, 64, 64), patch_size=(2, 16, 16), width=24, depth=2, heads=2)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """An untrained encoder that was asked for `thin`."""
    place = tmp_path_factory.mktemp("findings")
    data = SourceConfig(
        root=str(place / "data"), cache=str(place / "cache"), window="tiny", jobs=1, phantom=TREE
    )
    config = FinetuneConfig(
        data=data,
        task=LabelQuestion(column="thin"),
        bootstrap=100,
        batch_size=16,
        readout=ReadoutConfig(blocks=["last"], pools=["mean"]),
        compare=ComparisonConfig(maps=2, subgroups=[]),
    )
    study = open_study(config, open_source(data))
    torch.manual_seed(0)
    embed = Embedder(place / "features", config.runtime.pick(), config.readout, 16)
    cast = Cast(Family.of_one(Encoder(SMALL).eval()), embed, study.rows)
    answers = {PRETRAINED: ask(config, study, cast.pretrained(), "linear")}
    return Found(config=config, study=study, cast=cast, answers=answers, few=[], touches=1)


@pytest.fixture(scope="module")
def further(found, tmp_path_factory):
    place = tmp_path_factory.mktemp("run")
    with Stages() as stages:
        return look_further(found, "uv run apps/finetune", place, stages)


def test_what_is_handed_on_counts_those_without_a_row_and_names_none(found):
    notes = (
        "one answer an eye",
        "2 rows of the label table have no scan (00caed07b5e7 L, 02b34dcd8ca0 R, ...)",
        "1 volumes of 1 participants have no row in the label table (06b051dffac8)",
    )
    examples = replace(found.study.examples, notes=notes)
    assert "02b34dcd8ca0" in examples.describe(), "a log may"
    with Stages() as stages:
        document = describe(replace(found, study=replace(found.study, examples=examples)), stages)
    assert document["split"].endswith(
        "; one answer an eye; 2 rows of the label table have no scan; 1 volumes of 1 participants "
        "have no row in the label table"
    )


def test_every_scan_is_accounted_for_and_no_participant_twice(found, further):
    flow = further.document["flow"]
    assert flow["scans_found"] == 48
    assert flow["notes"][-1].startswith("both eyes of 24 participants are here, left ones not")
    assert flow["scans_with_answer"] + flow["scans_without_answer"] == flow["scans_usable"]
    assert [one["part"] for one in flow["parts"]] == ["fit", "validation", "test"]
    assert sum(one["participants"] for one in flow["parts"]) == 24
    for part in flow["parts"]:
        assert sum(part["by_class"].values()) == part["participants"]


def test_the_plane_has_a_place_for_each_volume_and_names_people_by_their_hash(found, further):
    arrays = further.arrays["embedding.npz"]
    assert arrays["places"].shape == (48, 2)
    assert arrays["participant"].tolist() == found.study.examples.participants.tolist()
    assert set(arrays["part"].tolist()) == {"fit", "validation", "test"}
    assert set(arrays["column @device"].tolist()) == {"phantom_a", "phantom_b"}
    assert set(arrays["answer"].tolist()) == set(found.study.target.names)


def test_cases_are_of_the_test_and_each_part_of_the_map_is_of_whole_patches(found, further):
    cases = further.document["maps"]["cases"]
    assert 1 <= len(cases) <= 2
    for number, case in enumerate(cases):
        assert (case["called"] == case["true"]) == case["right"]
        assert 0 <= case["covered"] <= 1
        arrays = further.arrays["cases.npz"]
        assert arrays[f"front map {number}"].shape == (4, 4), "64 rows and columns in 16s"
        assert arrays[f"above map {number}"].shape == (4, 4)
        assert arrays[f"bscan {number}"].shape == (64, 64)
        assert np.abs(arrays[f"front map {number}"]).max() > 0
        shown = [
            found.study.rows.volumes[row][case["bscan"]]
            for row in found.answers[PRETRAINED][0][0].test_rows
        ]
        assert any(np.array_equal(one, arrays[f"bscan {number}"]) for one in shown)


@pytest.mark.parametrize("mode", ["attentive", "lora"])
def test_maps_of_a_trained_model_start_from_what_it_answered(found, tmp_path, mode):
    training = TrainingConfig(mode=mode, epochs=1, batch_size=12)
    config = replace(found.config, mode=mode, training=training)
    start = found.cast.family.first
    answers = ask_trained(
        config, found.study, lambda one, seed: start, PRETRAINED, config.runtime.pick(), tmp_path
    )
    asked = replace(found, config=config, answers={PRETRAINED: answers})
    with Stages() as stages:
        facts, arrays = cases_of(asked, tmp_path, stages)
    assert len(facts["cases"]) >= 1
    said = answers[0][0].test_decided
    for number, case in enumerate(facts["cases"]):
        assert case["score"] in said
        odds = np.log(case["score"] / (1 - case["score"]))
        covered = np.log(case["covered"] / (1 - case["covered"]))
        drops = [arrays[f"{side} map {number}"].max() for side in ("front", "above")]
        assert odds - covered == pytest.approx(max(drops), abs=1e-5)
        assert np.abs(arrays[f"front map {number}"]).max() > 0


def test_a_mode_that_starts_at_the_probe_and_stays_there_answers_as_the_linear_mode(
    found, tmp_path
):
    training = TrainingConfig(
        mode="partial", head_start="probe", epochs=1, batch_size=4, lr_head=1e-12, lr_encoder=1e-12
    )
    config, study = replace(found.config, mode="partial", training=training), found.study
    asked = found.cast.family.of, PRETRAINED, config.runtime.pick(), tmp_path
    trained = ask_trained(config, study, *asked, embed=found.cast.embed)[0][0]
    probe = ask(found.config, study, found.cast.pretrained(), "linear")[0][0]
    assert trained.chosen["steps"] == 0
    assert trained.chosen["readout"] == probe.chosen["readout"]
    for part in ("test", "calibration", "validation_decided"):
        assert getattr(trained, part) == pytest.approx(getattr(probe, part), abs=1e-4)


def test_a_mode_that_trains_is_asked_with_few_labels_and_told_what_validation_says(found, tmp_path):
    training = TrainingConfig(mode="full", epochs=1, batch_size=4, warmup_epochs=0)
    compare = ComparisonConfig(fractions=[1.0, 0.5], turns=2, baselines=["thumbnail"])
    config = replace(found.config, mode="full", training=training, compare=compare)
    runtime, study = config.runtime.pick(), found.study
    whole = ask_trained(config, study, found.cast.family.of, PRETRAINED, runtime, tmp_path)
    told = []

    def stages(*said):
        told.append(said)

    few = list(ask_with_few_labels(config, study, found.cast, runtime, tmp_path, stages))
    assert told == [("asking with few labels", done, 9) for done in range(10)]
    named = [(name, share, len(answers)) for name, share, answers in few]
    everyone = (PRETRAINED, RANDOM, "thumbnail")
    assert named == [(name, *one) for one in ((0.5, 2), (1.0, 1)) for name in everyone]
    answers = {(name, share): found for name, share, found in few}
    assert np.array_equal(answers[PRETRAINED, 1.0][0][0].test, whole[0][0].test)
    half = answers[PRETRAINED, 0.5]
    assert not np.array_equal(half[0][0].test, whole[0][0].test)
    assert not np.array_equal(half[0][0].test, half[1][0].test), "another subset"
    assert half[0][0].chosen["steps"] < whole[0][0].chosen["steps"]
    assert 0 <= whole[0][0].chosen["validation"] <= 1


def test_a_column_that_gives_the_answer_away_is_a_shortcut(found):
    study = found.study
    devices = study.examples.columns["@device"]
    codes = (devices == "phantom_b").astype(np.int64)
    hot = np.eye(2)[codes]
    told = ask_column(found.config, study, hot, "@device")
    assert told["column_from_features"] == [1.0, 1.0, 1.0], "features that are the device"
    target = Target(kind="nominal", values=codes, names=("a", "b"))
    same = replace(study, target=target, panel=replace(study.panel, target=target))
    given_away = ask_column(found.config, same, np.ones((48, 1)), "@device")
    assert given_away["answer_from_column"] == [1.0, 1.0, 1.0]
    assert given_away["goes_along"] is True
    assert given_away["column_from_features"][0] == 0.5, "features that say nothing"


def test_a_column_of_one_value_and_the_one_that_is_asked_are_no_shortcuts(found):
    examples = found.study.examples
    one = replace(examples, columns={"@device": np.full(48, "phantom_a")})
    features = np.ones((48, 1))
    assert ask_column(found.config, replace(found.study, examples=one), features, "@device") == {}
    config = replace(found.config, task=LabelQuestion(column="@device"))
    assert ask_column(config, found.study, features, "@device") == {}
