"""Every sampler keeps its promises over 10,000 draws, and reads each of its settings."""

import pytest
import torch
from oct_vjepa import MaskingConfig, MaskSetConfig, sample_masks
from oct_vjepa.masking.foreground import ForegroundConfig, foreground_patches
from oct_vjepa.masking.samplers import Blocks, draw_union

GRID = (4, 8, 6)
PATCHES = 4 * 8 * 6
DRAWS = 10_000
KINDS = {
    "blocks": {},
    "large blocks": {
        "blocks": 2, "scale": 0.7, "target_fraction": 0.8, "context_fraction": 0.15,
    },
    "few targets": {"max_targets": 40},
    "few blocks": {"target_fraction": 0.3},
    "foreground": {"kind": "foreground", "target_fraction": 0.3, "foreground_fraction": 0.25},
    "patches": {"kind": "patches", "target_fraction": 0.6, "context_fraction": 0.4},
    "cubes": {"kind": "cubes", "cube_size": (2, 3, 2)},
    "few cubes": {"kind": "cubes", "max_targets": 30},
}  # fmt: skip


def one_set(grid, batch, seed=0, foreground_BN=None, **settings):
    config = MaskingConfig(sets=[MaskSetConfig(**settings)])
    generator = torch.Generator().manual_seed(seed)
    return sample_masks(config, grid, batch, generator=generator, foreground_BN=foreground_BN)[0]


def bright_band(batch, grid=GRID):
    """Weights of a scan whose rows 3 and 4 of 8 are bright."""
    weight = torch.zeros(batch, *grid)
    weight[:, :, 3:5] = 1.0
    return weight.flatten(1)


@pytest.fixture(scope="module")
def draws():
    weights = bright_band(DRAWS)
    return {
        name: one_set(GRID, DRAWS, foreground_BN=weights, **settings)
        for name, settings in KINDS.items()
    }


def share_of(ids, axis):
    """How often each place along an axis is drawn, relative to an even spread."""
    z, rest = ids // 48, ids % 48
    place = (z, rest // 6, rest % 6)[axis]
    counts = place.flatten().bincount(minlength=GRID[axis]).double()
    return counts / counts.mean()


@pytest.mark.parametrize("name", KINDS)
def test_sizes_are_those_that_the_configuration_says(draws, name):
    targets, contexts = MaskSetConfig(**KINDS[name]).sizes(GRID)
    assert draws[name].target_BM.shape == (DRAWS, targets)
    assert draws[name].context_BK.shape == (DRAWS, contexts)


@pytest.mark.parametrize("name", KINDS)
def test_ids_are_int64_in_range_ascending_and_so_unique(draws, name):
    for ids in draws[name]:
        assert ids.dtype == torch.int64
        assert 0 <= ids.min() <= ids.max() < PATCHES
        assert (ids.diff(dim=1) > 0).all()


@pytest.mark.parametrize("name", KINDS)
def test_context_and_targets_have_nothing_in_common(draws, name):
    both = torch.cat(draws[name], dim=1)
    seen = torch.zeros(DRAWS, PATCHES, dtype=torch.int8)
    assert seen.scatter_add_(1, both, torch.ones_like(both, dtype=torch.int8)).max() == 1


@pytest.mark.parametrize("name", KINDS)
def test_every_slice_is_drawn_equally_often(draws, name):
    for ids in draws[name]:
        assert (share_of(ids, 0) - 1).abs().max() < 0.02


@pytest.mark.parametrize("name", ["patches", "cubes"])
def test_patches_and_cubes_cover_rows_and_columns_evenly_too(draws, name):
    for ids in draws[name]:
        for axis in (1, 2):
            assert (share_of(ids, axis) - 1).abs().max() < 0.05


def test_a_limit_takes_a_random_part_of_the_targets_of_the_same_blocks():
    few, all_of_them = (one_set(GRID, 50, max_targets=limit) for limit in (40, None))
    assert torch.equal(few.context_BK, all_of_them.context_BK)
    for some, whole in zip(few.target_BM.tolist(), all_of_them.target_BM.tolist(), strict=True):
        assert set(some) < set(whole)
    high = one_set(GRID, 50, max_targets=10_000)
    assert torch.equal(high.target_BM, all_of_them.target_BM)


def test_cubes_are_hidden_whole():
    grid = (8, 8, 8)
    masks = one_set(grid, 300, kind="cubes", cube_size=(2, 2, 2), target_fraction=0.5)
    hidden = torch.zeros(300, 512).scatter_(1, masks.target_BM, 1.0).view(300, *grid)
    iid = one_set(grid, 300, kind="patches", target_fraction=0.5)
    scattered = torch.zeros(300, 512).scatter_(1, iid.target_BM, 1.0).view(300, *grid)
    for axis in (1, 2, 3):
        # inside a cube neighbours agree: half of all pairs; across cubes they agree by chance
        assert hidden.diff(dim=axis).abs().mean() == pytest.approx(0.25, abs=0.03)
        assert scattered.diff(dim=axis).abs().mean() == pytest.approx(0.5, abs=0.03)


def test_foreground_masks_aim_at_the_foreground_and_leave_some_of_it_as_context(draws):
    bright = bright_band(1)[0].bool()
    hits = bright[draws["foreground"].target_BM].float().mean()
    assert hits > 1.5 * bright[draws["few blocks"].target_BM].float().mean()
    kept = bright[draws["foreground"].context_BK].sum(dim=1)
    assert kept.min() >= 4 * 3  # a quarter of the 12 bright columns of 4 patches stays
    assert bright[draws["blocks"].context_BK].sum(dim=1).min() == 0  # else often nothing does


def test_the_share_of_the_foreground_that_stays_context_is_a_promise():
    weights = bright_band(500)
    masks = one_set(
        GRID, 500, foreground_BN=weights, kind="foreground", foreground_fraction=0.25,
        context_foreground=0.5, target_fraction=0.5, context_fraction=0.3,
    )  # fmt: skip
    kept = weights[0].bool()[masks.context_BK].sum(dim=1)
    assert kept.min() >= 4 * 6  # all 12 columns are bright, half of them stay, 4 patches each


def test_foreground_weights_may_have_any_scale_and_sit_on_any_device_type():
    weights = bright_band(20)
    one, other = (
        one_set(GRID, 20, foreground_BN=w, kind="foreground") for w in (weights, weights.half() * 7)
    )
    assert torch.equal(one.target_BM, other.target_BM)


def test_foreground_masks_without_weights_say_how_to_make_them():
    with pytest.raises(ValueError, match="foreground_patches"):
        one_set(GRID, 2, kind="foreground")
    with pytest.raises(ValueError, match=r"must be \(2, 192\), not \(3, 192\)"):
        one_set(GRID, 2, kind="foreground", foreground_BN=bright_band(3))


def test_the_reference_sampler_cuts_to_the_smallest_of_the_batch_and_starves_the_last_slices():
    sizes, context = set(), torch.zeros(4)
    for seed in range(150):
        masks = one_set(GRID, 8, seed, kind="vjepa2")
        sizes.add((masks.context_BK.shape[1], masks.target_BM.shape[1]))
        context += (masks.context_BK // 48).flatten().bincount(minlength=4)
        for ids in masks:
            assert 0 <= ids.min() <= ids.max() < PATCHES
            assert (ids.diff(dim=1) > 0).all()
        both = torch.cat(masks, dim=1).sort(dim=1).values
        assert (both.diff(dim=1) > 0).all()
    assert len(sizes) > 50, "sizes change from batch to batch, which is why it is not for XLA"
    assert context[-1] < 0.5 * context[0]


def test_the_reference_sampler_does_not_know_its_sizes_and_never_gives_an_empty_context():
    config = MaskSetConfig(kind="vjepa2", scale=0.7)
    assert not config.fixed_size
    with pytest.raises(ValueError, match="draws its sizes"):
        config.sizes(GRID)
    assert one_set(GRID, 64, kind="vjepa2", scale=0.7).context_BK.shape[1] > 0
    with pytest.raises(ValueError, match="cover the whole plane"):
        one_set((2, 1, 1), 2, kind="vjepa2", scale=1.0)


@pytest.mark.parametrize("kind", ["blocks", "foreground", "patches", "cubes", "vjepa2"])
def test_equal_generators_give_equal_masks_and_others_do_not(kind):
    first, again, other = (
        one_set(GRID, 3, seed, kind=kind, foreground_BN=bright_band(3)) for seed in (1, 1, 2)
    )
    assert torch.equal(first.context_BK, again.context_BK)
    assert torch.equal(first.target_BM, again.target_BM)
    assert not torch.equal(first.target_BM[:, :30], other.target_BM[:, :30])


@pytest.mark.parametrize(
    ("kind", "changed"),
    [
        ("blocks", {"blocks": 3}),
        ("blocks", {"scale": 0.5}),
        ("blocks", {"aspect_low": 1.4}),
        ("blocks", {"aspect_high": 4.0}),
        ("blocks", {"target_fraction": 0.5}),
        ("blocks", {"context_fraction": 0.2}),
        ("blocks", {"max_targets": 7}),
        ("blocks", {"kind": "cubes"}),
        ("cubes", {"cube_size": (1, 4, 3)}),
        ("foreground", {"foreground_fraction": 0.1}),
        ("foreground", {"context_foreground": 0.6}),
        ("vjepa2", {"scale": 0.4}),
    ],
)
def test_every_setting_of_a_mask_set_changes_the_masks(kind, changed):
    base = {"kind": kind}
    one, other = (
        one_set(GRID, 40, foreground_BN=bright_band(40), **settings)
        for settings in (base, base | changed)
    )
    assert any(a.shape != b.shape or not torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ({"kind": "spiral"}, r"kind \('spiral'\)"),
        ({"max_targets": 0}, r"max_targets \(0\)"),
        ({"cube_size": [2, 0, 2]}, r"cube_size \(\(2, 0, 2\)\)"),
        ({"foreground_fraction": 1.0}, r"foreground_fraction \(1\.0\)"),
        ({"context_foreground": 0.0}, r"context_foreground \(0\.0\)"),
    ],
)
def test_a_bad_setting_is_named_with_its_value(setting, text):
    with pytest.raises(ValueError, match=rf"masking\.sets\.{text}"):
        MaskSetConfig(**setting)


def test_a_list_from_a_configuration_file_is_a_cube():
    assert MaskSetConfig(cube_size=[1, 2, 3]).cube_size == (1, 2, 3)


def volume_with_a_bright_corner():
    volume = torch.full((2, 1, 4, 16, 12), 10, dtype=torch.uint8)
    volume[:, :, :, :4, :6] = 200
    volume[:, :, 2:, 12:, 6:] = torch.tensor([0, 30], dtype=torch.uint8).repeat(3)
    return volume


def test_bright_patches_are_the_foreground_and_its_share_is_exact():
    config = ForegroundConfig(fraction=1 / 8)
    chosen = foreground_patches(volume_with_a_bright_corner(), (2, 4, 6), config)
    assert chosen.shape == (2, 16)
    assert chosen[0].nonzero().flatten().tolist() == [0, 8]


def test_texture_can_be_the_measure_instead():
    config = ForegroundConfig(measure="std", fraction=1 / 16)
    chosen = foreground_patches(volume_with_a_bright_corner(), (2, 4, 6), config)
    assert chosen[0].nonzero().flatten().tolist() == [15]


def test_the_foreground_survives_a_change_of_gain(generator):
    volume = torch.rand(2, 1, 4, 16, 12, generator=generator)
    one, other = (
        foreground_patches(v, (2, 4, 6), ForegroundConfig()) for v in (volume, 3 * volume + 7)
    )
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("setting", "text"),
    [({"measure": "max"}, r"measure \('max'\)"), ({"fraction": 1.0}, r"fraction \(1\.0\)")],
)
def test_a_bad_rule_for_the_foreground_is_named(setting, text):
    with pytest.raises(ValueError, match=rf"foreground\.{text}"):
        ForegroundConfig(**setting)


@pytest.mark.parametrize("plane", [(16, 16), (8, 4), (16, 4), (64, 12), (4, 16)])
@pytest.mark.parametrize("scale", [0.15, 0.7])
def test_a_block_covers_its_share_of_long_planes_too(plane, scale):
    one = Blocks(1, scale, aspect_low=0.75, aspect_high=1.5)
    union = draw_union(one, (1, *plane), 2000, torch.Generator().manual_seed(0))
    assert union.mean().item() == pytest.approx(scale, abs=0.5 / max(plane) + 0.01)
