"""The objective is a JEPA: no leak, a teacher that follows, a loss that falls."""

import copy

import pytest
import torch
from oct_vjepa import EncoderConfig, Jepa, JepaBatch, JepaConfig, MaskingConfig, sample_masks
from oct_vjepa.objectives.losses import normalise_targets


@pytest.fixture
def batch(jepa, volume, generator):
    masks = sample_masks(jepa.masking, jepa.encoder.config.grid, 4, generator=generator)
    return JepaBatch(volume, masks)


@torch.no_grad()
def test_no_voxel_of_a_target_reaches_context_tokens_or_predictions(jepa, batch, voxels_of):
    for index, masks in enumerate(batch.masks):
        targets = voxels_of(masks.target_BM, jepa.encoder.config)
        changed = torch.where(targets, 255 - batch.volume_BCZYX, batch.volume_BCZYX)
        before = jepa.encoder(batch.volume_BCZYX, masks.context_BK)
        after = jepa.encoder(changed, masks.context_BK)
        assert torch.equal(before, after)
        predicted = jepa.predictor(before, masks, index)
        assert torch.equal(predicted, jepa.predictor(after, masks, index))
        moved = (jepa.teacher(batch.volume_BCZYX) - jepa.teacher(changed)).abs().amax(-1)
        assert (moved.gather(1, masks.target_BM) > 0).all()


@torch.no_grad()
def test_context_voxels_do_reach_the_predictions(jepa, batch, voxels_of):
    masks = batch.masks[0]
    kept = voxels_of(masks.context_BK, jepa.encoder.config)
    changed = torch.where(kept, 255 - batch.volume_BCZYX, batch.volume_BCZYX)
    one, other = (
        jepa.predictor(jepa.encoder(volume, masks.context_BK), masks, 0)
        for volume in (batch.volume_BCZYX, changed)
    )
    assert not torch.equal(one, other)


@torch.no_grad()
def test_predictions_differ_from_place_to_place(jepa, batch):
    masks = batch.masks[0]
    for block in jepa.predictor.blocks:
        block.attention.qkv.weight.mul_(10)  # fresh attention is nearly uniform: no place matters
    context = jepa.encoder(batch.volume_BCZYX, masks.context_BK)
    assert jepa.predictor(context, masks, 0).std(dim=1).max() > 1e-3


def test_the_teacher_follows_the_closed_form(jepa, volume, generator):
    start = {name: value.clone() for name, value in jepa.teacher.encoder.state_dict().items()}
    with torch.no_grad():
        for weight in jepa.encoder.parameters():
            weight.add_(1.0)
    for _ in range(5):
        jepa.teacher.update(jepa.encoder, 0.9)
    for name, student in jepa.encoder.state_dict().items():
        wanted = 0.9**5 * start[name] + (1 - 0.9**5) * student
        torch.testing.assert_close(jepa.teacher.encoder.state_dict()[name], wanted)


def test_a_step_moves_the_teacher_which_has_no_gradient(jepa, batch):
    before = copy.deepcopy(jepa.teacher.state_dict())
    optimiser = torch.optim.AdamW(jepa.parameter_groups(0.04), lr=1e-3)
    jepa.loss(batch)["loss"].backward()
    optimiser.step()
    assert jepa.after_step(0, 10) == {"momentum": 0.996}
    assert all(weight.grad is None for weight in jepa.teacher.parameters())
    assert all(weight.grad is not None for weight in jepa.encoder.parameters())
    moved = [not torch.equal(before[name], now) for name, now in jepa.teacher.state_dict().items()]
    assert all(moved)


def test_the_teacher_stays_float32_and_in_evaluation_mode(encoder):
    jepa = Jepa(encoder.bfloat16(), JepaConfig()).train()
    assert not jepa.teacher.encoder.training
    assert jepa.encoder.training
    assert {weight.dtype for weight in jepa.teacher.parameters()} == {torch.float32}
    jepa.after_step(0, 2)
    assert {weight.dtype for weight in jepa.teacher.parameters()} == {torch.float32}


def test_training_on_one_batch_brings_its_loss_down(jepa, batch):
    optimiser = torch.optim.AdamW(jepa.parameter_groups(0.0), lr=3e-3)
    for _ in range(250):  # the teacher stands still: this is about optimisation alone
        out = jepa.loss(batch)
        optimiser.zero_grad()
        out["loss"].backward()
        optimiser.step()
    assert out["loss"].detach() < 0.7 * out["baseline_loss"]  # far below saying the mean


def test_gradients_of_four_batches_of_two_equal_those_of_one_batch_of_eight(jepa, generator):
    volume = torch.randint(0, 256, (8, 1, 4, 16, 24), dtype=torch.uint8, generator=generator)
    grid = jepa.encoder.config.grid
    masks = sample_masks(jepa.masking, grid, 8, generator=generator)
    jepa.loss(JepaBatch(volume, masks))["loss"].backward()
    whole = [weight.grad.clone() for weight in jepa.parameters() if weight.requires_grad]
    jepa.zero_grad()
    for start in range(0, 8, 2):
        part = slice(start, start + 2)
        few = tuple(type(one)(*(ids[part] for ids in one)) for one in masks)
        (jepa.loss(JepaBatch(volume[part], few))["loss"] / 4).backward()
    parts = [weight.grad for weight in jepa.parameters() if weight.requires_grad]
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_every_number_is_0_dim_and_only_the_loss_carries_gradients(jepa, batch):
    out = jepa.loss(batch)
    assert {"loss", "loss_0", "loss_1", "target_std", "prediction_cosine"} <= out.keys()
    assert all(value.shape == () and value.isfinite() for value in out.values())
    assert [name for name, value in out.items() if value.requires_grad] == ["loss"]
    torch.testing.assert_close(out["loss"].detach(), (out["loss_0"] + out["loss_1"]) / 2)


def test_bare_volumes_draw_their_masks_from_the_generator(jepa, volume):
    first, again, other = (
        jepa.loss(volume, torch.Generator().manual_seed(seed))["loss"].detach()
        for seed in (3, 3, 4)
    )
    assert first == again
    assert first != other
    with pytest.raises(ValueError, match="generator"):
        jepa.loss(volume)


def test_a_float_volume_gives_the_loss_of_its_uint8_original(jepa, batch):
    other = JepaBatch(batch.volume_BCZYX.float(), batch.masks)
    assert torch.equal(jepa.loss(batch)["loss"], jepa.loss(other)["loss"])


def test_volumes_of_another_shape_are_refused(jepa, generator):
    with pytest.raises(ValueError, match=r"\(B, C, 4, 16, 24\).*not \(2, 1, 4, 16, 16\)"):
        jepa.loss(torch.zeros(2, 1, 4, 16, 16), generator)


def test_masks_for_another_number_of_sets_are_refused(jepa, batch):
    with pytest.raises(ValueError, match="1 masks"):
        jepa.loss(JepaBatch(batch.volume_BCZYX, batch.masks[:1]))


def test_biases_norms_and_mask_tokens_are_not_decayed(jepa):
    decayed, free = jepa.parameter_groups(0.04)
    assert decayed["weight_decay"] == 0.04
    assert free["weight_decay"] == 0.0
    assert all(weight.ndim >= 2 for weight in decayed["params"])
    assert any(weight is jepa.predictor.mask_tokens for weight in free["params"])
    trainable = sum(weight.requires_grad for weight in jepa.parameters())
    assert len(decayed["params"]) + len(free["params"]) == trainable


def test_the_state_restores_student_predictor_and_teacher(jepa, batch):
    state = copy.deepcopy(jepa.state_dict())
    before = jepa.loss(batch)["loss"].detach()
    with torch.no_grad():
        for weight in jepa.parameters():
            weight.mul_(1.1)
    assert jepa.loss(batch)["loss"].detach() != before
    jepa.load_state_dict(state)
    assert jepa.loss(batch)["loss"].detach() == before
    assert {name.split(".")[0] for name in state} == {"encoder", "predictor", "teacher"}


def test_the_default_configuration_fits_the_default_encoder(generator):
    config = EncoderConfig()
    assert config.tokens == 128
    masks = sample_masks(MaskingConfig(), config.grid, 1, generator=generator)
    assert [one.target_BM.shape[1] for one in masks] == [76, 104]
    assert [one.context_BK.shape[1] for one in masks] == [40, 20]


def test_targets_are_normalised_per_token_in_float32():
    targets = normalise_targets(torch.randn(2, 5, 16, dtype=torch.bfloat16) * 7 + 3)
    assert targets.dtype == torch.float32
    torch.testing.assert_close(targets.mean(-1), torch.zeros(2, 5), atol=1e-5, rtol=0)
    torch.testing.assert_close(targets.var(-1, correction=0), torch.ones(2, 5), atol=1e-3, rtol=0)


def test_diagnostics_report_rank_and_likeness(jepa, volume):
    out = jepa.diagnostics(volume)
    assert 1 <= out["effective_rank"] <= 3 + 1e-6
    assert 1 <= out["token_rank"] <= 48
    assert -1 <= out["pairwise_cosine"] <= 1 + 1e-6


def test_autocast_gives_nearly_the_same_loss_and_float32_gradients(jepa, batch):
    exact = jepa.loss(batch)["loss"].detach()
    with torch.autocast("cpu", torch.bfloat16):
        loss = jepa.loss(batch)["loss"]
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.detach(), exact, rtol=0.01, atol=0)
    loss.backward()
    grads = [weight.grad for weight in jepa.parameters() if weight.requires_grad]
    assert {grad.dtype for grad in grads} == {torch.float32}
    assert all(grad.isfinite().all() for grad in grads)


def test_a_separable_loss_is_the_mean_of_its_samples_losses_and_draws_nothing(jepa, batch):
    assert jepa.separable
    alone = [
        JepaBatch(
            batch.volume_BCZYX[row : row + 1],
            tuple(type(one)(*(ids[row : row + 1] for ids in one)) for one in batch.masks),
        )
        for row in range(4)
    ]
    mean = torch.stack([jepa.loss(one, None)["loss"] for one in alone]).mean()
    torch.testing.assert_close(jepa.loss(batch, None)["loss"], mean)


def test_a_loss_over_the_whole_batch_or_with_dropped_paths_is_not_separable(jepa):
    spread = JepaConfig(predictor=jepa.config.predictor, variance_weight=0.1)
    spread = Jepa(copy.deepcopy(jepa.encoder), spread, jepa.masking)
    assert not spread.separable
    assert spread.coupled
    jepa.encoder.config.drop_path = 0.1
    assert not jepa.separable
    assert not jepa.coupled
