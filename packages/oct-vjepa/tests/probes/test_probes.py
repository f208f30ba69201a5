"""A probe finds what is there, calls chance chance, and counts participants rather than volumes."""

import sys

import numpy as np
import pytest
import torch
from oct_vjepa import Encoder, EncoderConfig, axial_profile, embed_volumes, paired_difference, probe
from oct_vjepa.evaluation.features import load_or_embed
from oct_vjepa.measures.units import (
    Units,
    auroc,
    average_units,
    balanced_accuracy,
    interval_of,
    resample_weights,
)
from oct_vjepa.probes.linear import mean_difference

metrics = pytest.importorskip("sklearn.metrics")


def draw(rng, rows, *, signal, classes=2, width=8):
    """Normal features whose first `classes` columns rise by `signal` in their class."""
    y = np.arange(rows) % classes
    features = rng.normal(size=(rows, width))
    features[np.arange(rows), y] += signal
    return features, y


def run(*, signal, seed=0, classes=2, rows=300):
    rng = np.random.default_rng(seed)
    train, test = (draw(rng, rows, signal=signal, classes=classes) for _ in range(2))
    return probe(*train, *test, seed=seed)


def test_a_probe_on_noise_has_chance_within_its_interval():
    result = run(signal=0.0)
    assert result.auroc_low < 0.5 < result.auroc_high
    assert result.balanced_accuracy_low < 0.5 < result.balanced_accuracy_high
    assert result.strength < 0.1  # noise wants all the shrinkage it can get


def test_a_probe_reaches_the_auroc_that_theory_gives():
    result = run(signal=1.0, rows=1000)
    assert result.auroc_low < 0.8413 < result.auroc_high  # Phi(signal), two columns sqrt(2) apart
    assert result.auroc_high - result.auroc_low < 0.07


def test_a_probe_takes_more_than_two_classes():
    result = run(signal=3.0, classes=4)
    assert result.auroc > 0.95
    assert result.balanced_accuracy > 0.8
    noise = run(signal=0.0, classes=4)
    assert noise.auroc_low < 0.5 < noise.auroc_high
    assert noise.balanced_accuracy_low < 0.25 < noise.balanced_accuracy_high


def test_equal_seeds_give_equal_results():
    one, other = run(signal=0.5), run(signal=0.5)
    assert (one.auroc, one.auroc_low, one.strength) == (
        other.auroc,
        other.auroc_low,
        other.strength,
    )


def test_string_labels_name_the_classes():
    rng = np.random.default_rng(0)
    train, test = (draw(rng, 60, signal=2.0) for _ in range(2))
    names = np.array(["healthy", "sick"])
    result = probe(train[0], names[train[1]], test[0], names[test[1]], seed=0)
    assert result.classes == ["healthy", "sick"]


def test_ten_copies_of_every_volume_do_not_narrow_the_interval():
    rng = np.random.default_rng(0)
    train, (features, y) = (draw(rng, 100, signal=0.5) for _ in range(2))
    alone = probe(*train, features, y, groups_test=np.arange(100), seed=0)
    copies = np.repeat(np.arange(100), 10)
    many = probe(*train, features[copies], y[copies], groups_test=copies, seed=0)
    assert many.participants_test == 100
    assert many.auroc == pytest.approx(alone.auroc)
    assert many.auroc_low == pytest.approx(alone.auroc_low)


def test_participants_on_both_sides_are_refused():
    rng = np.random.default_rng(0)
    train, test = (draw(rng, 20, signal=1.0) for _ in range(2))
    with pytest.raises(ValueError, match="20 participants are in both"):
        probe(*train, *test, groups_train=np.arange(20), groups_test=np.arange(20), seed=0)


def test_a_class_that_is_missing_on_one_side_is_refused():
    rng = np.random.default_rng(0)
    train, (features, y) = (draw(rng, 20, signal=1.0) for _ in range(2))
    with pytest.raises(ValueError, match=r"\[0, 1\] and testing \[0\]"):
        probe(*train, features[y == 0], y[y == 0], seed=0)


def test_one_participant_of_a_class_is_too_few_to_choose_anything():
    rng = np.random.default_rng(0)
    (features, y), test = (draw(rng, 20, signal=1.0) for _ in range(2))
    with pytest.raises(ValueError, match="two training participants"):
        probe(features, y, *test, groups_train=y, groups_test=np.arange(2, 22), seed=0)


def test_a_real_difference_is_found_and_none_is_not_made_up():
    strong, weak = run(signal=2.0), run(signal=0.2)
    assert paired_difference(strong, weak, seed=0).low > 0
    none = paired_difference(weak, weak, seed=0)
    assert none == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="same test participants"):
        paired_difference(strong, run(signal=2.0, rows=200), seed=0)


def test_several_seeds_are_compared_by_their_means_on_the_same_participants():
    strong, middle, weak = run(signal=2.0), run(signal=0.8), run(signal=0.2)
    gain = mean_difference([strong, middle], [weak], seed=0)
    assert gain.value == pytest.approx((strong.auroc + middle.auroc) / 2 - weak.auroc)
    assert gain.low < gain.value < gain.high
    assert mean_difference([strong], [weak], seed=0) == paired_difference(strong, weak, seed=0)
    assert mean_difference([weak, strong], [strong, weak], seed=0) == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="at least one on either side"):
        mean_difference([strong], [], seed=0)


def test_features_of_several_blocks_stand_side_by_side(tmp_path):
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(input_shape=(4, 16, 16), width=24, depth=3, heads=2))
    volumes = np.random.default_rng(0).integers(0, 255, (5, 4, 16, 16), dtype=np.uint8)
    last, first = (embed_volumes(encoder, volumes, layers=[one]) for one in (2, 0))
    both = load_or_embed(
        encoder, volumes, volumes_fingerprint="five", folder=tmp_path, layers=[0, 2]
    )
    plain = load_or_embed(encoder, volumes, volumes_fingerprint="five", folder=tmp_path)
    for pool, width in (("mean", 24), ("mean_std", 48), ("max", 24)):
        assert both[pool].shape == (5, 2 * width)
        assert np.array_equal(both[pool], np.concatenate([first[pool], last[pool]], axis=1))
        assert np.array_equal(plain[pool], last[pool])
    with pytest.raises(ValueError, match=r"layers \(\[3\]\) must be ascending numbers"):
        embed_volumes(encoder, volumes, layers=[3])


def units_of(rng, rows, classes, *, ties):
    scores = rng.random((rows, classes))
    scores = scores.round(1) if ties else scores
    labels = rng.integers(0, classes, rows)
    return Units(scores, labels, np.arange(rows))


@pytest.mark.parametrize("ties", [False, True])
def test_auroc_and_balanced_accuracy_equal_scikit_learn(ties):
    rng = np.random.default_rng(0)
    two, four = units_of(rng, 80, 2, ties=ties), units_of(rng, 80, 4, ties=False)
    weights = rng.integers(1, 4, (3, 80)).astype(float)
    wanted = [
        metrics.roc_auc_score(two.labels_N, two.scores_NC[:, 1], sample_weight=row)
        for row in weights
    ]
    assert auroc(two, weights) == pytest.approx(wanted)
    chances = four.scores_NC / four.scores_NC.sum(axis=1, keepdims=True)
    four = four._replace(scores_NC=chances)
    macro = metrics.roc_auc_score(four.labels_N, chances, multi_class="ovr", average="macro")
    assert auroc(four)[0] == pytest.approx(macro)
    accuracy = metrics.balanced_accuracy_score(four.labels_N, chances.argmax(axis=1))
    assert balanced_accuracy(four)[0] == pytest.approx(accuracy)


def test_nine_of_ten_intervals_or_more_hold_the_truth():
    rng, inside = np.random.default_rng(0), 0
    for seed in range(100):
        labels = np.arange(120) % 2
        score = rng.normal(size=120) + labels
        units = Units(np.stack([-score, score], axis=1), labels, np.arange(120))
        weights = resample_weights(units, bootstrap=300, seed=seed)
        interval = interval_of(auroc(units)[0], auroc(units, weights))
        inside += interval.low < 0.76025 < interval.high  # Phi(1 / sqrt(2))
    assert inside >= 90


def test_resampling_keeps_the_number_of_each_class_and_whole_participants():
    scores = np.zeros((6, 2))
    labels, groups = np.array([0, 0, 1, 1, 0, 1]), np.array([0, 1, 2, 3, 4, 4])
    weights = resample_weights(Units(scores, labels, groups), bootstrap=50, seed=0)
    assert (weights[:, labels == 1].sum(axis=1) == 3).all()
    assert (weights[:, 4] == weights[:, 5]).all()  # the one participant with both labels


def test_scores_are_averaged_within_a_participant_and_label():
    scores = np.array([[0.2, 0.8], [0.4, 0.6], [1.0, 0.0]])
    units = average_units(scores, np.array([1, 1, 0]), np.array(["b", "b", "a"]))
    assert units.scores_NC.tolist() == [[1.0, 0.0], pytest.approx([0.3, 0.7])]
    assert units.labels_N.tolist() == [0, 1]


def test_volumes_are_embedded_as_the_encoder_embeds_them(encoder, volume):
    encoder.train()
    features = embed_volumes(encoder, volume[:, 0].numpy(), batch_size=3)
    assert encoder.training
    for pool, rows in features.items():
        with torch.no_grad():
            wanted = encoder.embed(volume, pool).numpy()
        np.testing.assert_allclose(rows, wanted, atol=1e-5)
    again = embed_volumes(encoder, (one.numpy() for one in volume), batch_size=4)
    np.testing.assert_allclose(again["mean"], features["mean"], atol=1e-5)
    with pytest.raises(ValueError, match="no volumes"):
        embed_volumes(encoder, [])


def test_the_axial_profile_is_the_mean_over_slices_and_columns():
    volumes = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5)
    profile = axial_profile(volumes)
    assert profile.shape == (2, 4)
    assert profile[1, 2] == volumes[1, :, 2].mean()


def test_the_axial_profiles_of_several_channels_stand_side_by_side():
    volumes = np.arange(2 * 2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 2, 3, 4, 5)
    profile = axial_profile(volumes)
    assert profile.shape == (2, 8)
    assert np.array_equal(profile[:, 4:], axial_profile(volumes[:, 1]))
    with pytest.raises(ValueError, match=r"not \(4, 5\)"):
        axial_profile(volumes[0, 0])
    with pytest.raises(ValueError, match=r"\[4, 8\] rows have no profile in common"):
        axial_profile([volumes[0], volumes[0, 0]])


def test_volumes_of_several_shapes_are_refused_in_one_batch(encoder, volume):
    volumes = [volume[0, 0].numpy(), volume[1, 0, :, :8].numpy()]
    with pytest.raises(ValueError, match=r"\(4, 16, 24\), \(4, 8, 24\) do not fit into one batch"):
        embed_volumes(encoder, volumes)
    assert embed_volumes(encoder, volumes, batch_size=1)["mean"].shape == (2, 48)


def test_an_encoder_in_bfloat16_gives_features_that_are_kept(encoder, volume, tmp_path):
    ask = {"volumes_fingerprint": "abc", "folder": tmp_path, "pools": ["mean"]}
    exact = load_or_embed(encoder, volume[:, 0].numpy(), **ask)["mean"]
    rounded = load_or_embed(encoder.bfloat16(), volume[:, 0].numpy(), **ask)["mean"]
    assert rounded.dtype == np.float32
    assert 0 < np.abs(exact - rounded).max() < 0.1
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("module", ["sklearn.model_selection", "sklearn.linear_model"])
def test_without_scikit_learn_a_probe_says_what_to_install(module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(RuntimeError, match=r"install oct-vjepa\[probes\]"):
        run(signal=1.0)


def test_volumes_of_different_spacing_are_embedded_each_with_its_own():
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(position_unit="length")).eval()
    with torch.no_grad():
        for weights in encoder.parameters():
            weights *= 8  # a fresh encoder attends to all places alike
    volumes = np.random.default_rng(0).integers(0, 255, (5, 8, 64, 64), dtype=np.uint8)
    spacings = np.linspace(0.5, 2.0, 15).reshape(5, 3)
    found = embed_volumes(encoder, volumes, batch_size=2, pools=("mean",), spacing=spacings)
    for number, (volume, spacing) in enumerate(zip(volumes, spacings, strict=True)):
        alone = embed_volumes(encoder, [volume], pools=("mean",), spacing=spacing)
        np.testing.assert_allclose(found["mean"][number], alone["mean"][0], atol=1e-5)
    one_for_all = embed_volumes(encoder, volumes, pools=("mean",), spacing=(1.0, 1.0, 1.0))
    assert np.abs(found["mean"] - one_for_all["mean"]).max() > 1e-3


def test_rows_of_spacing_that_do_not_match_the_volumes_are_refused():
    encoder = Encoder(EncoderConfig(depth=1, position_unit="length"))
    volumes = np.zeros((3, 8, 64, 64), dtype=np.uint8)
    with pytest.raises(ValueError, match=r"spacing \(2, 3\) must be .* a row of them for each"):
        embed_volumes(encoder, volumes, spacing=np.ones((2, 3)))
    with pytest.raises(ValueError, match="4 rows, but there are 3 volumes"):
        embed_volumes(encoder, volumes, spacing=np.ones((4, 3)))
