"""Numbers for the training log, against scikit-learn and by hand."""

import math

import numpy as np
import pytest
from oct_vjepa.measures.measure import HEADLINE
from oct_vjepa.measures.progress import WATCHED, concordance, watch_scores
from oct_vjepa.measures.target import KINDS, Target
from sklearn.metrics import balanced_accuracy_score, f1_score, log_loss, r2_score, roc_auc_score


@pytest.fixture
def rows():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 60)
    chances = generator.dirichlet(np.ones(3), 60).round(1) + 0.05
    chances[np.arange(60), labels] += 0.3
    return chances / chances.sum(axis=1, keepdims=True), labels


def test_every_kind_has_a_headline_that_is_among_its_numbers():
    targets = {
        "nominal": (np.array([0, 1, 0, 1]), ("a", "b"), np.array([[0.9, 0.1], [0.2, 0.8]] * 2)),
        "multilabel": (np.array([[0, 1], [1, -1]] * 2), ("a", "b"), np.full((4, 2), 0.4)),
        "regression": (np.arange(4.0), ("x",), np.ones((4, 1))),
        "survival": (np.array([[1.0, 1], [2, 0], [3, 1], [4, 0]]), ("x",), np.ones((4, 1))),
    }
    targets["ordinal"] = targets["nominal"]
    assert HEADLINE.keys() == set(KINDS)
    for kind, (values, names, scores) in targets.items():
        found = watch_scores(scores, Target(kind=kind, values=values, names=names))
        assert HEADLINE[kind] in found
        assert set(WATCHED[kind]) == set(found)


def test_numbers_of_classes_are_those_of_scikit_learn(rows):
    chances, labels = rows
    found = watch_scores(chances, Target(kind="nominal", values=labels, names=("a", "b", "c")))
    chosen = chances.argmax(axis=1)
    assert found["auroc"] == pytest.approx(roc_auc_score(labels, chances, multi_class="ovr"))
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, chosen))
    assert found["macro_f1"] == pytest.approx(f1_score(labels, chosen, average="macro"))
    assert found["log_loss"] == pytest.approx(log_loss(labels, chances))


def test_a_class_that_is_not_there_is_left_out_and_moves_no_other(rows):
    chances, labels = rows
    names = ("a", "b", "c", "d")
    more = np.c_[chances[:, :2], np.zeros(60), chances[:, 2]]
    moved = np.where(labels == 2, 3, labels)
    one = watch_scores(chances, Target(kind="nominal", values=labels, names=names[:3]))
    other = watch_scores(more, Target(kind="nominal", values=moved, names=names))
    assert one == pytest.approx(other)


def test_unknown_labels_are_left_out_of_each_label():
    labels = np.array([[0, 1], [1, -1], [1, 0], [0, -1]])
    chances = np.array([[0.1, 0.7], [0.9, 0.0], [0.4, 0.2], [0.5, 1.0]])
    found = watch_scores(chances, Target(kind="multilabel", values=labels, names=("a", "b")))
    assert found["auroc"] == pytest.approx((0.75 + 1.0) / 2)
    assert found["balanced_accuracy"] == pytest.approx((0.75 + 1.0) / 2)


def test_a_quantity_is_scored_in_its_unit():
    values = np.array([1.0, 2.0, 4.0])
    said = np.array([[1.5], [2.0], [3.0]])
    found = watch_scores(said, Target(kind="regression", values=values, names=("um",)))
    assert found["r2"] == pytest.approx(r2_score(values, said[:, 0]))
    assert found["mae"] == pytest.approx(0.5)


def test_concordance_counts_comparable_pairs_and_ties_half():
    values = np.array([[1.0, 1], [2.0, 0], [3.0, 1], [4.0, 0]])
    assert concordance(np.array([4.0, 3.0, 2.0, 1.0]), values) == 1.0
    assert concordance(np.array([1.0, 2.0, 3.0, 4.0]), values) == 0.0
    assert concordance(np.zeros(4), values) == 0.5
    assert concordance(np.array([4.0, 9.0, 2.0, 1.0]), values) == 3 / 4
    assert math.isnan(concordance(np.ones(2), np.array([[1.0, 0], [2.0, 0]])))
