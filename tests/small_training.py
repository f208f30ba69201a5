"""A problem so small that training takes a second, and a run of it as a program.

python small_training.py RUN_DIR [NAME=VALUE ...]     trains, and writes the scores beside
"""

import os
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "apps" / "finetune"))

from oct_judge.recipe import TrainingConfig
from oct_vjepa import Encoder, EncoderConfig
from oct_vjepa.evaluation.features import embed_volumes
from oct_vjepa.evaluation.readouts import ReadoutConfig, read_out
from oct_vjepa.measures.target import Target
from oct_vjepa.probes.configuration import GridConfig
from oct_vjepa.probes.protocol import Round
from oct_xla import pick_runtime

ROWS, SHAPE = 60, (4, 16, 16)
SHORT = {"epochs": 4, "warmup_epochs": 0.5, "batch_size": 8, "lr_head": 5e-3, "lr_encoder": 2e-3}


class Volumes:
    """Noise with a bright cube in every second volume; every third row is a test row."""

    def __init__(self):
        generator = np.random.default_rng(0)
        self.voxels = generator.integers(60, 120, (ROWS, *SHAPE), dtype=np.uint8)
        self.masks = np.zeros((ROWS, *SHAPE), dtype=np.int64)
        for row in range(1, ROWS, 2):
            y, x = 8 * generator.integers(0, 2, 2)
            self.masks[row, 1:3, y : y + 8, x : x + 8] = 1
        self.voxels[self.masks == 1] += 100
        self.spacings = np.tile([0.12, 0.004, 0.011], (ROWS, 1))

    def __len__(self):
        return ROWS

    def __getitem__(self, number):
        return self.voxels[number]


def parts():
    turn = np.arange(ROWS) // 2 % 3
    return Round("round", turn == 0, turn == 1, turn == 2)


def target(kind="nominal"):
    sick = np.arange(ROWS) % 2
    noise = np.random.default_rng(1)
    values, names = {
        "nominal": (sick, ("no", "yes")),
        "ordinal": (sick, ("mild", "severe")),
        "multilabel": (np.stack([sick, 1 - sick], axis=1), ("cube", "none")),
        "regression": (250.0 + 40.0 * sick + noise.normal(0, 4, ROWS), ("thickness",)),
        "survival": (
            np.stack([5.0 - 3.0 * sick + noise.random(ROWS), np.arange(ROWS) // 6 % 4 > 0], axis=1),
            ("progression",),
        ),
    }[kind]
    values = values.copy()
    if kind == "multilabel":
        values[::7, 1] = -1
    elif kind == "nominal":
        values[2] = -1  # of the first class, in no part but fit or test
    return Target(kind=kind, values=values, names=names)


def encoder():
    torch.manual_seed(0)
    return Encoder(
        EncoderConfig(
            input_shape=SHAPE, patch_size=(2, 8, 8), width=32, depth=2, heads=2, input_mean=95.0,
            input_std=30.0,
        )
    )  # fmt: skip


def recipe(**settings):
    return TrainingConfig(**(SHORT | settings))


def probe_start(config, kind="nominal", blocks=("last", "all"), pools=("mean_std", "max")):
    """What `training.head_start=probe` begins with, and the readouts that it is fitted on."""
    from oct_judge.starting import start_at_probe

    asked, answers = encoder(), target(kind)
    readout = ReadoutConfig(blocks=list(blocks), pools=list(pools))
    depth = asked.config.depth
    features = embed_volumes(asked, Volumes().voxels, pools=pools, layers=range(depth))
    readouts = read_out(features, readout, depth)
    known = parts()._replace(**{name: part & answers.known for name, part in parts().parts.items()})
    start = start_at_probe(
        config, asked.config, readouts, answers, np.arange(ROWS), known, readout=readout,
        grid=GridConfig(), seed=0,
    )  # fmt: skip
    return start, readouts


def train(run_dir, kind="nominal", precision="fp32", seed=0, rows=None, runtime="cpu", **settings):
    from oct_judge.learning import Place
    from oct_judge.training import train_mode

    config = recipe(**settings)
    start = probe_start(config, kind)[0] if config.starts_at_probe else None
    return train_mode(
        config, encoder(), Volumes(), target(kind), rows or parts(),
        Place(pick_runtime(runtime, precision), Path(run_dir), seed, data="small"), start,
    )  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    given = dict(one.split("=") for one in sys.argv[2:])
    settings = {name: int(one) if one.isdigit() else one for name, one in given.items()}
    found = train(sys.argv[1], **settings)
    np.save(Path(sys.argv[1]) / f"scores{os.environ.get('RANK', '')}.npy", found.scores_NK)
