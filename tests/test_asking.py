"""How answers of several seeds and of several volumes are joined; how many resamplings it takes."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from oct_judge.asking import together
from oct_judge.question import FinetuneConfig
from oct_judge.recipe import TrainingConfig
from oct_judge.results import best_baseline, differences_of
from oct_judge.rivals.answers import paired
from oct_vjepa.heads.configuration import HeadConfig
from oct_vjepa.probes.protocol import Round
from oct_vjepa.trials.judging import Answer, Candidate
from oct_vjepa.trials.verdict import Panel, card_of, units_of

sys.path.insert(0, str(Path(__file__).parent))

from made_up_results import PEOPLE, answers_with, target_of

ROWS = np.arange(2)


def answer(seed, chance, chosen):
    scores = np.array([[1 - chance, chance]] * 2)
    return Answer(
        round="test", seed=seed, validation_rows=ROWS, calibration_rows=ROWS, test_rows=ROWS,
        validation=scores, calibration=scores, test=scores, validation_decided=scores,
        calibration_decided=scores, test_decided=scores, chosen=chosen,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("worth", "said"),
    [((0.9, 0.6), 0.9 / 1.5), ((0.9, -0.2), 1.0), ((0.6, 0.6), 0.5), ((-0.1, 0.0), 0.5)],
)
def test_seeds_weigh_by_what_they_are_worth_on_validation(worth, said):
    seeds = [
        [answer(seed, chance, {"validation": value})]
        for seed, (chance, value) in enumerate(zip((1.0, 0.0), worth, strict=True))
    ]
    [[joined]] = together(seeds, "weighted", "nominal")
    assert joined.test[:, 1] == pytest.approx(said)
    [[plain]] = together(seeds, "mean", "nominal")
    assert plain.test[:, 1] == pytest.approx(0.5)


def test_without_validation_all_seeds_weigh_alike():
    seeds = [[answer(seed, chance, {})] for seed, chance in enumerate((1.0, 0.0))]
    [[joined]] = together(seeds, "weighted", "nominal")
    assert joined.test[:, 1] == pytest.approx(0.5)


def test_labels_are_voted_on_each_by_itself():
    seeds = [[answer(seed, chance, {})] for seed, chance in enumerate((0.9, 0.8, 0.3))]
    [[joined]] = together(seeds, "vote", "multilabel")
    assert joined.test[0] == pytest.approx([1 / 3, 2 / 3])
    likely = [[replace(one[0], test=np.full((2, 2), 0.8))] for one in seeds]
    [[both]] = together(likely, "vote", "multilabel")
    assert both.test[0] == pytest.approx([1, 1])


@pytest.mark.parametrize(
    ("baseline", "best"),
    [
        ("random init + filter bank", "random init + filter bank"),
        ("random init, pairs", "thumbnail"),
        ("random init, grey ranks", "thumbnail"),
        ("encoder MAE", "thumbnail"),
    ],
)
def test_the_best_that_nobody_learned_may_stand_beside_random_weights(baseline, best):
    scores = {"pretrained": 0.99, "random init": 0.98, "thumbnail": 0.8, baseline: 0.9}
    candidates = [
        {"name": name, "card": {"metrics": {"auroc": [value, value, value]}}}
        for name, value in scores.items()
    ]
    assert best_baseline({"headline": "auroc", "candidates": candidates}) == best


def test_a_difference_can_be_found_among_all_that_are_compared():
    # The smallest p of a bootstrap, times what Holm multiplies it by.
    config = FinetuneConfig()
    baselines = len(config.compare.baselines)
    # The majority class, random init, each alone and beside it, itself on grey ranks.
    compared = 2 + 2 * baselines + 1
    assert compared * 2 / (config.bootstrap + 1) < 0.05


def test_a_candidate_is_asked_once_more_on_what_its_volumes_are_together():
    features = np.array([[1.0, 2.0], [3.0, 2.0], [5.0, 5.0]], dtype=np.float32)
    alone = Candidate(name="one", readouts=lambda one, seed: {"last": features + seed})
    both = paired(alone, np.array([0, 0, 4]))
    assert both.name == "one, pairs"
    none = np.zeros(3, dtype=bool)
    found = both.readouts(Round("test", none, none, none), 1)
    assert found["last"].tolist() == [[3, 3, 1, 0], [3, 3, 1, 0], [6, 6, 0, 0]]


@pytest.mark.parametrize("join", ["attention", "pairs"])
def test_volumes_together_are_asked_of_frozen_features_alone(join, call_app):
    outcome = call_app("finetune", "mode=full", f"join={join}")
    assert outcome.code == 2
    assert f"join={join} takes frozen features; mode is full" in outcome.errors


def test_the_mode_that_the_command_line_sets_brings_its_head():
    """The head follows the mode also where the mode is set above the recipe."""
    config = FinetuneConfig(mode="attentive", training=TrainingConfig())
    assert config.training.mode == "attentive"
    assert config.training.head.kind == "attentive"
    light = TrainingConfig(head=HeadConfig(kind="cross_attention"))
    assert FinetuneConfig(mode="attentive", training=light).training.head.kind == "cross_attention"
    assert FinetuneConfig(mode="full").training.head.kind == "linear"


def test_on_grey_ranks_the_encoder_on_grey_ranks_is_compared():
    rng = np.random.default_rng(0)
    target = target_of("nominal", rng)
    people = np.arange(PEOPLE)
    panel = Panel(target=target, people=people, eyes=people)
    noises = {
        "pretrained": 0.3, "random init": 2.0, "thumbnail": 1.0,
        "pretrained, grey ranks": 3.0, "random init, grey ranks": 3.5, "thumbnail, grey ranks": 0.3,
    }  # fmt: skip
    answers = {
        name: answers_with(target, rng, noise, seeds=1, rounds=1) for name, noise in noises.items()
    }
    runs = {name: units_of(found, panel) for name, found in answers.items()}
    settings = {"seed": 0, "bootstrap": 200}
    found = differences_of(runs, "nominal", **settings)
    assert set(found) == set(runs) - {"pretrained"}
    score = {name: card_of(one, panel, **settings).headline.value for name, one in answers.items()}
    for name, one in found.items():
        ranked = name.endswith("grey ranks") and not name.startswith("pretrained")
        judge = "pretrained, grey ranks" if ranked else "pretrained"
        assert one.difference.value == pytest.approx(score[name] - score[judge])
    trained = {name: run for name, run in runs.items() if name != "pretrained, grey ranks"}
    alone = differences_of(trained, "nominal", **settings)["thumbnail, grey ranks"]
    assert alone.difference.value == pytest.approx(
        score["thumbnail, grey ranks"] - score["pretrained"]
    )
