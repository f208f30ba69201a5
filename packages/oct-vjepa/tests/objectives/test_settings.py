"""Every setting changes something: change one field, and another result must come out.

Each class has a base, a function that runs what the class configures and returns what comes of it,
and for each field a value that is not the base's. What only some choices read, such as `cube_size`,
says which; what changes no number, such as `recompute`, what it changes instead. A new field
without an entry fails.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from oct_vjepa import Encoder, EncoderConfig, JepaBatch, JepaConfig, PredictorConfig
from oct_vjepa.masking.foreground import ForegroundConfig, foreground_patches
from oct_vjepa.masking.masks import MaskingConfig, MaskSetConfig, sample_masks
from oct_vjepa.model import attention
from oct_vjepa.objectives.configuration import DenseJepaConfig
from oct_vjepa.objectives.objective import Taught, TeacherConfig
from oct_vjepa.objectives.registry import build_objective
from oct_vjepa.objectives.rivals.configuration import (
    CropConfig,
    DinoConfig,
    LeJepaConfig,
    MaeConfig,
    SaltConfig,
)
from oct_vjepa.objectives.rivals.crops import View, draw_crop
from oct_vjepa.objectives.schedules import ScheduleConfig
from oct_vjepa.objectives.twoview import TwoViewConfig
from oct_vjepa.objectives.views import ViewConfig, draw_view

STEPS = 3
GRID = (2, 8, 8)
ENCODER = EncoderConfig(
    input_shape=(4, 16, 24), patch_size=(2, 4, 8), width=48, depth=2, heads=3, input_mean=100.0,
    input_std=50.0,
)  # fmt: skip
PREDICTOR = PredictorConfig(width=24, depth=2, heads=2)
TEACHER = {"ema_start": 0.5, "ema_end": 0.9}
MASKS = MaskingConfig(sets=[MaskSetConfig(target_fraction=0.5, context_fraction=0.25)])
BRIGHT = MaskSetConfig(kind="foreground", target_fraction=0.5, context_fraction=0.25)


def volume_of(shape, channels=1):
    drawn = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (4, channels, *shape), dtype=torch.uint8, generator=drawn)


def trained(objective):
    """Reports and final weights, of student and teacher, after a few steps."""
    encoder, drawn = objective.encoder.config, torch.Generator().manual_seed(0)
    volume = volume_of(encoder.input_shape, encoder.channels)
    spacing = torch.tensor([[0.5, 2.0, 1.0]]).repeat(len(volume), 1)
    optimiser = torch.optim.SGD(objective.parameters(), lr=0.1)
    found = []
    for step in range(STEPS):
        out = objective.loss(JepaBatch(volume, (), spacing), drawn)
        optimiser.zero_grad()
        out["loss"].backward()
        optimiser.step()
        found += [out, objective.after_step(step, STEPS)]
    return [found, objective.state_dict()]


def built(config, encoder=ENCODER, masking=MASKS):
    """The objective of a configuration, with weights that depend on nothing else."""
    torch.manual_seed(0)
    return build_objective(Encoder(encoder), config, masking)


def train(config):
    return trained(built(config))


def train_beside(config):
    """With a teacher that the length of its name decides."""
    with TemporaryDirectory() as folder:
        place = Path(folder) / config.teacher
        torch.manual_seed(len(config.teacher))
        Encoder(replace(ENCODER, depth=1)).save_pretrained(place)
        return trained(built(replace(config, teacher=str(place))))


def crop(config):
    drawn = torch.Generator().manual_seed(0)
    view = View(volume_of(ENCODER.input_shape), torch.ones(4, 3))
    return draw_crop(view, ENCODER, config, drawn)


def train_encoder(config):
    return trained(built(JepaConfig(predictor=PREDICTOR, **TEACHER), config))


def train_predictor(config):
    return trained(built(JepaConfig(predictor=config, **TEACHER)))


def train_masking(config):
    return trained(built(JepaConfig(predictor=PREDICTOR, **TEACHER), masking=config))


def follow(config):
    """What the teacher alone makes of it."""
    torch.manual_seed(0)
    objective = Taught(Encoder(ENCODER), torch.nn.Identity(), MASKS, follows=config)
    for weight in objective.encoder.parameters():
        weight.data += 1
    steps = [objective.after_step(step, STEPS) for step in range(STEPS)]
    return [steps, objective.teacher.state_dict()]


def mask(config):
    drawn = torch.Generator().manual_seed(0)
    patches = GRID[0] * GRID[1] * GRID[2]
    weights = torch.rand(3, patches, generator=torch.Generator().manual_seed(1))
    masking = MaskingConfig(sets=[config])
    return sample_masks(masking, GRID, 3, generator=drawn, foreground_BN=weights)


def find_foreground(config):
    return foreground_patches(volume_of(ENCODER.input_shape), ENCODER.patch_size, config)


def view(config):
    drawn = torch.Generator().manual_seed(0)
    return draw_view(volume_of(ENCODER.input_shape), config, drawn)


def schedule(config):
    return [config.at(step, 20) for step in range(20)]


def kept_bytes(config):
    """Bytes that one loss keeps for its backward pass."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda saved: kept.append(saved.nbytes) or saved, lambda saved: saved
    ):
        train_encoder(config)
    return sum(kept)


def kernel_on_a_tpu(config):
    """Which attention would run there; no TPU is needed to be asked."""
    tpu = SimpleNamespace(type="xla")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "_tpu_flash", lambda: lambda *_: "flash")
        patch.setattr(attention.functional, "scaled_dot_product_attention", lambda *_: "sdpa")
        return attention.pick_kernel(Encoder(config).blocks[0].attention.kernel, tpu, 128)()


class Change(NamedTuple):
    """Another value of a field, what else must be so for it to be read, and what it changes."""

    value: Any
    base: Mapping[str, Any] = {}
    run: Callable[[Any], Any] | None = None


@dataclass(kw_only=True)
class Case:
    """A configuration class: its base, what it runs, and a change of each field."""

    base: Any
    run: Callable[[Any], Any]
    changes: Mapping[str, Change] = field(default_factory=dict)


MOMENTUM = {
    "ema_start": Change(0.6),
    "ema_end": Change(0.95),
    "ema_kind": Change("constant"),
}
JEPA = {
    **MOMENTUM,
    "predictor": Change(PredictorConfig(width=24, depth=1, heads=2)),
    "levels": Change(1),
    "layers": Change([0]),
    "context_weight": Change(0.9),
    "context_start": Change(0.5),
    "context_full": Change(0.5),
    "distance_weighted": Change(False),
    "voxel_weight": Change(0.5),
    "unit_weight": Change(0.5),
    "units": Change(100, {"unit_weight": 1.0}),
    "filter_weight": Change(0.5),
    "volume_weight": Change(0.5),
    "partner_weight": Change(0.5),
    "variance_weight": Change(0.5),
}
LENGTHS, SPANS = {"position_unit": "length"}, {"position_unit": "span"}
CUBES, WSD = {"kind": "cubes"}, {"kind": "wsd"}
FOREGROUND = {"kind": "foreground"}
CASES = [
    Case(
        base=ENCODER,
        run=train_encoder,
        changes={
            "input_shape": Change((4, 16, 32)),
            "patch_size": Change((2, 8, 8)),
            "channels": Change(2),
            "width": Change(36),
            "depth": Change(3),
            "heads": Change(4),
            "mlp_ratio": Change(2.0),
            "positions": Change("learned"),
            "rotary": Change("interleaved"),
            "position_unit": Change("length"),
            "position_scale": Change((2.0, 1.0, 1.0), LENGTHS),
            "position_span": Change(8, SPANS),
            "layer_norm_eps": Change(1e-2),
            "level_norms": Change([0]),
            "drop_path": Change(0.5),
            "recompute": Change(True, run=kept_bytes),
            "attention": Change("sdpa", run=kernel_on_a_tpu),
            "input_mean": Change(90.0),
            "input_std": Change(60.0),
        },
    ),
    Case(
        base=PREDICTOR,
        run=train_predictor,
        changes={
            "width": Change(36),
            "depth": Change(1),
            "heads": Change(1),
            "mlp_ratio": Change(2.0),
        },
    ),
    Case(base=TeacherConfig(**TEACHER), run=follow, changes=MOMENTUM),
    Case(
        base=JepaConfig(
            predictor=PREDICTOR, levels=2, context_weight=0.5, context_full=0.9, **TEACHER
        ),
        run=train,
        changes=JEPA,
    ),
    Case(
        base=DenseJepaConfig(
            predictor=PREDICTOR, levels=2, context_start=0.0, context_full=0.9, **TEACHER
        ),
        run=train,
        changes=JEPA,
    ),
    Case(
        base=TwoViewConfig(**TEACHER),
        run=train,
        changes={
            **MOMENTUM,
            "context_masked": Change(False),
            "teacher_frozen": Change(True),
            "positions": Change(False, {"context_masked": False}),
            "views": Change(ViewConfig(noise_probability=1.0)),
        },
    ),
    Case(
        base=MaeConfig(decoder=PREDICTOR),
        run=train,
        changes={
            "decoder": Change(PredictorConfig(width=24, depth=1, heads=2)),
            "normalised": Change(False),
            "spectral_weight": Change(0.5),
        },
    ),
    Case(
        base=SaltConfig(teacher="one", predictor=PREDICTOR),
        run=train_beside,
        changes={
            "teacher": Change("another"),
            "predictor": Change(PredictorConfig(width=24, depth=1, heads=2)),
        },
    ),
    Case(
        base=LeJepaConfig(directions=16, hidden=8, embedding=4),
        run=train,
        changes={
            "regulariser_weight": Change(0.5),
            "directions": Change(8),
            "hidden": Change(12),
            "embedding": Change(6),
            "crops": Change(CropConfig(gain=0.3)),
        },
    ),
    Case(
        base=DinoConfig(hidden=8, bottleneck=6, prototypes=4, **TEACHER),
        run=train,
        changes={
            **MOMENTUM,
            "prototypes": Change(5),
            "hidden": Change(12),
            "bottleneck": Change(8),
            "student_temperature": Change(0.2),
            "teacher_temperature": Change(0.08),
            "center_momentum": Change(0.5),
            "crops": Change(CropConfig(gain=0.3)),
        },
    ),
    Case(
        base=CropConfig(),
        run=crop,
        changes={
            "crop_low": Change(0.9),
            "aspect": Change(1.0),
            "mirror_probability": Change(0.0),
            "gain": Change(0.0),
            "noise_std": Change(0.0),
        },
    ),
    Case(
        base=ViewConfig(aligned=False, affine_probability=1.0, noise_probability=1.0),
        run=view,
        changes={
            "aligned": Change(True),
            "flip_probability": Change(0.0),
            "affine_probability": Change(0.0),
            "rotation": Change(0.3),
            "shift": Change(1.0),
            "scale": Change(0.2),
            "noise_probability": Change(0.0),
            "noise_std": Change(0.1),
        },
    ),
    Case(
        base=MASKS.sets[0],
        run=mask,
        changes={
            "kind": Change("patches"),
            "blocks": Change(1),
            "scale": Change(0.4),
            "aspect_low": Change(0.4),
            "aspect_high": Change(4.0),
            "target_fraction": Change(0.6),
            "context_fraction": Change(0.3),
            "max_targets": Change(10),
            "cube_size": Change((1, 4, 4), CUBES),
            "foreground_fraction": Change(0.6, FOREGROUND),
            "context_foreground": Change(0.6, FOREGROUND),
        },
    ),
    Case(
        base=MASKS,
        run=train_masking,
        changes={
            "sets": Change([*MASKS.sets, *MASKS.sets]),
            "foreground": Change(ForegroundConfig(fraction=0.6), {"sets": [BRIGHT]}),
        },
    ),
    Case(
        base=ForegroundConfig(),
        run=find_foreground,
        changes={"measure": Change("std"), "fraction": Change(0.6)},
    ),
    Case(
        base=ScheduleConfig(warmup_fraction=0.2),
        run=schedule,
        changes={
            "peak": Change(2e-3),
            "end": Change(1e-4),
            "kind": Change("constant"),
            "warmup_fraction": Change(0.4),
            "cooldown_fraction": Change(0.5, WSD),
        },
    ),
]


def digest(result):
    """A hash of tensors, numbers and texts, however nested."""
    sha = hashlib.sha256()

    def take(one):
        if isinstance(one, torch.Tensor):
            sha.update(f"{one.dtype} {tuple(one.shape)}".encode())
            sha.update(one.detach().numpy().tobytes())
        elif isinstance(one, Mapping):
            for name in sorted(one):
                sha.update(name.encode())
                take(one[name])
        elif isinstance(one, (list, tuple)):
            for part in one:
                take(part)
        else:
            sha.update(repr(one).encode())

    take(result)
    return sha.hexdigest()


def name_of(case):
    return type(case.base).__name__


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_every_field_of_a_configuration_has_a_change_here(case):
    assert sorted(case.changes) == sorted(one.name for one in fields(case.base))


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_equal_settings_give_equal_results(case):
    assert digest(case.run(case.base)) == digest(case.run(replace(case.base)))


EVERY = [
    pytest.param(case, name, id=f"{name_of(case)}.{name}")
    for case in CASES
    for name in case.changes
]


@pytest.mark.parametrize(("case", "name"), EVERY)
def test_a_changed_setting_changes_the_result(case, name):
    change = case.changes[name]
    run, base = change.run or case.run, replace(case.base, **change.base)
    assert digest(run(base)) != digest(run(replace(base, **{name: change.value})))
