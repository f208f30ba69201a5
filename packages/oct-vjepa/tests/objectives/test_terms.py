"""What an objective may ask beside the features of hidden patches, and that asking nothing is free.

The first losses of V-JEPA 2 and 2.1 are as they were when each was a class of its own.
"""

import pytest
import torch
from oct_vjepa import (
    Encoder,
    EncoderConfig,
    Jepa,
    JepaBatch,
    JepaConfig,
    MaskingConfig,
    PredictorConfig,
    encoder_config,
    sample_masks,
)
from oct_vjepa.filters import filter_patches
from oct_vjepa.objectives.configuration import DenseJepaConfig
from oct_vjepa.objectives.losses import normalise_targets, standard_voxels
from oct_vjepa.objectives.objective import PairBatch
from oct_vjepa.objectives.units import SPREAD, FixedFilters, FixedUnits, natural_scenes
from torch.nn import functional

PREDICTOR = PredictorConfig(width=24, depth=2, heads=2)
GOLDEN = {
    "jepa": (
        JepaConfig(predictor=PREDICTOR, variance_weight=0.5),
        [0.8676925897598267, 0.8486549258232117, 0.8272778987884521, 0.823992908000946],
        [0.6219969391822815, 0.5464130640029907, 0.4407799541950226, 0.4524649679660797],
    ),
    "dense": (
        DenseJepaConfig(predictor=PREDICTOR, context_start=0.0, context_full=0.5),
        [0.8086916208267212, 1.0073446035385132, 1.20736563205719, 1.1988184452056885],
        [0.2274305373430252, 0.1988886147737503, 0.18406721949577332, 0.1575401872396469],
    ),
}


def built(config, small_config, depth=4):
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(**(small_config | {"depth": depth})))
    return Jepa(encoder, config, MaskingConfig())


@pytest.fixture
def shape():
    return {
        "input_shape": (4, 16, 24), "patch_size": (2, 4, 8), "width": 48, "heads": 3,
        "input_mean": 100.0, "input_std": 50.0,
    }  # fmt: skip


@pytest.mark.parametrize("name", GOLDEN)
def test_losses_and_gradients_are_the_golden_ones(name, shape):
    config, losses, gradients = GOLDEN[name]
    objective = built(config, shape)
    generator = torch.Generator().manual_seed(0)
    volume = torch.randint(0, 256, (4, 1, 4, 16, 24), dtype=torch.uint8, generator=generator)
    learning = [weight for weight in objective.parameters() if weight.requires_grad]
    optimiser = torch.optim.SGD(learning, lr=0.1)
    found, norms = [], []
    for step in range(4):
        loss = objective.loss(volume, generator)["loss"]
        optimiser.zero_grad()
        loss.backward()
        found.append(loss.item())
        norms.append(torch.stack([weight.grad.norm() for weight in learning]).norm().item())
        optimiser.step()
        objective.after_step(step, 4)
    assert found == pytest.approx(losses, rel=1e-4)
    assert norms == pytest.approx(gradients, rel=1e-3)


def test_what_has_no_weight_has_no_parameters_and_no_numbers(shape, volume):
    plain = built(JepaConfig(predictor=PREDICTOR), shape)
    names = {name.split(".")[0] for name in plain.state_dict()}
    assert names == {"encoder", "predictor", "teacher"}
    assert not [name for name, _ in plain.named_parameters() if "voxels" in name or "_con" in name]
    out = plain.loss(volume, torch.Generator())
    unasked = {"context_loss", "voxel_loss", "unit_loss", "volume_loss", "partner_loss"}
    unasked |= {"variance_loss", "filter_loss"}
    assert not unasked & out.keys()
    assert not plain.config.takes_pairs


def test_the_terms_add_up_with_their_weights(shape, volume, generator):
    weights = {"context_weight": 0.5, "voxel_weight": 2.0, "unit_weight": 1.5, "volume_weight": 3.0}
    weights |= {"variance_weight": 0.1, "filter_weight": 0.7}
    config = JepaConfig(predictor=PREDICTOR, context_full=0.0, **weights)
    objective = built(config, shape)
    out = objective.loss(volume, generator)
    whole = (out["loss_0"] + out["loss_1"]) / 2 + 0.5 * out["context_loss"]
    whole = whole + 2.0 * out["voxel_loss"] + 3.0 * out["volume_loss"] + 0.1 * out["variance_loss"]
    whole = whole + 1.5 * out["unit_loss"] + 0.7 * out["filter_loss"]
    torch.testing.assert_close(out["loss"].detach(), whole)
    assert [name for name, value in out.items() if value.requires_grad] == ["loss"]


def test_the_voxel_loss_is_smooth_l1_on_the_voxels_of_targets_and_context(shape, volume, generator):
    objective = built(JepaConfig(predictor=PREDICTOR, voxel_weight=1.0), shape)
    config = objective.encoder.config
    masks = sample_masks(objective.masking, config.grid, 4, generator=generator)
    batch = JepaBatch(volume, masks)
    cut = (volume.float() - 100) / 50
    cut = cut.unfold(2, 2, 2).unfold(3, 4, 4).unfold(4, 8, 8).flatten(5).flatten(2, 4).squeeze(1)
    torch.testing.assert_close(standard_voxels(volume, config), cut)
    wanted = []
    for index, one in enumerate(masks):
        mixed = objective.predict(batch, index).mixed
        parts = [(mixed.target_BMP, one.target_BM), (mixed.context_BKP, one.context_BK)]
        error = [
            functional.smooth_l1_loss(
                objective.predictor.proj_voxels(tokens),
                cut[torch.arange(4).unsqueeze(1), ids],
                reduction="none",
            )
            for tokens, ids in parts
        ]
        wanted.append(torch.cat(error, dim=1).mean())
    found = objective.loss(batch)["voxel_loss"]
    torch.testing.assert_close(found, torch.stack(wanted).mean().detach())


@pytest.mark.parametrize("what", ["unit", "filter"])
def test_the_loss_is_smooth_l1_on_what_fixed_units_see_of_targets_and_context(
    shape, volume, generator, what
):
    config = JepaConfig(predictor=PREDICTOR, units=20, **{f"{what}_weight": 1.0})
    objective = built(config, shape)
    masks = sample_masks(objective.masking, objective.encoder.config.grid, 4, generator=generator)
    batch = JepaBatch(volume, masks)
    seen, rows = getattr(objective, f"{what}s")(volume), torch.arange(4).unsqueeze(1)
    wanted = []
    for index, one in enumerate(masks):
        mixed = objective.predict(batch, index).mixed
        ids = torch.cat([one.target_BM, one.context_BK], dim=1)
        told = getattr(objective.predictor, f"proj_{what}s")(torch.cat(mixed, dim=1))
        wanted.append(functional.smooth_l1_loss(told, seen[rows, ids]))
    found = objective.loss(batch)[f"{what}_loss"]
    torch.testing.assert_close(found, torch.stack(wanted).mean().detach())


def test_fixed_units_see_a_patch_and_its_neighbours_in_its_slices(shape, volume):
    config = EncoderConfig(**shape, depth=1)
    units = FixedUnits(config, 7)
    assert units(volume).shape == (4, 2 * 4 * 3, 7)
    inner = units(volume).view(4, 2, 4, 3, 7)[:, 1, 2, 1]  # slices 2 and 3, rows 8 to 11
    seen = (volume[:, 0, 2:4, 4:16].float() - 100) / 50  # all 24 columns
    weighed = (seen.unsqueeze(1) * units.weight[:, 0]).sum(dim=(2, 3, 4)) + units.bias
    torch.testing.assert_close(inner, weighed.relu() / SPREAD, rtol=1e-4, atol=1e-4)
    corner = units(volume).view(4, 2, 4, 3, 7)[:, 0, 0, 0]
    around = functional.pad(
        (volume[:, :, :2, :8, :16].float() - 100) / 50, (8, 0, 4, 0, 0, 0), "replicate"
    )
    weighed = (around * units.weight[:, 0]).sum(dim=(2, 3, 4)) + units.bias
    torch.testing.assert_close(corner, weighed.relu() / SPREAD, rtol=1e-4, atol=1e-4)


def test_fixed_units_are_the_same_in_every_run_and_spread_by_about_one(shape):
    config = EncoderConfig(**shape, depth=1)
    torch.manual_seed(1)
    first = FixedUnits(config, 300)
    torch.manual_seed(2)
    assert torch.equal(first.weight, FixedUnits(config, 300).weight)
    assert not first.state_dict()
    assert not list(first.parameters())
    noise = 100 + 50 * torch.randn(8, 1, 4, 16, 24, generator=torch.Generator().manual_seed(0))
    assert first(noise).flatten(0, 1).std(dim=0).square().mean().sqrt() == pytest.approx(1, abs=0.1)


def test_fixed_filters_see_each_channel_by_what_is_usual_on_natural_scenes(shape, volume):
    config = EncoderConfig(**shape, depth=1, channels=2)
    filters = FixedFilters(config)
    two = torch.cat([volume, volume.flip(-1)], dim=1)
    found = filters(two)
    assert found.shape == (4, 2 * 4 * 3, FixedFilters.values(config))
    usual = filter_patches(natural_scenes(), (1, *config.patch_size[1:])).flatten(0, 1)
    second = filter_patches((two[:, 1].float() - 100) / 50, config.patch_size)
    wanted = (second - usual.mean(dim=0)) / usual.std(dim=0)
    torch.testing.assert_close(found[..., wanted.shape[-1] :], wanted)
    assert not filters.state_dict()
    assert not list(filters.parameters())


def test_a_volumes_filters_do_not_hang_on_who_else_is_there_nor_on_the_precision(shape, volume):
    filters = FixedFilters(EncoderConfig(**shape, depth=1))
    torch.testing.assert_close(filters(volume)[2:3], filters(volume[2:3]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        coarse = filters(volume)
    torch.testing.assert_close(coarse, filters(volume))


def test_filters_of_a_network_without_storage_leave_those_with_storage_as_they_are(shape, volume):
    with torch.device("meta"):
        hollow = built(JepaConfig(predictor=PREDICTOR, filter_weight=1.0), shape)
        assert hollow.filters(torch.empty(volume.shape)).device.type == "meta"
    filters = FixedFilters(EncoderConfig(**shape, depth=1))
    assert filters(volume).isfinite().all()


def test_natural_scenes_have_a_tenth_of_the_amplitude_at_ten_times_the_frequency():
    scenes = natural_scenes(64)
    assert float(scenes.mean()) == pytest.approx(0, abs=1e-6)
    assert float(scenes.std()) == pytest.approx(1)
    spectrum = torch.fft.rfft2(scenes).abs().square().mean(dim=(0, 1)).sqrt()
    along = torch.stack([spectrum[0, 1:60], spectrum[1:60, 0]]).mean(dim=0)
    assert float(along[3:6].mean() / along[38:43].mean()) == pytest.approx(8, rel=0.15)


def test_the_volume_loss_is_about_the_teachers_mean_token(shape, volume, generator):
    objective = built(JepaConfig(predictor=PREDICTOR, volume_weight=1.0, levels=2), shape)
    masks = sample_masks(objective.masking, objective.encoder.config.grid, 4, generator=generator)
    batch = JepaBatch(volume, masks)
    tokens = normalise_targets(objective.teacher(volume))
    goal = normalise_targets(tokens.mean(dim=1))
    said = [
        objective.volume(torch.cat(objective.predict(batch, index).mixed, dim=1).mean(dim=1))
        for index in range(2)
    ]
    wanted = torch.stack([(one - goal).abs().mean() for one in said]).mean()
    torch.testing.assert_close(objective.loss(batch)["volume_loss"], wanted.detach())


def test_the_partner_loss_is_about_the_teachers_mean_token_of_the_other_scan(
    shape, volume, generator
):
    objective = built(JepaConfig(predictor=PREDICTOR, partner_weight=2.0), shape)
    masks = sample_masks(objective.masking, objective.encoder.config.grid, 4, generator=generator)
    other = 255 - volume
    out = objective.loss(PairBatch(volume, other, masks))
    goal = normalise_targets(normalise_targets(objective.teacher(other)).mean(dim=1))
    said = [
        objective.partner(
            torch.cat(objective.predict(JepaBatch(volume, masks), index).mixed, dim=1).mean(dim=1)
        )
        for index in range(2)
    ]
    wanted = torch.stack([(one - goal).abs().mean() for one in said]).mean()
    torch.testing.assert_close(out["partner_loss"], wanted.detach())
    whole = (out["loss_0"] + out["loss_1"]) / 2 + 2.0 * out["partner_loss"]
    torch.testing.assert_close(out["loss"].detach(), whole)
    assert objective.config.takes_pairs


def test_without_a_partner_a_volume_is_its_own(shape, volume, generator):
    objective = built(JepaConfig(predictor=PREDICTOR, partner_weight=1.0), shape)
    masks = sample_masks(objective.masking, objective.encoder.config.grid, 4, generator=generator)
    alone, paired, apart = (
        objective.loss(batch)["partner_loss"]
        for batch in (
            JepaBatch(volume, masks),
            PairBatch(volume, volume, masks),
            PairBatch(volume, 255 - volume, masks),
        )
    )
    torch.testing.assert_close(alone, paired)
    assert not torch.allclose(alone, apart)
    with pytest.raises(ValueError, match=r"encoder\.input_shape"):
        objective.loss(PairBatch(volume, volume[..., :16], masks))


@pytest.mark.parametrize("term", ["voxel", "unit", "volume", "partner"])
def test_training_on_one_batch_brings_a_term_down(term, shape, volume, generator):
    config = JepaConfig(predictor=PREDICTOR, **{f"{term}_weight": 1.0})
    objective = built(config, shape, depth=2)
    masks = sample_masks(objective.masking, objective.encoder.config.grid, 4, generator=generator)
    optimiser = torch.optim.AdamW(objective.parameter_groups(0.0), lr=3e-3)
    losses = []
    for _ in range(60):
        out = objective.loss(JepaBatch(volume, masks))
        optimiser.zero_grad()
        out["loss"].backward()
        optimiser.step()
        losses.append(out[f"{term}_loss"].item())
    assert losses[-1] < 0.85 * losses[0]


@torch.no_grad()
def test_no_voxel_of_a_target_reaches_what_is_said_of_voxels(shape, volume, voxels_of, generator):
    config = JepaConfig(predictor=PREDICTOR, voxel_weight=1.0, volume_weight=1.0)
    objective = built(config, shape).eval()
    masks = sample_masks(objective.masking, objective.encoder.config.grid, 4, generator=generator)
    targets = voxels_of(masks[0].target_BM, objective.encoder.config)
    changed = torch.where(targets, 255 - volume, volume)
    before, after = (objective.predict(JepaBatch(v, masks), 0).mixed for v in (volume, changed))
    for one, other in zip(before, after, strict=True):
        assert torch.equal(one, other)
        assert torch.equal(*(objective.predictor.proj_voxels(said) for said in (one, other)))


@pytest.mark.parametrize(
    ("size", "width", "heads"), [("cpu_smoke", 48, 3), ("small", 192, 6), ("base", 384, 12)]
)
def test_a_predictor_of_no_given_width_is_half_as_wide_as_its_encoder(size, width, heads):
    with torch.device("meta"):
        jepa = Jepa(Encoder(encoder_config(size)), JepaConfig())
    assert (jepa.predictor.config.width, jepa.predictor.config.heads) == (width, heads)
    assert jepa.predictor.proj.in_features == width


def test_a_width_that_the_encoders_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"predictor\.width \(40\) must be a positive multiple"):
        PredictorConfig(width=40).beside(EncoderConfig())
