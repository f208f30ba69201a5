"""Who says the same of everybody has the headline of chance, whatever is asked."""

import numpy as np
import pytest
from oct_vjepa.measures.measure import HEADLINE
from oct_vjepa.measures.target import Target
from oct_vjepa.probes.protocol import make_rounds
from oct_vjepa.trials.judging import answer_unseen
from oct_vjepa.trials.verdict import Panel, card_of

PEOPLE = 90
NAMES = {"regression": ("age",), "survival": ("years",)}


def ask(kind, values):
    """The card of the same answer for everybody, of three folds."""
    names = NAMES.get(kind, ("a", "b", "c"))
    target = Target(kind=kind, values=values, names=names)
    people = np.arange(PEOPLE)
    rounds = make_rounds("kfold", target, people, folds=3, seed=0)
    answers = [[answer_unseen(target, one, 0) for one in rounds]]
    panel = Panel(target=target, people=people, eyes=people)
    return card_of(answers, panel, seed=0, bootstrap=100)


@pytest.mark.parametrize("kind", ["nominal", "ordinal"])
def test_the_majority_class_is_right_as_often_as_it_is_there(kind):
    card = ask(kind, np.repeat([0, 1, 2], [20, 40, 30]))
    assert card.headline == (0.5, 0.5, 0.5)
    assert card.metrics["balanced_accuracy"].value == pytest.approx(1 / 3)
    assert card.metrics["accuracy"].value == pytest.approx(40 / 90, abs=0.02)


def test_each_of_several_labels_has_its_own_majority():
    values = np.random.default_rng(0).random((PEOPLE, 3)) < [0.2, 0.5, 0.8]
    card = ask("multilabel", values.astype(np.int64))
    assert card.headline == (0.5, 0.5, 0.5)
    assert card.metrics["balanced_accuracy"].value == pytest.approx(0.5)


def test_the_mean_accounts_for_no_difference_and_one_risk_ranks_nobody():
    rng = np.random.default_rng(0)
    known = ask("regression", rng.normal(60, 10, PEOPLE))
    assert HEADLINE["regression"] == "r2"
    assert -0.2 < known.headline.value <= 0
    times = np.column_stack([rng.uniform(1, 9, PEOPLE), rng.integers(0, 2, PEOPLE)])
    assert ask("survival", times).headline == (0.5, 0.5, 0.5)
