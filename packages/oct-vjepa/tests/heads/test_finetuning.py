"""Fine-tuning: learning rates by layer, freezing, losses, and adapters that merge away."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from oct_vjepa import Encoder
from oct_vjepa.heads.adapters import add_lora, has_lora, merge_lora
from oct_vjepa.heads.attentive import AttentiveHead
from oct_vjepa.heads.configuration import FinetuningConfig, LoraConfig, LossConfig
from oct_vjepa.heads.finetuning import layer_of
from oct_vjepa.heads.linear import LinearHead
from oct_vjepa.heads.losses import balanced_weights, ordinal_loss, smooth_labels, soft_cross_entropy
from oct_vjepa.heads.mlp import MlpHead
from oct_vjepa.heads.supervised import LabelledBatch, Supervised, label_batch

CLASSES = ["a", "b"]


@pytest.fixture
def batch(volume):
    """Four volumes; those of class 1 are brighter."""
    label = torch.tensor([0, 1, 0, 1])
    return LabelledBatch(volume // 2 + 100 * label.view(-1, 1, 1, 1, 1).to(torch.uint8), label)


def classifier(encoder, mode="full", **settings):
    head = LinearHead(width=48, classes=CLASSES, pool="mean")
    return Supervised(encoder, head, finetuning=FinetuningConfig(mode=mode, **settings))


def learning_numbers(module):
    return sum(weight.numel() for weight in module.parameters() if weight.requires_grad)


def train(objective, batch, steps, lr=3e-3):
    """What a loop does: groups, lr_scale, step, after_step."""
    groups = objective.parameter_groups(0.05)
    for group in groups:
        group["params"] = [weight for weight in group["params"] if weight.requires_grad]
        group["lr"] = lr * group["lr_scale"]
    optimizer = torch.optim.AdamW(groups, lr=lr)
    objective.train()
    for step in range(steps):
        parts = objective.loss(batch)
        parts["loss"].backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        objective.after_step(step, steps)
    return {name: float(value.detach()) for name, value in parts.items()}


def test_learning_rates_fall_from_the_head_to_the_patches_and_every_parameter_has_one(encoder):
    objective = classifier(encoder, layer_decay=0.5, encoder_lr_scale=0.8)
    groups = objective.parameter_groups(0.1)
    scale = {id(weight): group["lr_scale"] for group in groups for weight in group["params"]}
    assert len(scale) == len(list(objective.parameters())) == sum(len(g["params"]) for g in groups)
    assert scale[id(objective.head.linear.weight)] == 1.0
    assert scale[id(encoder.norm.weight)] == 0.8
    assert scale[id(encoder.blocks[1].mlp.fc1.weight)] == pytest.approx(0.8 * 0.5)
    assert scale[id(encoder.blocks[0].norm1.bias)] == pytest.approx(0.8 * 0.25)
    assert scale[id(encoder.patches.proj.weight)] == pytest.approx(0.8 * 0.125)
    for group in groups:
        assert all((weight.ndim >= 2) == (group["weight_decay"] > 0) for weight in group["params"])


def test_the_layer_of_a_parameter_is_read_from_its_name_also_inside_adapters():
    names = ("patches.proj.weight", "blocks.0.norm1.bias", "blocks.11.attention.qkv.lora_A.default")
    assert [layer_of(name, 12) for name in names] == [0, 1, 12]
    assert layer_of("norm.weight", 12) == 13
    assert layer_of("positions.table", 12) == 0
    assert layer_of("level_norms.3.weight", 12) == 4


def test_linear_moves_the_head_only_and_keeps_the_encoder_in_evaluation(encoder, batch):
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    objective = classifier(encoder, "linear")
    assert learning_numbers(objective) == 48 * 2 + 2
    train(objective, batch, 3)
    assert not encoder.training
    assert objective.head.training
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())


def test_full_fine_tuning_learns_a_batch(encoder, batch):
    end = train(classifier(encoder, layer_decay=1.0), batch, 30)
    assert end["loss"] < 0.1
    assert end["accuracy"] == 1.0


def moved(before, encoder):
    layers = {
        layer_of(name, 2)
        for name, value in encoder.state_dict().items()
        if not torch.equal(before[name], value)
    }
    return layers


@pytest.mark.parametrize("mode", ["full", "gradual"])
def test_a_step_that_was_not_applied_is_not_counted(encoder, mode):
    objective = classifier(encoder, mode, unfreeze_every=2)
    given = [torch.tensor(one) for one in (True, False, True)]
    found = [objective.after_step(step, 3, applied) for step, applied in enumerate(given)]
    assert int(objective.applied_steps) == 2
    assert found[2] == ({"open_layers": 1.0} if mode == "gradual" else {})
    assert objective.after_step(3, 4).keys() == found[2].keys()
    assert int(objective.applied_steps) == 3


def test_gradual_unfreezing_opens_one_layer_after_the_other_from_the_top(encoder, batch):
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    objective = classifier(encoder, "gradual", unfreeze_every=2, layer_decay=1.0)
    train(objective, batch, 2)
    assert moved(before, encoder) == set()
    assert objective.freeze() == 1
    train(objective, batch, 2)
    assert moved(before, encoder) == {2, 3}  # the last block, with the norm behind it
    train(objective, batch, 2)
    assert moved(before, encoder) == {1, 2, 3}
    train(objective, batch, 2)
    assert moved(before, encoder) == {0, 1, 2, 3}


def test_gradual_may_open_the_whole_encoder_at_once(encoder, batch):
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    objective = classifier(encoder, "gradual", unfreeze_every=2, unfreeze_blocks=9)
    train(objective, batch, 2)
    assert moved(before, encoder) == set()
    train(objective, batch, 1)
    assert moved(before, encoder) == {0, 1, 2, 3}


def test_partial_moves_the_last_blocks_and_never_patches_or_positions(encoder, batch):
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    train(classifier(encoder, "partial", blocks=1, layer_decay=1.0), batch, 3)
    assert moved(before, encoder) == {2, 3}
    train(classifier(encoder, "partial", blocks=9, layer_decay=1.0), batch, 3)
    assert moved(before, encoder) == {1, 2, 3}


def test_the_norm_that_a_block_is_read_through_learns_with_the_block(small_config, batch):
    config = replace(small_config, depth=3, level_norms=[0, 1])
    encoder = Encoder(config)
    head = LinearHead(width=3 * 48, classes=CLASSES, pool="mean", levels=(0, 1, 2))
    objective = Supervised(encoder, head, finetuning=FinetuningConfig(mode="partial", blocks=2))
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    train(objective, batch, 3)
    after = encoder.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert "level_norms.1.weight" in moved
    assert not any(one.startswith(("level_norms.0", "blocks.0", "patches")) for one in moved)


def test_a_run_that_resumes_unfreezes_where_it_left_off(small_config, encoder, batch):
    first = classifier(encoder, "gradual", unfreeze_every=2)
    train(first, batch, 3)
    second = classifier(Encoder(small_config), "gradual", unfreeze_every=2)
    second.load_state_dict(first.state_dict())
    assert second.freeze() == 1
    third = classifier(Encoder(small_config), "gradual", unfreeze_every=2)
    for name, value in third.state_dict().items():  # in place, as a training loop restores
        value.copy_(first.state_dict()[name])
    third.parameter_groups(0.0)
    third.loss(batch)
    assert third.freeze() == 1


def test_labels_that_cannot_be_learned_are_refused_by_name(encoder, volume):
    objective = classifier(encoder)
    cases = {
        "mix labelled and unlabelled": torch.tensor([0, -1, 1, 1]),
        "not below 2": torch.tensor([0, 1, 2, 0]),
        "whole numbers": torch.tensor([0.0, 1.0, 0.5, 0.0]),
        "one number for each of 4": torch.tensor([[0, 1], [1, 0], [1, 0], [0, 1]]),
    }
    for words, label in cases.items():
        with pytest.raises(ValueError, match=words):
            objective.loss(LabelledBatch(volume, label))
    with pytest.raises(ValueError, match="mix labelled"):
        label_batch(volume[:, 0].numpy(), np.array([-1, 0, 1, 0]), CLASSES)
    good = label_batch(volume[:, 0].numpy(), [0, 1, 1, 0], CLASSES)
    assert good.volume_BCZYX.shape == volume.shape
    assert torch.isfinite(objective.loss(good)["loss"])


def test_class_weights_and_smoothing_are_those_of_torch(encoder, batch):
    weights = [0.3, 1.7]
    config = LossConfig(class_weights=weights, label_smoothing=0.2)
    head = LinearHead(width=48, classes=CLASSES, pool="mean")
    objective = Supervised(encoder, head, config, FinetuningConfig(mode="full"))
    logits = objective(batch.volume_BCZYX)
    per_volume = torch.nn.functional.cross_entropy(
        logits, batch.label_B, reduction="none", label_smoothing=0.2
    )
    weight = torch.tensor(weights)[batch.label_B]
    wanted = (per_volume * weight).mean()  # not over the weights: batches must add up
    assert torch.allclose(objective.loss(batch)["loss"], wanted, atol=1e-6)
    with pytest.raises(ValueError, match="has 3 values, the head 2 classes"):
        Supervised(encoder, head, LossConfig(class_weights=[1.0, 1.0, 1.0]))


def test_balanced_weights_make_classes_count_alike():
    labels = np.array([0] * 6 + [1] * 3 + [2])
    weights = np.array(balanced_weights(labels, 3))
    assert np.allclose(weights * np.bincount(labels), 10 / 3)
    with pytest.raises(ValueError, match="every class needs some"):
        balanced_weights(np.array([0, 0, 2]), 3)


def test_the_ordinal_loss_costs_more_the_further_a_mistake_goes():
    far = torch.tensor([[0.0, 0.0, 0.0, 5.0]])
    near = torch.tensor([[0.0, 5.0, 0.0, 0.0]])
    truth = smooth_labels(torch.tensor([0]), 4, 0.0)
    assert ordinal_loss(far, truth) > 1.5 * ordinal_loss(near, truth)
    assert soft_cross_entropy(far, truth) == pytest.approx(float(soft_cross_entropy(near, truth)))


def test_with_two_classes_the_ordinal_loss_is_the_cross_entropy():
    logits = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    truth = smooth_labels(torch.arange(8) % 2, 2, 0.1)
    assert torch.allclose(ordinal_loss(logits, truth), soft_cross_entropy(logits, truth), atol=1e-6)


def test_the_ordinal_loss_is_least_for_the_true_probabilities():
    truth = torch.tensor([[0.2, 0.5, 0.1, 0.2]])
    best = float(ordinal_loss(truth.log(), truth))
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        other = truth.log() + 0.3 * torch.randn(1, 4, generator=generator)
        assert float(ordinal_loss(other, truth)) >= best


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mode": "half"}, "mode"),
        ({"layer_decay": 0.0}, "layer_decay"),
        ({"encoder_lr_scale": 0.0}, "encoder_lr_scale"),
        ({"unfreeze_every": 0}, "unfreeze_every"),
        ({"unfreeze_blocks": 0}, "unfreeze_blocks"),
        ({"blocks": 0}, "blocks"),
    ],
)
def test_a_bad_setting_is_named(settings, words):
    with pytest.raises(ValueError, match=f"finetuning.{words}"):
        FinetuningConfig(**settings)


def test_adapters_change_nothing_at_first_then_learn_and_merge_into_a_plain_encoder(
    small_config, encoder, batch, tmp_path
):
    keys = encoder.state_dict().keys()
    base = {name: value.clone() for name, value in encoder.state_dict().items()}
    with torch.no_grad():
        before = encoder.eval()(batch.volume_BCZYX)
    add_lora(encoder, LoraConfig(rank=4), seed=0)
    assert has_lora(encoder)
    with torch.no_grad():
        assert torch.equal(encoder(batch.volume_BCZYX), before)
    head = AttentiveHead(width=48, classes=CLASSES, heads=3, depth=1)
    objective = Supervised(encoder, head, finetuning=FinetuningConfig(mode="lora", layer_decay=1.0))
    share = learning_numbers(encoder) / sum(value.numel() for value in base.values())
    assert 0.02 < share < 0.25
    assert train(objective, batch, 20)["loss"] < 0.3
    with torch.no_grad():
        adapted = encoder.eval()(batch.volume_BCZYX)
        assert (adapted - before).abs().max() > 1e-2
        merge_lora(encoder)
        merged = encoder(batch.volume_BCZYX)
    assert encoder.state_dict().keys() == keys
    assert (merged - adapted).abs().max() < 1e-5
    assert torch.equal(encoder.norm.weight, base["norm.weight"])
    encoder.save_pretrained(tmp_path / "merged")
    back = Encoder.from_pretrained(tmp_path / "merged")
    with torch.no_grad():
        assert torch.equal(back(batch.volume_BCZYX), merged)


def test_adapters_and_mode_must_go_together(encoder):
    with pytest.raises(ValueError, match="add_lora"):
        classifier(encoder, "lora")
    with pytest.raises(ValueError, match="no LoRA adapters"):
        merge_lora(encoder)
    add_lora(encoder, LoraConfig(parts=["qkv"]), seed=0)
    with pytest.raises(ValueError, match=r"finetuning\.mode is 'full'"):
        classifier(encoder, "full")
    with pytest.raises(ValueError, match="merge_lora first"):
        add_lora(encoder, LoraConfig(), seed=0)
    with pytest.raises(ValueError, match=r"lora\.parts"):
        LoraConfig(parts=["everything"])


def test_a_head_with_dropout_differs_between_steps_and_not_in_evaluation(encoder, batch):
    head = MlpHead(width=48, classes=CLASSES, pool="mean", hidden=16, dropout=0.5)
    objective = Supervised(encoder, head)
    objective.train()
    assert not torch.equal(objective.loss(batch)["loss"], objective.loss(batch)["loss"])
    objective.eval()
    assert torch.equal(objective.loss(batch)["loss"], objective.loss(batch)["loss"])
