"""Cards and comparisons: the mean over rounds and seeds, intervals that cover, plain values."""

import json
import math
from statistics import NormalDist

import numpy as np
import pytest
from oct_vjepa.measures.measure import measure
from oct_vjepa.measures.target import Target
from oct_vjepa.measures.units import Interval, Units, aggregate_units, auroc, interval_of
from oct_vjepa.scores.paired import delong_p
from oct_vjepa.scores.resampling import Part, draw_samples, draw_seeds, replicate
from oct_vjepa.scores.scorecard import compare, score_card

NAMES = {"nominal": ["a", "b", "c"], "ordinal": ["a", "b", "c"], "multilabel": ["a", "b", "c"]}


def binary_runs(rng, *, rows=100, seeds=1, rounds=1, signal=0.0, seed_noise=0.0, common=None):
    """Two classes, half each; `common` is the part of the score that all seeds share."""
    labels = np.arange(rows) // rounds % 2
    shared = rng.normal(size=rows) if common is None else common
    runs = []
    for _ in range(seeds):
        height = signal + seed_noise * rng.normal()
        chance = 1 / (1 + np.exp(-(shared + height * labels)))
        scores = np.stack([1 - chance, chance], axis=1)
        parts = [np.arange(rows) % rounds == one for one in range(rounds)]
        runs.append([Units(scores[one], labels[one], np.flatnonzero(one)) for one in parts])
    return runs


def units_of(height, labels):
    """One row a participant; chances rise with `height`."""
    chance = 1 / (1 + np.exp(-height))
    return Units(np.stack([1 - chance, chance], axis=1), labels, np.arange(len(labels)))


def runs_of(kind, rng, rows=60):
    if kind == "regression":
        values, scores = rng.normal(size=rows), rng.normal(size=(rows, 1))
    elif kind == "survival":
        values = np.stack([rng.exponential(size=rows), rng.integers(0, 2, rows)], axis=1)
        scores = rng.normal(size=(rows, 1))
    elif kind == "multilabel":
        values, scores = rng.integers(-1, 2, (rows, 3)), rng.random((rows, 3))
    else:
        values, scores = rng.integers(0, 3, rows), rng.dirichlet(np.ones(3), rows)
    target = Target(kind=kind, values=values, names=tuple(NAMES.get(kind, ["years"])))
    return [[aggregate_units(scores, target, np.arange(rows))]]


def test_intervals_of_chance_cover_a_half_as_often_as_they_should():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        card = score_card(binary_runs(rng, rows=60), "nominal", "ab", seed=trial, bootstrap=200)
        covered += card.headline.low <= 0.5 <= card.headline.high
    assert covered >= 0.9 * 200


def auroc_interval(runs, draws):
    parts = [
        [Part(one.groups_N, lambda w, one=one: {"auroc": auroc(one, w)}) for one in rounds]
        for rounds in runs
    ]
    found = replicate(parts, draws)["auroc"]
    return interval_of(float(found.value), found.samples)


def test_intervals_cover_the_mean_of_all_seeds_only_because_seeds_are_drawn():
    """Eight seeds that differ by luck, many times over, and the mean over all there could be."""
    rng = np.random.default_rng(1)
    luck = {"rows": 200, "signal": 1.0, "seed_noise": 0.6}
    truth = NormalDist().cdf(1.0 / math.sqrt(2.0 + 0.6**2))
    covered = {"drawn": 0, "fixed": 0}
    for trial in range(100):
        runs = binary_runs(rng, **luck, seeds=8)
        draws = draw_samples(runs, "nominal", bootstrap=200, seed=trial)
        fixed = draws._replace(seeds_RS=np.ones_like(draws.seeds_RS))
        for name, one in (("drawn", draws), ("fixed", fixed)):
            interval = auroc_interval(runs, one)
            covered[name] += interval.low <= truth <= interval.high
    assert covered["drawn"] >= 85  # of 100; eight seeds say only so much of how seeds vary
    assert covered["fixed"] <= covered["drawn"] - 10


def test_seed_noise_widens_the_interval():
    rng = np.random.default_rng(2)
    common = rng.normal(size=400)
    widths = []
    for noise in (0.0, 1.0):
        runs = binary_runs(rng, rows=400, seeds=5, signal=1.0, seed_noise=noise, common=common)
        card = score_card(runs, "nominal", "ab", seed=0)
        widths.append(card.headline.high - card.headline.low)
    assert widths[1] > 1.5 * widths[0]


def test_turns_of_a_seed_are_drawn_with_it_and_alike_in_all_seeds():
    draws = draw_seeds(6, 4000, np.random.default_rng(0), turns=3).reshape(4000, 2, 3)
    by_seed, by_turn = draws.sum(axis=2), draws.sum(axis=1)
    assert set(by_seed.sum(axis=1)) == {2.0}, "one seed of two, with two turns of three"
    assert ((by_seed == 0).sum(axis=1) == 1).all()
    assert np.allclose(by_turn.mean(axis=0), 2 / 3, atol=0.05)
    with pytest.raises(ValueError, match="5 runs are not seeds with 3 turns each"):
        draw_seeds(5, 10, np.random.default_rng(0), turns=3)


def test_seeds_that_differ_are_not_made_sure_of_by_many_turns():
    rng = np.random.default_rng(5)
    common, runs = rng.normal(size=400), []
    for _ in range(2):
        (seed,) = binary_runs(rng, rows=400, signal=1.0, seed_noise=1.5, common=common)
        runs += [seed] * 8
    widths = {}
    for turns in (1, 8):
        found = score_card(runs, "nominal", "ab", seed=0, turns=turns).headline
        widths[turns] = found.high - found.low
    alone = score_card(runs[::8], "nominal", "ab", seed=0).headline
    assert widths[8] == pytest.approx(alone.high - alone.low, rel=0.1)
    assert widths[1] < 0.9 * widths[8], "sixteen seeds would have said more"


def test_equal_seeds_have_the_interval_of_one():
    rng = np.random.default_rng(3)
    once = binary_runs(rng, signal=1.0)
    cards = [score_card(runs, "nominal", "ab", seed=0) for runs in (once, once * 3)]
    np.testing.assert_allclose(cards[0].headline, cards[1].headline)
    assert cards[1].seeds == 3
    assert cards[1].by_seed == pytest.approx([cards[0].headline.value] * 3)


def test_a_metric_is_the_mean_of_its_rounds_and_one_without_a_class_is_left_out():
    rng = np.random.default_rng(4)
    rounds = binary_runs(rng, rounds=3, signal=1.0)[0]
    alone = [score_card([[one]], "nominal", "ab", seed=0, bootstrap=10) for one in rounds]
    together = score_card([rounds], "nominal", "ab", seed=0, bootstrap=10)
    for name in together.metrics:
        mean = np.mean([one.metrics[name].value for one in alone])
        assert together.metrics[name].value == pytest.approx(mean), name
    sick = Units(rounds[0].scores_NC[:9], np.ones(9, int), np.arange(100, 109))
    more = score_card([[*rounds, sick]], "nominal", "ab", seed=0, bootstrap=10)
    assert more.headline.value == pytest.approx(together.headline.value)
    assert more.participants == 109
    assert np.sum(more.confusion) == 109


@pytest.mark.parametrize("kind", ["nominal", "ordinal", "multilabel", "regression", "survival"])
def test_a_card_of_any_kind_is_plain_values(kind):
    names = NAMES.get(kind, ["years"])
    card = score_card(runs_of(kind, np.random.default_rng(5)), kind, names, seed=0, bootstrap=50)
    plain = json.loads(json.dumps(card.as_json(), allow_nan=False))
    assert plain["metrics"] == {one: list(value) for one, value in card.metrics.items()}
    assert next(iter(card.metrics.values())) == card.headline
    assert list(plain["by_class"]) == list(plain["support"]) == (names if kind in NAMES else [])
    for value in card.metrics.values():
        assert value.low <= value.value <= value.high


def test_what_is_not_defined_is_null_and_a_dash():
    units = Units(np.array([[0.4, 0.6], [0.3, 0.7]]), np.array([1, 1]), np.arange(2))
    card = score_card([[units]], "nominal", "ab", seed=0, bootstrap=5)
    assert card.as_json()["metrics"]["auroc"] == [None, None, None]
    assert card.metrics["auroc"].text() == "-"
    assert card.metrics["accuracy"].value == 1.0


def test_priors_weigh_rows_as_if_there_were_so_many():
    rng = np.random.default_rng(6)
    ((units,),) = binary_runs(rng, rows=80, signal=1.0)
    rare = np.flatnonzero(units.labels_N == 0).repeat(3)
    more = np.concatenate([rare, np.flatnonzero(units.labels_N == 1)])
    copies = Units(units.scores_NC[more], units.labels_N[more], np.arange(len(more)))
    weighed = score_card([[units]], "nominal", "ab", seed=0, bootstrap=5, priors=[0.75, 0.25])
    repeated = score_card([[copies]], "nominal", "ab", seed=0, bootstrap=5)
    for name, found in repeated.metrics.items():
        assert weighed.metrics[name].value == pytest.approx(found.value), name
    with pytest.raises(ValueError, match="must be a share"):
        score_card([[units]], "nominal", "ab", seed=0, priors=[0.75, 0.75])


def test_a_threshold_from_validation_is_said_to_be_so():
    rng = np.random.default_rng(7)
    runs, validation = (binary_runs(rng, rows=400, signal=2.0) for _ in range(2))
    options = {"seed": 0, "bootstrap": 50}
    card = score_card(runs, "nominal", "ab", validation=validation, **options)
    assert card.threshold_from == "validation"
    assert card.metrics["specificity_reached"].value == pytest.approx(0.9, abs=0.06)
    assert score_card(runs, "nominal", "ab", **options).threshold_from == "roc"
    with pytest.raises(ValueError, match="seeds and rounds"):
        score_card(runs, "nominal", "ab", validation=validation * 2, **options)


def test_a_participant_is_drawn_alike_in_all_rounds_and_seeds():
    groups = np.arange(40)
    labels = groups % 2
    scores = np.full((40, 2), 0.5)
    first = [Units(scores, labels, groups)]
    halves = [Units(scores[one::2], labels[one::2], groups[one::2]) for one in (0, 1)]
    draws = draw_samples([first, halves], "nominal", bootstrap=20, seed=0)
    assert draws.participants_RG.shape == (20, 40)
    assert (draws.participants_RG.sum(axis=1) == 40).all()
    assert draws.participants_RG[:, labels == 1].sum(axis=1).std() > 0  # of others more may be ill
    of_rounds = draw_samples([halves], "nominal", bootstrap=20, seed=0).participants_RG
    assert (of_rounds[:, ::2].sum(axis=1) == 20).all()
    assert (draws.seeds_RS.sum(axis=1) == 1).all()  # one of two


def test_those_of_different_values_are_drawn_apart():
    groups = np.arange(60)
    runs = [[Units(np.full((60, 2), 0.5), groups % 2, groups)]]
    apart = np.where(groups < 20, "few", "many")
    drawn = draw_samples(runs, "nominal", bootstrap=20, seed=0, apart_G=apart).participants_RG
    assert (drawn[:, :20].sum(axis=1) == 20).all()
    together = draw_samples(runs, "nominal", bootstrap=20, seed=0).participants_RG
    assert together[:, :20].sum(axis=1).std() > 0


def test_the_interval_of_the_calibration_error_holds_its_value():
    """Noise only adds to it, and a sample has noise of its own: a plain one would lie above."""
    rng = np.random.default_rng(13)
    chance = rng.random(300)
    labels = (rng.random(300) < chance).astype(int)
    runs = [[Units(np.stack([1 - chance, chance], axis=1), labels, np.arange(300))]]
    error = score_card(runs, "nominal", "ab", seed=0, bootstrap=200).metrics["ece"]
    assert error.low < error.value < error.high
    assert error.high < 2 * error.value


def test_intervals_hold_the_truth_also_where_it_hangs_on_how_many_are_ill():
    """Scores are the true chances; of each 120 participants another share is ill."""

    def people(rng, count):
        labels = (rng.random(count) < 0.2).astype(int)
        odds = rng.normal(size=count) + labels - 0.5 + math.log(0.25)
        chance = 1 / (1 + np.exp(-odds))
        return Units(np.stack([1 - chance, chance], axis=1), labels, np.arange(count))

    everybody = people(np.random.default_rng(0), 200_000)
    metrics = ("auroc", "auprc", "accuracy", "brier", "nll")
    truth = measure("nominal", everybody)
    held = dict.fromkeys(metrics, 0)
    for trial in range(100):
        units = people(np.random.default_rng(trial + 1), 120)
        card = score_card([[units]], "nominal", "ab", seed=trial, bootstrap=200)
        for name in metrics:
            held[name] += card.metrics[name].low <= truth[name][0] <= card.metrics[name].high
    assert min(held.values()) >= 85, held
    constant = [[units._replace(scores_NC=np.tile([0.8, 0.2], (120, 1)))]]
    accuracy = score_card(constant, "nominal", "ab", seed=0, bootstrap=200).metrics["accuracy"]
    assert accuracy.high - accuracy.low > 0.1


def test_a_better_candidate_is_told_from_a_worse_one_and_from_itself():
    rng = np.random.default_rng(8)
    runs = {
        "same": binary_runs(np.random.default_rng(9), rows=200),
        "random": binary_runs(np.random.default_rng(9), rows=200),
        "good": binary_runs(rng, rows=200, signal=2.0),
    }
    same, good = compare(runs, "nominal", reference="random", seed=0)
    assert (same.candidate, good.candidate) == ("same", "good")
    assert same.difference == (0.0, 0.0, 0.0)
    assert (same.p, same.p_delong) == (1.0, 1.0)
    assert good.difference.low > 0.2
    assert good.p == pytest.approx(2 / 1001)
    assert good.p_holm == pytest.approx(2 * good.p)
    assert good.p_delong < 1e-6
    assert (same.p_delong_holm, good.p_delong_holm) == (1.0, 2 * good.p_delong)
    assert json.loads(json.dumps(good.as_json()))["metric"] == "auroc"


def test_differences_of_equal_candidates_are_found_as_often_as_promised():
    rng = np.random.default_rng(10)
    found, agreement = [], []
    for trial in range(150):
        common = rng.normal(size=100)
        runs = {
            name: binary_runs(rng, common=common + rng.normal(size=100), signal=1.0)
            for name in "ab"
        }
        (one,) = compare(runs, "nominal", reference="a", seed=trial, bootstrap=199)
        found.append(one.p <= 0.05)
        agreement.append(abs(one.p - one.p_delong))
    assert 0.01 <= np.mean(found) <= 0.1
    assert np.mean(agreement) < 0.05


def test_candidates_with_other_numbers_of_seeds_compare():
    rng = np.random.default_rng(11)
    runs = {"three": binary_runs(rng, seeds=3, signal=2.0), "one": binary_runs(rng)}
    (found,) = compare(runs, "nominal", reference="one", seed=0, bootstrap=100)
    assert found.delong_seeds == 3
    assert found.p_delong < 1e-3
    assert found.difference.low > 0


def test_delong_of_several_seeds_is_that_of_their_mean_scores():
    rng = np.random.default_rng(14)
    runs = {name: binary_runs(rng, rows=60, seeds=3, signal=1.0) for name in "ab"}
    (found,) = compare(runs, "nominal", reference="a", seed=0, bootstrap=100)
    orders = {name: [np.argsort(one.groups_N) for (one,) in seeds] for name, seeds in runs.items()}
    means = {
        name: np.mean(
            [one.scores_NC[at, 1] for (one,), at in zip(seeds, orders[name], strict=True)], axis=0
        )
        for name, seeds in runs.items()
    }
    ((first,), *_), at = runs["a"], orders["a"][0]
    assert found.p_delong == delong_p(means["a"], means["b"], first.labels_N[at] == 1)
    assert found.delong_seeds == 3


def test_ensembles_that_are_equally_good_are_told_apart_as_often_as_promised():
    rng = np.random.default_rng(15)
    found = []
    for trial in range(150):
        labels = np.arange(80) % 2
        sick = labels + rng.normal(size=80)
        own = {name: sick + rng.normal(size=80) for name in "ab"}
        runs = {
            name: [[units_of(score + 0.5 * rng.normal(size=80), labels)] for _ in range(3)]
            for name, score in own.items()
        }
        (one,) = compare(runs, "nominal", reference="a", seed=trial, bootstrap=2)
        found.append(one.p_delong <= 0.05)
    assert 0.01 <= np.mean(found) <= 0.1


@pytest.mark.parametrize(
    ("shape", "why"),
    [
        ({"rows": 60}, ""),
        ({"rows": 60, "seeds": 2}, ""),
        ({"rows": 60, "rounds": 3}, ""),
        ({"rows": 9, "rounds": 3}, "two of either class in each round"),
    ],
)
def test_who_has_no_delong_is_told_why(shape, why):
    runs = {name: binary_runs(np.random.default_rng(13), **shape) for name in "ab"}
    (found,) = compare(runs, "nominal", reference="a", seed=0, bootstrap=100)
    assert (found.p_delong is None) == (found.p_delong_holm is None) == bool(why)
    assert why in found.no_delong
    assert bool(found.no_delong) == bool(why)


def test_who_is_tested_in_several_rounds_has_no_delong():
    rng = np.random.default_rng(16)
    runs = {name: [binary_runs(rng, rows=60)[0] * 2] for name in "ab"}
    (found,) = compare(runs, "nominal", reference="a", seed=0, bootstrap=100)
    assert found.p_delong is None
    assert "tested in several" in found.no_delong


def test_seeds_with_folds_of_their_own_have_no_delong():
    rng = np.random.default_rng(18)
    runs = {name: binary_runs(rng, rows=60, rounds=2, seeds=2) for name in "ab"}
    runs["b"][1].reverse()
    (found,) = compare(runs, "nominal", reference="a", seed=0, bootstrap=100)
    assert found.p_delong is None
    assert "folds of their own" in found.no_delong


def test_folds_that_are_equally_good_are_told_apart_as_often_as_promised():
    rng = np.random.default_rng(17)
    found = []
    for trial in range(150):
        common = rng.normal(size=150)
        runs = {
            name: binary_runs(rng, rows=150, rounds=5, common=common + rng.normal(size=150))
            for name in "ab"
        }
        (one,) = compare(runs, "nominal", reference="a", seed=trial, bootstrap=2)
        found.append(one.p_delong <= 0.05)
    assert 0.01 <= np.mean(found) <= 0.1


def test_what_rounds_to_nothing_has_no_minus():
    assert Interval(-1e-17, -2e-4, 0.5).text() == "0.000 (0.000 to 0.500)"
    assert Interval(-1e-17, -0.25, 0.5).text("+") == "+0.000 (-0.250 to +0.500)"


def test_what_cannot_be_scored_or_compared_is_refused():
    rng = np.random.default_rng(12)
    runs = {"a": binary_runs(rng, rows=40), "b": binary_runs(rng, rows=42)}
    with pytest.raises(ValueError, match="different participants"):
        compare(runs, "nominal", reference="a", seed=0)
    with pytest.raises(ValueError, match="must be one of a, b"):
        compare(runs, "nominal", reference="c", seed=0)
    with pytest.raises(ValueError, match="needs a seed"):
        score_card([], "nominal", "ab", seed=0)
    ((units,),) = runs["a"]
    for field, value, said in (
        ("labels_N", -units.labels_N, "leave unknown rows out"),
        ("scores_NC", units.scores_NC * np.nan, "must be finite"),
        ("groups_N", units.groups_N[1:], "differ in number"),
    ):
        with pytest.raises(ValueError, match=said):
            score_card([[units._replace(**{field: value})]], "nominal", "ab", seed=0)
    with pytest.raises(ValueError, match="must be 1 or more"):
        score_card(runs["a"], "nominal", "ab", seed=0, bootstrap=0)
    with pytest.raises(ValueError, match="2 columns"):
        score_card(runs["a"], "nominal", "abc", seed=0)
