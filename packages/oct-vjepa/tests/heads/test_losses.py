"""Losses of every kind of question, what their outputs mean, and heads built by name."""

import math

import numpy as np
import pytest
import torch
from oct_vjepa.heads.answer import Answer
from oct_vjepa.heads.build import build_head, load_head
from oct_vjepa.heads.configuration import (
    HEAD_KINDS,
    KINDS,
    FinetuningConfig,
    HeadConfig,
    LossConfig,
)
from oct_vjepa.heads.losses import cox_loss, multilabel_loss, positive_weights
from oct_vjepa.heads.supervised import LabelledBatch, Supervised
from oct_vjepa.measures import target
from torch.nn.functional import binary_cross_entropy_with_logits

NAMES = {"regression": ["thickness"], "survival": ["progression"]}


def supervised(encoder, kind="nominal", head="linear", mode="full", **loss):
    names = NAMES.get(kind, ["a", "b"])
    unit = {"regression": {"unit": "um", "mean": 250.0, "scale": 40.0}}.get(kind, {})
    made = build_head(
        HeadConfig(kind=head, pool="mean", heads=3, inner=24), width=48, names=names,
        answer=Answer(kind=kind, **unit), seed=0,
    )  # fmt: skip
    finetuning = FinetuningConfig(mode=mode, layer_decay=1.0)
    return Supervised(encoder, made, LossConfig(kind=kind, **loss), finetuning)


@pytest.fixture
def bright(volume):
    """Four volumes; the second and the fourth are brighter."""
    lift = 100 * (torch.arange(4) % 2).view(-1, 1, 1, 1, 1)
    return volume // 2 + lift.to(torch.uint8)


LABELS = {
    "nominal": torch.tensor([0, 1, 0, 1]),
    "ordinal": torch.tensor([0, 1, 0, 1]),
    "multilabel": torch.tensor([[0, -1], [1, 0], [-1, 1], [1, 0]]),
    "regression": torch.tensor([210.0, 290.0, 205.0, 295.0]),
    "survival": torch.tensor([[5.0, 0.0], [1.0, 1.0], [4.0, 1.0], [2.0, 1.0]]),
}


def learn(objective, batch, steps=30, lr=5e-3):
    optimizer = torch.optim.AdamW(objective.parameter_groups(0.0), lr=lr)
    for _ in range(steps):
        parts = objective.loss(batch)
        parts["loss"].backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return float(parts["loss"].detach())


def test_the_kinds_are_those_of_the_scores():
    assert KINDS == target.KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_learnt_and_answers_in_the_shape_of_its_scores(encoder, bright, kind):
    objective = supervised(encoder, kind)
    batch = LabelledBatch(bright, LABELS[kind])
    before = float(objective.loss(batch)["loss"].detach())
    assert learn(objective, batch) < 0.5 * before
    scores = objective.eval().predict(bright).detach()
    assert scores.shape == (4, len(objective.head.classes))
    dark, light = scores[[0, 2]], scores[[1, 3]]
    if kind in ("nominal", "ordinal"):
        assert torch.allclose(scores.sum(dim=1), torch.ones(4))
        assert light[:, 1].min() > dark[:, 1].max()
    elif kind == "multilabel":
        assert light[:, 0].min() > 0.5 > dark[0, 0]
    elif kind == "regression":
        assert (scores[:, 0] - LABELS[kind]).abs().max() < 25, "in micrometres"
    else:
        assert light.min() > dark.max(), "the higher the sooner"


@pytest.mark.parametrize("kind", HEAD_KINDS)
def test_every_head_is_built_by_name_learns_and_comes_back_with_its_answer(
    encoder, bright, tmp_path, kind
):
    state = torch.random.get_rng_state()
    objective = supervised(encoder, head=kind, mode="linear")
    assert torch.equal(torch.random.get_rng_state(), state)
    batch = LabelledBatch(bright, LABELS["nominal"])
    assert learn(objective, batch, steps=60, lr=2e-2) < 0.4
    objective.head.answer = Answer(kind="regression", unit="um", mean=0.1 + 0.2, scale=1e-7)
    objective.head.save_pretrained(tmp_path / "head")
    back = load_head(tmp_path / "head")
    assert back.answer == objective.head.answer
    with torch.no_grad():
        tokens = encoder.eval()(bright)
        assert torch.equal(back.from_tokens(tokens), objective.head.eval().from_tokens(tokens))


@pytest.mark.parametrize("kind", HEAD_KINDS)
def test_dropout_of_a_head_acts_in_training_only(encoder, bright, kind):
    config = HeadConfig(kind=kind, dropout=0.5, heads=3, inner=24)
    head = build_head(config, width=48, names=["a", "b"], answer=Answer(), seed=0)
    with torch.no_grad():
        tokens = encoder(bright)
        assert not torch.equal(head.from_tokens(tokens), head.from_tokens(tokens))
        head.eval()
        assert torch.equal(head.from_tokens(tokens), head.from_tokens(tokens))


def test_the_activation_of_the_hidden_layer_is_the_one_that_was_named(encoder, bright):
    outputs = set()
    for name in ("gelu", "relu", "silu", "tanh"):
        head = build_head(
            HeadConfig(kind="mlp", pool="mean", activation=name), width=48, names=["a", "b"],
            answer=Answer(), seed=0,
        )  # fmt: skip
        outputs.add(float(head(torch.ones(1, 48))[0, 0].detach()))
    assert len(outputs) == 4
    with pytest.raises(ValueError, match=r"head\.activation"):
        HeadConfig(activation="step")


def test_unknown_labels_cost_nothing_and_pull_at_nothing():
    logits = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    label = torch.tensor([[1, -1], [-1, -1], [0, 1]])
    ones = torch.ones(2)
    loss = multilabel_loss(logits, label, positive_L=ones, weight_L=ones, smoothing=0.0)
    known = [(0, 0), (2, 0), (2, 1)]
    wanted = sum(binary_cross_entropy_with_logits(logits[i], label[i].float()) for i in known)
    assert float(loss.sum().detach()) == pytest.approx(float(wanted.detach()) / 2)
    loss.sum().backward()
    assert (logits.grad[label == -1] == 0).all()
    assert (logits.grad[label != -1] != 0).all()


def test_weights_of_positives_and_of_labels_are_those_of_torch():
    logits = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    label = torch.tensor([[1, 0], [0, 1], [1, 1], [0, 0], [1, 0]])
    positive, weight = torch.tensor([0.5, 3.0]), torch.tensor([2.0, 1.0])
    mine = multilabel_loss(logits, label, positive_L=positive, weight_L=weight, smoothing=0.0)
    torchs = binary_cross_entropy_with_logits(
        logits, label.float(), pos_weight=positive, weight=weight
    )
    assert float(mine.mean()) == pytest.approx(float(torchs))
    assert positive_weights(np.array([[1, 0], [0, 1], [0, -1], [0, 1]])) == [3.0, 0.5]
    with pytest.raises(ValueError, match="every label needs both"):
        positive_weights(np.array([[1, 1], [0, 1]]))


def by_hand(risk, time, event):
    """Breslow's partial likelihood, one event after the other."""
    total = 0.0
    for i in range(len(time)):
        if event[i]:
            crowd = sum(math.exp(risk[j]) for j in range(len(time)) if time[j] >= time[i])
            total -= risk[i] - math.log(crowd)
    return total / max(1, sum(event))


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_is_the_mean_over_rows_unless_it_compares_them(encoder, bright, kind):
    objective = supervised(encoder, kind).eval()
    whole = objective.loss(LabelledBatch(bright, LABELS[kind]))["loss"]
    rows = [LabelledBatch(bright[i : i + 1], LABELS[kind][i : i + 1]) for i in range(4)]
    alone = torch.stack([objective.loss(row)["loss"] for row in rows]).mean()
    assert torch.allclose(whole, alone, atol=1e-5) != objective.coupled
    assert objective.coupled == (kind == "survival")


def test_the_survival_loss_is_breslows_partial_likelihood():
    risk, time, event = [0.3, -1.2, 2.0, 0.0, 0.7], [3, 1, 3, 2, 5], [1, 1, 1, 0, 0]
    mine = cox_loss(torch.tensor(risk)[:, None], torch.tensor(time), torch.tensor(event).float())
    assert float(mine) == pytest.approx(by_hand(risk, time, event), abs=1e-6)


def test_a_batch_without_an_event_gives_no_gradient_and_no_nan():
    risk = torch.tensor([[0.5], [1.0]], requires_grad=True)
    loss = cox_loss(risk, torch.tensor([1.0, 2.0]), torch.zeros(2))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert torch.equal(risk.grad, torch.zeros(2, 1))


def test_labels_of_another_type_or_shape_are_refused_by_name(encoder, volume):
    third = torch.tensor([[0, 1], [1, -1], [-1, -1], [0, 0]])
    cases = {
        "quantities": ("regression", torch.tensor([0, 1, 2, 3])),
        "2 numbers for each": ("survival", torch.ones(4)),
        "not below 2": ("multilabel", torch.full((4, 2), 2)),
        "1 of 4 volumes have none": ("regression", torch.tensor([1.0, math.nan, 2.0, 3.0])),
        r"have none \(at \[2\]\)": ("multilabel", third),
    }  # fmt: skip
    for words, (kind, label) in cases.items():
        with pytest.raises(ValueError, match=words):
            supervised(encoder, kind).loss(LabelledBatch(volume, label))


def test_settings_that_a_kind_does_not_have_are_refused():
    for settings in (
        {"kind": "regression", "class_weights": [1.0]},
        {"kind": "survival", "label_smoothing": 0.1},
        {"kind": "nominal", "label_weights": [1.0, 2.0]},
        {"kind": "nominal", "class_weights": [0.0, 0.0]},
        {"kind": "binary"},
    ):
        with pytest.raises(ValueError, match=r"loss\."):
            LossConfig(**settings)


def test_head_and_loss_must_agree(encoder):
    head = build_head(HeadConfig(), width=48, names=["a", "b"], answer=Answer(), seed=0)
    with pytest.raises(ValueError, match="the head answers 'nominal'"):
        Supervised(encoder, head, LossConfig(kind="ordinal"))
    head.answer = Answer(kind="regression")
    with pytest.raises(ValueError, match="has one output, the head 2"):
        Supervised(encoder, head, LossConfig(kind="regression"))
