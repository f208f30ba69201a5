"""What holds for every objective with every sampler: no leak, and nothing is lost on the way."""

from dataclasses import replace

import pytest
import torch
from oct_vjepa import (
    Encoder,
    Jepa,
    JepaBatch,
    JepaConfig,
    MaskingConfig,
    Masks,
    MaskSetConfig,
    PredictorConfig,
    sample_masks,
)
from oct_vjepa.masking.foreground import ForegroundConfig, foreground_patches
from oct_vjepa.objectives.configuration import DenseJepaConfig, TwoViewConfig
from oct_vjepa.objectives.losses import variance_hinge
from oct_vjepa.objectives.twoview import TwoView, TwoViewBatch
from torch.utils._python_dispatch import TorchDispatchMode

PREDICTOR = PredictorConfig(width=24, depth=2, heads=2)
KINDS = ("blocks", "foreground", "patches", "cubes", "vjepa2")
OBJECTIVES = ("jepa", "dense", "twoview")


def masking_of(kind, **settings):
    return MaskingConfig(sets=[MaskSetConfig(kind=kind, blocks=2, scale=0.4, **settings)])


def build(name, config, masking=None, **settings):
    torch.manual_seed(0)
    encoder = Encoder(config)
    torch.manual_seed(1)
    if name == "jepa":
        return Jepa(encoder, JepaConfig(predictor=PREDICTOR, **settings), masking)
    if name == "dense":
        settings = {"levels": 2, "context_start": 0.0, "context_full": 0.0} | settings
        return Jepa(encoder, DenseJepaConfig(predictor=PREDICTOR, **settings), masking)
    return TwoView(encoder, TwoViewConfig(), masking)


def draw(objective, volume, seed=0):
    config = objective.encoder.config
    weights = foreground_patches(volume, config.patch_size, ForegroundConfig())
    return sample_masks(
        objective.masking, config.grid, len(volume),
        generator=torch.Generator().manual_seed(seed), foreground_BN=weights,
    )  # fmt: skip


def predictions(objective, volume, masks):
    """What the predictor says of targets, and of the context where it does."""
    if isinstance(objective, TwoView):
        return [objective.predict(TwoViewBatch(volume, volume, (masks,)), masks)]
    said = objective.predict(JepaBatch(volume, (masks,)), 0)
    return [said.target_BME, *said.mixed]


@torch.no_grad()
@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("kind", KINDS)
def test_no_voxel_of_a_target_reaches_a_prediction(small_config, volume, voxels_of, name, kind):
    objective = build(name, small_config, masking_of(kind)).eval()
    masks = draw(objective, volume)[0]
    targets = voxels_of(masks.target_BM, small_config)
    changed = torch.where(targets, 255 - volume, volume)
    before, after = (predictions(objective, v, masks) for v in (volume, changed))
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    moved = (objective.teacher(volume) - objective.teacher(changed)).abs().amax(-1)
    assert (moved.gather(1, masks.target_BM) > 0).all()


@torch.no_grad()
@pytest.mark.parametrize("name", OBJECTIVES)
def test_voxels_of_the_context_do_reach_the_predictions(small_config, volume, voxels_of, name):
    objective = build(name, small_config, masking_of("blocks")).eval()
    masks = draw(objective, volume)[0]
    changed = torch.where(voxels_of(masks.context_BK, small_config), 255 - volume, volume)
    before, after = (predictions(objective, v, masks) for v in (volume, changed))
    assert not any(torch.equal(one, other) for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_objective_trains_with_every_sampler(small_config, volume, name, kind):
    objective = build(name, small_config, masking_of(kind, max_targets=5))
    out = objective.loss(volume, torch.Generator().manual_seed(2))
    out["loss"].backward()
    assert all(value.shape == () and value.isfinite() for value in out.values())
    assert [key for key, value in out.items() if value.requires_grad] == ["loss"]
    wanted = {"baseline_loss", "loss_over_baseline", "target_std", "prediction_cosine"}
    assert wanted | {"variance_ratio", "loss_0"} <= out.keys()


@pytest.mark.parametrize("name", ["jepa", "dense"])
def test_gradients_of_four_batches_of_two_equal_those_of_one_batch_of_eight(
    small_config, generator, name
):
    objective = build(name, small_config)
    volume = torch.randint(0, 256, (8, 1, 4, 16, 24), dtype=torch.uint8, generator=generator)
    masks = draw(objective, volume)
    objective.loss(JepaBatch(volume, masks))["loss"].backward()
    whole = [weight.grad.clone() for weight in objective.parameters() if weight.requires_grad]
    objective.zero_grad()
    for start in range(0, 8, 2):
        part = slice(start, start + 2)
        few = tuple(Masks(*(ids[part] for ids in one)) for one in masks)
        (objective.loss(JepaBatch(volume[part], few))["loss"] / 4).backward()
    parts = [weight.grad for weight in objective.parameters() if weight.requires_grad]
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_spacing_reaches_student_predictor_and_teacher(small_config, volume, name):
    config = replace(small_config, position_unit="length")
    objective = build(name, config)
    masks = draw(objective, volume)
    near, far = torch.full((4, 3), 0.1), torch.full((4, 3), 0.4)
    losses = [
        objective.loss(JepaBatch(volume, masks, spacing), torch.Generator().manual_seed(0))[
            "loss"
        ].detach()
        for spacing in (near, far, near)
    ]
    assert losses[0] == losses[2]
    assert losses[0] != losses[1]
    with pytest.raises(ValueError, match="spacing"):
        objective.loss(JepaBatch(volume, masks), torch.Generator())
    before, after = (objective.diagnostics(volume, spacing_B3=s) for s in (near, far))
    assert before["effective_rank"] != after["effective_rank"]
    with torch.no_grad():
        for weight in objective.encoder.parameters():
            weight.zero_()  # what is left to differ by is the predictor's own positions
    if name != "twoview":
        tokens = torch.randn(4, masks[0].context_BK.shape[1], 48)
        tokens = torch.cat([tokens] * (2 if name == "dense" else 1), dim=-1)
        said = [objective.predictor(tokens, masks[0], 0, spacing) for spacing in (near, far)]
        assert not torch.equal(*said)


def test_a_batch_without_masks_but_with_spacing_draws_them(small_config, volume):
    objective = build("jepa", replace(small_config, position_unit="length"))
    batch = JepaBatch(volume, (), torch.ones(4, 3))
    one, other = (objective.loss(batch, torch.Generator().manual_seed(1)) for _ in range(2))
    assert one["loss"] == other["loss"]


@torch.no_grad()
def test_recomputing_in_the_backward_pass_changes_no_loss(small_config, volume):
    losses = [
        build(name, replace(small_config, recompute=again)).loss(
            volume, torch.Generator().manual_seed(0)
        )["loss"]
        for name in ("jepa", "dense")
        for again in (False, True)
    ]
    assert losses[0] == losses[1]
    assert losses[2] == losses[3]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_teacher_follows_its_schedule(small_config, name):
    objective = build(name, small_config)
    config = objective.teacher_config
    config.ema_start, config.ema_end, config.ema_kind = 0.5, 0.9, "linear"
    with torch.no_grad():
        for weight in objective.encoder.parameters():
            weight.add_(1.0)
    before = objective.teacher.encoder.norm.weight.clone()
    assert objective.after_step(0, 3) == {"momentum": 0.5}
    torch.testing.assert_close(objective.teacher.encoder.norm.weight, before + 0.5)
    assert objective.after_step(1, 3)["momentum"] == pytest.approx(0.7)
    torch.testing.assert_close(objective.teacher.encoder.norm.weight, before + 1 - 0.5 * 0.7)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_decay_spares_what_has_one_axis_and_mask_tokens_and_misses_nothing(small_config, name):
    objective = build(name, small_config)
    decayed, free = objective.parameter_groups(0.04)
    assert {group["weight_decay"] for group in (decayed, free)} == {0.04, 0.0}
    assert all(weight.ndim >= 2 for weight in decayed["params"])
    names = {id(weight): key for key, weight in objective.named_parameters()}
    odd = {names[id(weight)] for weight in free["params"] if weight.ndim >= 2}
    assert odd == {"predictor.positions" if name == "twoview" else "predictor.mask_tokens"}
    trained = sum(weight.requires_grad for weight in objective.parameters())
    assert len(decayed["params"]) + len(free["params"]) == trained


def test_the_variance_term_adds_the_hinge_of_the_context_tokens(small_config, volume):
    plain, with_term = (build("jepa", small_config, variance_weight=w) for w in (0.0, 2.0))
    masks = draw(plain, volume)
    out, more = (part.loss(JepaBatch(volume, masks)) for part in (plain, with_term))
    assert "variance_loss" not in out
    hinges = [variance_hinge(plain.encoder(volume, one.context_BK)).detach() for one in masks]
    torch.testing.assert_close(more["variance_loss"], torch.stack(hinges).mean())
    torch.testing.assert_close(more["loss"], out["loss"] + 2.0 * more["variance_loss"])
    more["loss"].backward()


def test_the_hinge_is_zero_for_spread_features_and_nearly_one_for_equal_ones(generator):
    assert variance_hinge(torch.randn(8, 50, 16, generator=generator) * 3) == 0.0
    assert variance_hinge(torch.ones(8, 50, 16)).item() == pytest.approx(0.99)


def test_diagnostics_tell_foreground_from_background(small_config, volume):
    objective = build("jepa", small_config)
    given = torch.zeros(4, 24)
    given[:, :6] = 1.0
    one, other = (
        objective.diagnostics(volume, foreground_BN=weights) for weights in (given, 1 - given)
    )
    assert one["spread_foreground"] == pytest.approx(other["spread_background"])
    assert one["spread_foreground"] != pytest.approx(one["spread_background"], rel=1e-6)
    objective.masking.foreground = ForegroundConfig(fraction=0.9)
    assert objective.diagnostics(volume)["spread_foreground"] != one["spread_foreground"]


class Largest(TorchDispatchMode):
    """Keeps the size of the largest tensor that was made."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.numbers = max(self.numbers, out.numel())
        return out


def test_drift_holds_one_weight_at_a_time(small_config):
    objective = build("jepa", small_config)
    with Largest() as largest:
        objective.teacher.drift(objective.encoder)
    assert largest.numbers == max(weight.numel() for weight in objective.encoder.parameters())


def test_drift_is_the_distance_of_student_and_teacher(small_config, volume):
    objective = build("jepa", small_config)
    assert objective.diagnostics(volume)["teacher_drift"] == 0.0
    with torch.no_grad():
        for weight in objective.encoder.parameters():
            weight.mul_(1.5)
    assert objective.diagnostics(volume)["teacher_drift"] == pytest.approx(0.5, rel=1e-5)


def test_a_teacher_keeps_its_precision_where_the_module_around_it_loses_its_own(
    small_config, volume
):
    whole = build("jepa", small_config)
    weights = {name: weight.clone() for name, weight in whole.teacher.named_parameters()}
    whole.bfloat16()
    assert {weight.dtype for weight in whole.encoder.parameters()} == {torch.bfloat16}
    assert all(
        torch.equal(weight, weights[name]) for name, weight in whole.teacher.named_parameters()
    )
    assert whole.loss(volume, torch.Generator())["loss"].isfinite()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_student_in_bfloat16_trains_beside_a_predictor_in_float32(small_config, volume, name):
    objective = build(name, small_config)
    objective.encoder.bfloat16()
    objective.loss(volume, torch.Generator().manual_seed(0))["loss"].backward()
    assert all(weight.grad is not None for weight in objective.encoder.parameters())


def test_the_rank_of_tokens_counts_every_place(small_config):
    """Tokens that differ in one place only have a rank if that place is among those looked at."""
    objective = build("jepa", small_config)
    looked = []
    for place in range(small_config.tokens):
        tokens = torch.zeros(32, small_config.tokens, small_config.width)
        tokens[:, place] = torch.randn(32, small_config.width)
        objective._features = lambda *_, tokens=tokens: tokens
        volume = torch.zeros(32, 1, *small_config.input_shape)
        looked.append(objective.diagnostics(volume)["token_rank"] > 0)
    assert all(looked)
