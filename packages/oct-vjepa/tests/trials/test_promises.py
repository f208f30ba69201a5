"""Temperature, thresholds and promises are set by those who are for it, and not by who chose."""

import numpy as np
import pytest
from oct_vjepa.measures.target import Target
from oct_vjepa.probes.configuration import GridConfig
from oct_vjepa.probes.holdout import hold_out
from oct_vjepa.probes.protocol import make_rounds
from oct_vjepa.trials.judging import Candidate, answer_frozen, answer_of_scores
from oct_vjepa.trials.verdict import Panel, card_of, promise_of, temperature_of, units_of

PEOPLE = 600
GRID = GridConfig(strengths=(1e-3, 1e-1, 10.0))


def ask(share, seed=0):
    """Labels that say nothing; the scores know them of those who choose, as if overfitted."""
    rng = np.random.default_rng(seed)
    target = Target(kind="nominal", values=rng.integers(0, 2, PEOPLE), names=("a", "b"))
    people = np.arange(PEOPLE)
    parts = np.array(["train", "val", "test"])[people % 3]
    rounds = make_rounds("given", target, people, parts=parts, seed=seed)
    (one,) = hold_out(rounds, target, people, share, seed=seed)
    logits = rng.normal(size=PEOPLE) + 3 * one.validation * (2 * target.values - 1)
    chance = 1 / (1 + np.exp(-logits))
    scores = np.stack([1 - chance, chance], axis=1)
    return target, one, [[answer_of_scores(scores, target, one, seed)]]


def panel_of(target):
    return Panel(target=target, people=np.arange(PEOPLE), eyes=np.arange(PEOPLE))


def specificity(share, seed):
    """Reached in the test at the threshold that was set for 0.9."""
    target, _, answers = ask(share, seed)
    card = card_of(answers, panel_of(target), seed=0, bootstrap=2)
    return card.metrics["specificity_reached"].value


@pytest.mark.parametrize(("share", "apart"), [(0.5, True), (0.0, False)])
def test_the_promise_is_kept_where_those_who_chose_do_not_make_it(share, apart):
    found = [ask(share, seed) for seed in range(8)]
    promises = [promise_of(answers, panel_of(target)) for target, _, answers in found]
    assert {one.apart for one in promises} == {apart}
    assert {one.calibrated for one in promises} == {100 if apart else 200}
    covered = np.mean([one.covered for one in promises])
    assert (abs(covered - 0.9) < 0.03) == apart, covered


def test_temperature_and_thresholds_are_those_of_the_rows_set_apart():
    target, one, answers = ask(0.5)
    ((answer,),) = answers
    assert np.array_equal(answer.calibration_rows, np.flatnonzero(one.calibration))
    together = ask(0.0)[2][0][0]
    assert temperature_of(answer, target) > 2 * temperature_of(together, target)
    units = units_of(answers, panel_of(target), part="calibration")[0][0]
    assert np.array_equal(units.groups_N, answer.calibration_rows)
    reached = {
        share: np.mean([specificity(share, seed) for seed in range(5)]) for share in (0.5, 0)
    }
    assert reached[0.5] == pytest.approx(0.9, abs=0.06)
    assert reached[0] < 0.5, "of those who chose, negatives lie too low"


def test_a_probe_is_chosen_without_those_who_calibrate():
    rng = np.random.default_rng(0)
    target, one, _ = ask(0.5)
    features = rng.normal(size=(PEOPLE, 6))
    features[:, 0] += target.values
    moved = features.copy()
    moved[one.calibration] = rng.normal(size=(int(one.calibration.sum()), 6))
    said = []
    for rows in (features, moved):
        candidate = Candidate(name="x", readouts=lambda on, seed, rows=rows: {"": rows})
        (answer,) = answer_frozen(
            candidate, "linear", target, np.arange(PEOPLE), [one], GRID, seed=0
        )
        said.append(answer)
    assert said[0].chosen == said[1].chosen
    assert np.array_equal(said[0].test, said[1].test)
    assert not np.array_equal(said[0].calibration, said[1].calibration)


def test_each_of_several_labels_has_a_promise_of_its_own():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2, (3000, 2))
    logits = rng.normal(size=values.shape) + [2.0, 0.5] * (2 * values - 1)
    values[rng.random(values.shape) < 0.3] = -1
    target = Target(kind="multilabel", values=values, names=("drusen", "fluid"))
    people = np.arange(len(values))
    parts = np.array(["train", "val", "test"])[people % 3]
    (one,) = make_rounds("given", target, people, parts=parts, seed=0)
    answer = answer_of_scores(1 / (1 + np.exp(-logits)), target, one, 0)
    found = promise_of([[answer]], Panel(target=target, people=people, eyes=people))
    assert list(found.by_label) == ["drusen", "fluid"]
    assert list(found.by_label.values()) == pytest.approx([0.9, 0.9], abs=0.05)
    assert found.covered == pytest.approx(np.mean(list(found.by_label.values())))
    assert 1 < found.size < 2
    known = values[parts == "val"] != -1
    assert found.calibrated == known.sum(axis=0).min()
