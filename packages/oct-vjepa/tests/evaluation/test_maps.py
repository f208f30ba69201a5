"""Colours, similarity and attention of tokens, and how they get back to voxels."""

import pytest
import torch
from oct_vjepa.evaluation.maps import (
    attention_map,
    attention_weights,
    principal_colours,
    similarity_map,
    to_voxels,
)

GRID = (2, 4, 3)


def test_equal_tokens_get_equal_colours_and_unlike_ones_do_not():
    kinds = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    noise = 0.01 * torch.randn(40, 16, generator=torch.Generator().manual_seed(1))
    colours = principal_colours(kinds[torch.arange(40) % 2] + noise)
    assert colours.min() >= 0
    assert colours.max() <= 1
    first, second = colours[::2, 0], colours[1::2, 0]
    assert (first.mean() - second.mean()).abs() > 0.8
    assert first.std() < 0.1


def test_the_picture_does_not_depend_on_the_sign_that_the_decomposition_happens_to_choose():
    tokens = torch.randn(50, 8, generator=torch.Generator().manual_seed(2))
    order = torch.randperm(50, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(principal_colours(tokens)[order], principal_colours(tokens[order]))


def test_too_few_tokens_are_refused():
    with pytest.raises(ValueError, match="at least 4"):
        principal_colours(torch.zeros(2, 8))


def test_similarity_is_one_with_itself_and_high_with_its_like(generator):
    kinds = torch.randn(2, 16, generator=generator)
    tokens = kinds[torch.arange(24) % 2] + 0.01 * torch.randn(24, 16, generator=generator)
    found = similarity_map(tokens, GRID, (1, 2, 0))  # token 18, an even one
    assert found.shape == GRID
    assert found[1, 2, 0] == pytest.approx(1.0)
    assert found.flatten()[::2].min() > 0.9
    assert found.flatten()[1::2].max() < -0.9
    with pytest.raises(ValueError, match="outside the grid"):
        similarity_map(tokens, GRID, (2, 0, 0))
    with pytest.raises(ValueError, match="do not fill"):
        similarity_map(tokens[:20], GRID, (0, 0, 0))


@torch.no_grad()
def test_the_weights_are_those_that_the_encoder_s_fused_attention_uses(encoder, volume):
    for weight in encoder.parameters():
        weight.mul_(3.0)  # attention of fresh weights is nearly even
    attention = encoder.blocks[1].attention
    seen = {}
    hook = attention.register_forward_hook(lambda _, inputs, out: seen.update(x=inputs[0], out=out))
    encoder.eval()(volume[:1])
    hook.remove()
    maps = torch.stack(
        [
            attention_map(encoder, volume[0], patch=(z, y, x))
            for z in range(2) for y in range(4) for x in range(3)
        ], dim=1,
    ).flatten(2)  # (heads, queries, keys)  # fmt: skip
    assert maps.std() > 1e-3
    assert torch.allclose(maps.sum(dim=2), torch.ones(3, 24), atol=1e-5)
    value = attention.qkv(seen["x"])[0].unflatten(-1, (3, 3, -1))[:, 2].transpose(0, 1)
    mixed = attention.proj((maps @ value).transpose(0, 1).flatten(1))
    assert (mixed - seen["out"][0]).abs().max() < 1e-5


@torch.no_grad()
def test_without_a_patch_the_map_is_the_average_over_all_that_ask(encoder, volume):
    maps = [
        attention_map(encoder, volume[0], patch=(z, y, x), block=0)
        for z in range(2)
        for y in range(4)
        for x in range(3)
    ]
    assert torch.allclose(
        attention_map(encoder, volume[0], block=0), torch.stack(maps).mean(0), atol=1e-6
    )
    encoder.train()
    attention_map(encoder, volume[0, 0])  # one channel may be left out
    assert encoder.training
    assert not encoder.blocks[0].attention._forward_pre_hooks
    with pytest.raises(ValueError, match=r"block \(2\)"):
        attention_map(encoder, volume[0], block=2)
    with pytest.raises(ValueError, match="outside the grid"):
        attention_map(encoder, volume[0], patch=(0, 4, 0))


def test_attention_weights_are_a_softmax_of_scaled_products(generator):
    query, key = (
        torch.randn(2, 3, 4, generator=generator),
        torch.randn(2, 5, 4, generator=generator),
    )
    assert torch.allclose(
        attention_weights(query, key), (query @ key.mT / 2.0).softmax(-1), atol=1e-6
    )


def test_a_map_covers_the_voxels_of_its_patches():
    values = torch.arange(24.0).reshape(GRID)
    voxels = to_voxels(values, (4, 16, 24))
    assert torch.equal(
        voxels, values.repeat_interleave(2, 0).repeat_interleave(4, 1).repeat_interleave(8, 2)
    )
    heads = to_voxels(values.expand(3, *GRID), (4, 16, 24), "trilinear")
    assert heads.shape == (3, 4, 16, 24)
    assert values.min() <= heads.min() <= heads.max() <= values.max()
    with pytest.raises(ValueError, match="resize"):
        to_voxels(values, (4, 16, 24), "cubic")
