"""Which patches hold a structure, asked of frozen tokens."""

import sys

import numpy as np
import pytest
import torch
from oct_vjepa import Encoder, EncoderConfig
from oct_vjepa.evaluation.patch_probe import (
    METRICS,
    ask_patches,
    blocks_between,
    mark_patches,
    patch_probe,
    read_around,
    read_tokens,
)
from oct_vjepa.probes.protocol import Round
from sklearn.metrics import average_precision_score, roc_auc_score

GRID = (1, 4, 4)
PEOPLE = np.repeat(np.arange(6), 3)


def _rounds() -> list[Round]:
    pairs = PEOPLE // 2
    return [
        Round(str(pair), pairs == (pair + 2) % 3, pairs == (pair + 1) % 3, pairs == pair)
        for pair in range(3)
    ]


def _questions(strength: float) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    present = draw.random((len(PEOPLE), 16)) < 0.2
    features = draw.normal(size=(*present.shape, 5))
    features[..., 2] += strength * present
    return features.astype(np.float32), present


def test_patches_are_marked_in_the_order_of_the_tokens() -> None:
    config = EncoderConfig(
        input_shape=(2, 8, 12), patch_size=(1, 4, 4), width=16, depth=1, heads=1, positions="sincos"
    )
    encoder = Encoder(config).eval()
    mask = np.zeros((1, 2, 8, 12), bool)
    mask[0, 1, 4:, 8:] = True
    with torch.no_grad():
        plain = encoder(torch.zeros(1, 1, 2, 8, 12))
        marked = encoder(torch.from_numpy(mask)[:, None].float() * 255)
    moved = (plain - marked).abs().amax(-1)[0]
    present = mark_patches(mask, config.grid)
    assert present.shape == (1, 12)
    assert np.flatnonzero(present[0]).tolist() == [int(moved.argmax())] == [11]


def test_a_share_of_a_patch_is_enough_or_not() -> None:
    mask = np.zeros((1, 1, 16, 16), bool)
    mask[0, 0, 0, :2] = True  # 2 of 16 voxels
    assert mark_patches(mask, GRID)[0, 0]
    assert not mark_patches(mask, GRID, least=0.2).any()


def test_sides_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(1, 9, 16\) cannot be cut into \(1, 4, 4\)"):
        mark_patches(np.zeros((1, 1, 9, 16), bool), GRID)


def test_a_patch_is_read_with_the_means_around_it_and_its_row() -> None:
    grid, width = (2, 3, 4), 5
    features = np.random.default_rng(0).normal(size=(2, 24, width)).astype(np.float32)
    read = read_around(features, grid, [3])
    assert read.shape == (2, 24, 2 * width + 3)
    np.testing.assert_array_equal(read[..., :width], features)
    assert (
        read[0, :, -3:].argmax(1).tolist()
        == [0] * 4 + [1] * 4 + [2] * 4 + [0] * 4 + [1] * 4 + [2] * 4
    )
    cells, means = features.reshape(2, *grid, width), read[..., width : 2 * width]
    means = means.reshape(2, *grid, width)
    middle = cells[1, 1, 0:3, 1:4].mean(axis=(0, 1))  # all nine are there, of one slice
    np.testing.assert_allclose(means[1, 1, 1, 2], middle, rtol=1e-5, atol=1e-6)
    corner = cells[0, 0, 0:2, 0:2].mean(axis=(0, 1))  # four are
    np.testing.assert_allclose(means[0, 0, 0, 0], corner, rtol=1e-5, atol=1e-6)


def test_a_patch_is_read_alone_where_nothing_around_is_asked_for() -> None:
    features = np.ones((1, 24, 5), np.float16)
    read = read_around(features, (2, 3, 4), [])
    assert read.dtype == np.float16
    assert read.shape == (1, 24, 5 + 3)
    assert (read[..., 5:].sum(-1) == 1).all()


def test_dark_amid_bright_is_told_by_what_is_around() -> None:
    """Each scan has a brightness of its own, so that no patch alone says how dark it is."""
    draw, people = np.random.default_rng(1), np.repeat(np.arange(6), 20)
    present = np.zeros((len(people), 16), bool)
    present[np.arange(len(people)), draw.integers(0, 16, len(people))] = True
    light = draw.normal(size=(len(people), 1)) - present
    one = Round("a round", people < 4, people == 4, people == 5)
    precision = {}
    for around in ((), (3,)):
        read = read_around(light[..., None].astype(np.float32), GRID, around)
        precision[around] = patch_probe(read, present, people, [one])[0].values_NM[0, 1]
    assert precision[(3,)] > 0.9
    assert precision[()] < 0.5


def test_the_row_alone_is_read_where_there_is_no_feature() -> None:
    read = read_around(np.zeros((2, 16, 0), np.float32), GRID, (3, 5))
    np.testing.assert_array_equal(read, np.tile(np.eye(4).repeat(4, axis=0), (2, 1, 1)))


def test_what_a_feature_says_is_found_and_noise_is_not() -> None:
    strong, present = _questions(3.0)
    weak, _ = _questions(0.0)
    found = np.concatenate(
        [one.values_NM for one in patch_probe(strong, present, PEOPLE, _rounds())]
    )
    noise = np.concatenate([one.values_NM for one in patch_probe(weak, present, PEOPLE, _rounds())])
    assert found.shape == (6, len(METRICS))
    assert found[:, 0].mean() > 0.95
    assert 0.35 < noise[:, 0].mean() < 0.65


def test_the_numbers_are_those_of_scikit_learn_for_each_participant() -> None:
    features, present = _questions(1.0)
    features[..., [0, 1, 3, 4]] = 0
    for one, reading in zip(
        _rounds(), patch_probe(features, present, PEOPLE, _rounds()), strict=True
    ):
        for who, values in zip(reading.groups_N, reading.values_NM, strict=True):
            own = who == PEOPLE
            assert one.test[own].all()
            truth, score = present[own].ravel(), features[own][..., 2].ravel()
            assert values[0] == pytest.approx(roc_auc_score(truth, score))
            assert values[1] == pytest.approx(average_precision_score(truth, score))


def test_the_test_participants_change_nothing_that_is_fitted() -> None:
    features, present = _questions(1.0)
    one = _rounds()[0]
    before = patch_probe(features, present, PEOPLE, [one])[0]
    others = present.copy()
    others[one.test] = ~others[one.test]
    after = patch_probe(features, others, PEOPLE, [one])[0]
    np.testing.assert_allclose(after.values_NM[:, 0], 1 - before.values_NM[:, 0])


def test_a_participant_without_the_structure_has_no_number() -> None:
    features, present = _questions(1.0)
    present[PEOPLE == 1] = False
    reading = patch_probe(features, present, PEOPLE, [_rounds()[0]])[0]
    assert np.isnan(reading.values_NM[1]).all()
    assert np.isfinite(reading.values_NM[0]).all()


def test_a_round_without_the_structure_is_refused() -> None:
    features, present = _questions(1.0)
    with pytest.raises(ValueError, match="every patch to fit, or none"):
        patch_probe(features, np.zeros_like(present), PEOPLE, _rounds())


def test_what_is_not_known_of_a_patch_counts_nowhere() -> None:
    features, present = _questions(1.0)
    one, known = _rounds()[0], np.ones(present.shape, bool)
    known[:, 3:7] = False
    told = ask_patches(features, present, PEOPLE, one, known_NT=known)
    lied = np.where(known, present, ~present)
    again = ask_patches(features, lied, PEOPLE, one, known_NT=known)
    np.testing.assert_array_equal(told.reading.values_NM, again.reading.values_NM)
    kept = np.delete(features, np.s_[3:7], axis=1), np.delete(present, np.s_[3:7], axis=1)
    (alone,) = patch_probe(*kept, PEOPLE, [one])
    np.testing.assert_allclose(told.reading.values_NM, alone.values_NM)


def test_so_many_patches_are_fitted_on_and_every_tested_one_has_a_score() -> None:
    features, present = _questions(3.0)
    one = _rounds()[0]
    asked = ask_patches(features, present, PEOPLE, one, most=40, seed=1)
    again = ask_patches(features, present, PEOPLE, one, most=40, seed=1)
    all_of_them = ask_patches(features, present, PEOPLE, one)
    assert asked.scores_NT.shape == present[one.test].shape
    np.testing.assert_array_equal(asked.scores_NT, again.scores_NT)
    assert not np.allclose(asked.scores_NT, all_of_them.scores_NT)
    assert asked.reading.values_NM[:, 0].min() > 0.8


def test_tokens_are_those_of_the_blocks_side_by_side() -> None:
    config = EncoderConfig(
        input_shape=(2, 8, 12), patch_size=(1, 4, 4), width=16, depth=5, heads=1, positions="sincos"
    )
    torch.manual_seed(0)
    encoder = Encoder(config).train()
    volumes = np.random.default_rng(0).integers(0, 256, (3, 2, 8, 12), dtype=np.uint8)
    assert blocks_between(5) == [0, 2, 4]
    assert blocks_between(1) == [0]
    tokens = read_tokens(encoder, volumes, blocks=[0, 2, 4], batch_size=2)
    assert tokens.shape == (3, 12, 48)
    assert encoder.training
    with torch.no_grad():
        said = encoder.eval()(torch.from_numpy(volumes)[:, None], layers=[0, 2, 4])
    np.testing.assert_allclose(tokens, torch.cat(list(said), -1).numpy(), atol=5e-3)
    with pytest.raises(ValueError, match="no volumes"):
        read_tokens(encoder, [], blocks=[0])


def test_without_scikit_learn_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(RuntimeError, match=r"install oct-vjepa\[probes\]"):
        ask_patches(*_questions(1.0), PEOPLE, _rounds()[0])
