"""The volumes of a participant joined by attention: one of several may hold the answer."""

import numpy as np
import pytest
import torch
from oct_vjepa.evaluation.participants import FittedPool, pair_up, pool_volumes, sides_of
from oct_vjepa.heads.configuration import AttentionConfig
from oct_vjepa.measures.target import Target
from oct_vjepa.probes.grid import fit_grid
from oct_vjepa.probes.protocol import Round

PEOPLE, EACH = 150, 3
CONFIG = AttentionConfig(inner=8, heads=2, weight_decay=[0.01], lr=1e-2, epochs=60)


def made(kind="nominal"):
    draw = np.random.default_rng(0)
    people = np.repeat(np.arange(PEOPLE), EACH)
    sick = np.arange(PEOPLE) % 2
    features = draw.normal(size=(PEOPLE * EACH, 6))
    shown = draw.integers(0, EACH, PEOPLE) + EACH * np.arange(PEOPLE)
    features[shown, 0] += 6.0 * sick  # in one of three volumes
    values, names = {
        "nominal": (sick[people], ("no", "yes")),
        "regression": (10.0 + 3.0 * sick[people], ("thickness",)),
        "multilabel": (np.stack([sick, 1 - sick], axis=1)[people], ("one", "other")),
        "survival": (
            np.stack([5.0 - 3.0 * sick + 0.01 * np.arange(PEOPLE), np.ones(PEOPLE)], axis=1)[
                people
            ],
            ("event",),
        ),
    }[kind]
    part = people // 2 % 3
    one = Round("test", part == 0, part == 1, part == 2)
    return features, Target(kind=kind, values=values, names=names), people, people % 2, one


@pytest.mark.parametrize("kind", ["nominal", "regression", "multilabel", "survival"])
def test_the_pool_finds_who_is_ill_by_one_volume_of_three(kind):
    features, target, people, sides, one = made(kind)
    found = pool_volumes(features, target, people, sides, one, CONFIG, seed=0)
    assert np.isnan(found.scores_NK[one.fit]).all()
    said = found.scores_NK[one.test]
    assert np.isfinite(said).all()
    for person in np.unique(people[one.test]):
        rows = found.scores_NK[people == person]
        assert (rows == rows[0]).all(), "all volumes say what is said of their participant"
    ill = people[one.test] % 2 == 1
    column = 1 if kind == "nominal" else 0
    right = (said[ill, column][:, None] > said[~ill, column][None]).mean()
    assert right > (0.65 if kind == "survival" else 0.85), right
    assert found.chosen["headline"] == max(row["headline"] for row in found.candidates)


@pytest.mark.parametrize("kind", ["nominal", "regression", "multilabel", "survival"])
def test_a_pool_from_its_folder_says_what_it_said_when_it_was_fitted(kind, tmp_path):
    features, target, people, sides, one = made(kind)
    found = pool_volumes(features, target, people, sides, one, CONFIG, seed=0)
    found.pool.save(tmp_path)
    pool = FittedPool.load(tmp_path)
    mixed = np.random.default_rng(1).permutation(np.flatnonzero(one.test))
    said = pool.predict(features[mixed], people[mixed], sides[mixed])
    firsts = np.unique(people[mixed], return_index=True)[1]
    assert said == pytest.approx(found.scores_NK[mixed[firsts]], abs=1e-5)
    with pytest.raises(ValueError, match=r"pool: features must be \(N, 6\), not \(4, 5\)"):
        pool.predict(np.zeros((4, 5)), people[:4], sides[:4])
    (tmp_path / "scaling.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match="no pool over volumes"):
        FittedPool.load(tmp_path)


def test_sides_are_those_of_eyes():
    assert sides_of(["L", "R", "", "unknown"]).tolist() == [1, 0, 2, 2]


def test_pairs_hold_the_mean_and_half_the_distance_of_two_volumes():
    features = np.array([[1.0, 5.0], [2.0, 2.0], [4.0, -5.0], [9.0, 9.0]])
    people = np.array([7, 3, 7, 1])  # 7 has two volumes
    found = pair_up(features, people)
    assert found.tolist() == [[2.5, 0, 1.5, 5], [2, 2, 0, 0], [2.5, 0, 1.5, 5], [9, 9, 0, 0]]


def test_a_probe_on_pairs_sees_eyes_that_differ_where_one_on_single_eyes_cannot():
    draw = np.random.default_rng(2)
    people = np.repeat(np.arange(PEOPLE), 2)
    unlike = np.arange(PEOPLE) % 2
    first = draw.choice([-1.0, 1.0], PEOPLE)
    kinds = np.stack([first, first * (1 - 2 * unlike)], axis=1).reshape(-1)
    features = np.concatenate([kinds[:, None] * 3, np.zeros((2 * PEOPLE, 3))], axis=1)
    features += draw.normal(size=features.shape)
    target = Target(kind="nominal", values=unlike[people], names=("alike", "unlike"))
    part = people // 2 % 3
    one = Round("test", part == 0, part == 1, part == 2)

    def right(features):
        probe = fit_grid("linear", {"": features}, target, people, one, balanced=True, seed=0)
        said = probe.predict({"": features[one.test]})[:, 1]
        ill = target.values[one.test] == 1
        return (said[ill][:, None] > said[~ill][None]).mean()

    assert abs(right(features) - 0.5) < 0.15
    assert right(pair_up(features, people)) > 0.95


def test_equal_seeds_give_equal_scores_and_the_generator_stays():
    features, target, people, sides, one = made()
    state = torch.get_rng_state()
    first, second = (
        pool_volumes(features, target, people, sides, one, CONFIG, seed=3) for _ in range(2)
    )
    assert np.array_equal(first.scores_NK, second.scores_NK, equal_nan=True)
    assert torch.equal(state, torch.get_rng_state())


def test_settings_of_the_pool_are_checked():
    with pytest.raises(ValueError, match=r"attention\.inner \(9\)"):
        AttentionConfig(inner=9, heads=2)
    with pytest.raises(ValueError, match=r"attention\.weight_decay"):
        AttentionConfig(weight_decay=[])
