"""The linear head, and features that are kept on disk."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from oct_vjepa import Encoder, EncoderConfig, WeightsError
from oct_vjepa.evaluation.features import embed_volumes, load_or_embed
from oct_vjepa.evaluation.readouts import ReadoutConfig, read_out
from oct_vjepa.heads.answer import Answer
from oct_vjepa.heads.configuration import LossConfig
from oct_vjepa.heads.linear import LinearHead
from oct_vjepa.heads.supervised import Supervised
from oct_vjepa.measures.target import Target
from oct_vjepa.model.weights import weights_fingerprint
from oct_vjepa.probes.configuration import GridConfig
from oct_vjepa.probes.grid import fit_grid
from oct_vjepa.probes.protocol import Round


def test_a_saved_head_comes_back_with_its_classes_and_pool(tmp_path):
    head = LinearHead(width=5, classes=["no", "yes"], pool="max")
    head.save_pretrained(tmp_path / "head")
    back = LinearHead.from_pretrained(tmp_path / "head")
    assert (back.classes, back.pool) == (["no", "yes"], "max")
    assert torch.equal(back.linear.weight, head.linear.weight)


ANSWERS = {
    "two": ("nominal", lambda turn: turn % 2, ("a", "b")),
    "three": ("nominal", lambda turn: turn % 3, ("a", "b", "c")),
    "steps": ("ordinal", lambda turn: turn % 2, ("a", "b")),
    "labels": ("multilabel", lambda turn: np.stack([turn % 2, turn // 2 % 2], 1), ("a", "b")),
    "age": ("regression", lambda turn: 50.0 + turn, ("age",)),
    "event": ("survival", lambda turn: np.stack([turn + 1.0, turn % 2], 1), ("event",)),
}


def probed(encoder, kind, readout):
    """A probe of some volumes at a readout, the volumes, and what the head must be told."""
    block, pool = readout.split("/")
    config = ReadoutConfig(blocks=[block], pools=[pool])
    turn = np.arange(24)
    made, values, names = ANSWERS[kind]
    target = Target(kind=made, values=values(turn), names=names)
    volumes = np.random.default_rng(0).integers(0, 256, (24, 4, 16, 24), dtype=np.uint8)
    depth = encoder.config.depth
    features = embed_volumes(encoder, volumes, pools=[pool], layers=range(depth))
    held = turn // 6 % 2 == 0
    round = Round("round", ~held, held, held)
    readouts = read_out(features, config, depth)
    grid = GridConfig(strengths=(0.1,), folds=0)
    probe = fit_grid("linear", readouts, target, turn, round, grid, balanced=False, seed=0)
    blocks, _ = config.names(depth)[readout]
    places = {"pool": pool, "levels": blocks, "grid": encoder.config.grid}
    return probe, probe.predict(readouts), torch.from_numpy(volumes).unsqueeze(1), places


@pytest.mark.parametrize(
    ("kind", "readout"),
    [(kind, "all/mean_std") for kind in ANSWERS]
    + [("two", one) for one in ("last/cells", "late/max", "last/mean")],
)
def test_a_head_from_a_probe_says_what_the_probe_says_and_is_saved(
    small_config, tmp_path, kind, readout
):
    torch.manual_seed(0)
    encoder = Encoder(replace(small_config, level_norms=[0])).eval()
    torch.nn.init.normal_(encoder.level_norms["0"].weight, 1.0, 0.3)
    probe, wanted, volumes, places = probed(encoder, kind, readout)
    answer = Answer(kind=probe.target_kind, mean=60.0, scale=9.0)
    head = LinearHead.from_probe(probe.arrays, probe.names, answer, **places)
    assert head.answer.kind == probe.target_kind
    head.save_pretrained(tmp_path)
    back = LinearHead.from_pretrained(tmp_path)
    for one in (head, back):
        objective = Supervised(encoder, one, LossConfig(kind=probe.target_kind)).eval()
        with torch.no_grad():
            said = objective.predict(volumes).double().numpy()
        assert np.allclose(said, wanted, atol=1e-4 * max(1.0, np.abs(wanted).max()))


def test_steps_of_an_ordinal_probe_are_no_classes_of_a_head():
    arrays = {"mean": np.zeros(3), "scale": np.ones(3), "weight": np.ones((2, 3)),
              "bias": np.zeros(2)}  # fmt: skip
    with pytest.raises(ValueError, match="2 outputs is no head of 3 classes"):
        LinearHead.from_probe(arrays, ["a", "b", "c"], Answer(kind="ordinal"), pool="mean")


def test_a_step_of_the_optimiser_moves_a_wide_head_by_the_norm_of_its_input_not_by_its_sum():
    found = []
    for width in (16, 4096):
        x = np.random.default_rng(0).normal(size=(8, width))
        arrays = {"mean": np.zeros(width), "scale": np.ones(width), "weight": np.zeros((2, width)),
                  "bias": np.zeros(2)}  # fmt: skip
        head = LinearHead.from_probe(arrays, ["a", "b"], Answer(), pool="mean")
        optimiser = torch.optim.AdamW(head.parameters(), lr=1e-3)
        rows = torch.from_numpy(x).float()
        head(rows)[:, 1].sum().backward()
        optimiser.step()
        found.append(float(head(rows).detach()[:, 1].abs().mean()))
    assert found[1] < 32 * found[0], "256 times as many weights would each take a whole step"


def test_an_encoder_is_not_taken_for_a_head(tmp_path):
    Encoder(EncoderConfig()).save_pretrained(tmp_path / "encoder")
    with pytest.raises(WeightsError, match="linear_head"):
        LinearHead.from_pretrained(tmp_path / "encoder")


class Counted:
    """Volumes that know how often they were asked for."""

    def __init__(self, volumes):
        self.volumes, self.passes = volumes, 0

    def __iter__(self):
        self.passes += 1
        return iter(self.volumes)


def test_features_are_computed_once_for_each_encoder_and_a_damaged_file_again(tmp_path):
    volumes = Counted(np.random.default_rng(0).integers(0, 255, (5, 8, 64, 64), dtype=np.uint8))
    torch.manual_seed(0)
    encoder, other = Encoder(EncoderConfig()), Encoder(EncoderConfig())
    ask = {"volumes_fingerprint": "abc", "folder": tmp_path}
    first = load_or_embed(encoder, volumes, **ask)
    again = load_or_embed(encoder, volumes, **ask)
    assert volumes.passes == 1
    assert all(np.array_equal(first[pool], again[pool]) for pool in first)
    load_or_embed(other, volumes, **ask)
    assert volumes.passes == 2
    assert weights_fingerprint(encoder) != weights_fingerprint(other)
    next(tmp_path.glob(f"{weights_fingerprint(encoder)}-*")).write_bytes(b"torn")
    mended = load_or_embed(encoder, volumes, **ask)
    assert volumes.passes == 3
    assert np.array_equal(mended["mean"], first["mean"])


def test_features_that_depend_on_the_spacing_are_kept_for_each_spacing(tmp_path):
    volumes = Counted(np.random.default_rng(0).integers(0, 255, (3, 8, 64, 64), dtype=np.uint8))
    torch.manual_seed(0)
    ask = {"volumes_fingerprint": "abc", "folder": tmp_path, "pools": ["mean"]}
    spacings = (np.full((3, 3), 1.0), np.full((3, 3), 2.0))
    lengths = Encoder(EncoderConfig(depth=1, position_unit="length"))
    near, far = (load_or_embed(lengths, volumes, spacing=one, **ask) for one in spacings)
    assert not np.array_equal(near["mean"], far["mean"])
    assert np.array_equal(
        load_or_embed(lengths, volumes, spacing=spacings[0], **ask)["mean"], near["mean"]
    )
    assert volumes.passes == 2
    index = Encoder(EncoderConfig(depth=1))
    for one in (None, *spacings):
        load_or_embed(index, volumes, spacing=one, **ask)
    assert volumes.passes == 3, "positions in patches do not depend on the spacing"


def test_any_network_of_volumes_learns_with_the_losses_of_the_question():
    from oct_vjepa.heads.answer import Answer
    from oct_vjepa.heads.supervised import VolumeNetwork

    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    objective = VolumeNetwork(network, ["no", "yes"], Answer(), mean=100.0, std=50.0)
    volumes = torch.randint(0, 256, (8, 1, 4, 4, 4), dtype=torch.uint8)
    labels = torch.arange(8) % 2
    optimiser = torch.optim.AdamW(objective.parameter_groups(0.0), lr=1e-2)
    before = float(objective.loss((volumes, labels))["loss"].detach())
    for _ in range(30):
        optimiser.zero_grad()
        objective.loss((volumes, labels))["loss"].backward()
        optimiser.step()
    assert float(objective.loss((volumes, labels))["loss"].detach()) < before / 3
    chances = objective.predict(volumes)
    assert torch.allclose(chances.sum(dim=1), torch.ones(8), atol=1e-5)
    assert torch.equal(chances.argmax(dim=1), labels)
    with pytest.raises(ValueError, match="not below 2"):
        objective.loss((volumes, labels + 1))
