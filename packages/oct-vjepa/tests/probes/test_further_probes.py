"""Neighbours, learned pools, few labels, shortcuts and the log: what each probe promises."""

import numpy as np
import pytest
import torch
from oct_vjepa import Encoder, EncoderConfig, paired_difference, probe
from oct_vjepa.evaluation.features import embed_volumes
from oct_vjepa.evaluation.online import OnlineProbe, online_scores, ridge_scores
from oct_vjepa.evaluation.token_probe import TokenProbeConfig, token_probe
from oct_vjepa.probes.neighbours import neighbour_probe, neighbour_votes
from oct_vjepa.trials.efficiency import EVERYONE, draw_participants, label_efficiency
from oct_vjepa.trials.shortcuts import probe_shortcut

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


def test_neighbours_find_a_signal_and_call_chance_chance():
    good = neighbour_probe(*draw(200, signal=3.0), *draw(200, signal=3.0, seed=1), seed=0)
    assert good.auroc > 0.95
    noise = neighbour_probe(*draw(200, signal=0.0), *draw(200, signal=0.0, seed=1), seed=0)
    assert noise.auroc_low < 0.5 < noise.auroc_high


def test_without_a_test_side_no_volume_is_judged_by_its_own_participant():
    rng = np.random.default_rng(0)
    people, y = np.repeat(np.arange(40), 3), np.repeat(np.arange(40) % 2, 3)
    features = np.repeat(rng.normal(size=(40, 8)), 3, axis=0) + 0.01 * rng.normal(size=(120, 8))
    leaking = neighbour_probe(features, y, groups_train=np.arange(120), k=2, seed=0)
    honest = neighbour_probe(features, y, groups_train=people, k=2, seed=0)
    assert leaking.balanced_accuracy == 1.0  # it recognises people, not the label
    assert honest.balanced_accuracy_low < 0.5 < honest.balanced_accuracy_high
    with pytest.raises(ValueError, match="no row of another group"):
        neighbour_probe(features[:3], np.array([0, 1, 0]), groups_train=np.zeros(3), seed=0)
    with pytest.raises(ValueError, match="are in both"):
        neighbour_probe(features, y, features, y, groups_train=people, groups_test=people, seed=0)


def test_probes_of_different_kinds_can_be_paired():
    train, test = draw(100, signal=1.5), draw(100, signal=1.5, seed=1)
    one, other = probe(*train, *test, seed=0), neighbour_probe(*train, *test, seed=0)
    gain = paired_difference(one, other, seed=0)
    assert gain.value == pytest.approx(one.auroc - other.auroc)


def rare_tokens(rows, seed):
    """Tokens of which a single one tells the class; the mean over 20 hardly does."""
    rng = np.random.default_rng(seed)
    y = np.arange(rows) % 2
    tokens = rng.normal(size=(rows, 20, 8)).astype(np.float32)
    place = rng.integers(0, 20, rows)
    tokens[np.arange(rows), place, 0] = 6.0
    tokens[np.arange(rows), place, 1] = np.where(y == 1, 3.0, -3.0)
    return tokens, y


@pytest.mark.parametrize("kind", ["attentive", "cross_attention"])
def test_a_learned_pool_finds_the_one_token_that_the_mean_drowns(kind):
    train, test = rare_tokens(200, 0), rare_tokens(100, 1)
    config = TokenProbeConfig(kind=kind, heads=2, inner=16, learning_rate=3e-3, epochs=30)
    result = token_probe(*train, *test, config=config, seed=0)
    pooled = probe(train[0].mean(1), train[1], test[0].mean(1), test[1], seed=0)
    assert result.auroc > 0.95
    assert result.auroc > pooled.auroc + 0.1
    assert 1 <= result.best_epoch <= 30


def test_a_learned_pool_stops_early_on_noise_and_repeats_itself():
    rng = np.random.default_rng(0)
    tokens, y = rng.normal(size=(60, 5, 8)).astype(np.float16), np.arange(60) % 2
    groups = np.repeat(np.arange(30), 2)
    ask = {
        "groups_train": groups[:40],
        "groups_test": groups[40:],
        "config": TokenProbeConfig(heads=2, epochs=100, patience=3, learning_rate=1e-2),
        "seed": 1,
        "bootstrap": 200,
    }
    state = torch.random.get_rng_state()
    one = token_probe(tokens[:40], y[:40], tokens[40:], y[40:], **ask)
    assert torch.equal(state, torch.random.get_rng_state())  # the caller's generator is not touched
    two = token_probe(tokens[:40], y[:40], tokens[40:], y[40:], **ask)
    assert one.best_epoch < 50
    assert (one.auroc, one.best_epoch, one.validation_loss) == (
        two.auroc,
        two.best_epoch,
        two.validation_loss,
    )
    with torch.no_grad():
        logits = one.head(torch.from_numpy(tokens[40:].astype(np.float32)))
    assert logits.shape == (20, 2)


def test_more_labels_help_and_subsets_do_not_depend_on_the_features():
    train, test = draw(300, signal=1.5, width=30), draw(300, signal=1.5, width=30, seed=1)
    ask = {"sizes": (10, 100, 5000, EVERYONE), "repeats": 3, "seed": 0, "bootstrap": 200}
    rows = label_efficiency(*train, *test, fit=neighbour_probe, **ask)
    assert [row.participants for row in rows] == [10, 100, 300]  # 5000 are not there
    assert [row.repeats for row in rows] == [3, 3, 1]
    assert rows[0].auroc.value < rows[1].auroc.value - 0.02
    assert rows[0].auroc.value < rows[2].auroc.value - 0.02
    wide, narrow = (row.auroc.high - row.auroc.low for row in (rows[0], rows[2]))
    assert wide > narrow  # the draw of the subset is in it
    noise = np.random.default_rng(5).normal(size=train[0].shape)
    other = label_efficiency(noise, train[1], *test, fit=neighbour_probe, **ask)
    assert [row.volumes for row in other] == [row.volumes for row in rows]


def test_label_efficiency_of_the_linear_probe_ends_in_the_probe_itself():
    train, test = draw(80, signal=1.5), draw(80, signal=1.5, seed=1)
    rows = label_efficiency(*train, *test, sizes=(EVERYONE,), seed=3, bootstrap=200)
    alone = probe(*train, *test, seed=3, bootstrap=200)
    assert rows[0].auroc == (alone.auroc, alone.auroc_low, alone.auroc_high)


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
    with pytest.raises(ValueError, match="two participants for each class"):
        draw_participants(y, groups, 3, seed=(0,))


def test_a_shortcut_shows_and_is_gone_once_the_column_is_taken_out():
    rng = np.random.default_rng(0)
    device = rng.integers(0, 2, 400)
    label = np.where(rng.random(400) < 0.85, device, 1 - device)
    features = rng.normal(size=(400, 6))
    features[:, 0] += 4 * device  # the features know the device, and nothing of the label
    names = np.array(["scanner A", "scanner B"])[device]
    held_out = np.arange(400) % 2 == 1
    report = probe_shortcut(features, names, label, np.arange(400), held_out, seed=0, bootstrap=200)
    assert report.column.auroc > 0.97
    assert report.label.auroc > 0.75
    assert abs(report.label_from_column.auroc - 0.85) < 0.06
    assert report.label_without_column.auroc < 0.62
    names[held_out] = "scanner C"
    with pytest.raises(ValueError, match=r"\['scanner C'\] are on the test side only"):
        probe_shortcut(features, names, label, np.arange(400), held_out, seed=0)


def test_a_true_label_survives_when_the_column_is_taken_out():
    rng = np.random.default_rng(1)
    device, label = np.arange(300) % 3, rng.integers(0, 2, 300)
    features = rng.normal(size=(300, 6)) + 3 * np.eye(6)[device]
    features[:, 5] += 2 * label
    held_out = np.arange(300) >= 150
    report = probe_shortcut(
        features, device, label, np.arange(300), held_out, seed=0, bootstrap=200
    )
    assert report.label_without_column.auroc > 0.85
    assert report.label_from_column.auroc < 0.65


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
