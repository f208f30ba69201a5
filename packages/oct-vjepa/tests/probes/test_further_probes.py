"""Neighbours, few labels and the log: what each probe promises."""

import numpy as np
import pytest
import torch
from oct_vjepa import Encoder, EncoderConfig
from oct_vjepa.evaluation.features import embed_volumes
from oct_vjepa.evaluation.online import OnlineProbe, online_scores, ridge_scores
from oct_vjepa.probes.neighbours import neighbour_votes
from oct_vjepa.probes.protocol import draw_participants

linear_model = pytest.importorskip("sklearn.linear_model")
neighbors = pytest.importorskip("sklearn.neighbors")


def draw(rows, *, signal, classes=2, width=8, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(rows) % classes
    features = rng.normal(size=(rows, width))
    features[np.arange(rows), y] += signal
    return features, y


def test_votes_are_those_of_scikit_learn_on_standardised_features():
    (x, y), (asked, _) = draw(60, signal=1.0, classes=3), draw(20, signal=1.0, seed=1)
    x, asked = x * 3 + 5, asked * 3 + 5
    mine = neighbour_votes(
        torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(asked), classes=3, k=7,
        temperature=0.2,
    )  # fmt: skip
    theirs = neighbors.KNeighborsClassifier(
        7, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.2)
    ).fit((x - x.mean(0)) / x.std(0), y)
    assert np.abs(mine.numpy() - theirs.predict_proba((asked - x.mean(0)) / x.std(0))).max() < 1e-9


def test_no_volume_is_judged_by_its_own_participant():
    rng = np.random.default_rng(0)
    people, y = np.repeat(np.arange(40), 3), np.repeat(np.arange(40) % 2, 3)
    features = np.repeat(rng.normal(size=(40, 8)), 3, axis=0) + 0.01 * rng.normal(size=(120, 8))
    x, label = torch.from_numpy(features), torch.from_numpy(y)
    right = {}
    for name, group in (("leaking", np.arange(120)), ("honest", people)):
        own = torch.from_numpy(group)
        votes = neighbour_votes(x, label, x, classes=2, groups_N=own, query_groups_M=own, k=2)
        right[name] = float((votes.argmax(dim=1) == label).double().mean())
    assert right["leaking"] == 1.0  # it recognises people, not the label
    assert 0.25 < right["honest"] < 0.75
    alone = torch.zeros(3)
    with pytest.raises(ValueError, match="no row of another group"):
        neighbour_votes(x[:3], label[:3], x[:3], classes=2, groups_N=alone, query_groups_M=alone)


def test_a_subset_has_whole_participants_in_the_shares_of_the_classes():
    groups = np.repeat(np.arange(100), 3)
    y = np.repeat((np.arange(100) >= 80).astype(int), 3)
    chosen = draw_participants(y, groups, 25, seed=(0, 25, 0))
    assert len(np.unique(groups[chosen])) == 25
    assert chosen.sum() == 75
    assert len(np.unique(groups[chosen & (y == 1)])) == 5
    rare = (np.arange(100) >= 98).astype(int).repeat(3)
    chosen = draw_participants(rare, groups, 10, seed=(0, 10, 0))
    assert len(np.unique(groups[chosen & (rare == 1)])) == 2
    assert len(np.unique(groups[draw_participants(y, groups, 3, seed=(0,))])) == 4


def test_the_log_tells_signal_from_noise_and_does_not_leak_participants():
    rng = np.random.default_rng(0)
    features, y = draw(150, signal=2.0)
    numbers = online_scores(features, y)
    assert set(numbers) == {
        f"probe_{kind}_{score}" for kind in ("linear", "knn") for score in ("auroc", "accuracy")
    }
    assert all(value > 0.85 for value in numbers.values())
    people = np.repeat(np.arange(50), 3)
    same = np.repeat(rng.normal(size=(50, 40)), 3, axis=0)
    leak = online_scores(same, np.repeat(np.arange(50) % 2, 3), people)
    assert all(0.2 < value < 0.8 for value in leak.values())
    with pytest.raises(ValueError, match="one class only"):
        online_scores(features, np.zeros(150))


@pytest.mark.parametrize("width", [6, 80])
def test_the_ridge_is_that_of_scikit_learn_with_few_and_with_many_features(width):
    (x, y), (asked, _) = draw(40, signal=1.0, width=width), draw(9, signal=1.0, width=width, seed=2)
    y[:12] = 1
    mine = ridge_scores(torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(asked), 2)
    weight = (40 / (2 * np.bincount(y)))[y]
    middle, scale = np.average(x, axis=0, weights=weight), x.std(axis=0)
    theirs = linear_model.Ridge(alpha=4.0).fit((x - middle) / scale, np.eye(2)[y], weight)
    assert np.abs(mine.numpy() - theirs.predict((asked - middle) / scale)).max() < 1e-9


def test_an_online_probe_asks_about_several_columns_and_takes_only_those_with_a_label():
    rng = np.random.default_rng(0)
    volumes = rng.integers(0, 200, (12, 8, 64, 64), dtype=np.uint8)
    one, other = np.arange(12) % 2, np.r_[np.arange(8) % 3, [-1] * 4]
    encoder = Encoder(EncoderConfig(depth=1, input_mean=80.0, input_std=60.0))
    numbers = OnlineProbe(list(volumes), {"thin": one, "fluid": other})(encoder)
    alone = OnlineProbe(volumes[:8], other[:8])(encoder)
    assert [n for n in numbers if "linear_auroc" in n] == [
        "probe_linear_auroc_thin",
        "probe_linear_auroc_fluid",
    ]
    assert {f"{name}_fluid": value for name, value in alone.items()}.items() <= numbers.items()
    with pytest.raises(ValueError, match="online probe for fluid: the labels are of one class"):
        OnlineProbe(volumes, {"thin": one, "fluid": np.full(12, -1)})


def test_an_online_probe_reads_all_blocks_as_the_final_one_does_or_those_it_is_told_to():
    volumes = np.random.default_rng(0).integers(0, 200, (16, 8, 64, 64), dtype=np.uint8)
    y = np.arange(16) % 2
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(depth=3, input_mean=80.0, input_std=60.0))
    found = {
        blocks: online_scores(
            embed_volumes(encoder, volumes, pools=("tails",), layers=layers)["tails"], y
        )
        for blocks, layers in (("all", [0, 1, 2]), ("last", [2]), ("0", [0]))
    }
    assert OnlineProbe(volumes, y)(encoder) == found["all"] != found["last"]
    for blocks, numbers in found.items():
        assert OnlineProbe(volumes, y, blocks=blocks)(encoder) == numbers
    with pytest.raises(ValueError, match="must be below 3"):
        OnlineProbe(volumes, y, blocks="3")(encoder)


def test_an_online_probe_asks_an_encoder_and_leaves_it_as_it_was():
    rng = np.random.default_rng(0)
    y = np.arange(16) % 2
    volumes = rng.integers(0, 60, (16, 8, 64, 64)).astype(np.uint8) + (100 * y).astype(
        np.uint8
    ).reshape(-1, 1, 1, 1)
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(depth=1, input_mean=80.0, input_std=60.0)).train()
    numbers = OnlineProbe(volumes, np.array(["low", "high"])[y], np.arange(16))(encoder)
    assert encoder.training
    assert numbers["probe_linear_auroc"] > 0.9
    with pytest.raises(ValueError, match="16 volumes, 15 labels"):
        OnlineProbe(volumes, y[:15])
    spacings = np.linspace(0.5, 2.0, 48).reshape(16, 3)
    lengths = Encoder(EncoderConfig(depth=1, position_unit="length"))
    with pytest.raises(ValueError, match="pass the spacing of each volume"):
        OnlineProbe(volumes, y)(lengths)
    assert OnlineProbe(volumes, y, spacing=spacings)(lengths).keys() == numbers.keys()
