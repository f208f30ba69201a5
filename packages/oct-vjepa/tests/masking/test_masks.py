"""Masks have the sizes the configuration promises, and keep context and targets apart."""

import pytest
import torch
from oct_vjepa import MaskingConfig, MaskSetConfig, sample_masks

GRID = (4, 8, 4)
DRAWS = 10_000


@pytest.fixture(scope="module")
def many():
    generator = torch.Generator().manual_seed(0)
    return sample_masks(MaskingConfig(), GRID, DRAWS, generator=generator)


def test_sizes_follow_from_the_fractions_alone(many):
    columns = GRID[1] * GRID[2]
    for config, masks in zip(MaskingConfig().sets, many, strict=True):
        assert masks.target_BM.shape == (DRAWS, 4 * round(columns * config.target_fraction))
        assert masks.context_BK.shape == (DRAWS, 4 * round(columns * config.context_fraction))


def test_ids_are_int64_in_range_ascending_and_so_unique(many):
    for ids in (ids for masks in many for ids in masks):
        assert ids.dtype == torch.int64
        assert ids.min() >= 0
        assert ids.max() < 128
        assert (ids.diff(dim=1) > 0).all()


def test_context_and_targets_never_overlap(many):
    for masks in many:
        seen = torch.zeros(DRAWS, 128, dtype=torch.int64)
        seen.scatter_add_(1, torch.cat(masks, dim=1), torch.ones_like(torch.cat(masks, dim=1)))
        assert seen.max() == 1


def test_every_mask_is_a_tube_through_all_slices(many):
    for ids in (ids for masks in many for ids in masks):
        slices = ids.view(DRAWS, GRID[0], -1)
        assert torch.equal(slices % 32, (slices[:, :1] % 32).expand_as(slices))
        assert torch.equal(slices // 32, torch.arange(4).view(1, 4, 1).expand_as(slices))


def test_every_column_is_context_and_target_at_times(many):
    for masks in many:
        for ids in masks:
            share = (ids % 32).flatten().bincount(minlength=32) / (4 * DRAWS)
            assert share.min() > 0.01


def test_targets_lie_together_rather_than_scattered(generator):
    def edges(columns):
        """Neighbours along Y of which one is a target and one is not, a volume."""
        plane = torch.zeros(200, 256).scatter_(1, columns, 1.0).view(200, 16, 16)
        return plane.diff(dim=1).abs().sum() / 200

    masks = sample_masks(MaskingConfig(), (1, 16, 16), 200, generator=generator)[1]
    count = masks.target_BM.shape[1]
    scattered = torch.rand(200, 256, generator=generator).argsort(dim=1)[:, :count]
    assert edges(masks.target_BM) < 0.5 * edges(scattered)


def test_equal_generators_give_equal_masks_and_others_do_not():
    def draw(seed):
        seeded = torch.Generator().manual_seed(seed)
        return sample_masks(MaskingConfig(), (2, 6, 10), 3, generator=seeded)

    first, again, other = draw(1), draw(1), draw(2)
    for index in range(2):
        assert torch.equal(first[index].target_BM, again[index].target_BM)
        assert not torch.equal(first[index].target_BM, other[index].target_BM)


def test_masks_drawn_one_by_one_collate_to_a_batch(generator):
    draws = [sample_masks(MaskingConfig(), GRID, 1, generator=generator) for _ in range(3)]
    samples = [tuple(type(m)(*(ids[0] for ids in m)) for m in draw) for draw in draws]
    batch = torch.utils.data.default_collate(samples)
    assert type(batch[0]).__name__ == "Masks"
    assert torch.equal(batch[1].context_BK[2:], draws[2][1].context_BK)


def test_a_grid_too_small_for_the_fractions_is_refused(generator):
    with pytest.raises(ValueError, match=r"masking\.sets: a grid of \(4, 2, 1\) .* 0 context"):
        sample_masks(MaskingConfig(), (4, 2, 1), 1, generator=generator)


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ({"blocks": 0}, r"blocks \(0\)"),
        ({"scale": 1.5}, r"scale \(1\.5\)"),
        ({"aspect_low": 2.0}, r"aspect_low \(2\.0\)"),
        ({"target_fraction": 0.8, "context_fraction": 0.3}, r"target_fraction \(0\.8\)"),
    ],
)
def test_a_bad_mask_setting_is_named_with_its_value(setting, text):
    with pytest.raises(ValueError, match=rf"masking\.sets\.{text}"):
        MaskSetConfig(**setting)


def test_no_mask_set_is_refused():
    with pytest.raises(ValueError, match="at least one mask set"):
        MaskingConfig(sets=[])
