"""Learned pools: the attentive probe is that of transformers, and every head can be saved."""

import pytest
import torch
from oct_vjepa import WeightsError
from oct_vjepa.heads.attentive import (
    AttentiveHead,
    AttentivePool,
    CrossAttentionHead,
    CrossAttentionPool,
)
from oct_vjepa.heads.build import load_head
from oct_vjepa.heads.linear import LinearHead
from oct_vjepa.heads.mlp import MlpHead
from oct_vjepa.heads.segmentation import SegmentationHead

HEADS = [
    LinearHead(width=12, classes=["a", "b"], pool="mean"),
    MlpHead(width=24, classes=["a", "b"], pool="mean_std", hidden=5, dropout=0.1),
    AttentiveHead(width=12, classes=["a", "b"], heads=3, depth=2),
    CrossAttentionHead(width=12, classes=["a", "b"], inner=8, heads=2),
]


def ours_from(theirs, classifier):
    """Our state of an attentive head, from transformers' pooler and classifier."""
    state = {"pool.query": theirs.query_tokens}
    cross = theirs.cross_attention_layer

    def shared(layer, here):
        for kind in ("weight", "bias"):
            state[f"{here}.norm1.{kind}"] = getattr(layer.layer_norm1, kind)
            state[f"{here}.norm2.{kind}"] = getattr(layer.layer_norm2, kind)
            state[f"{here}.mlp.fc1.{kind}"] = getattr(layer.mlp.fc1, kind)
            state[f"{here}.mlp.fc2.{kind}"] = getattr(layer.mlp.fc2, kind)

    for index, layer in enumerate(theirs.self_attention_layers):
        here, attention = f"pool.blocks.{index}", layer.self_attn
        shared(layer, here)
        for kind in ("weight", "bias"):
            parts = (attention.q_proj, attention.k_proj, attention.v_proj)
            state[f"{here}.qkv.{kind}"] = torch.cat([getattr(part, kind) for part in parts])
            state[f"{here}.proj.{kind}"] = getattr(attention.out_proj, kind)
    shared(cross, "pool.cross")
    for kind in ("weight", "bias"):
        parts = (cross.cross_attn.k_proj, cross.cross_attn.v_proj)
        state[f"pool.cross.query.{kind}"] = getattr(cross.cross_attn.q_proj, kind)
        state[f"pool.cross.keyvalue.{kind}"] = torch.cat([getattr(part, kind) for part in parts])
        state[f"linear.{kind}"] = getattr(classifier, kind)
    return state


@torch.no_grad()
def test_the_attentive_probe_equals_transformers():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.VJEPA2Config(
        crop_size=32, patch_size=16, frames_per_clip=4, tubelet_size=2, hidden_size=96,
        num_attention_heads=4, num_hidden_layers=1, num_pooler_layers=3, num_labels=5,
        pred_hidden_size=48, pred_num_attention_heads=3, pred_num_hidden_layers=1,
    )  # fmt: skip
    model = transformers.VJEPA2ForVideoClassification(config).eval()
    for weight in model.parameters():
        weight.add_(torch.randn_like(weight) * 0.1)  # zero biases and queries would hide mistakes
    head = AttentiveHead(width=96, classes=list("abcde"), heads=4, depth=4)
    head.load_state_dict(ours_from(model.pooler, model.classifier))
    tokens = torch.randn(3, 40, 96)
    theirs = model.classifier(model.pooler(tokens))
    assert theirs.std() > 0.1
    assert (head(tokens) - theirs).abs().max() < 1e-5


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.kind)
def test_a_saved_head_of_any_kind_gives_the_same_logits(head, tmp_path):
    tokens = torch.randn(4, 6, 12, generator=torch.Generator().manual_seed(0))
    head = head.eval()
    head.save_pretrained(tmp_path / "head")
    back = load_head(tmp_path / "head")
    assert type(back) is type(head)
    assert back.classes == ["a", "b"]
    assert torch.equal(back.from_tokens(tokens), head.from_tokens(tokens))


def test_what_is_not_a_head_is_refused_by_name(tmp_path, encoder):
    encoder.save_pretrained(tmp_path / "encoder")
    with pytest.raises(WeightsError, match="not that of a head"):
        load_head(tmp_path / "encoder")
    with pytest.raises(WeightsError, match="cannot be read"):
        load_head(tmp_path / "nothing")
    head = SegmentationHead(width=8, classes=["a", "b"], patch_size=(1, 2, 2), hidden=3)
    head.save_pretrained(tmp_path / "seg")
    assert SegmentationHead.from_pretrained(tmp_path / "seg").patch_size == (1, 2, 2)


@pytest.mark.parametrize(
    "pool",
    [AttentivePool(width=12, heads=3, depth=2), CrossAttentionPool(width=12, inner=8, heads=2)],
    ids=["attentive", "cross"],
)
@torch.no_grad()
def test_a_learned_pool_does_not_care_about_the_order_of_the_tokens_but_about_each(pool):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(2, 7, 12, generator=generator)
    shuffled = tokens[:, torch.randperm(7, generator=generator)]
    assert torch.allclose(pool(tokens), pool(shuffled), atol=1e-6)
    changed = tokens.clone()
    changed[:, 3] = -changed[:, 3]
    assert (pool(changed) - pool(tokens)).abs().max() > 1e-5


def test_the_light_pool_has_less_than_a_tenth_of_an_attentive_block():
    sizes = [
        sum(weight.numel() for weight in pool.parameters())
        for pool in (CrossAttentionPool(width=768), AttentivePool(width=768, depth=1))
    ]
    assert sizes[0] < 0.3e6 < 6.4e6 < sizes[1] < 6.6e6


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(
        ValueError, match=r"width \(10\) must be a positive multiple of heads \(4\)"
    ):
        AttentivePool(width=10, heads=4)
    with pytest.raises(ValueError, match="depth"):
        AttentivePool(width=8, heads=4, depth=0)


def test_a_pooled_head_standardises_with_its_training_features():
    features = torch.randn(50, 6, generator=torch.Generator().manual_seed(1)) * 3 + 2
    features[:, 5] = 4.0
    head = MlpHead(width=6, classes=["a", "b"])
    standard = head.standardise(features)
    assert torch.allclose(standard.mean(dim=0), torch.zeros(6), atol=1e-5)
    assert torch.allclose(standard[:, :5].std(dim=0, correction=0), torch.ones(5), atol=1e-5)
    with pytest.raises(ValueError, match="pool is empty"):
        head.from_tokens(torch.zeros(1, 3, 6))
