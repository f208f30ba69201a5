"""From a configuration to its objective."""

import copy

import pytest
import torch
from oct_vjepa import (
    Encoder,
    EncoderConfig,
    Jepa,
    JepaBatch,
    JepaConfig,
    MaskingConfig,
    MaskSetConfig,
    PredictorConfig,
    sample_masks,
)
from oct_vjepa.masking.foreground import foreground_patches
from oct_vjepa.objectives.configuration import DenseJepaConfig, ObjectiveConfig, TwoViewConfig
from oct_vjepa.objectives.methods import METHODS, method_of
from oct_vjepa.objectives.registry import BUILDERS, build_objective
from oct_vjepa.objectives.rivals.configuration import DinoConfig, LeJepaConfig, MaeConfig
from oct_vjepa.objectives.rivals.dino import Dino
from oct_vjepa.objectives.rivals.lejepa import LeJepa
from oct_vjepa.objectives.rivals.mae import Mae
from oct_vjepa.objectives.twoview import TwoView

PREDICTOR = PredictorConfig(width=24, depth=2, heads=2)
TEACHER = "teacher.encoder.patches.proj.weight"


@pytest.mark.parametrize(
    ("config", "objective"),
    [
        (JepaConfig(predictor=PREDICTOR), Jepa),
        (DenseJepaConfig(predictor=PREDICTOR, levels=2), Jepa),
        (MaeConfig(decoder=PREDICTOR), Mae),
        (LeJepaConfig(hidden=8, embedding=4), LeJepa),
        (DinoConfig(hidden=8, prototypes=4, bottleneck=6), Dino),
        (TwoViewConfig(), TwoView),
    ],
)
def test_a_configuration_builds_the_objective_of_its_own_type(config, objective):
    torch.manual_seed(0)
    encoder, masking = Encoder(EncoderConfig(depth=2)), MaskingConfig()
    built = build_objective(encoder, config, masking)
    assert type(built) is objective
    assert built.encoder is encoder
    assert built.masking is masking


def test_every_objective_has_a_name_and_a_title_of_its_own():
    assert sorted(BUILDERS) == sorted(method.name for method in METHODS.values())
    for part in ("name", "title"):
        assert len({getattr(method, part) for method in METHODS.values()}) == len(METHODS)
    assert method_of(DenseJepaConfig()).title == "V-JEPA 2.1", "though its type is a JepaConfig too"


def test_a_configuration_of_no_objective_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="ObjectiveConfig names none of vjepa2, vjepa21, mae"):
        method_of(ObjectiveConfig())


@pytest.mark.parametrize("kind", ["blocks", "foreground", "patches", "cubes"])
@pytest.mark.parametrize(
    "config", [JepaConfig(predictor=PREDICTOR), DenseJepaConfig(predictor=PREDICTOR, levels=2)]
)
def test_a_single_b_scan_is_a_volume_of_one_slice(config, kind, generator):
    torch.manual_seed(0)
    shape = EncoderConfig(
        input_shape=(1, 32, 64), patch_size=(1, 8, 16), width=48, depth=2, input_std=255.0
    )
    masking = MaskingConfig(sets=[MaskSetConfig(kind=kind)])
    objective = build_objective(Encoder(shape), config, masking)
    volume = torch.randint(0, 256, (3, 1, 1, 32, 64), dtype=torch.uint8, generator=generator)
    found = foreground_patches(volume, shape.patch_size, masking.foreground)
    masks = sample_masks(masking, shape.grid, 3, generator=generator, foreground_BN=found)
    outcome = objective.loss(JepaBatch(volume, masks), generator)
    outcome["loss"].backward()
    objective.after_step(1, 2)
    reached = [one.grad is not None for one in objective.encoder.parameters()]
    assert torch.isfinite(outcome["loss"])
    assert all(reached)


@pytest.mark.parametrize(
    "config",
    [
        JepaConfig(predictor=PREDICTOR),
        DenseJepaConfig(predictor=PREDICTOR, levels=2, context_start=0.0, context_full=1.0),
        DinoConfig(hidden=8, prototypes=4, bottleneck=6),
    ],
)
def test_after_a_step_that_was_not_applied_all_is_as_it_was_and_else_as_without_asking(config):
    torch.manual_seed(0)
    one = build_objective(Encoder(EncoderConfig(depth=2)), config, MaskingConfig())
    with torch.no_grad():
        for weight in (*one.encoder.parameters(), *one.predictor.parameters()):
            weight.add_(torch.randn_like(weight))
    other = copy.deepcopy(one)
    before = {name: value.clone() for name, value in one.state_dict().items()}
    numbers = one.after_step(1, 4, torch.tensor(False))
    assert all(torch.equal(before[name], value) for name, value in one.state_dict().items())
    assert one.after_step(1, 4, torch.tensor(True)) == other.after_step(1, 4) == numbers
    assert not torch.equal(before[TEACHER], one.state_dict()[TEACHER])
    for name, value in other.state_dict().items():
        torch.testing.assert_close(one.state_dict()[name], value, msg=name)
