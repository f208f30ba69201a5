"""Several learned pools trained side by side: each as if alone, chosen on validation."""

import numpy as np
import pytest
import torch
from oct_vjepa.evaluation.token_probe import TokenProbeConfig, fit_token_probes
from oct_vjepa.measures.target import Target
from oct_vjepa.probes.choice import headline
from oct_vjepa.probes.protocol import make_rounds

GOOD = TokenProbeConfig(kind="cross_attention", heads=2, inner=16, learning_rate=1e-2, epochs=25)
LAME = TokenProbeConfig(kind="cross_attention", heads=2, inner=16, learning_rate=1e-7, epochs=2)


def draw(kind, rows=160):
    """Tokens of which one tells the answer."""
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(rows, 6, 8)).astype(np.float16)
    hidden = rng.normal(size=(rows, 2))
    place = np.arange(rows), rng.integers(0, 6, rows)
    tokens[place][:, :2] = 0
    tokens[(*place, 0)], tokens[(*place, 1)], tokens[(*place, 2)] = 6.0, *(hidden * 2).T
    values = {
        "nominal": (hidden[:, 0] > 0) * 1,
        "ordinal": (hidden[:, 0] > -0.5) * 1 + (hidden[:, 0] > 0.5),
        "multilabel": np.where(rng.random((rows, 2)) < 0.1, -1, hidden > 0.3),
        "regression": 50 + 9 * hidden[:, 0],
        "survival": np.exp(hidden),
    }[kind]
    names = {"ordinal": ("none", "mild", "severe"), "regression": ("age",), "survival": ("death",)}
    return tokens, Target(kind=kind, values=values, names=names.get(kind, ("no", "yes")))


@pytest.mark.parametrize("kind", ["nominal", "ordinal", "multilabel", "regression"])
def test_the_candidate_that_learns_is_chosen_for_every_kind_of_question(kind):
    tokens, target = draw(kind)
    on = make_rounds("kfold", target, np.arange(160), folds=4, seed=0)[0]
    people = np.arange(160)
    probe = fit_token_probes(tokens, target, people, on, [LAME, GOOD], balanced=True, seed=0)
    assert probe.chosen["learning_rate"] == GOOD.learning_rate
    assert len(probe.candidates) == 2
    scores = probe.predict(tokens[on.test])
    assert headline(target.take(on.test), scores) > 0.75
    if kind == "regression":
        assert 40 < scores.mean() < 60  # in the units of the quantity


def test_candidates_side_by_side_are_what_each_is_alone():
    tokens, target = draw("nominal")
    on = make_rounds("kfold", target, np.arange(160), folds=4, seed=0)[0]
    ask = (tokens, target, np.arange(160), on)
    both = fit_token_probes(*ask, [GOOD, LAME], balanced=False, seed=1)
    alone = fit_token_probes(*ask, [GOOD], balanced=False, seed=1)
    assert both.candidates[0] == alone.candidates[0]
    mine, theirs = both.head.state_dict(), alone.head.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_noise_stops_early_and_the_callers_generator_is_not_touched():
    rng = np.random.default_rng(0)
    tokens, values = rng.normal(size=(60, 5, 8)).astype(np.float16), np.arange(60) % 2
    target = Target(kind="nominal", values=values, names=("no", "yes"))
    people = np.arange(60)
    on = make_rounds("kfold", target, people, folds=3, seed=0)[0]
    config = TokenProbeConfig(heads=2, epochs=100, patience=3, learning_rate=1e-2)
    state = torch.random.get_rng_state()
    one, two = (
        fit_token_probes(tokens, target, people, on, [config], balanced=True, seed=1)
        for _ in range(2)
    )
    assert torch.equal(state, torch.random.get_rng_state())
    assert 1 <= one.chosen["best_epoch"] < 50
    assert one.chosen == two.chosen


def test_a_question_that_it_cannot_answer_is_refused():
    tokens, target = draw("nominal")
    on = make_rounds("kfold", target, np.arange(160), folds=4, seed=0)[0]
    ask = {"balanced": False, "seed": 1}
    with pytest.raises(ValueError, match="no survival target"):
        fit_token_probes(tokens, draw("survival")[1], np.arange(160), on, [GOOD], **ask)
    with pytest.raises(ValueError, match="one or more candidates, all with one batch_size"):
        fit_token_probes(tokens, target, np.arange(160), on, [], **ask)
