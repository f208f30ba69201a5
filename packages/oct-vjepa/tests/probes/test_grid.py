"""Probes fitted together: equal to single fits, chosen on validation, blind to the test rows."""

import numpy as np
import pytest
import torch
from oct_vjepa.measures.measure import measure
from oct_vjepa.measures.target import Target
from oct_vjepa.measures.units import Units
from oct_vjepa.probes.answers import answers_of, scores_from, shift_priors, weights_of
from oct_vjepa.probes.candidates import Question, fit_linear
from oct_vjepa.probes.choice import Validation, best_of, headline, validate_all
from oct_vjepa.probes.configuration import GridConfig
from oct_vjepa.probes.descent import hazard_loss, principal_axes
from oct_vjepa.probes.fitted import FittedProbe
from oct_vjepa.probes.grid import fit_grid, inner_rounds
from oct_vjepa.probes.hidden import Rows, Training, losses_of, run_layers, train_layers
from oct_vjepa.probes.neighbours import neighbour_votes
from oct_vjepa.probes.protocol import Round, make_rounds

linear_model = pytest.importorskip("sklearn.linear_model")
STRENGTHS = GridConfig().strengths
SMALL = GridConfig(widths=(8, 16), epochs=40, learning_rates=(3e-3, 1e-2), batch_size=32)


def draw(kind, rows=240, width=12, seed=0):
    """Features that know the answer in part, and the answers of this kind."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, width)) @ rng.normal(size=(width, width)) + 3
    hidden = (x[:, :4] - x[:, :4].mean(0)) / x[:, :4].std(0)
    noise = rng.normal(size=(rows, 4))
    quantity = hidden[:, 0] + hidden[:, 1] + noise[:, 0]
    names = tuple("abcd")
    if kind == "nominal":
        return x, Target(kind=kind, values=(hidden + noise).argmax(1), names=names)
    if kind == "ordinal":
        cut = np.searchsorted(np.quantile(quantity, [0.4, 0.7, 0.9]), quantity)
        return x, Target(kind=kind, values=cut, names=names)
    if kind == "multilabel":
        values = np.where(rng.random((rows, 4)) < 0.1, -1, (hidden + noise > 0.8) * 1)
        return x, Target(kind=kind, values=values, names=names)
    if kind == "regression":
        return x, Target(kind=kind, values=40 + 7 * quantity, names=("age",), unit="years")
    time = np.round(rng.exponential(np.exp(-quantity)) * 10) / 10 + 0.1  # with ties
    values = np.stack([time, rng.random(rows) < 0.7], axis=1).astype(float)
    return x, Target(kind=kind, values=values, names=("death",), unit="years")


def all_candidates(x, held, target, *, balanced=False):
    ask = Question(
        target, target, answers_of(target), weights_of(target, balanced=balanced), balanced, 0
    )
    return fit_linear(x, held, ask, STRENGTHS)


def scikits(x, y, held, strength, balanced=False):
    mean, scale = x.mean(0), x.std(0)
    model = linear_model.LogisticRegression(
        C=strength, class_weight="balanced" if balanced else None, tol=1e-10, max_iter=50000
    ).fit((x - mean) / scale, y)
    return model.predict_proba((held - mean) / scale)


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("width", [12, 300])
@pytest.mark.parametrize("classes", [2, 4])
def test_every_strength_gives_the_probabilities_of_scikit_learn(balanced, width, classes):
    x, target = draw("nominal", rows=220, width=width)
    y = np.minimum(target.values, classes - 1)
    target = Target(kind="nominal", values=y[:160], names=target.names[:classes])
    found = all_candidates(x[:160], x[160:], target, balanced=balanced)
    for strength, scores in zip(STRENGTHS, found.scores, strict=True):
        theirs = scikits(x[:160], y[:160], x[160:], strength, balanced)
        assert np.abs(scores - theirs).max() < 1e-3


def test_features_that_hardly_agree_are_not_rotated_and_give_the_same():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(220, 40)) * 3 + 1
    y = (x[:, 0] + rng.normal(size=220) > 1).astype(np.int64)
    assert np.array_equal(principal_axes(x).turn_DR, np.eye(40))
    steep = x / np.arange(1, 41) @ np.linalg.qr(rng.normal(size=(40, 40)))[0]
    assert not np.array_equal(principal_axes(steep).turn_DR, np.eye(40))
    target = Target(kind="nominal", values=y[:160], names=("a", "b"))
    found = all_candidates(x[:160], x[160:], target)
    for strength, scores in zip(STRENGTHS, found.scores, strict=True):
        assert np.abs(scores - scikits(x[:160], y[:160], x[160:], strength)).max() < 1e-3


@pytest.mark.parametrize("seed", range(4))
def test_features_most_of_which_are_constant_are_rotated_too(seed):
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((300, 4)) @ rng.standard_normal((4, 256))
    features += 1e-6 * rng.standard_normal(features.shape)
    features[:, rng.permutation(256)[:230]] = 1.0
    axes = principal_axes(features)
    standardised = (features - features.mean(0)) / np.where(features.std(0) > 0, features.std(0), 1)
    np.testing.assert_allclose(axes.turn_DR.T @ axes.turn_DR, np.eye(256), atol=1e-4)
    np.testing.assert_allclose(axes.rows_NR @ axes.turn_DR.T, standardised, atol=1e-3)


def test_each_label_is_a_regression_of_its_own_on_the_rows_that_know_it():
    x, target = draw("multilabel")
    found = all_candidates(x, x, target)
    for label in range(4):
        known = target.values[:, label] >= 0
        y = target.values[known, label]
        # scikit-learn standardises by the rows it is given; give it ours
        z = (x - x.mean(0)) / x.std(0)
        theirs = linear_model.LogisticRegression(C=1.0, tol=1e-9, max_iter=20000).fit(z[known], y)
        mine = found.scores[STRENGTHS.index(1.0)][:, label]
        assert np.abs(mine - theirs.predict_proba(z)[:, 1]).max() < 1e-3


def test_each_step_of_an_ordinal_target_is_a_regression_of_its_own():
    x, target = draw("ordinal")
    scores = all_candidates(x, x, target).scores[STRENGTHS.index(0.1)]
    above = 1 - np.cumsum(scores, axis=1)[:, :-1]
    theirs = np.stack([scikits(x, target.values > k, x, 0.1)[:, 1] for k in range(3)], axis=1)
    assert np.abs(above - np.minimum.accumulate(theirs, axis=1)).max() < 1e-3
    assert scores.min() >= 0
    assert np.allclose(scores.sum(axis=1), 1)


@pytest.mark.parametrize("width", [12, 300])
def test_ridge_is_that_of_scikit_learn(width):
    x, target = draw("regression", width=width)
    found = all_candidates(x, x[:50] + 0.1, target)
    mean, scale = x.mean(0), x.std(0)
    for strength, scores in zip(STRENGTHS, found.scores, strict=True):
        model = linear_model.Ridge(alpha=1 / strength).fit((x - mean) / scale, target.values)
        theirs = model.predict((x[:50] + 0.1 - mean) / scale)
        assert np.abs(scores[:, 0] - theirs).max() < 1e-5 * np.abs(theirs).max()


def brute_cox(weight, z, time, event, penalty):
    """Breslow's partial likelihood written down as in the book."""
    risk = z @ weight
    total = 0.0
    for one in np.flatnonzero(event):
        total += np.log(np.exp(risk[time >= time[one]]).sum()) - risk[one]
    return total + 0.5 * penalty * weight @ weight


def test_the_slope_of_the_hazard_loss_is_that_of_finite_differences():
    _, target = draw("survival", rows=40)
    loss = hazard_loss(*target.values.T)
    outputs = np.random.default_rng(0).normal(size=(40, 1, 1))
    value, slope = loss(outputs, np.arange(1))
    assert value[0] == pytest.approx(
        brute_cox(np.ones(1), outputs[:, 0], *target.values.T, penalty=0)
    )
    for row in range(40):
        moved = outputs.copy()
        moved[row] += 1e-6
        assert (loss(moved, np.arange(1))[0] - value)[0] / 1e-6 == pytest.approx(
            slope[row, 0, 0], abs=1e-4
        )


def test_cox_regression_ends_where_the_brute_force_likelihood_is_flat():
    x, target = draw("survival", rows=80, width=5)
    found = all_candidates(x, x, target)
    z, (time, event) = (x - x.mean(0)) / x.std(0), target.values.T
    assert len(np.unique(time)) < 80
    for one in (STRENGTHS.index(0.01), STRENGTHS.index(1.0)):
        weight, penalty = found.arrays[one]["weight"][0], 1 / STRENGTHS[one]
        for axis in np.eye(5) * 1e-4:
            ahead = brute_cox(weight + axis, z, time, event, penalty)
            behind = brute_cox(weight - axis, z, time, event, penalty)
            assert abs(ahead - behind) / 2e-4 < 0.02
            assert min(ahead, behind) >= brute_cox(weight, z, time, event, penalty) - 1e-7


def rounds_of(target, seed=0):
    return make_rounds("kfold", target, np.arange(len(target)), folds=4, seed=seed)[0]


@pytest.mark.parametrize("kind", ["linear", "knn", "mlp"])
@pytest.mark.parametrize("asked", ["nominal", "ordinal", "multilabel", "regression", "survival"])
def test_every_kind_of_probe_answers_every_kind_of_question(kind, asked, tmp_path):
    x, target = draw(asked)
    on = rounds_of(target)
    readouts = {"last/mean": np.random.default_rng(1).normal(size=(240, 7)), "all/mean": x}
    probe = fit_grid(kind, readouts, target, np.arange(240), on, SMALL, balanced=True, seed=0)
    scores = probe.predict({name: one[on.test] for name, one in readouts.items()})
    chance = 0.0 if asked == "regression" else 0.5
    assert headline(target.take(on.test), scores) > chance + 0.1
    assert probe.readout == "all/mean"  # the other is noise
    if asked in ("nominal", "ordinal"):
        assert np.allclose(scores.sum(axis=1), 1)
    probe.save(tmp_path / "probe")
    again = FittedProbe.load(tmp_path / "probe")
    asked_again = {"all/mean": x[on.test]}
    for prior in (False, True):
        assert np.array_equal(
            again.predict(asked_again, at_fit_priors=prior),
            probe.predict(asked_again, at_fit_priors=prior),
        )
    assert (again.chosen, again.candidates, again.names) == (
        probe.chosen,
        probe.candidates,
        probe.names,
    )
    assert len(probe.candidates) == 2 * {"linear": 10, "knn": 12, "mlp": 8}[kind]


@pytest.mark.parametrize("kind", ["linear", "knn", "mlp"])
def test_a_fit_repeats_itself_and_never_sees_the_test_rows(kind):
    x, target = draw("nominal")
    on = rounds_of(target)
    more = {"balanced": False, "seed": 3}
    one = fit_grid(kind, {"": x}, target, np.arange(240), on, SMALL, **more)
    spoilt, values = x.copy(), target.values.copy()
    spoilt[on.test], values[on.test] = np.nan, 0
    other = fit_grid(
        kind,
        {"": spoilt},
        Target(kind="nominal", values=values, names=target.names),
        np.arange(240),
        on,
        SMALL,
        **more,
    )
    assert one.candidates == other.candidates
    assert all(np.array_equal(one.arrays[name], other.arrays[name]) for name in one.arrays)


def test_balanced_probabilities_come_back_to_the_fit_priors():
    rng = np.random.default_rng(0)
    y = (rng.random(4000) < 0.1).astype(np.int64)
    x = rng.normal(size=(4000, 3)) + y[:, None]
    target = Target(kind="nominal", values=y, names=("healthy", "ill"))
    people, on, grid = np.arange(4000), rounds_of(target), GridConfig(strengths=(1.0,))
    plain, balanced = (
        fit_grid("linear", {"": x}, target, people, on, grid, balanced=one, seed=0)
        for one in (False, True)
    )
    test = {"": x[on.test]}
    assert balanced.predict(test)[:, 1].mean() > 0.2
    moved = balanced.predict(test, at_fit_priors=True)
    assert moved[:, 1].mean() == pytest.approx(0.1, abs=0.02)
    assert np.abs(moved - plain.predict(test)).max() < 0.1
    assert balanced.arrays["priors"] == pytest.approx([0.9, 0.1], abs=0.01)
    found = balanced.predict(test).argmax(axis=1)
    recall = [(found == one)[y[on.test] == one].mean() for one in (0, 1)]
    assert min(recall) > 0.7  # a plain fit finds a third of the ill


def test_priors_of_labels_shift_each_label_by_itself():
    shifted = shift_priors("multilabel", np.array([[0.5, 0.8]]), np.array([0.2, 0.5]))
    assert shifted == pytest.approx(np.array([[0.2, 0.8]]))


def test_the_headline_decides_then_the_loss_then_the_order():
    rows = [Validation(0.8, 0.5), Validation(0.9, 0.6), Validation(0.9, 0.4), Validation(0.9, 0.4)]
    assert best_of(rows) == 2
    assert best_of([Validation(float("nan"), 0.1), Validation(0.1, 0.9)]) == 1


def test_models_are_chosen_by_the_concordance_that_is_reported():
    values = np.array([[1.0, 1], [1.0, 0], [1.0, 0], [2.0, 1], [3.0, 0]])
    target = Target(kind="survival", values=values, names=("years",))
    ranks, times = ([[3.0], [4], [4], [2], [1]], [[3.0], [0], [0], [1], [2]])
    found = validate_all(target, [np.array(ranks), np.array(times)], np.arange(5))
    assert [one.headline for one in found] == [3 / 5, 4 / 5]  # with whom ends when the event comes
    assert best_of(found) == 1
    units = Units(np.array(times), values, np.arange(5))
    assert found[1].headline == measure("survival", units)["concordance"][0]


def test_neighbours_vote_as_in_the_training_log():
    x, target = draw("nominal")
    on = rounds_of(target)
    grid = GridConfig(neighbours=(7,), temperatures=(0.2,))
    probe = fit_grid("knn", {"": x}, target, np.arange(240), on, grid, balanced=False, seed=0)
    votes = neighbour_votes(
        torch.from_numpy(x[on.fit]),
        torch.from_numpy(target.values[on.fit]),
        torch.from_numpy(x[on.test]),
        classes=4,
        k=7,
        temperature=0.2,
    )
    assert np.abs(probe.predict({"": x[on.test]}) - votes.numpy()).max() < 1e-12


def test_a_hidden_layer_finds_what_no_line_can():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 4))
    target = Target(kind="nominal", values=(x[:, 0] * x[:, 1] > 0) * 1, names=("no", "yes"))
    on, people = rounds_of(target), np.arange(600)
    found = {}
    for kind in ("linear", "mlp"):
        probe = fit_grid(kind, {"": x}, target, people, on, SMALL, balanced=True, seed=0)
        found[kind] = headline(target.take(on.test), probe.predict({"": x[on.test]}))
    assert found["linear"] < 0.65
    assert found["mlp"] > 0.9


def test_a_candidate_is_trained_as_torch_would_train_it_alone():
    x, target = draw("nominal", rows=64)
    fit = Rows.of(x / 10, answers_of(target), weights_of(target, balanced=True))
    training = Training(
        widths=(8, 8), decays=(0.3, 0.1), rates=(1e-2, 1e-3), epochs=5, patience=9, batch_size=64
    )
    layers, epochs = train_layers("nominal", fit, fit, 4, training, seed=0)
    first = Training(
        widths=(8,), decays=(0.0,), rates=(1e-12,), epochs=1, patience=9, batch_size=64
    )
    start, _ = train_layers("nominal", fit, fit, 4, first, seed=0)
    for one in range(2):
        alone = [torch.nn.Parameter(part.clone()) for part in start]
        groups = [
            {"params": alone[::2], "weight_decay": training.decays[one]},
            {"params": alone[1::2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=training.rates[one])
        for _ in range(5):
            optimizer.zero_grad()
            losses_of("nominal", run_layers(type(start)(*alone), fit.features_ND), fit).backward()
            optimizer.step()
        assert epochs[one] == 5
        for mine, theirs in zip(layers, alone, strict=True):
            assert torch.allclose(mine[one], theirs[0], atol=1e-4)


def test_what_cannot_be_fitted_is_one_line_that_names_it(tmp_path):
    x, target = draw("nominal")
    on, people = rounds_of(target), np.arange(240)
    ask = {"balanced": False, "seed": 0}
    with pytest.raises(ValueError, match=r"probe \('tree'\) must be one of linear, knn, mlp"):
        fit_grid("tree", {"": x}, target, people, on, **ask)
    with pytest.raises(ValueError, match="rows differ in number"):
        fit_grid("linear", {"": x[1:]}, target, people, on, **ask)
    with pytest.raises(ValueError, match=r"features of 'last' are not all finite"):
        fit_grid("linear", {"last": np.where(x > 9, np.nan, x)}, target, people, on, **ask)
    lone = Round("", on.fit & (target.values < 3), on.validation, on.test)
    with pytest.raises(ValueError, match=r"probe: fit has participants: .* 0 of d"):
        fit_grid("linear", {"": x}, target, people, lone, **ask)
    with pytest.raises(ValueError, match=r"grid.strengths \(\(\)\) must be positive"):
        GridConfig(strengths=())
    probe = fit_grid("linear", {"last": x}, target, people, on, **ask)
    with pytest.raises(ValueError, match="it reads 'last', not"):
        probe.predict({"first": x})
    with pytest.raises(ValueError, match=r"must be \(N, 12\)"):
        probe.predict({"last": x[:, :3]})
    probe.save(tmp_path)
    (tmp_path / "probe.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match="no fitted probe"):
        FittedProbe.load(tmp_path)
    assert scores_from("nominal", np.array([[1000.0, 0.0]])) == pytest.approx(
        np.array([[1.0, 0.0]])
    )


def rare(seed):
    """One of ten has it; one of eight readouts knows a little; 40 participants for validation."""
    rng = np.random.default_rng(seed)
    values = (rng.random(640) < 0.1).astype(np.int64)
    readouts = {str(one): rng.normal(size=(640, 8)) for one in range(8)}
    readouts["5"][:, 0] += 0.9 * values
    part = np.repeat([0, 1, 2], [300, 40, 300])
    on = Round("", *(part == one for one in range(3)))
    return readouts, Target(kind="nominal", values=values, names=("no", "yes")), on


def test_where_few_have_it_fit_participants_who_choose_too_choose_better():
    right = {0: 0, 4: 0}
    for seed in range(16):
        readouts, target, on = rare(seed)
        for folds in right:
            grid = GridConfig(folds=folds, strengths=(0.01, 1.0))
            ask = {"balanced": True, "seed": seed}
            probe = fit_grid("linear", readouts, target, np.arange(640), on, grid, **ask)
            right[folds] += probe.readout == "5"
    assert right[4] >= right[0] + 3, right


def test_inner_folds_hold_each_fit_participant_once_and_nobody_else():
    people = np.arange(240) // 2
    target = Target(kind="nominal", values=np.arange(240) // 2 % 3, names=("a", "b", "c"))
    part = people % 4
    on = Round("", part < 2, part == 2, part == 3)
    inner = list(inner_rounds("linear", target, people, on, 4, 0))
    assert len(inner) == 4
    assert np.array_equal(sum(one.validation.astype(int) for one in inner), on.fit.astype(int))
    for one in inner:
        assert np.array_equal(one.fit | one.validation, on.fit)
        assert not set(people[one.fit]) & set(people[one.validation])
    assert not list(inner_rounds("mlp", target, people, on, 4, 0)), "it stops by its validation"
    few = target.take(np.arange(240))
    few.values[np.flatnonzero((few.values == 0) & on.fit)[4:]] = 1
    assert not list(inner_rounds("linear", few, people, on, 4, 0)), "a fold would lack a class"
