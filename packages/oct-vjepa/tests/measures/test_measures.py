"""Each metric is scikit-learn's, weight by weight; what cannot be measured is left out."""

import numpy as np
import pytest
from oct_vjepa.measures.measure import BY_CLASS, find_thresholds, headline, measure
from oct_vjepa.measures.target import Target
from oct_vjepa.measures.units import Units, aggregate_units

metrics = pytest.importorskip("sklearn.metrics")
NAN = np.nan


def draw_classes(seed, rows, classes, *, absent=()):
    """Probabilities with some signal and ties, labels without `absent`, and three weightings."""
    rng = np.random.default_rng(seed)
    labels = rng.choice([one for one in range(classes) if one not in absent], rows)
    raised = rng.normal(size=(rows, classes)) + 1.5 * np.eye(classes)[labels]
    scores = np.exp(raised.round(1))
    scores /= scores.sum(axis=1, keepdims=True)
    return Units(scores, labels, np.arange(rows)), rng.integers(0, 4, (3, rows)).astype(float)


def equal(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("classes", "absent"), [(2, ()), (3, ()), (5, ()), (4, (2,)), (5, (0, 3))])
def test_decisions_are_scikit_learns_with_weights_and_absent_classes(classes, absent):
    units, weights = draw_classes(classes, 80, classes, absent=absent)
    found = measure("ordinal", units, weights)
    called = units.scores_NC.argmax(axis=1)
    every = list(range(classes))
    for row, weight in enumerate(weights):
        sides = {"y_true": units.labels_N, "y_pred": called, "sample_weight": weight}
        f1 = {**sides, "labels": every, "zero_division": 0}
        equal(found["f1_macro"][row], metrics.f1_score(**f1, average="macro"))
        equal(found["f1_weighted"][row], metrics.f1_score(**f1, average="weighted"))
        equal(found["f1" + BY_CLASS][row], metrics.f1_score(**f1, average=None))
        recall = metrics.recall_score(**{**f1, "zero_division": NAN}, average=None)
        equal(found["sensitivity" + BY_CLASS][row], recall)
        equal(found["accuracy"][row], metrics.accuracy_score(**sides))
        equal(
            found["quadratic_kappa"][row],
            metrics.cohen_kappa_score(
                units.labels_N, called, labels=every, weights="quadratic", sample_weight=weight
            ),
        )
        for one in every:
            rest = metrics.recall_score(
                units.labels_N != one, called != one, sample_weight=weight, zero_division=NAN
            )
            equal(found["specificity" + BY_CLASS][row, one], rest)


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("absent", [(), (2,)])
def test_balanced_accuracy_leaves_absent_classes_out_as_scikit_learn_does(absent):
    units, weights = draw_classes(1, 60, 4, absent=absent)
    called = units.scores_NC.argmax(axis=1)
    expected = [
        metrics.balanced_accuracy_score(units.labels_N, called, sample_weight=weight)
        for weight in weights
    ]
    equal(measure("nominal", units, weights)["balanced_accuracy"], expected)


@pytest.mark.parametrize("absent", [(), (1,)])
def test_areas_are_scikit_learns_and_macro_means_leave_absent_classes_out(absent):
    units, weights = draw_classes(2, 70, 4, absent=absent)
    found = measure("nominal", units, weights)
    there = [one for one in range(4) if one not in absent]
    for name, function in (
        ("auroc", metrics.roc_auc_score),
        ("auprc", metrics.average_precision_score),
    ):
        for row, weight in enumerate(weights):
            expected = [
                function(units.labels_N == one, units.scores_NC[:, one], sample_weight=weight)
                for one in there
            ]
            equal(found[name + BY_CLASS][row, there], expected)
            equal(found[name][row], np.mean(expected))
        assert np.isnan(found[name + BY_CLASS][:, list(absent)]).all()
    equal(headline("nominal", units, weights), found["auroc"])


def test_of_two_classes_the_second_is_the_one_to_find():
    units, weights = draw_classes(3, 50, 2)
    found = measure("nominal", units, weights)
    for row, weight in enumerate(weights):
        score = units.scores_NC[:, 1]
        equal(
            found["auprc"][row],
            metrics.average_precision_score(units.labels_N, score, sample_weight=weight),
        )
        equal(
            found["sensitivity"][row],
            metrics.recall_score(units.labels_N, score > 0.5, sample_weight=weight),
        )


@pytest.mark.parametrize("classes", [2, 4])
def test_brier_and_log_loss_are_scikit_learns(classes):
    units, weights = draw_classes(4, 60, classes)
    found = measure("nominal", units, weights)
    every = list(range(classes))
    for row, weight in enumerate(weights):
        scores = units.scores_NC[:, 1] if classes == 2 else units.scores_NC
        options = {"labels": every, "sample_weight": weight}
        equal(found["brier"][row], metrics.brier_score_loss(units.labels_N, scores, **options))
        equal(found["nll"][row], metrics.log_loss(units.labels_N, units.scores_NC, **options))


def test_calibration_error_is_the_gap_of_each_bin_weighed_by_its_rows():
    top = np.array([0.55, 0.58, 0.95, 0.95, 0.95, 2 / 3])
    right = np.array([1, 0, 1, 1, 0, 1])
    units = Units(np.stack([1 - top, top], axis=1), right, np.arange(6))
    expected = (abs(1.13 - 1) + abs(3 * 0.95 - 2) + abs(2 / 3 - 1)) / 6  # 2/3 ends the tenth bin
    equal(measure("nominal", units)["ece"], [expected])
    twice = np.array([[2.0, 2, 2, 2, 2, 2], [0, 0, 1, 1, 1, 0]])
    equal(measure("nominal", units, twice)["ece"], [expected, abs(3 * 0.95 - 2) / 3])


def brute_sensitivity(positive, score, weight, specificity):
    best = 0.0
    for threshold in [*score, np.inf]:
        called = score >= threshold
        kept = weight[~positive & ~called].sum() / weight[~positive].sum()
        if kept >= specificity - 1e-9:
            best = max(best, weight[positive & called].sum() / weight[positive].sum())
    return best


@pytest.mark.parametrize("specificity", [0.8, 0.9, 1.0])
def test_sensitivity_at_a_specificity_tries_every_threshold(specificity):
    units, weights = draw_classes(5, 60, 3)
    found = measure("nominal", units, weights, specificity=specificity)
    expected = [
        [
            brute_sensitivity(units.labels_N == one, units.scores_NC[:, one], weight, specificity)
            for one in range(3)
        ]
        for weight in weights
    ]
    equal(found["sensitivity_at_specificity" + BY_CLASS], expected)


def test_a_threshold_from_validation_is_kept_and_its_specificity_told():
    validation, _ = draw_classes(6, 200, 2)
    units, weights = draw_classes(7, 90, 2)
    thresholds = find_thresholds("nominal", validation)
    reached = measure("nominal", validation, thresholds_C=thresholds)["specificity_reached"][0]
    assert 0.9 <= reached < 0.93
    found = measure("nominal", units, weights, thresholds_C=thresholds)
    called = units.scores_NC[:, 1] >= thresholds[1]
    for row, weight in enumerate(weights):
        options = {"sample_weight": weight}
        equal(
            found["sensitivity_at_specificity"][row],
            metrics.recall_score(units.labels_N, called, **options),
        )
        equal(
            found["specificity_reached"][row],
            metrics.recall_score(units.labels_N == 0, ~called, **options),
        )


def test_several_labels_are_measured_where_they_are_known():
    rng = np.random.default_rng(8)
    answers = rng.integers(-1, 2, (90, 3))
    answers[:, 2] = np.where(answers[:, 2] == 1, -1, answers[:, 2])  # nobody has the third
    scores = rng.random((90, 3))
    units = Units(scores, answers, np.arange(90))
    weights = rng.integers(0, 3, (2, 90)).astype(float)
    found = measure("multilabel", units, weights)
    for row, weight in enumerate(weights):
        areas, f1 = [], []
        for one in range(3):
            known = answers[:, one] >= 0
            sides = (answers[known, one], scores[known, one])
            options = {"sample_weight": weight[known]}
            called = (sides[1] > 0.5).astype(int)
            f1.append(metrics.f1_score(sides[0], called, zero_division=0, **options))
            if one < 2:
                areas.append(metrics.roc_auc_score(*sides, **options))
        equal(found["auroc" + BY_CLASS][row], [*areas, NAN])
        equal(found["auroc"][row], np.mean(areas))
        equal(found["f1" + BY_CLASS][row], f1)
        equal(headline("multilabel", units, weights)[row], np.mean(areas))
    nobody = Units(scores, np.full((90, 3), -1), np.arange(90))
    assert np.isnan(measure("multilabel", nobody)["auroc"]).all()


def test_errors_of_a_quantity_are_scikit_learns():
    rng = np.random.default_rng(9)
    true = 60 + rng.normal(size=80)
    predicted = true + rng.normal(size=80)
    weights = rng.integers(0, 4, (3, 80)).astype(float)
    found = measure("regression", Units(predicted[:, None], true, np.arange(80)), weights)
    for row, weight in enumerate(weights):
        options = {"sample_weight": weight}
        equal(found["mae"][row], metrics.mean_absolute_error(true, predicted, **options))
        equal(found["rmse"][row], metrics.root_mean_squared_error(true, predicted, **options))
        equal(found["r2"][row], metrics.r2_score(true, predicted, **options))
        repeated = np.repeat(np.arange(80), weight.astype(int))
        expected = np.corrcoef(true[repeated], predicted[repeated])[0, 1]
        equal(found["pearson"][row], expected)
    constant = measure("regression", Units(predicted[:, None], np.full(80, 0.1), np.arange(80)))
    assert np.isnan([constant["r2"][0], constant["pearson"][0]]).all()


def brute_concordance(risk, outcome, weight):
    won = pairs = 0.0
    for i, (time, event) in enumerate(outcome):
        for j, (later, ended) in enumerate(outcome):
            if event and (time < later or (time == later and not ended)):
                pairs += weight[i] * weight[j]
                won += weight[i] * weight[j] * ((risk[i] > risk[j]) + 0.5 * (risk[i] == risk[j]))
    return won / pairs


def test_concordance_compares_every_pair_that_can_be_ordered():
    rng = np.random.default_rng(10)
    outcome = np.stack([rng.integers(1, 8, 40), rng.integers(0, 2, 40)], axis=1).astype(float)
    risk = (rng.normal(size=40) - 0.3 * outcome[:, 0]).round(1)
    weights = np.concatenate([np.ones((1, 40)), rng.integers(0, 3, (2, 40))])
    found = headline("survival", Units(risk[:, None], outcome, np.arange(40)), weights)
    equal(found, [brute_concordance(risk, outcome, weight) for weight in weights])
    assert found[0] > 0.6
    unended = Units(risk[:, None], outcome * [1, 0], np.arange(40))
    assert np.isnan(headline("survival", unended)).all()


def test_aggregating_keeps_numbers_of_participants_and_a_row_for_each_answer():
    target = Target(kind="nominal", values=np.array([0, 0, 1, -1, 1]), names=("a", "b"))
    chance = np.array([0.2, 0.4, 0.9, 0.5, 0.7])
    scores = np.stack([1 - chance, chance], axis=1)
    groups = np.array([7, 7, 7, 3, 5])
    units = aggregate_units(scores, target, groups)
    assert (units.groups_N.tolist(), units.labels_N.tolist()) == ([5, 7, 7], [1, 0, 1])
    equal(units.scores_NC[:, 1], [0.7, 0.3, 0.9])
    equal(aggregate_units(scores, target, groups, how="max").scores_NC[:, 1], [0.7, 0.4, 0.9])


def test_the_highest_of_several_volumes_is_that_of_each_label_or_of_the_furthest_step():
    groups = np.array([0, 0])
    steps = Target(kind="ordinal", values=np.array([2, 2]), names=("a", "b", "c"))
    scores = np.array([[0.5, 0.1, 0.4], [0.2, 0.7, 0.1]])  # expected steps 0.9 in both: 0.9, 0.9
    scores[1] = [0.1, 0.7, 0.2]
    assert aggregate_units(scores, steps, groups, how="max").scores_NC.tolist() == [
        scores[1].tolist()
    ]
    labels = Target(kind="multilabel", values=np.ones((2, 3), int), names=("a", "b", "c"))
    equal(aggregate_units(scores, labels, groups, how="max").scores_NC, [[0.5, 0.7, 0.4]])
    classes = Target(kind="nominal", values=np.array([0, 0]), names=("a", "b", "c"))
    equal(aggregate_units(scores, classes, groups, how="max").scores_NC, [[5 / 16, 7 / 16, 4 / 16]])


@pytest.mark.parametrize(
    ("groups", "how", "said"),
    [
        (np.array(["x", "y"]), "mean", "whole numbers"),
        (np.array([0, 1]), "median", "one of mean, max"),
        (np.array([0]), "mean", "differ in number"),
    ],
)
def test_what_cannot_be_aggregated_is_refused(groups, how, said):
    target = Target(kind="nominal", values=np.array([0, 1]), names=("a", "b"))
    with pytest.raises(ValueError, match=said):
        aggregate_units(np.full((2, 2), 0.5), target, groups, how=how)
