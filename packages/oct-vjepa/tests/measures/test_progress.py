"""What is watched is what is reported: scikit-learn's numbers, by hand where it has none."""

import math

import numpy as np
import pytest
from oct_vjepa.measures.measure import HEADLINE, headline, measure
from oct_vjepa.measures.progress import WATCHED, watch_scores
from oct_vjepa.measures.target import KINDS, UNKNOWN, Target
from oct_vjepa.measures.units import Units

metrics = pytest.importorskip("sklearn.metrics")
ROWS = 40


def draw(kind, seed):
    """A question and scores with many ties; of some seeds a class, label or answer is absent."""
    rng = np.random.default_rng(seed)
    count = 2 + seed % 4
    names = tuple("abcde"[:count])
    if kind == "multilabel":
        values = rng.integers(UNKNOWN, 2, (ROWS, count))
        values[:, 0] = np.where(values[:, 0] == seed % 3, 1, values[:, 0])
        return Target(kind=kind, values=values, names=names), rng.random((ROWS, count)).round(1)
    if kind == "regression":
        values = rng.normal(60, 5, ROWS).round() if seed % 3 else np.full(ROWS, 0.1)
        scores = (values + rng.normal(size=ROWS)).round(1)
        return Target(kind=kind, values=values, names=("um",)), scores[:, None]
    if kind == "survival":
        values = np.stack([rng.integers(1, 9, ROWS), rng.integers(0, 2, ROWS)], axis=1)
        risk = (rng.normal(size=ROWS) - 0.3 * values[:, 0]).round()
        target = Target(kind=kind, values=values.astype(float) * [1, seed > 0], names=("years",))
        return target, risk[:, None]
    there = rng.choice(count, max(1, count - seed % 3), replace=False)
    labels = rng.choice(there, ROWS)
    raised = rng.normal(size=(ROWS, count)).round() + np.eye(count)[labels]
    if seed % 2:
        raised[:, np.setdiff1d(range(count), there)] = -50.0  # absent, and nobody says it
    powers = np.exp(raised)
    scores = powers / powers.sum(axis=1, keepdims=True)
    return Target(kind=kind, values=labels, names=names), scores


def mean(values):
    known = [one for one in values if not math.isnan(one)]
    return np.mean(known) if known else math.nan


def area(positive, score):
    return metrics.roc_auc_score(positive, score) if 0 < positive.sum() < ROWS else math.nan


def of_classes(target, scores):
    labels, called, every = target.values, scores.argmax(axis=1), list(range(len(target.names)))
    asked = every[1:] if len(every) == 2 else every
    f1s = metrics.f1_score(labels, called, labels=every, average=None, zero_division=0)
    return {
        "auroc": mean([area(labels == one, scores[:, one]) for one in asked]),
        "balanced_accuracy": metrics.balanced_accuracy_score(labels, called),
        "macro_f1": f1s.mean(),
        "accuracy": metrics.accuracy_score(labels, called),
        "log_loss": metrics.log_loss(labels, scores, labels=every),
    }


def of_labels(target, scores):
    columns = []
    for label, score in zip(target.values.T, scores.T, strict=True):
        true, chance = label[label != UNKNOWN], score[label != UNKNOWN]
        columns.append(
            {
                "auroc": metrics.roc_auc_score(true, chance)
                if 0 < true.sum() < len(true)
                else math.nan,
                "balanced_accuracy": metrics.balanced_accuracy_score(true, chance > 0.5),
                "log_loss": metrics.log_loss(true, chance, labels=[0, 1]),
            }
        )
    return {name: mean([one[name] for one in columns]) for name in columns[0]}


def of_quantity(target, scores):
    constant = len(np.unique(target.values)) == 1
    return {
        "r2": math.nan if constant else metrics.r2_score(target.values, scores[:, 0]),
        "mae": metrics.mean_absolute_error(target.values, scores[:, 0]),
        "rmse": metrics.root_mean_squared_error(target.values, scores[:, 0]),
    }


def of_time(target, scores):
    won = pairs = 0.0
    for (time, event), risk in zip(target.values, scores[:, 0], strict=True):
        for (later, ended), other in zip(target.values, scores[:, 0], strict=True):
            if event and (time < later or (time == later and not ended)):
                pairs += 1
                won += (risk > other) + 0.5 * (risk == other)
    return {"concordance": won / pairs if pairs else math.nan}


EXPECTED = {
    "nominal": of_classes,
    "ordinal": of_classes,
    "multilabel": of_labels,
    "regression": of_quantity,
    "survival": of_time,
}


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.filterwarnings("ignore:A single label was found")
@pytest.mark.parametrize("kind", KINDS)
def test_watched_numbers_are_those_of_scikit_learn_and_those_reported(kind):
    for seed in range(12):
        target, scores = draw(kind, seed)
        found = watch_scores(scores, target)
        assert found.keys() == WATCHED[kind].keys()
        expected = EXPECTED[kind](target, scores)
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-12, nan_ok=True), (seed, kind)
        units = Units(scores, target.values, np.arange(ROWS))
        reported = {name: measure(kind, units)[one][0] for name, one in WATCHED[kind].items()}
        assert found == pytest.approx(reported, rel=0, abs=0, nan_ok=True)
        first = headline(kind, units)[0]
        assert first == pytest.approx(found[HEADLINE[kind]], rel=0, abs=0, nan_ok=True)


def test_an_event_comes_before_an_end_of_observation_at_the_same_time():
    values = np.array([[2.0, 1], [2.0, 0], [2.0, 0], [3.0, 1]])
    target = Target(kind="survival", values=values, names=("years",))
    found = watch_scores(np.array([[4.0], [9.0], [4.0], [1.0]]), target)
    assert found["concordance"] == (0 + 0.5 + 1) / 3


def test_rows_of_one_answer_only_have_no_area_and_no_share_of_variance():
    alike = Target(kind="regression", values=np.full(60, 0.1), names=("um",))
    assert math.isnan(watch_scores(np.ones((60, 1)), alike)["r2"])
    one = Target(kind="nominal", values=np.ones(5, int), names=("a", "b", "c"))
    found = watch_scores(np.tile([0.2, 0.5, 0.3], (5, 1)), one)
    assert math.isnan(found["auroc"])
    assert found["balanced_accuracy"] == found["accuracy"] == 1.0
