"""Encoders side by side: what is compared with what, and what a row says."""

import json

import numpy as np
import pytest
from oct_vjepa.evaluation.encoders import ProbeConfig
from oct_vjepa.trials.comparison import COLUMNS, UNLABELLED, as_cells, as_json, compare_features

pytest.importorskip("sklearn")

PEOPLE = 120


def draw(signal, seed, width=4):
    """Two volumes of each of 120 participants; one direction tells the class."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(PEOPLE) % 2, 2)
    features = rng.normal(size=(2 * PEOPLE, width)).astype(np.float32)
    features[:, 0] += signal * labels
    return features


LABELS = np.repeat(np.arange(PEOPLE) % 2, 2)
PARTICIPANTS = np.repeat([f"p{number:03d}" for number in range(PEOPLE)], 2)
HELD_OUT = np.repeat(np.arange(PEOPLE) >= 60, 2)
FEATURES = {
    "trained": {"mean": draw(4.0, 0), "max": draw(0.0, 1)},
    "random": {"mean": draw(0.5, 2), "max": draw(0.0, 3)},
    "profile": {"": draw(1.0, 4)},
}


def compare(features=FEATURES, labels=LABELS, held_out=HELD_OUT, seed=0, **more):
    return compare_features(
        features, {"thin": labels, **more}, PARTICIPANTS, held_out, reference="random", seed=seed,
        bootstrap=200,
    )  # fmt: skip


@pytest.fixture(scope="module")
def rows():
    return compare()


def row_of(rows, name, pool):
    return next(row for row in rows if (row.features, row.pool) == (name, pool))


def test_every_kind_of_features_has_one_row_for_every_pool_in_the_order_given(rows):
    assert [(row.column, row.features, row.pool) for row in rows] == [
        ("thin", "trained", "mean"),
        ("thin", "trained", "max"),
        ("thin", "random", "mean"),
        ("thin", "random", "max"),
        ("thin", "profile", ""),
    ]


def test_the_gain_is_over_the_reference_with_the_same_pool_and_nothing_else_has_one(rows):
    trained, random = row_of(rows, "trained", "mean"), row_of(rows, "random", "mean")
    assert trained.gain.value == pytest.approx(trained.result.auroc - random.result.auroc)
    assert trained.gain.low > 0
    other = row_of(rows, "trained", "max")
    assert other.gain.low < 0 < other.gain.high
    assert random.gain is None
    assert row_of(rows, "profile", "").gain is None, "a baseline has no pool to share"


def test_the_unit_of_the_test_is_the_participant(rows):
    assert {row.result.participants_test for row in rows} == {60}


def test_volumes_without_a_label_take_no_part():
    some = LABELS.copy()
    some[-20:] = UNLABELLED
    (row,) = compare({"trained": {"mean": FEATURES["trained"]["mean"]}}, labels=some)
    assert row.result.participants_test == 50


def test_labels_of_several_columns_are_asked_one_after_the_other():
    swapped = 1 - LABELS
    rows = compare({"random": FEATURES["random"]}, other=swapped)
    assert [row.column for row in rows] == ["thin", "thin", "other", "other"]
    assert rows[0].result.auroc == pytest.approx(rows[2].result.auroc, abs=0.01)


def test_equal_seeds_give_equal_rows(rows):
    assert [as_json(row) for row in compare()] == [as_json(row) for row in rows]


def test_a_participant_on_both_sides_is_refused():
    torn = HELD_OUT.copy()
    torn[0] = True
    with pytest.raises(ValueError, match="both"):
        compare(held_out=torn)


def test_a_class_that_only_one_side_has_is_refused():
    with pytest.raises(ValueError, match="class"):
        compare(labels=np.where(HELD_OUT, 0, LABELS))


def test_cells_hold_each_value_with_its_interval_and_fit_the_headings(rows):
    cells = as_cells(rows)
    assert all(len(line) == len(COLUMNS) for line in cells)
    result = rows[0].result
    assert cells[0][:3] == ["thin", "trained", "mean"]
    assert cells[0][3] == f"{result.auroc:.3f} ({result.auroc_low:.3f} to {result.auroc_high:.3f})"
    assert cells[0][5].startswith("+")
    assert cells[-1][2] == "-"
    assert cells[-1][5] == ""


def test_a_row_as_json_holds_plain_values_only(rows):
    for row in rows:
        document = as_json(row)
        assert json.loads(json.dumps(document)) == document
        value, low, high = document["auroc"]
        assert 0 <= low <= value <= high <= 1
        assert (document["auroc_over_reference"] is None) == (row.gain is None)


def test_a_pool_that_does_not_exist_is_refused_with_those_that_do():
    with pytest.raises(ValueError, match=r"probe.pools \(median\) must be among .*mean_std"):
        ProbeConfig(pools=["mean", "median"])


def test_too_few_resamplings_for_an_interval_are_refused():
    with pytest.raises(ValueError, match=r"probe.bootstrap \(99\) must be at least 100"):
        ProbeConfig(bootstrap=99)


def test_two_configurations_do_not_share_their_lists():
    one, other = ProbeConfig(), ProbeConfig()
    one.columns.append("thin")
    one.pools.clear()
    assert other.columns == []
    assert other.pools
