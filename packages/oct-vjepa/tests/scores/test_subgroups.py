"""Values of a column that are served worse show; small ones say that they are."""

import json

import numpy as np
import pytest
from oct_vjepa.measures.units import Units
from oct_vjepa.scores.measured import Measured, measure_card
from oct_vjepa.scores.scorecard import score_card
from oct_vjepa.scores.subgroups import subgroup_means, subgroup_table
from oct_vjepa.trials.verdict import cut_numbers


def runs_of(seed, signal_N, *, seeds=2):
    """Two classes; how well each participant is recognised is `signal_N`."""
    rng = np.random.default_rng(seed)
    labels = np.arange(len(signal_N)) % 2
    runs = []
    for _ in range(seeds):
        chance = 1 / (1 + np.exp(-rng.normal(size=len(labels)) - signal_N * (labels - 0.5)))
        scores = np.stack([1 - chance, chance], axis=1)
        runs.append([Units(scores, labels, np.arange(len(labels)))])
    return runs


def table(runs, values, **options):
    arguments = {"column": "site", "seed": 0, "bootstrap": 200} | options
    return subgroup_table(runs, "nominal", ["healthy", "sick"], values, **arguments)


def test_a_value_that_is_served_worse_makes_a_gap():
    values = np.repeat(["north", "south", ""], [150, 150, 20])
    signal = np.where(values == "south", 0.3, 3.0)
    found = table(runs_of(0, signal), values)
    assert [(one.value, one.participants, one.note) for one in found.rows] == [
        ("north", 150, ""),
        ("south", 150, ""),
    ]
    north, south = (one.metrics["auroc"] for one in found.rows)
    assert north.low > south.high
    assert found.gaps["auroc"].value == pytest.approx(north.value - south.value)
    assert found.gaps["auroc"].low > 0.1


def test_ranges_of_numbers_stand_from_low_to_high_and_have_round_ends():
    ages = np.linspace(40.123, 90.456, 60)
    values = cut_numbers(np.array([*(f"{age:.4f}" for age in ages), "several"]))
    found = table(runs_of(0, np.full(61, 2.0)), values)
    ends = ["below 56.9", "56.9 to 73.7", "73.7 and more", "several"]
    assert [one.value for one in found.rows] == ends
    assert [one.participants for one in found.rows[:3]] == [20, 20, 20]
    assert set(values[:20]) == {"below 56.9"}
    values = np.repeat(["10", "9", "9.5"], 20)
    found = table(runs_of(0, np.full(60, 2.0)), values)
    assert [one.value for one in found.rows] == ["9", "9.5", "10"]


def test_choices_are_those_of_the_scores_that_are_made_for_them():
    """Few are ill, and nobody is likely to be; where classes weigh alike some are called so."""
    values = np.repeat(["north", "south"], 60)
    runs = runs_of(3, np.full(120, 2.0), seeds=1)
    ((even,),) = runs
    odds = even.scores_NC * [1, 0.02]
    rare = [[even._replace(scores_NC=odds / odds.sum(axis=1, keepdims=True))]]
    found, likely, choices = (
        table(some, values, **more).rows[0].metrics
        for some, more in ((rare, {"decided": runs}), (rare, {}), (runs, {}))
    )
    assert found["sensitivity"] == choices["sensitivity"]
    assert found["sensitivity"].value > 0.5 > 0.1 > likely["sensitivity"].value
    assert (found["ece"], found["auroc"]) == (likely["ece"], likely["auroc"])


def test_a_value_alone_has_the_card_of_its_participants():
    values = np.repeat(["north", "south"], [60, 40])
    runs = runs_of(1, np.full(100, 2.0))
    found = table(runs, values).rows[0]
    inside = [[Units(*(side[:60] for side in rounds[0]))] for rounds in runs]
    card = score_card(inside, "nominal", ["healthy", "sick"], seed=0, bootstrap=5)
    for name, interval in found.metrics.items():
        assert interval.value == pytest.approx(card.metrics[name].value)


def test_small_values_and_those_of_one_class_say_so_and_make_no_gap():
    values = np.array(["many"] * 40 + ["few"] * 9 + ["alone"] * 30)
    runs = runs_of(2, np.full(len(values), 1.0))
    for rounds in runs:
        labels = np.where(values == "alone", 1, rounds[0].labels_N)
        rounds[0] = rounds[0]._replace(labels_N=labels)
    found = table(runs, values)
    assert {one.value: one.note for one in found.rows} == {
        "alone": "all are sick",
        "few": "fewer than 10 participants",
        "many": "",
    }
    assert found.gaps == {}
    assert found.rows[0].metrics["auroc"].text() == "-"
    json.dumps(found.as_json(), allow_nan=False)
    assert list(found.rows[0].metrics) == ["auroc", "sensitivity", "specificity", "ece"]


def test_equal_service_has_no_more_gap_than_luck():
    values = np.tile(["a", "a", "b", "b"], 75)
    lows = [
        table(runs_of(seed, np.full(300, 1.5), seeds=1), values).gaps["auroc"].low
        for seed in range(3, 13)
    ]
    assert np.mean(np.array(lows) < 0.02) >= 0.9


@pytest.mark.parametrize("kind", ["regression", "survival"])
def test_quantities_and_times_have_their_own_metrics(kind):
    rng = np.random.default_rng(4)
    answers = (
        rng.normal(size=60)
        if kind == "regression"
        else np.stack([rng.exponential(size=60), np.ones(60)], axis=1)
    )
    runs = [[Units(rng.normal(size=(60, 1)), answers, np.arange(60))]]
    values = np.repeat(["a", "b"], 30)
    found = subgroup_table(runs, kind, ["x"], values, column="sex", seed=0, bootstrap=50)
    assert list(found.gaps) == {"regression": ["r2", "mae"], "survival": ["concordance"]}[kind]
    with pytest.raises(ValueError, match="sex has 10 values"):
        subgroup_table(runs, kind, ["x"], values[:10], column="sex", seed=0)


def test_what_is_measured_on_volumes_has_subgroups_too():
    rng = np.random.default_rng(0)
    site = np.repeat(["north", "south", "west", ""], [40, 40, 4, 6])
    people = np.arange(len(site))
    dice = np.where(site == "south", 0.5, 0.9) + rng.normal(0, 0.02, len(site))
    dice[:3] = np.nan
    distance = np.where(site == "south", np.nan, 7.0)
    readings = [[Measured(np.stack([dice, distance], axis=1), people)] for _ in range(2)]
    names = ["dice", "distance"]
    settings = {"seed": 0, "bootstrap": 200}
    found = subgroup_means(readings, names, site, shown=["dice"], column="site", **settings)
    told = {one.value: (one.participants, one.note) for one in found.rows}
    few = "fewer than 10 participants"
    assert told == {"north": (40, ""), "south": (40, ""), "west": (4, few)}
    north, south, _ = (one.metrics["dice"] for one in found.rows)
    assert found.gaps["dice"].value == pytest.approx(north.value - south.value)
    assert found.gaps["dice"].low > 0.35, "those of the west take no part"
    alone = [[Measured(readings[0][0].values_NM[:40], people[:40])] for _ in range(2)]
    assert north.value == pytest.approx(measure_card(alone, names, **settings)["dice"].value)

    found = subgroup_means(readings, names, site, shown=["distance"], column="site", **settings)
    assert found.rows[1].note == "distance cannot be measured"
    assert not found.gaps
    with pytest.raises(ValueError, match="site has 5 values, participants go to 89"):
        subgroup_means(readings, names, site[:5], shown=names, column="site", **settings)
