"""Probabilities are moved to where classes have other shares, and are right there."""

import numpy as np
import pytest
from oct_vjepa.measures.target import Target
from oct_vjepa.probes.protocol import Round
from oct_vjepa.trials.judging import answer_of_scores
from oct_vjepa.trials.prevalence import check_prevalence, measure_elsewhere
from oct_vjepa.trials.verdict import Panel, card_of

PEOPLE = 6000
SHARES = [0.95, 0.05]


@pytest.fixture(scope="module")
def asked():
    """Half of the people are ill; the scores are their true chances."""
    rng = np.random.default_rng(0)
    values, people = np.arange(PEOPLE) % 2, np.arange(PEOPLE)
    odds = 2 * (rng.normal(size=PEOPLE) + 2 * values - 1)  # of normal evidence a step apart
    chance = 1 / (1 + np.exp(-odds))
    target = Target(kind="nominal", values=values, names=("well", "ill"))
    one = Round("test", people % 6 == 0, people % 6 == 1, people % 6 > 1)
    one = one._replace(fit=(people % 12 < 2), validation=(people % 12 > 1) & (people % 12 < 4))
    one = one._replace(test=people % 12 > 3)
    scores = np.stack([1 - chance, chance], axis=1)
    answers = [[answer_of_scores(scores, target, one, 0)]]
    return answers, Panel(target=target, people=people, eyes=people), [one]


def test_calibrated_probabilities_stay_so_among_few_who_are_ill(asked):
    answers, panel, rounds = asked
    settings = {"seed": 0, "bootstrap": 20}
    found = measure_elsewhere(answers, panel, rounds, SHARES, **settings)
    unmoved = card_of(answers, panel, priors=SHARES, **settings).metrics
    assert found["ece"].value < 0.02
    for name in ("nll", "brier"):
        assert found[name].value < unmoved[name].value / 2
    assert found["auprc"].value == pytest.approx(unmoved["auprc"].value)  # the order is the same
    here = card_of(answers, panel, **settings).metrics
    assert found["auprc"].value < here["auprc"].value
    same = measure_elsewhere(answers, panel, rounds, [0.5, 0.5], **settings)
    assert same["brier"].value == pytest.approx(here["brier"].value)


@pytest.mark.parametrize("shares", [[0.5], [0.5, 0.6], [1.0, 0.0]])
def test_what_are_no_shares_is_refused(asked, shares):
    with pytest.raises(ValueError, match=r"compare.prevalence .* for each of well, ill"):
        check_prevalence(shares, asked[1].target)
