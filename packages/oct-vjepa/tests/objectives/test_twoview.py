"""The predecessor's objective computes what it computed, and its repair what it should have."""

import math

import pytest
import torch
from oct_vjepa import Encoder, JepaBatch, sample_masks
from oct_vjepa.masking.configuration import predecessor_masking
from oct_vjepa.objectives.configuration import TwoViewConfig, ViewConfig
from oct_vjepa.objectives.losses import cosine_loss
from oct_vjepa.objectives.schedules import momentum_at
from oct_vjepa.objectives.twoview import MlpPredictor, TwoView, TwoViewBatch
from oct_vjepa.objectives.views import draw_view
from oct_vjepa.presets.choices import OBJECTIVES
from torch.nn import functional


def two_view(encoder, config):
    torch.manual_seed(1)
    return TwoView(encoder, config)


@pytest.fixture
def batch(encoder, volume, generator):
    masks = sample_masks(predecessor_masking(), encoder.config.grid, 4, generator=generator)
    other = torch.randint(0, 256, volume.shape, dtype=torch.uint8, generator=generator)
    return TwoViewBatch(volume, other, masks)


def test_the_loss_is_two_times_one_minus_the_cosine_over_the_width(generator):
    one, other = torch.randn(2, 3, 20, 48, generator=generator)
    cosine = functional.cosine_similarity(one, other, dim=-1).mean()
    torch.testing.assert_close(cosine_loss(one, other), 2 * (1 - cosine) / 48)
    assert cosine_loss(one, 7 * one).item() == pytest.approx(0.0, abs=1e-9)


def test_as_it_was_every_masked_token_is_compared_with_a_random_network(encoder, batch):
    objective = two_view(encoder, OBJECTIVES["predecessor_asis"].config())
    out = objective.loss(batch, None)
    with torch.no_grad():
        tokens = objective.encoder(batch.context_BCZYX)
        said = objective.predictor.net(tokens.flatten(0, 1)).view(4, 24, 48)
        goal = objective.teacher(batch.target_BCZYX)
        error = 2 * (1 - functional.cosine_similarity(said, goal, dim=-1)) / 48
        masked = torch.zeros(4, 24).scatter_(1, batch.masks[0].target_BM, 1.0)
    wanted = (error * masked).sum() / masked.sum()
    torch.testing.assert_close(out["loss"].detach(), wanted)


def test_as_it_was_the_teacher_never_moves_and_the_student_sees_the_targets(encoder, batch):
    objective = two_view(encoder, OBJECTIVES["predecessor_asis"].config())
    start = {name: value.clone() for name, value in objective.teacher.state_dict().items()}
    optimiser = torch.optim.AdamW(objective.parameter_groups(0.05), lr=1e-3)
    objective.loss(batch, None)["loss"].backward()
    optimiser.step()
    assert objective.after_step(0, 10) == {"momentum": 1.0}
    assert all(
        torch.equal(start[name], now) for name, now in objective.teacher.state_dict().items()
    )
    assert objective.predictor.positions is None


def test_a_run_leaves_the_teacher_behind_or_the_student_where_the_teacher_never_moves(encoder):
    asis = two_view(encoder, OBJECTIVES["predecessor_asis"].config())
    assert asis.result is asis.encoder
    fixed = two_view(encoder, TwoViewConfig())
    assert fixed.result is fixed.teacher.encoder


def test_put_right_the_teacher_follows_by_a_cosine(encoder, batch):
    objective = two_view(encoder, TwoViewConfig())
    assert objective.after_step(0, 11) == {"momentum": 0.996}
    wanted = 1 - 0.004 * (math.cos(math.pi * 3 / 10) + 1) / 2
    assert objective.after_step(3, 11)["momentum"] == pytest.approx(wanted)
    assert objective.loss(batch, None)["loss"].requires_grad


@torch.no_grad()
def test_put_right_predictions_differ_from_place_to_place(encoder, batch):
    objective = two_view(encoder, TwoViewConfig()).eval()
    objective.predictor.positions.mul_(50)  # fresh vectors are as small as all fresh weights
    said = objective.predict(batch, batch.masks[0])
    assert said.std(dim=1).max() > 1e-3
    objective.predictor.positions.zero_()
    assert objective.predict(batch, batch.masks[0]).std(dim=1).max() < 1e-6


def test_the_state_of_the_predictor_has_the_names_of_the_predecessor(encoder):
    predictor = MlpPredictor(encoder.config, positions=False)
    assert [name for name, _ in predictor.named_parameters()] == [
        f"net.{layer}.{part}" for layer in (0, 1, 3) for part in ("weight", "bias")
    ]
    assert sum(weight.numel() for weight in predictor.parameters()) == 2 * (48 * 48 + 48) + 96


def test_its_masks_are_six_tenths_of_the_patches_and_the_rest(generator):
    masks = sample_masks(predecessor_masking(), (16, 24, 24), 2, generator=generator)[0]
    assert masks.target_BM.shape[1] == round(0.6 * 9216)
    assert masks.target_BM.shape[1] + masks.context_BK.shape[1] == 9216


def test_one_volume_becomes_two_views_that_the_generator_decides(encoder, volume):
    objective = two_view(encoder, OBJECTIVES["predecessor_asis"].config()).eval()
    one, again, other = (
        objective.loss(volume, torch.Generator().manual_seed(seed))["loss"].detach()
        for seed in (3, 3, 4)
    )
    assert one == again
    assert one != other
    with pytest.raises(ValueError, match="generator that draws the two views"):
        objective.loss(volume)


def test_masks_drawn_in_the_feed_are_kept(encoder, volume, batch):
    objective = two_view(encoder, TwoViewConfig())
    views = objective._views(JepaBatch(volume, batch.masks), torch.Generator().manual_seed(0))
    assert views.masks is batch.masks
    assert not torch.equal(views.context_BCZYX, views.target_BCZYX)


def test_the_batch_norm_makes_halves_another_batch_and_the_objective_says_so(encoder, batch):
    objective = two_view(encoder, OBJECTIVES["predecessor_fixed"].config())
    halves = []
    for part in (slice(0, 2), slice(2, 4)):
        views = batch.context_BCZYX[part], batch.target_BCZYX[part]
        masks = tuple(type(one)(*(ids[part] for ids in one)) for one in batch.masks)
        halves.append(objective.loss(TwoViewBatch(*views, masks), None)["loss"])
    assert not torch.allclose(objective.loss(batch, None)["loss"], torch.stack(halves).mean())
    assert objective.coupled


def test_training_on_one_batch_brings_either_loss_down(small_config, batch):
    for config in (OBJECTIVES["predecessor_asis"].config(), TwoViewConfig()):
        torch.manual_seed(0)
        objective = two_view(Encoder(small_config), config)
        optimiser = torch.optim.AdamW(objective.parameter_groups(0.0), lr=1e-3)
        first = objective.loss(batch, None)["loss"].detach()
        for _ in range(15):
            loss = objective.loss(batch, None)["loss"]
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        assert loss.detach() < 0.7 * first


def test_masked_context_without_positions_is_refused():
    with pytest.raises(ValueError, match=r"twoview\.positions \(False\)"):
        TwoViewConfig(positions=False)


def test_aligned_views_differ_by_noise_alone(volume):
    config = ViewConfig(noise_probability=1.0, noise_std=0.05)
    view = draw_view(volume, config, torch.Generator().manual_seed(0), std=50.0)
    assert (view - volume).std().item() == pytest.approx(2.5, rel=0.05)
    still = ViewConfig(noise_probability=0.0)
    assert torch.equal(draw_view(volume, still, torch.Generator()), volume.float())


def test_a_flip_turns_all_three_axes(volume):
    config = ViewConfig(
        aligned=False, flip_probability=1.0, affine_probability=0.0, noise_probability=0.0
    )
    view = draw_view(volume, config, torch.Generator().manual_seed(0))
    assert torch.equal(view, volume.float().flip(2, 3, 4))


def test_a_shift_moves_by_at_most_its_voxels_and_brings_in_the_mean(generator):
    volume = torch.full((1, 1, 16, 16, 16), 100.0)
    config = ViewConfig(
        aligned=False, flip_probability=0, affine_probability=1, noise_probability=0, rotation=0,
        scale=0, shift=3,
    )  # fmt: skip
    view = draw_view(volume, config, generator, mean=40.0)
    assert view[0, 0, 4:-4, 4:-4, 4:-4].sub(100).abs().max() < 1e-3
    assert view.min() >= 40 - 1e-3
    assert view.min() < 99


@pytest.mark.parametrize("name", ["rotation", "shift", "scale"])
def test_each_part_of_an_affine_map_does_something(generator, name):
    volume = torch.rand(1, 1, 8, 16, 24, generator=generator)
    nothing = {"rotation": 0.0, "shift": 0.0, "scale": 0.0}
    base = {"aligned": False, "flip_probability": 0.0, "affine_probability": 1.0}
    base["noise_probability"] = 0.0
    still, moved = (
        draw_view(volume, ViewConfig(**base, **change), torch.Generator().manual_seed(1))
        for change in (nothing, nothing | {name: 0.3})
    )
    torch.testing.assert_close(still, volume, atol=1e-5, rtol=0)
    assert (moved - volume).abs().mean() > 1e-3


@pytest.mark.parametrize(
    ("setting", "text"),
    [({"flip_probability": 2.0}, r"flip_probability \(2\.0\)"), ({"shift": -1.0}, r"shift \(-1")],
)
def test_a_bad_view_is_named(setting, text):
    with pytest.raises(ValueError, match=rf"views\.{text}"):
        ViewConfig(**setting)


def test_the_cosine_momentum_is_the_formula_of_the_predecessor():
    for step in range(0, 101, 10):
        wanted = 1 - (1 - 0.996) * (math.cos(math.pi * step / 100) + 1) / 2
        got = momentum_at(step, 101, start=0.996, end=1.0, kind="cosine")
        assert got == pytest.approx(wanted, abs=3e-6)
