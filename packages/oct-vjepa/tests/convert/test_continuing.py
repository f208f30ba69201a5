"""Going on from a file of V-JEPA 2: which weights student, teacher and predictor begin with."""

import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from oct_vjepa import Encoder, EncoderConfig, Jepa, JepaConfig, MaskingConfig, PredictorConfig
from oct_vjepa.convert.adapt import adapt_patches
from oct_vjepa.convert.continuing import hand_over, read_start
from oct_vjepa.convert.formats import read_encoder
from oct_vjepa.convert.layout import ConversionConfig
from oct_vjepa.model.weights import WeightsError
from oct_vjepa.objectives.configuration import DenseJepaConfig
from oct_vjepa.objectives.rivals.configuration import MaeConfig, SaltConfig
from oct_vjepa.objectives.rivals.mae import Mae
from oct_vjepa.objectives.rivals.salt import Salt

THEIRS = EncoderConfig(
    input_shape=(4, 32, 48), patch_size=(2, 8, 8), channels=3, width=48, depth=2, heads=4
)
OURS = replace(
    THEIRS, input_shape=(8, 32, 48), patch_size=(4, 8, 8), channels=1, input_mean=40, input_std=50
)
NARROW = PredictorConfig(width=24, depth=2, heads=2)


def same(one, other):
    """Whether two states are equal in every tensor."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def write_hub():
    return runpy.run_path(str(Path(__file__).with_name("hub_files.py")))["write_hub"]


@pytest.fixture
def hub(write_hub, tmp_path):
    path = tmp_path / "vitx.pt"
    return path, *write_hub(path, THEIRS, NARROW)


def adapted(encoder):
    """The state of a foreign encoder with patches and channels of ours."""
    state = dict(encoder.state_dict())
    name = "patches.proj.weight"
    state[name], _ = adapt_patches(state[name], OURS.channels, OURS.patch_size)
    return state


def test_student_teacher_and_predictor_are_those_of_the_file(hub):
    path, student, teacher, predictor = hub
    start = read_start(path, OURS, predictor_heads=2)
    assert start.student.config == start.teacher.config == OURS
    assert same(start.student.state_dict(), adapted(student))
    assert same(start.teacher.state_dict(), adapted(teacher))
    assert same(start.predictor.state_dict(), predictor.state_dict())
    assert any("3 channels summed to 1" in note for note in start.notes)
    jepa = Jepa(start.student, JepaConfig(predictor=NARROW))
    assert not same(jepa.teacher.encoder.state_dict(), start.teacher.state_dict())
    hand_over(start, jepa)
    assert same(jepa.encoder.state_dict(), adapted(student))
    assert same(jepa.teacher.encoder.state_dict(), adapted(teacher))
    assert same(jepa.predictor.state_dict(), predictor.state_dict())


def test_a_dense_predictor_comes_along_and_a_voxel_map_keeps_its_random_start(write_hub, tmp_path):
    path = tmp_path / "dense.pt"
    _, _, predictor = write_hub(path, THEIRS, NARROW, levels=2, dense=True)
    start = read_start(path, OURS, predictor_heads=2)
    config = DenseJepaConfig(predictor=NARROW, levels=2, voxel_weight=1.0)
    jepa = Jepa(start.student, config)
    drawn = jepa.predictor.proj_voxels.weight.clone()
    hand_over(start, jepa)
    own = jepa.predictor.state_dict()
    assert torch.equal(own["proj_voxels.weight"], drawn)
    assert all(torch.equal(own[name], one) for name, one in predictor.state_dict().items())


def test_a_file_without_student_or_predictor_says_what_starts_how(hub, tmp_path):
    found = torch.load(hub[0], weights_only=True)
    torch.save({"ema_encoder": found["target_encoder"]}, tmp_path / "alone.pt")
    start = read_start(tmp_path / "alone.pt", OURS)
    assert start.student is start.teacher
    assert start.predictor is None
    assert any("no context encoder" in note for note in start.notes)
    assert any("no predictor" in note for note in start.notes)


def test_an_encoder_of_ours_is_both(tmp_path):
    encoder = Encoder(OURS)
    encoder.save_pretrained(tmp_path / "encoder")
    start = read_start(tmp_path / "encoder", OURS)
    assert start.student is start.teacher
    assert same(start.student.state_dict(), encoder.state_dict())


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"depth": 3}, "encoder.depth=2, and this run has 3"),
        ({"rotary": "interleaved"}, "encoder.rotary=vjepa2, and this run has interleaved"),
        ({"patch_size": (3, 8, 8), "input_shape": (6, 32, 48)}, "choose a multiple of 2"),
    ],
)
def test_another_encoder_is_refused_with_the_setting(hub, change, complaint):
    with pytest.raises(WeightsError, match=complaint):
        read_start(hub[0], replace(OURS, **change))


def test_another_predictor_is_refused_with_the_settings(hub):
    start = read_start(hub[0], OURS, predictor_heads=2)
    deeper = JepaConfig(predictor=replace(NARROW, depth=3))
    with pytest.raises(WeightsError, match=r"width=24 and objective.predictor.depth=2"):
        hand_over(start, Jepa(start.student, deeper))
    with pytest.raises(WeightsError, match="those of 2 objective=vjepa2"):
        hand_over(start, Jepa(start.student, DenseJepaConfig(predictor=NARROW, levels=2)))


def test_foreign_weights_teach_a_student_once_they_are_converted(hub, tmp_path):
    path, _, teacher, _ = hub
    shape = ConversionConfig(patch_size=(4, 8, 8), input_shape=(8, 32, 48), channels=1, heads=4)
    read_encoder(path, shape)[0].save_pretrained(tmp_path / "foreign")
    config = SaltConfig(predictor=NARROW, teacher=str(tmp_path / "foreign"))
    student = Encoder(replace(OURS, width=24, depth=1, heads=2))
    salt = Salt(student, config, MaskingConfig())
    assert same(salt.teacher.encoder.state_dict(), adapted(teacher))
    volume = torch.randint(0, 256, (2, 1, 8, 32, 48), dtype=torch.uint8)
    out = salt.loss(volume, torch.Generator().manual_seed(0))
    out["loss"].backward()
    assert all(weight.grad is not None for weight in student.parameters())
    assert torch.isfinite(out["loss"])


def test_an_objective_without_a_teacher_is_refused(hub):
    start = read_start(hub[0], OURS, predictor_heads=2)
    mae = Mae(start.student, MaeConfig(), MaskingConfig())
    with pytest.raises(WeightsError, match="no teacher"):
        hand_over(start, mae)


def test_what_is_not_there_is_one_line(tmp_path):
    with pytest.raises(WeightsError, match="nowhere"):
        read_start(tmp_path / "nowhere", OURS)
