"""Curves pass through scikit-learn's points, bands hold them, benefits are counted by hand."""

import json

import numpy as np
import pytest
from oct_vjepa.measures.units import Units
from oct_vjepa.scores.curves import LABELS, draw_curves

metrics = pytest.importorskip("sklearn.metrics")


def runs_of(seed, rows=200, rounds=1):
    rng = np.random.default_rng(seed)
    labels = np.arange(rows) // rounds % 2
    chance = (1 / (1 + np.exp(-rng.normal(size=rows) - 2 * labels + 1))).round(2)
    parts = [np.arange(rows) % rounds == one for one in range(rounds)]
    scores = np.stack([1 - chance, chance], axis=1)
    return [[Units(scores[one], labels[one], np.flatnonzero(one)) for one in parts]]


def test_roc_and_precision_are_scikit_learns_where_it_has_points():
    runs = runs_of(0)
    ((units,),) = runs
    curves = draw_curves(runs, "nominal", 1, seed=0, bootstrap=20)
    chance = units.scores_NC[:, 1]
    false, found, _ = metrics.roc_curve(units.labels_N, chance, drop_intermediate=False)
    for at, height in zip(curves["roc"].x, curves["roc"].y, strict=True):
        exact = found[np.isclose(false, at)]
        if len(exact):
            assert height == pytest.approx(exact.max())
    precision, recall, _ = metrics.precision_recall_curve(units.labels_N, chance)
    at = np.asarray(curves["precision"].x)
    for place in np.flatnonzero(at > 0):
        enough = np.flatnonzero(recall >= at[place] - 1e-12)[-1]
        assert curves["precision"].y[place] == pytest.approx(precision[enough])


def test_benefits_and_calibration_are_counted_by_hand():
    chance = np.array([0.2, 0.45, 0.65, 0.9])
    labels = np.array([0, 1, 0, 1])
    runs = [[Units(np.stack([1 - chance, chance], axis=1), labels, np.arange(4))]]
    curves = draw_curves(runs, "nominal", 1, seed=0, bootstrap=5)
    benefit = dict(zip(np.round(curves["benefit"].x, 2), curves["benefit"].y, strict=True))
    assert benefit[0.5] == pytest.approx(1 / 4 - 1 / 4)
    assert benefit[0.4] == pytest.approx(2 / 4 - 1 / 4 * 0.4 / 0.6)
    assert benefit[0.99] == 0.0
    assert curves["benefit_all"].y[49] == pytest.approx(0.0)
    bins = curves["calibration"]
    assert [bins.y[one] for one in (1, 4, 6, 8)] == [0.0, 1.0, 0.0, 1.0]
    np.testing.assert_allclose([bins.x[one] for one in (1, 4, 6, 8)], chance)


def test_bands_hold_their_curve_and_curves_are_the_mean_of_rounds():
    runs = runs_of(1, rounds=2)
    curves = draw_curves(runs, "nominal", 1, seed=0)
    assert list(curves) == list(LABELS)
    alone = [draw_curves([[one]], "nominal", 1, seed=0, bootstrap=5) for one in runs[0]]
    np.testing.assert_allclose(curves["roc"].y, np.mean([one["roc"].y for one in alone], axis=0))
    roc = curves["roc"]
    low, y, high = (np.asarray(side) for side in (roc.low, roc.y, roc.high))
    inside = (low <= y) & (y <= high)
    assert inside.mean() > 0.95
    assert (high - low).max() < 0.55
    json.dumps(curves["calibration"].as_json(), allow_nan=False)


def test_a_label_has_the_curve_of_its_known_rows():
    ((units,),) = runs_of(2)
    answers = np.stack([units.labels_N, np.full(len(units.labels_N), -1)], axis=1)
    answers[:50, 0] = -1
    labels = Units(np.repeat(units.scores_NC[:, 1:], 2, axis=1), answers, units.groups_N)
    known = Units(*(side[50:] for side in units))
    found = draw_curves([[labels]], "multilabel", 0, seed=0, bootstrap=5)
    expected = draw_curves([[known]], "nominal", 1, seed=0, bootstrap=5)
    assert found["roc"].y == expected["roc"].y
    everybody = draw_curves(
        [[Units(labels.scores_NC[:, :1], answers[:, :1], units.groups_N)]],
        "multilabel",
        0,
        seed=0,
        bootstrap=20,
    )["benefit_all"]  # it hangs on how many are sick alone, who are more or fewer in each sample
    assert (np.less(everybody.low, everybody.y) & np.less(everybody.y, everybody.high)).all()
    nobody = draw_curves([[labels]], "multilabel", 1, seed=0, bootstrap=5)
    assert set(nobody["roc"].as_json()["y"]) == {None}
    with pytest.raises(ValueError, match="not of a survival"):
        draw_curves([[labels]], "survival", 0, seed=0)
