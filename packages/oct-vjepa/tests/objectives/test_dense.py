"""V-JEPA 2.1: four levels, a loss on the context by distance, and no leak."""

import copy
import math

import pytest
import torch
from oct_vjepa import Encoder, Jepa, JepaBatch, PredictorConfig, sample_masks
from oct_vjepa.objectives.configuration import DenseJepaConfig
from oct_vjepa.objectives.losses import (
    context_loss,
    normalise_levels,
    normalise_targets,
    target_distance,
)

PREDICTOR = PredictorConfig(width=24, depth=2, heads=2)


def dense_jepa(encoder, **settings):
    torch.manual_seed(1)
    settings = {"levels": 2, "context_start": 0.0, "context_full": 0.0} | settings
    return Jepa(encoder, DenseJepaConfig(predictor=PREDICTOR, **settings))


@pytest.fixture
def dense(encoder):
    return dense_jepa(encoder)


@pytest.fixture
def batch(dense, volume, generator):
    masks = sample_masks(dense.masking, dense.encoder.config.grid, 4, generator=generator)
    return JepaBatch(volume, masks)


def test_levels_are_spread_over_the_encoder_as_in_the_reference():
    config = DenseJepaConfig()
    assert config.blocks_of(12) == [2, 5, 8, 11]
    assert config.blocks_of(24) == [5, 11, 17, 23]
    assert config.blocks_of(40) == [9, 19, 29, 39]
    assert config.blocks_of(4) == [0, 1, 2, 3]
    assert DenseJepaConfig(layers=[1, 3]).blocks_of(4) == [1, 3]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"levels": 5}, r"levels \(5\) must be at most encoder\.depth \(4\)"),
        ({"layers": [3, 1]}, r"layers \(\[3, 1\]\) must be ascending"),
        ({"layers": [1, 4]}, r"layers \(\[1, 4\]\) must be below encoder\.depth \(4\)"),
    ],
)
def test_levels_that_the_encoder_lacks_are_refused(settings, text):
    with pytest.raises(ValueError, match=rf"jepa\.{text}"):
        DenseJepaConfig(**settings).blocks_of(4)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"levels": 0}, r"levels \(0\)"),
        ({"context_weight": -1.0}, r"context_weight \(-1\.0\)"),
        ({"context_start": 0.5, "context_full": 0.2}, r"context_start \(0\.5\)"),
        ({"variance_weight": -0.1}, r"variance_weight \(-0\.1\)"),
        ({"ema_kind": "step"}, r"ema_kind \('step'\)"),
    ],
)
def test_a_bad_setting_is_named(settings, text):
    with pytest.raises(ValueError, match=rf"jepa\.{text}"):
        DenseJepaConfig(**settings)


def test_the_distance_is_that_of_all_pairs(generator):
    grid = (3, 5, 4)
    order = torch.rand(6, 60, generator=generator).argsort(dim=1)
    target, context = order[:, :3], order[:, 3:40]
    place = torch.cartesian_prod(*(torch.arange(edge) for edge in grid)).float()
    wanted = torch.cdist(place[context], place[target]).amin(dim=2)
    torch.testing.assert_close(target_distance(target, context, grid), wanted)


def test_the_context_loss_divides_by_the_root_of_the_distance():
    # One row of six patches, the first is the target; each context token is off by exactly 1.
    distance = target_distance(torch.tensor([[0]]), torch.arange(1, 6).unsqueeze(0), (1, 1, 6))
    assert distance.tolist() == [[1.0, 2.0, 3.0, 4.0, 5.0]]
    said, given = torch.ones(1, 5, 8), torch.zeros(1, 5, 8)
    wanted = sum(1 / math.sqrt(d) for d in range(1, 6)) / 5
    assert context_loss(said, given, distance).item() == pytest.approx(wanted)
    assert context_loss(said, given, None).item() == 1.0


def test_each_level_is_normalised_by_itself(generator):
    levels = [torch.randn(2, 5, 8, generator=generator) * scale for scale in (1.0, 100.0)]
    joined = normalise_levels(levels)
    assert torch.equal(joined[..., 8:], normalise_targets(levels[1]))


def test_the_loss_is_that_of_the_targets_plus_the_weighted_one_of_the_context(dense, batch):
    out = dense.loss(batch)
    whole = (out["loss_0"] + out["loss_1"]) / 2 + 0.5 * out["context_loss"]
    torch.testing.assert_close(out["loss"].detach(), whole)
    assert out["context_weight"] == 0.5
    assert [name for name, value in out.items() if value.requires_grad] == ["loss"]
    assert all(value.shape == () and value.isfinite() for value in out.values())


def test_predictions_and_targets_hold_all_levels(dense, batch):
    assert dense.layers == [0, 1]
    assert dense.targets(batch.volume_BCZYX).shape == (4, 24, 2 * 48)
    masks = batch.masks[0]
    levels = dense.encoder(batch.volume_BCZYX, masks.context_BK, layers=dense.layers)
    predictor = dense.predictor
    mixed = predictor.mix(torch.cat(levels, dim=-1), masks, 0)
    assert predictor.proj(mixed.target_BMP).shape == (4, masks.target_BM.shape[1], 96)
    assert predictor.proj_context(mixed.context_BKP).shape == (4, masks.context_BK.shape[1], 96)


def test_the_weight_of_the_context_waits_rises_and_holds(encoder, volume, generator):
    dense = dense_jepa(encoder, context_start=0.2, context_full=0.6)
    seen = []
    for step in range(10):
        seen.append(dense.loss(volume, generator)["context_weight"].item())
        dense.after_step(step, 10)
    assert seen == pytest.approx([0, 0, 0, 0.125, 0.25, 0.375, 0.5, 0.5, 0.5, 0.5])


def test_the_state_holds_everything_the_weight_of_the_context_too(encoder, volume, generator):
    dense = dense_jepa(encoder, context_start=0.2, context_full=0.6)
    for step in range(4):
        dense.after_step(step, 10)
    state = copy.deepcopy(dense.state_dict())
    other = dense_jepa(Encoder(encoder.config), context_start=0.2, context_full=0.6)
    other.load_state_dict(state)
    one, two = (
        part.loss(volume, torch.Generator().manual_seed(3))["loss"].detach()
        for part in (dense, other)
    )
    assert torch.equal(one, two)
    assert {name.split(".")[0] for name in state} == {
        "context_weight", "encoder", "predictor", "teacher",
    }  # fmt: skip


def test_every_weight_of_the_student_learns(dense, batch):
    dense.loss(batch)["loss"].backward()
    still = [
        name
        for name, weight in dense.named_parameters()
        if weight.requires_grad and (weight.grad is None or not weight.grad.any())
    ]
    assert still == []
    assert all(weight.grad is None for weight in dense.teacher.parameters())


def test_training_on_one_batch_brings_its_loss_down(dense, batch):
    optimiser = torch.optim.AdamW(dense.parameter_groups(0.0), lr=3e-3)
    first = dense.loss(batch)
    for _ in range(60):
        out = dense.loss(batch)
        optimiser.zero_grad()
        out["loss"].backward()
        optimiser.step()
    assert out["loss_over_baseline"] < 0.9 * first["loss_over_baseline"]
    assert out["context_loss"] < 0.9 * first["context_loss"]


@pytest.mark.parametrize(
    "changed",
    [
        {"layers": [1]},
        {"levels": 1},
        {"context_weight": 0.1},
        {"context_full": 0.5},
        {"context_start": 0.1, "context_full": 0.5},
        {"distance_weighted": False},
        {"variance_weight": 1.0},
        {"predictor": PredictorConfig(width=36, depth=2, heads=2)},
        {"predictor": PredictorConfig(width=24, depth=1, heads=2)},
        {"predictor": PredictorConfig(width=24, depth=2, heads=4)},
        {"predictor": PredictorConfig(width=24, depth=2, heads=2, mlp_ratio=2.0)},
        {"ema_start": 0.5},
        {"ema_end": 0.9},
        {"ema_kind": "cosine"},
        {"ema_kind": "constant"},
    ],
)
def test_every_setting_changes_what_two_steps_of_training_give(small_config, volume, changed):
    def train(**settings):
        base = {
            "predictor": PREDICTOR, "levels": 2, "context_full": 0.0, "context_start": 0.0,
            "ema_start": 0.9,
        }  # fmt: skip
        torch.manual_seed(0)
        encoder = Encoder(small_config)
        torch.manual_seed(1)
        dense = Jepa(encoder, DenseJepaConfig(**(base | settings)))
        generator = torch.Generator().manual_seed(5)
        optimiser = torch.optim.SGD(dense.parameter_groups(0.0), lr=0.1)
        losses = []
        for step in range(4):
            loss = dense.loss(volume, generator)["loss"]
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            dense.after_step(step, 5)
            losses.append(loss.item())
        return losses

    assert train() == train()
    assert train() != train(**changed)
