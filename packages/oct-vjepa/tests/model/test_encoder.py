"""The encoder takes any grid, refuses what does not fit, and computes kept patches only."""

import pytest
import torch
from oct_vjepa import POOLS, Encoder, EncoderConfig, JepaConfig, encoder_config, pool_tokens
from oct_vjepa.model.positions import (
    Placement,
    apply_rotary,
    grid_positions,
    make_rotary,
    patch_positions,
    rotary_at,
)


@torch.no_grad()
def test_listing_every_patch_equals_listing_none(encoder, volume):
    everything = torch.arange(24).expand(4, -1)
    torch.testing.assert_close(encoder(volume, everything), encoder(volume), rtol=0, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 3, 5])
def test_ids_of_another_number_of_volumes_are_refused(encoder, volume, rows):
    ids = torch.arange(6).expand(rows, -1)
    with pytest.raises(ValueError, match=f"ids for {rows} volumes do not belong to 4 volumes"):
        encoder(volume, ids)


def test_the_order_of_the_ids_only_reorders_the_tokens(encoder, volume):
    ids = torch.tensor([[3, 7, 11, 20, 5]]).expand(4, -1)
    order = torch.tensor([4, 0, 3, 1, 2])
    torch.testing.assert_close(
        encoder(volume, ids[:, order]), encoder(volume, ids)[:, order], rtol=0, atol=1e-6
    )


@torch.no_grad()
def test_a_token_knows_where_its_patch_lies(encoder):
    flat = torch.full((1, 1, 4, 16, 24), 200, dtype=torch.uint8)
    flat[..., :4, :8] = 0  # without a mark, equal patches attend to equal values
    assert encoder(flat)[0, 5:].std(dim=0).max() > 1e-6


@torch.no_grad()
def test_other_sizes_than_the_configured_one_are_encoded(encoder):
    assert encoder(torch.zeros(1, 1, 6, 8, 40)).shape == (1, 3 * 2 * 5, 48)


def test_positions_of_a_grid_that_is_not_square_are_z_y_x():
    positions = grid_positions((2, 3, 5), None, torch.device("cpu"))
    wanted = torch.cartesian_prod(torch.arange(2.0), torch.arange(3.0), torch.arange(5.0))
    assert torch.equal(positions[0], wanted)
    some = grid_positions((2, 3, 5), torch.tensor([[29, 0, 7]]), torch.device("cpu"))
    assert some.tolist() == [[[1, 2, 4], [0, 0, 0], [0, 1, 2]]]


def scores(form, shift):
    """Products of rotated queries and keys, with all positions moved by `shift` patches."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 30, 2, 1, 20, generator=generator, dtype=torch.float64)
    positions = grid_positions((2, 3, 5), None, torch.device("cpu")) + torch.tensor(shift)
    query, key = apply_rotary(x, make_rotary(positions, 20, form)).unbind(2)
    return query[0, :, 0] @ key[0, :, 0].T


def test_interleaved_attention_depends_on_relative_positions_only():
    here, there = scores("interleaved", [0.0, 0.0, 0.0]), scores("interleaved", [3.0, 1.0, 2.0])
    torch.testing.assert_close(here, there, rtol=0, atol=1e-4)
    slipped = scores("vjepa2", [0.0, 0.0, 0.0]) - scores("vjepa2", [3.0, 1.0, 2.0])
    assert slipped.abs().max() > 1e-2  # the slip that V-JEPA 2's weights are trained with


def test_rotation_keeps_the_first_patch_the_remainder_and_the_type():
    x = torch.randn(1, 30, 2, 3, 16).to(torch.bfloat16)  # 12 of 16 features are rotated
    rotary = make_rotary(grid_positions((2, 3, 5), None, x.device), 16, "interleaved")
    rotated = apply_rotary(x, rotary)
    assert rotated.dtype == torch.bfloat16
    assert torch.equal(rotated[:, 0], x[:, 0])
    assert torch.equal(rotated[..., 12:], x[..., 12:])
    assert not torch.equal(rotated[:, 1:, ..., :12], x[:, 1:, ..., :12])


@torch.no_grad()
def test_voxels_are_normalised_with_the_configured_numbers(encoder, volume):
    by_hand = (volume.float() - 100.0) / 50.0
    encoder.patches.mean, encoder.patches.std = 0.0, 1.0
    plain = encoder(by_hand)
    encoder.patches.mean, encoder.patches.std = 100.0, 50.0
    torch.testing.assert_close(encoder(volume), plain, rtol=0, atol=1e-6)


@torch.no_grad()
def test_pools_give_one_vector_a_volume(encoder, volume):
    tokens = encoder(volume)
    assert torch.equal(encoder.embed(volume, "mean"), tokens.mean(dim=1))
    assert torch.equal(encoder.embed(volume, "max"), tokens.amax(dim=1))
    torch.testing.assert_close(
        encoder.embed(volume, "mean_std")[:, 48:], tokens.std(dim=1, correction=0)
    )
    with pytest.raises(ValueError, match=r"'median'.*mean_std"):
        pool_tokens(tokens, "median")


@pytest.mark.parametrize("pool", POOLS)
def test_pooling_equal_tokens_gives_no_nan_and_no_nan_gradient(pool):
    tokens = torch.ones(2, 5, 4, requires_grad=True)
    pool_tokens(tokens, pool).sum().backward()
    assert tokens.grad.isfinite().all()


@pytest.mark.parametrize(("shape", "axis"), [((5, 16, 24), "Z"), ((4, 18, 24), "Y")])
def test_a_size_the_patches_do_not_divide_names_its_axis(encoder, shape, axis):
    with pytest.raises(ValueError, match=rf"axis {axis} has .* voxels"):
        encoder(torch.zeros(1, 1, *shape))


def test_a_volume_without_its_channel_axis_is_refused(encoder):
    with pytest.raises(ValueError, match=r"\(B, 1, Z, Y, X\), not \(4, 4, 16, 24\)"):
        encoder(torch.zeros(4, 4, 16, 24))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"input_shape": (8, 60, 64)}, r"encoder\.input_shape: axis Y has 60"),
        ({"patch_size": (0, 8, 16)}, r"encoder\.patch_size"),
        ({"width": 100}, r"encoder\.width \(100\) .* heads \(3\)"),
        ({"width": 12}, r"encoder\.width / heads \(4\)"),
        ({"rotary": "sincos"}, r"encoder\.rotary \('sincos'\)"),
        ({"input_std": 0.0}, r"encoder\.input_std \(0\.0\) must be positive"),
    ],
)
def test_a_bad_setting_is_named_with_its_value(settings, text):
    with pytest.raises(ValueError, match=text):
        EncoderConfig(**settings)


def test_lists_from_a_configuration_file_become_tuples():
    assert EncoderConfig(input_shape=[8, 64, 64]).input_shape == (8, 64, 64)


def test_settings_win_over_the_named_size():
    config = encoder_config("base", depth=2, patch_size=(4, 16, 16))
    assert (config.width, config.depth, config.heads) == (768, 2, 12)
    with pytest.raises(ValueError, match=r"'gigantic'.*cpu_smoke"):
        encoder_config("gigantic")


def test_the_maps_into_the_residual_stream_shrink_with_depth():
    torch.manual_seed(0)
    blocks = Encoder(encoder_config("cpu_smoke")).blocks
    for index, block in enumerate(blocks):
        wanted = 0.02 / (2 * (index + 1)) ** 0.5
        assert block.mlp.fc2.weight.std().item() == pytest.approx(wanted, rel=0.05)
        assert block.attention.proj.weight.std().item() == pytest.approx(wanted, rel=0.05)


@pytest.mark.parametrize("unit", ["index", "span", "length"])
def test_tables_that_are_looked_up_are_those_of_the_places(unit):
    grid, host = (2, 3, 5), torch.device("cpu")
    placement, ids = Placement(unit), torch.tensor([[7, 2, 29], [0, 28, 7]])
    spacing = torch.tensor([[1.0, 2.0, 0.5], [3.0, 1.0, 1.0]])
    found = rotary_at(placement, grid, ids, host, spacing, head_width=16, form="vjepa2")
    places = patch_positions(placement, grid, ids, host, spacing)
    for one, other in zip(found, make_rotary(places, 16, "vjepa2"), strict=True):
        assert torch.equal(one, other)


def test_settings_travel_through_omegaconf():
    omegaconf = pytest.importorskip("omegaconf")
    for kind in (EncoderConfig, JepaConfig):
        tree = omegaconf.OmegaConf.structured(kind)
        assert omegaconf.OmegaConf.to_object(tree) == kind()
