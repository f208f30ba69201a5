"""Rounds of an evaluation: nobody is fitted and tested, everybody gets a turn, errors say why."""

import numpy as np
import pytest
from oct_vjepa.measures.target import Target
from oct_vjepa.probes.holdout import LEAST, hold_out
from oct_vjepa.probes.protocol import few_labels, fold_participants, make_rounds

TABLES = 300
KINDS = ("nominal", "ordinal", "multilabel", "regression", "survival")


def draw_table(seed):
    """A made-up table: participants with several rows, labels, devices and unknown answers."""
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(60, 160))
    people = rng.integers(0, rng.integers(30, 80), rows)
    names = tuple("abcd"[: rng.integers(2, 5)])
    kind = KINDS[seed % len(KINDS)]
    own = rng.integers(0, len(names), people.max() + 1)
    values = np.where(rng.random(rows) < 0.8, own[people], rng.integers(0, len(names), rows))
    values = np.where(rng.random(rows) < 0.05, -1, values)
    if kind == "multilabel":
        values = rng.integers(-1, 2, (rows, len(names)))
    if kind in ("regression", "survival"):
        values = np.where(rng.random(rows) < 0.05, np.nan, rng.normal(size=rows))
        names = ("quantity",)
    if kind == "survival":
        values = np.stack([np.exp(values), rng.integers(0, 2, rows)], axis=1)
    devices = np.array(["", "one", "two", "three"])[
        np.where(rng.random(rows) < 0.9, people % 3 + 1, rng.integers(0, 4, rows))
    ]
    return Target(kind=kind, values=values, names=names), people, devices


def ask(seed):
    """One protocol after the other on a made-up table."""
    target, people, devices = draw_table(seed)
    parts = np.array(["train", "train", "val", "test", "other"])[people % 5]
    if seed % 2:
        parts = np.where(parts == "val", "train", parts)
    protocol = ("given", "kfold", "repeated_kfold", "leave_one_out")[seed // 5 % 4]
    repeats = 2 if protocol == "repeated_kfold" else 1
    more = {"parts": parts, "by": devices, "folds": 2 + seed % 4, "repeats": repeats}
    rounds = make_rounds(protocol, target, people, **more, seed=seed)
    return protocol, hold_out(rounds, target, people, 0.5, seed=seed), more


def test_no_participant_is_in_two_parts_and_folds_test_everybody_once():
    refused = []
    for seed in range(TABLES):
        target, people, devices = draw_table(seed)
        try:
            protocol, rounds, more = ask(seed)
        except ValueError as error:
            refused.append(str(error))
            continue
        for one in rounds:
            parts = [set(people[rows]) for rows in one.parts.values()]
            assert sum(map(len, parts)) == len(set.union(*parts))
            assert not np.any(list(one.parts.values()), axis=0)[~target.known].any()
        if "kfold" in protocol:
            tested = np.sum([one.test for one in rounds], axis=0)
            assert np.array_equal(tested, target.known * more["repeats"])
        if protocol == "leave_one_out":
            for one in rounds:
                assert set(devices[one.test]) == {one.name}
                seen = one.fit | one.validation | one.calibrating
                assert not np.isin(people[seen], people[target.known & (devices == one.name)]).any()
        again = ask(seed)[1]
        assert [one.name for one in again] == [one.name for one in rounds]
        assert all(
            np.array_equal(x, y)
            for one, two in zip(rounds, again, strict=True)
            for x, y in zip(one.parts.values(), two.parts.values(), strict=True)
        )
    assert len(refused) < TABLES / 5  # most of the tables can be asked
    assert all("participants" in one and "\n" not in one for one in refused)


def test_every_fold_has_its_share_of_every_class():
    labels = np.repeat([0, 1, 2], [100, 50, 10])
    fold = fold_participants(labels[:, None] == np.arange(3), 5, seed=(0,))
    assert np.array_equal(np.bincount(fold), [32] * 5)
    for one in range(5):
        assert np.array_equal(np.bincount(labels[fold == one]), [20, 10, 2])


def test_a_class_of_participants_with_two_labels_is_spread_too():
    marks = np.zeros((50, 3), dtype=bool)
    marks[:, 0] = True
    marks[:5, 1] = marks[5:10, 2] = True
    fold = fold_participants(marks, 5, seed=(1,))
    assert np.array_equal(np.bincount(fold[:5], minlength=5), [1] * 5)
    assert np.array_equal(np.bincount(fold[5:10], minlength=5), [1] * 5)


def nominal(values, names=("healthy", "ill")):
    return Target(kind="nominal", values=np.asarray(values), names=names)


def test_a_participant_on_two_devices_is_not_fitted_with_the_other_device():
    target, people = nominal(np.arange(60) // 2 % 2), np.arange(60) // 2
    devices = np.where(np.arange(60) % 2 == 0, "one", "two")
    devices[20:] = np.where(people[20:] % 4 < 2, "one", "two")  # the others have one device
    for one in make_rounds("leave_one_out", target, people, by=devices, seed=0):
        assert not np.isin(np.arange(10), people[one.fit | one.validation]).any()
        assert np.isin(np.arange(10), people[one.test]).all()


def test_what_cannot_be_asked_is_one_line_that_names_it():
    rows, people = np.arange(40), np.arange(40)
    sites = np.where(rows < 20, "north", "south")
    with pytest.raises(ValueError, match=r"^south: test has participants: 20 of healthy, 0 of ill"):
        make_rounds("leave_one_out", nominal((rows < 10) * 1), people, by=sites, seed=0)
    with pytest.raises(ValueError, match=r"one class only: \['healthy'\]"):
        make_rounds("kfold", nominal(rows * 0), people, seed=0)
    with pytest.raises(ValueError, match="36 of healthy, 4 of ill; it needs 5 of each"):
        make_rounds("kfold", nominal((rows < 4) * 1), people, seed=0)
    with pytest.raises(ValueError, match="1 participants are in both train and test"):
        make_rounds(
            "given",
            nominal(rows % 2),
            np.r_[people[:-1], 0],
            parts=np.array(["train"] * 39 + ["test"]),
            seed=0,
        )
    with pytest.raises(ValueError, match="needs the site or device"):
        make_rounds("leave_one_out", nominal(rows % 2), people, seed=0)
    with pytest.raises(ValueError, match=r"protocol \('loo'\) must be one of given"):
        make_rounds("loo", nominal(rows % 2), people, seed=0)


def test_a_given_validation_part_stays_as_given():
    people = np.arange(40)
    parts = np.array(["train", "train", "val", "test"])[people // 2 % 4]
    (one,) = make_rounds("given", nominal(people % 2), people, parts=parts, seed=0)
    assert np.array_equal(one.fit, parts == "train")
    assert np.array_equal(one.validation, parts == "val")
    assert np.array_equal(one.test, parts == "test")


def test_half_of_validation_calibrates_alike_in_classes_and_apart_by_participant():
    people = np.arange(800) // 2
    target = nominal((people % 5 == 0) * 1)
    parts = np.array(["train", "val", "val", "test"])[people % 4]
    (whole,) = make_rounds("given", target, people, parts=parts, seed=0)
    (one,) = hold_out([whole], target, people, 0.5, seed=0)
    assert np.array_equal(one.validation | one.calibration, whole.validation)
    assert np.array_equal(one.fit, whole.fit)
    assert np.array_equal(one.test, whole.test)
    sizes = [len(set(people[rows])) for rows in (one.validation, one.calibration)]
    assert sizes == [100, 100]
    shares = [target.values[rows].mean() for rows in (one.validation, one.calibration)]
    assert shares[0] == pytest.approx(shares[1], abs=0.011)
    (third,) = hold_out([whole], target, people, 0.3, seed=0)
    assert len(set(people[third.calibration])) == 60
    (other,) = hold_out([whole], target, people, 0.5, seed=1)
    assert not np.array_equal(one.calibration, other.calibration)


def test_validation_does_both_where_a_side_would_be_too_small_or_of_one_class():
    people = np.arange(4 * (2 * LEAST - 2))
    target = nominal(people % 3 % 2)
    parts = np.array(["train", "train", "val", "test"])[people % 4]
    (whole,) = make_rounds("given", target, people, parts=parts, seed=0)
    assert whole.validation.sum() == 2 * LEAST - 2
    (one,) = hold_out([whole], target, people, 0.5, seed=0)
    assert one.calibration is None
    assert np.array_equal(one.calibrating, whole.validation)
    big = np.r_[people, people + len(people)]
    rare = nominal(np.isin(big, (0, 2, 3)) * 1)
    parts = np.array(["train", "train", "val", "test"])[big % 4]
    (whole,) = make_rounds("given", rare, big, parts=parts, seed=0)
    assert hold_out([whole], rare, big, 0.5, seed=0)[0].calibration is None
    with pytest.raises(ValueError, match=r"calibration \(1\) must be from 0 to below 1"):
        hold_out([whole], rare, big, 1, seed=0)


def test_few_labels_keep_two_of_each_class_and_grow_with_the_fraction():
    people = np.arange(400) // 2
    target = nominal((people % 10 == 0) * 1)
    whole = make_rounds("kfold", target, people, seed=0)[0]
    fractions, sizes = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0), []
    for fraction in fractions:
        one = few_labels(whole, target, people, fraction, seed=3)
        assert not (one.fit & ~whole.fit).any()
        assert np.array_equal(one.test, whole.test)
        assert all(len(set(people[one.fit & (target.values == of)])) >= 2 for of in (0, 1))
        assert np.array_equal(one.fit, few_labels(whole, target, people, fraction, seed=3).fit)
        sizes.append(len(set(people[one.fit])))
        few = few_labels(whole, target, people, fraction / 2, seed=3)
        assert len(set(people[few.fit & ~one.fit])) <= 1, "those of a smaller share, but rounded"
    everyone = len(set(people[whole.fit]))
    assert sizes[0] == 4
    assert sizes[1:] == [round(one * everyone) for one in fractions[1:]]
    other = few_labels(whole, target, people, 0.25, seed=3, turn=1)
    assert not np.array_equal(other.fit, few_labels(whole, target, people, 0.25, seed=3).fit)
    with pytest.raises(ValueError, match=r"fraction \(0\) must be above 0"):
        few_labels(whole, target, people, 0, seed=3)


def test_few_labels_are_few_for_who_chooses_too_if_that_is_wanted():
    people = np.arange(400) // 2
    target = nominal((people % 10 == 0) * 1)
    whole = make_rounds("kfold", target, people, seed=0)[0]
    usual = few_labels(whole, target, people, 0.25, seed=3)
    assert np.array_equal(usual.validation, whole.validation)
    one = few_labels(whole, target, people, 0.25, seed=3, validation=True)
    assert np.array_equal(one.fit, usual.fit)
    assert not (one.validation & ~whole.validation).any()
    chosen, everyone = (len(set(people[part])) for part in (one.validation, whole.validation))
    assert chosen == round(0.25 * everyone)
    assert all(len(set(people[one.validation & (target.values == of)])) >= 2 for of in (0, 1))
    other = few_labels(whole, target, people, 0.25, seed=3, turn=1, validation=True)
    assert not np.array_equal(other.validation, one.validation)
    none = whole._replace(validation=np.zeros_like(whole.fit))
    assert not few_labels(none, target, people, 0.25, seed=3, validation=True).validation.any()


def test_few_labels_of_many_combinations_are_still_few():
    rng = np.random.default_rng(0)
    values = (rng.random((400, 8)) < 0.3).astype(np.int64)
    target = Target(kind="multilabel", values=values, names=tuple("abcdefgh"))
    whole = make_rounds("kfold", target, np.arange(400), seed=0)[0]
    one = few_labels(whole, target, np.arange(400), 0.1, seed=0)
    assert one.fit.sum() <= 30
    assert values[one.fit].any(axis=0).all()


def test_few_labels_have_each_label_and_its_absence_though_most_do_not_know_it():
    rng = np.random.default_rng(0)
    values = (rng.random((400, 3)) < 0.3).astype(np.int64)
    values[rng.random(400) < 0.85, 2] = -1
    target = Target(kind="multilabel", values=values, names=tuple("abc"))
    whole = make_rounds("kfold", target, np.arange(400), seed=0)[0]
    for turn in range(50):
        one = few_labels(whole, target, np.arange(400), 0.05, seed=0, turn=turn)
        counts = [(values[one.fit] == answer).sum(axis=0).min() for answer in (0, 1)]
        assert min(counts) >= 2
        assert one.fit.sum() <= 20


@pytest.mark.parametrize("seed", [0, 1, 30, 37])
def test_two_participants_choose_where_a_fold_would_leave_one(seed):
    people, draw = np.repeat(np.arange(10), 11), np.random.default_rng(seed)
    shares = draw.random(110) * np.where(draw.random(110) < 0.3, 0, draw.random(10)[people] ** 3)
    target = Target(kind="regression", values=shares, names=("share",))
    for one in make_rounds("kfold", target, people, folds=5, seed=seed):
        fit, validation, test = (len(np.unique(people[rows])) for rows in one.parts.values())
        assert fit + validation + test == 10
        assert validation >= 2
