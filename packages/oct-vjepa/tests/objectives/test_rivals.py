"""The rivals of V-JEPA: what each computes, that it learns, hides what it must, and resumes."""

import copy
import json
import math
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from oct_vjepa import (
    Encoder,
    EncoderConfig,
    JepaBatch,
    MaskingConfig,
    MaskSetConfig,
    PredictorConfig,
    sample_masks,
)
from oct_vjepa.model.weights import WeightsError
from oct_vjepa.objectives.objective import PairBatch
from oct_vjepa.objectives.registry import build_objective
from oct_vjepa.objectives.rivals.configuration import (
    CropConfig,
    DinoConfig,
    LeJepaConfig,
    MaeConfig,
    SaltConfig,
)
from oct_vjepa.objectives.rivals.crops import View, draw_crop, pooled, read_along
from oct_vjepa.objectives.rivals.lejepa import gaussian_loss
from oct_vjepa.objectives.rivals.mae import fourier_matrix
from torch.nn import functional

SMALL = PredictorConfig(width=24, depth=2, heads=2)
NAMES = ("mae", "mae_spectral", "salt", "lejepa", "dino")
FILLING = ("mae", "mae_spectral", "salt")
VIEWING = ("lejepa", "dino")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A saved encoder that is wider than the student and cuts volumes alike."""
    folder = tmp_path_factory.mktemp("teacher") / "encoder"
    torch.manual_seed(7)
    Encoder(
        EncoderConfig(
            input_shape=(4, 16, 24), patch_size=(2, 4, 8), width=60, depth=1, heads=3,
            input_mean=90.0, input_std=40.0,
        )
    ).save_pretrained(folder)  # fmt: skip
    return str(folder)


@pytest.fixture
def build(small_config, teacher):
    configs = {
        "mae": MaeConfig(decoder=SMALL),
        "mae_spectral": MaeConfig(decoder=SMALL, spectral_weight=1.0),
        "salt": SaltConfig(predictor=SMALL, teacher=teacher),
        "lejepa": LeJepaConfig(hidden=32, embedding=8, directions=64),
        "dino": DinoConfig(hidden=32, bottleneck=16, prototypes=12, ema_start=0.9),
    }

    def build(name):
        torch.manual_seed(0)
        return build_objective(Encoder(small_config), configs[name], MaskingConfig())

    return build


def step(objective, optimiser, batch, seed):
    out = objective.loss(batch, torch.Generator().manual_seed(seed))
    optimiser.zero_grad()
    out["loss"].backward()
    optimiser.step()
    return out["loss"].item()


def drawn(objective, volume):
    generator = torch.Generator().manual_seed(0)
    return sample_masks(
        objective.masking, objective.encoder.config.grid, len(volume), generator=generator
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_rival_reports_as_the_loop_wants_and_leaves_an_encoder(name, build, volume, tmp_path):
    objective = build(name)
    out = objective.loss(volume, torch.Generator().manual_seed(0))
    assert [key for key, value in out.items() if value.requires_grad] == ["loss"]
    assert all(value.shape == () and value.isfinite() for value in out.values())
    assert "target_std" in out
    numbers = objective.diagnostics(volume)
    assert numbers["effective_rank"] > 1
    assert all(math.isfinite(value) for value in (numbers | objective.after_step(0, 10)).values())
    objective.result.save_pretrained(tmp_path / "encoder")
    again = Encoder.from_pretrained(tmp_path / "encoder")
    assert torch.equal(again(volume), objective.result.eval()(volume))


@pytest.mark.parametrize("name", [*FILLING, "lejepa"])
def test_training_on_one_batch_brings_its_loss_down(name, build, volume):
    objective = build(name)
    batch = JepaBatch(volume, drawn(objective, volume))
    optimiser = torch.optim.AdamW(objective.parameter_groups(0.0), lr=3e-3)
    losses = []
    for number in range(40):
        losses.append(step(objective, optimiser, batch, 0))
        objective.after_step(number, 40)
    assert losses[-1] < 0.97 * losses[1]
    assert all(math.isfinite(loss) for loss in losses)


@pytest.mark.parametrize("name", NAMES)
def test_everything_that_should_learn_does_and_nothing_else(name, build, volume):
    objective = build(name)
    objective.loss(volume, torch.Generator().manual_seed(0))["loss"].backward()
    for key, weight in objective.named_parameters():
        frozen = key.startswith("teacher")
        assert weight.requires_grad != frozen
        assert (weight.grad is None) == frozen, key


@pytest.mark.parametrize("name", NAMES)
def test_a_run_that_resumes_goes_on_to_the_last_bit(name, build, volume):
    def train(objective, optimiser, first, last):
        losses = []
        for number in range(first, last):
            losses.append(step(objective, optimiser, volume, number))
            objective.after_step(number, 6)
        return losses

    objective = build(name)
    optimiser = torch.optim.AdamW(objective.parameter_groups(0.04), lr=1e-3)
    train(objective, optimiser, 0, 3)
    kept = copy.deepcopy((objective.state_dict(), optimiser.state_dict()))
    wanted = train(objective, optimiser, 3, 6)
    other = build(name)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(1.0)
    other.load_state_dict(kept[0])
    resumed = torch.optim.AdamW(other.parameter_groups(0.04), lr=1e-3)
    resumed.load_state_dict(kept[1])
    assert train(other, resumed, 3, 6) == wanted
    for key, value in other.state_dict().items():
        assert torch.equal(value, objective.state_dict()[key]), key


@torch.no_grad()
@pytest.mark.parametrize("name", FILLING)
def test_no_voxel_of_a_target_reaches_what_is_said_of_it(name, build, volume, voxels_of):
    objective = build(name).eval()
    masks = drawn(objective, volume)
    config = objective.encoder.config
    targets = voxels_of(masks[0].target_BM, config)
    hidden, given = (
        objective.predict(JepaBatch(changed, masks), 0)
        for changed in (
            torch.where(targets, 255 - volume, volume),
            torch.where(voxels_of(masks[0].context_BK, config), 255 - volume, volume),
        )
    )
    said = objective.predict(JepaBatch(volume, masks), 0)
    assert torch.equal(said, hidden)
    assert not torch.equal(said, given)


@torch.no_grad()
@pytest.mark.parametrize("name", VIEWING)
def test_a_small_view_sees_nothing_of_the_patches_that_were_dropped(name, build, volume, voxels_of):
    encoder = build(name).encoder.eval()
    ids = drawn(build(name), volume)[0].context_BK
    changed = torch.where(voxels_of(ids, encoder.config), volume, 255 - volume)
    one, other = (pooled(encoder, View(v.float(), None), ids) for v in (volume, changed))
    assert torch.equal(one, other)


@pytest.mark.parametrize("name", VIEWING)
def test_a_partner_takes_the_place_of_the_second_view(name, build, volume):
    objective = build(name).eval()
    masks = drawn(objective, volume)

    def loss(partner):
        batch = PairBatch(volume, partner, masks)
        return objective.loss(batch, torch.Generator().manual_seed(0))["loss"].item()

    alone = objective.loss(JepaBatch(volume, masks), torch.Generator().manual_seed(0))["loss"]
    assert loss(volume) == alone.item()
    assert loss(255 - volume) != alone.item()
    with pytest.raises(ValueError, match=r"partners are \(4, 1, 4, 16, 16\)"):
        loss(volume[..., :16])
    with pytest.raises(ValueError, match="generator"):
        objective.loss(JepaBatch(volume, masks))


# MAE -------------------------------------------------------------------------------------------


@torch.no_grad()
def test_mae_compares_hidden_patches_less_their_mean_and_over_their_spread(build, volume):
    objective = build("mae")
    masks = drawn(objective, volume)
    cut = volume.float().unfold(2, 2, 2).unfold(3, 4, 4).unfold(4, 8, 8)
    cut = (cut.flatten(5).flatten(2, 4).squeeze(1) - 100) / 50
    spread = (cut.var(dim=-1, correction=0, keepdim=True) + 1e-6).sqrt()
    wanted = (cut - cut.mean(dim=-1, keepdim=True)) / spread
    torch.testing.assert_close(objective.targets(volume), wanted)
    batch, rows = JepaBatch(volume, masks), torch.arange(4).unsqueeze(1)
    losses = [
        (objective.predict(batch, index) - wanted[rows, one.target_BM]).square().mean()
        for index, one in enumerate(masks)
    ]
    torch.testing.assert_close(objective.loss(batch)["loss"], torch.stack(losses).mean())


def test_the_spectral_term_sees_how_much_fine_structure_and_not_where(build):
    objective = build("mae_spectral")
    patch = torch.randn(1, 1, 2, 4, 8, generator=torch.Generator().manual_seed(0))
    shifted = patch.roll(3, dims=-1)
    smooth = patch.mean(dim=-1, keepdim=True).expand_as(patch)
    amplitudes = [objective.amplitudes(one.flatten(2)) for one in (patch, shifted, smooth)]
    torch.testing.assert_close(amplitudes[0], amplitudes[1], atol=1e-4, rtol=1e-3)
    assert (amplitudes[0] - amplitudes[2]).abs().mean() > 0.3


def test_the_matrix_is_the_fourier_transform_of_a_patch():
    patch = torch.randn(3, 2, 4, 8, generator=torch.Generator().manual_seed(0))
    real, imaginary = (patch.flatten(1) @ fourier_matrix((2, 4, 8))).chunk(2, dim=1)
    wanted = torch.fft.rfftn(patch, dim=(1, 2, 3), norm="ortho").flatten(1)
    torch.testing.assert_close(torch.complex(real, imaginary), wanted, atol=1e-5, rtol=1e-5)


# SALT ------------------------------------------------------------------------------------------


def test_salt_predicts_its_teacher_and_leaves_the_student_behind(build, volume, teacher):
    objective = build("salt")
    wanted = functional.layer_norm(Encoder.from_pretrained(teacher)(volume), (60,))
    torch.testing.assert_close(objective.targets(volume), wanted.detach())
    assert objective.result is objective.encoder
    before = copy.deepcopy(objective.teacher.state_dict())
    assert objective.after_step(0, 10) == {"momentum": 1.0}
    assert all(torch.equal(before[key], one) for key, one in objective.teacher.state_dict().items())


def test_a_teacher_that_does_not_fit_is_named(small_config, tmp_path):
    def salt(folder):
        return build_objective(Encoder(small_config), SaltConfig(teacher=folder), MaskingConfig())

    with pytest.raises(ValueError, match=r"salt\.teacher \(''\) must be the folder"):
        salt("")
    with pytest.raises(WeightsError, match="nothing"):
        salt(str(tmp_path / "nothing"))
    other = EncoderConfig(input_shape=(4, 16, 24), patch_size=(2, 8, 8), width=48, heads=3)
    Encoder(other).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match=r"into \(2, 2, 3\) patches .* student into \(2, 4, 3\)"):
        salt(str(tmp_path / "other"))


# LeJEPA ----------------------------------------------------------------------------------------


def test_the_gaussian_term_is_small_for_gaussians_alone(generator):
    directions = functional.normalize(torch.randn(8, 128, generator=generator), dim=0)
    normal = torch.randn(1, 512, 8, generator=generator)
    flat = torch.zeros(1, 512, 8)
    sides = torch.sign(normal)
    losses = [gaussian_loss(one, directions).item() for one in (normal, 3 * normal, flat)]
    assert losses[0] < 0.05 * min(losses[1:])
    one_axis = torch.eye(8)[:, :1]
    assert gaussian_loss(sides, one_axis) > 5 * gaussian_loss(normal, one_axis)


def test_the_gaussian_term_is_the_integral_of_epps_and_pulley(generator):
    points = torch.randn(20, generator=generator)
    t = torch.linspace(-3, 3, 4001)
    mean = torch.exp(1j * t.unsqueeze(1) * points).mean(dim=1)
    error = (mean - (-t.square() / 2).exp()).abs().square() * (-t.square() / 2).exp()
    wanted = 20 * torch.trapezoid(error, t)
    found = gaussian_loss(points.view(1, 20, 1), torch.ones(1, 1))
    torch.testing.assert_close(found, wanted, rtol=2e-3, atol=1e-5)


def test_the_gaussian_term_of_parts_of_a_batch_is_another_one_and_lejepa_says_so(build, generator):
    directions = functional.normalize(torch.randn(8, 128, generator=generator), dim=0)
    points = 0.3 * torch.randn(1, 16, 8, generator=generator)
    halves = torch.stack([gaussian_loss(half, directions) for half in points.chunk(2, dim=1)])
    assert halves.mean() < 0.7 * gaussian_loss(points, directions)
    assert [name for name in NAMES if build(name).coupled] == ["lejepa"]


# DINO ------------------------------------------------------------------------------------------


def test_dino_learns_to_tell_volumes_apart_by_their_views(small_config, generator):
    """The loss itself rises first, while the centre spreads the answers over the classes."""
    mild = CropConfig(crop_low=0.9, aspect=1.0, mirror_probability=0.0, gain=0.02)
    sizes = {"hidden": 32, "bottleneck": 16, "prototypes": 32}
    config = DinoConfig(ema_start=0.99, crops=mild, **sizes)
    torch.manual_seed(0)
    masking = MaskingConfig(sets=[MaskSetConfig()])
    objective = build_objective(Encoder(small_config), config, masking)
    patches = 100 + 60 * torch.randn(8, 1, 2, 4, 3, generator=generator)
    volume = patches.repeat_interleave(2, 2).repeat_interleave(4, 3).repeat_interleave(8, 4)
    optimiser = torch.optim.AdamW(objective.parameter_groups(0.0), lr=1e-3)
    over = []
    for number in range(80):
        out = objective.loss(volume, torch.Generator().manual_seed(number))
        over.append(out["loss_over_baseline"].item())
        optimiser.zero_grad()
        out["loss"].backward()
        optimiser.step()
        objective.after_step(number, 1000)
    assert over[0] > 1.2
    assert sum(over[-10:]) / 10 < 0.99, "1 is the loss of the same answer for every volume"


def test_the_centre_follows_the_teachers_scores_in_training_alone(build, volume):
    objective = build("dino").eval()
    objective.loss(volume, torch.Generator().manual_seed(0))
    objective.after_step(0, 10)
    assert not objective.center.any()
    objective.train().loss(volume, torch.Generator().manual_seed(0))
    assert not objective.center.any(), "the step may be skipped"
    objective.after_step(0, 10)
    assert objective.center.any()


def test_a_skipped_batch_that_is_not_finite_leaves_the_centre_alone_for_ever(build, volume):
    one, other = build("dino"), build("dino")
    one.loss(volume.float() * torch.nan, torch.Generator().manual_seed(0))
    one.after_step(0, 10, torch.tensor(False))
    assert not one.center.any()
    for objective in (one, other):
        objective.loss(volume, torch.Generator().manual_seed(1))
        objective.after_step(1, 10, torch.tensor(True))
    assert other.center.any()
    assert torch.equal(one.center, other.center)


def test_the_centre_moves_once_a_step_to_the_mean_of_its_micro_batches(build, volume):
    def scores(batches):
        objective = build("dino")
        for number in batches:
            objective.loss(volume, torch.Generator().manual_seed(number))
        objective.after_step(0, 10)
        return objective.center

    mean = (scores([0]) + scores([1])) / 2
    assert not torch.equal(scores([0]), scores([1]))
    torch.testing.assert_close(scores([0, 1]), mean)


def test_processes_have_one_centre(tmp_path):
    meeting, program = str(tmp_path / "meeting"), str(Path(__file__).with_name("centre_of_two.py"))
    here = runpy.run_path(program)
    with subprocess.Popen(
        [sys.executable, program, meeting], stdout=subprocess.PIPE, text=True
    ) as process:
        one = here["join"](0, meeting)
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert one == json.loads(said.splitlines()[-1])
    alone = torch.tensor([here["step"](rank) for rank in range(2)])
    assert not torch.equal(*alone)
    torch.testing.assert_close(torch.tensor(one), alone.mean(dim=0))


def test_the_head_of_the_teacher_follows_with_its_encoder(build):
    objective = build("dino")
    with torch.no_grad():
        for weight in objective.predictor.parameters():
            weight.add_(1.0)
    before = objective.teacher_head.prototypes.weight.clone()
    momentum = objective.after_step(0, 10)["momentum"]
    moved = objective.teacher_head.prototypes.weight - before
    torch.testing.assert_close(moved, torch.full_like(moved, 1 - momentum), rtol=1e-4, atol=1e-6)


# Views -----------------------------------------------------------------------------------------

STILL = {"crop_low": 1.0, "aspect": 1.0, "mirror_probability": 0.0, "gain": 0.0, "noise_std": 0.0}


def crop(volume, config, seed=0, spacing=None, **settings):
    generator = torch.Generator().manual_seed(seed)
    return draw_crop(View(volume, spacing), config, CropConfig(**(STILL | settings)), generator)


def test_a_view_in_which_nothing_happens_is_the_volume(volume, small_config):
    torch.testing.assert_close(crop(volume, small_config).volume_BCZYX, volume.float())


def test_a_mirrored_view_turns_x_and_nothing_else(volume, small_config):
    turned = crop(volume, small_config, mirror_probability=1.0).volume_BCZYX
    torch.testing.assert_close(turned, volume.float().flip(-1))


def test_a_crop_of_a_slope_is_a_gentler_slope_within_it(small_config):
    slope = torch.arange(24.0).expand(64, 1, 4, 16, 24)
    view = crop(slope, small_config, crop_low=0.3, spacing=torch.ones(64, 3))
    assert view.volume_BCZYX.shape == slope.shape
    assert 0 <= view.volume_BCZYX.min() < view.volume_BCZYX.max() <= 23
    steps = view.volume_BCZYX.diff(dim=-1)[:, 0, 0, 0, 2:-2]
    edges = view.spacing_B3[:, 2:].expand_as(steps)
    torch.testing.assert_close(steps, edges, atol=1e-4, rtol=1e-4)
    assert (view.spacing_B3[:, 0] == 1).all()
    area = view.spacing_B3[:, 1] * view.spacing_B3[:, 2]
    assert area.min() + 1e-6 >= 0.3
    assert area.max() <= 1 + 1e-6


def test_gain_and_noise_are_of_the_size_that_was_asked_for(small_config):
    flat = torch.full((200, 1, 4, 16, 24), 100.0)
    gains = crop(flat, small_config, gain=0.15).volume_BCZYX.flatten(1)
    assert (gains.std(dim=1) < 1e-4).all()
    assert 84.9 < gains.min() < 87
    assert 113 < gains.max() < 115.1
    noise = crop(flat, small_config, noise_std=0.05).volume_BCZYX
    assert noise.std().item() == pytest.approx(0.05 * small_config.input_std, rel=0.02)


def test_reading_between_two_voxels_gives_what_lies_between(generator):
    volume = torch.randn(2, 1, 3, 4, 5, generator=generator)
    places = torch.tensor([[0.0, 0.5, 1.25, 4.0, 3.0], [4.0, 3.0, 2.0, 1.0, 0.0]])
    found = read_along(volume, places, 4)
    torch.testing.assert_close(found[1], volume[1].flip(-1))
    torch.testing.assert_close(found[0, ..., 1], volume[0, ..., :2].mean(-1))
    torch.testing.assert_close(
        found[0, ..., 2], 0.75 * volume[0, ..., 1] + 0.25 * volume[0, ..., 2]
    )


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (lambda: CropConfig(crop_low=0.0), r"crops\.crop_low \(0\.0\)"),
        (lambda: CropConfig(aspect=0.5), r"crops\.aspect \(0\.5\)"),
        (lambda: MaeConfig(spectral_weight=-1.0), r"mae\.spectral_weight \(-1\.0\)"),
        (lambda: LeJepaConfig(regulariser_weight=2.0), r"lejepa\.regulariser_weight \(2\.0\)"),
        (lambda: DinoConfig(teacher_temperature=0.0), r"dino\.teacher_temperature \(0\.0\)"),
        (lambda: DinoConfig(prototypes=0), r"dino\.prototypes \(0\)"),
    ],
)
def test_a_bad_setting_is_named(made, text):
    with pytest.raises(ValueError, match=text):
        made()
