r"""How well are masks of a real 3-D set learnt, with all of them and with few, on one CPU core?

    uv run python benchmarks/real_segmentation.py OUT --steps 300 --pretraining 300 --write

Anterior and posterior hippocampus in 260 cropped MR images (Medical Segmentation Decathlon, task
4), NIfTI in OUT/images and OUT/labels, as in section1/out of the repository
WisnuMulya/hippocampal-volume-quantification on GitHub; the first of four folds is the test, with
10, 25 and 100 % of the masks. Nobody says there which images are of one person, so each stands for
itself. Fluid in B-scans: benchmarks/real_fluid.py.

An encoder that was pretrained for some hundred steps on the images of those who are not tested
stands beside its random init, a MONAI U-Net of its size, and two rules that only count. Every
network takes as many steps, however few the masks. Nothing is tuned on a test image.
"""

import argparse
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from oct_judge.learning import Place
from oct_judge.recipe import DecoderConfig, TrainingConfig
from oct_judge.rivals.networks import count, make_unet
from oct_judge.rivals.training import grey_levels
from oct_judge.segmenting import learn_masks, make_segmenter, score_volume, segment
from oct_launch import print_table
from oct_vjepa import Encoder, EncoderConfig, Jepa, JepaConfig, PredictorConfig
from oct_vjepa.heads.segmentation import VoxelNetwork
from oct_vjepa.measures.target import Target
from oct_vjepa.measures.units import Interval
from oct_vjepa.probes.protocol import Round, few_labels, make_rounds
from oct_vjepa.probes.voxels import KINDS, VoxelRule
from oct_vjepa.scores.measured import Measured, by_participant, compare_measured, measure_card
from oct_xla import pick_runtime
from writing import rounded, write_results

BATCH = 4
OURS, RANDOM, UNET = "pretrained", "random init", "U-Net from scratch"
WIDTH, DEPTH, HEADS = 96, 4, 3
CANVAS = (48, 64, 48)  # the largest hippocampus image has 43 x 59 x 47 voxels
BRIGHT = 99.5  # percentile of an MR image that becomes 255


@dataclass(frozen=True, kw_only=True, slots=True)
class Scans:
    """Images of one shape with a class of every voxel."""

    name: str
    voxels: NDArray[np.uint8]
    masks: NDArray[np.int16]
    spacings: NDArray[np.float64]
    people: NDArray[np.int64]
    names: tuple[str, ...]
    patch: tuple[int, int, int]

    def __len__(self) -> int:
        return len(self.voxels)

    def __getitem__(self, number: int) -> NDArray[np.uint8]:
        return self.voxels[number]

    @property
    def amounts(self) -> Target:
        """Share of each image that is of a class, for folds that are alike."""
        shares = (self.masks > 0).mean(axis=(1, 2, 3))
        return Target(kind="regression", values=shares, names=("share",))


def read_hippocampus(folder: Path) -> Scans:
    """MR images in the middle of one canvas, at half their resolution; around them is no class."""
    import nibabel  # an extra of oct-io

    grey, masks, spacings = [], [], []
    for path in sorted((folder / "images").glob("*.nii.gz")):
        image: Any = nibabel.load(path)
        voxels = np.asarray(image.dataobj, np.float32)
        drawn: Any = nibabel.load(folder / "labels" / path.name)
        labels = np.asarray(drawn.dataobj)
        white = np.percentile(voxels, BRIGHT)
        scaled = np.clip(voxels * (255 / white), 0, 255).astype(np.uint8)
        place = [(whole - own) // 2 for whole, own in zip(CANVAS, voxels.shape, strict=True)]
        cut = tuple(slice(at, at + own) for at, own in zip(place, voxels.shape, strict=True))
        grey.append(np.zeros(CANVAS, np.uint8))
        masks.append(np.full(CANVAS, -1, np.int16))
        grey[-1][cut], masks[-1][cut] = scaled, labels
        grey[-1], masks[-1] = halve(grey[-1], masks[-1])
        spacings.append([2 * float(size) for size in image.header.get_zooms()])
    return Scans(
        name="hippocampus",
        voxels=np.stack(grey),
        masks=np.stack(masks),
        spacings=np.array(spacings),
        people=np.arange(len(grey)),
        names=("background", "anterior", "posterior"),
        patch=(4, 4, 4),
    )


def halve(
    grey: NDArray[np.uint8], mask: NDArray[np.int16]
) -> tuple[NDArray[np.uint8], NDArray[np.int16]]:
    """Blocks of 2 x 2 x 2 voxels as one: their mean, and the class that most of them have."""
    blocks = [size for axis in grey.shape for size in (axis // 2, 2)]
    labels = range(-1, 3)
    votes = [(mask == label).reshape(blocks).sum(axis=(1, 3, 5)) for label in labels]
    mean = grey.reshape(blocks).mean(axis=(1, 3, 5))
    return mean.round().astype(np.uint8), np.argmax(votes, axis=0).astype(np.int16) - 1


def pretrain(scans: Scans, rows: NDArray[np.int64], encoder: Encoder, steps: int) -> Encoder:
    """The teacher after some steps of V-JEPA 2.1 with early context and voxel loss."""
    torch.manual_seed(0)
    predictor = PredictorConfig(width=48, depth=3, heads=3)
    config = JepaConfig(
        predictor=predictor,
        levels=4,
        context_weight=1.0,
        voxel_weight=1.0,
        ema_start=0.98,
        ema_end=1.0,
    )
    jepa = Jepa(encoder, config)
    optimiser = torch.optim.AdamW(jepa.parameter_groups(0.04), lr=5e-4)
    draw, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 5e-4 * min((step + 1) / 30, 0.5 * (1 + math.cos(math.pi * step / steps)))
        volumes = torch.from_numpy(scans.voxels[draw.choice(rows, BATCH)])[:, None]
        optimiser.zero_grad()
        jepa.loss(volumes, generator)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(jepa.parameters(), 1.0)
        optimiser.step()
        jepa.after_step(step, steps)
    return jepa.teacher.encoder.eval()


def fresh(scans: Scans, rows: NDArray[np.int64]) -> Encoder:
    """The encoder before any training, its input scaled by these images."""
    mean, std = grey_levels(scans, rows)
    config = EncoderConfig(
        input_shape=scans.voxels.shape[1:],
        patch_size=scans.patch,
        width=WIDTH,
        depth=DEPTH,
        heads=HEADS,
        input_mean=mean,
        input_std=std,
    )
    torch.manual_seed(0)
    return Encoder(config)


def recipe(rows: int, steps: int) -> TrainingConfig:
    """As many steps, however many rows; six looks at validation."""
    epochs = max(1, math.ceil(steps / max(1, rows // min(BATCH, rows))))
    return TrainingConfig(
        mode="full",
        epochs=epochs,
        evaluate_every=max(1, epochs // 6),
        patience=0,
        batch_size=BATCH,
        lr_encoder=1e-3,
        layer_decay=1.0,
        warmup_epochs=epochs / 10,
        decoder=DecoderConfig(levels=[1, DEPTH - 1]),
    )


def train(scans: Scans, one: Round, start: Encoder | None, steps: int) -> dict[int, Any]:
    """Row to mask of the test rows, after training the encoder, or a U-Net of its size."""
    config = recipe(int(one.fit.sum()), steps)
    rows = np.flatnonzero(one.fit)
    with tempfile.TemporaryDirectory() as scratch:
        run_dir = Path(scratch)
        place = Place(pick_runtime("cpu"), run_dir, 0)
        if start is None:
            of_ours = make_segmenter(config, fresh(scans, rows), scans.names, 1, 0)
            network, _ = make_unet(
                scans.voxels.shape[1:], len(scans.names), parameters=count(of_ours), seed=0
            )
            mean, std = grey_levels(scans, rows)
            objective = VoxelNetwork(network, mean=mean, std=std)
            learn_masks(config, objective, scans, scans.masks, scans.names, one, place, UNET)
        else:
            segment(config, start, scans, scans.masks, scans.names, one, place)
        return {
            row: np.load(run_dir / "masks" / f"{row:06d}.npy")
            for row in np.flatnonzero(one.test).tolist()
        }


def count_only(scans: Scans, one: Round, kind: str) -> dict[int, Any]:
    """Row to mask of the test rows, by a rule."""
    rule = VoxelRule(kind, len(scans.names))
    rule.fit(scans, scans.masks, np.flatnonzero(one.fit).tolist())
    classes = range(1, len(scans.names))
    rule.choose(scans, scans.masks, np.flatnonzero(one.validation).tolist(), classes)
    return {row: rule.predict(scans[row]) for row in np.flatnonzero(one.test).tolist()}


def measure(scans: Scans, masks: dict[int, Any]) -> Measured:
    """Mean Dice and Dice and 95 % surface distance of each class, a row a participant."""
    found = []
    for row, mask in masks.items():
        scores = score_volume(mask, scans.masks[row], scans.names, scans.spacings[row])[1:]
        dice = [score["dice"] for score in scores]
        mean = float(np.nanmean(dice)) if np.isfinite(dice).any() else math.nan
        found.append([mean, *dice, *(score["surface_95_um"] for score in scores)])
    return by_participant(np.array(found), scans.people[list(masks)])


def metrics_of(scans: Scans) -> list[str]:
    """Names of what `measure` gives."""
    kinds = ("dice", "surface_95_um")
    return ["dice", *(f"{kind}_{name}" for kind in kinds for name in scans.names[1:])]


def pretrain_each(scans: Scans, rounds: Sequence[Round], steps: int) -> tuple[list[Encoder], float]:
    """An encoder for each round that has not seen who is tested there; seconds of the processor."""
    begun = time.process_time()
    found = []
    for one in rounds:
        seen = np.flatnonzero(one.fit | one.validation)
        found.append(pretrain(scans, seen, fresh(scans, seen), steps))
    return found, time.process_time() - begun


def ask(
    scans: Scans, rounds: Sequence[Round], pretrained: Sequence[Encoder], share: float, steps: int
) -> list[dict[str, Any]]:
    """A row for each candidate that learns from a share of the masks."""
    readings, seconds, rows = {}, {}, []
    for name in (OURS, RANDOM, UNET, *KINDS):
        begun, drawn = time.process_time(), []
        for one, ours in zip(rounds, pretrained, strict=True):
            part = one
            if share < 1:
                part = few_labels(one, scans.amounts, scans.people, share, seed=0)
            if name in KINDS:
                masks = count_only(scans, part, name)
            else:
                fit = np.flatnonzero(one.fit | one.validation)
                start = {OURS: ours, RANDOM: fresh(scans, fit), UNET: None}[name]
                masks = train(scans, part, start, steps)
            drawn.append(measure(scans, masks))
        readings[name], seconds[name] = [drawn], time.process_time() - begun
        print(f"{share:.0%} of the masks, {name}: {seconds[name]:.0f} CPU seconds", flush=True)
    draws = {"seed": 0, "bootstrap": 1000}
    gains = compare_measured(readings, metrics_of(scans), "dice", reference=OURS, **draws)
    for name, found in readings.items():
        card = measure_card(found, metrics_of(scans), **draws)
        rows.append(
            {
                "fraction": share,
                "candidate": name,
                "metrics": {key: rounded(value) for key, value in card.items()},
                "pretrained_over_it": rounded(gains[name].difference) if name in gains else None,
                "cpu_s": round(seconds[name], 1),
            }
        )
    return rows


def as_cells(row: dict[str, Any]) -> list[str]:
    """A row for the terminal."""
    gain = row["pretrained_over_it"]
    return [
        f"{row['fraction']:.0%}",
        row["candidate"],
        Interval(*row["metrics"]["dice"]).text(),
        Interval(*gain).text("+") if gain else "",
        f"{row['cpu_s']:.0f}",
    ]


def main() -> None:
    """Read, ask, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=800, help="of each training")
    parser.add_argument("--pretraining", type=int, default=300, help="steps of it")
    parser.add_argument("--rounds", type=int, default=1, help="only the first so many")
    parser.add_argument("--fractions", type=float, nargs="+", help="shares of the masks")
    parser.add_argument("--write", action="store_true", help="to results/real_hippocampus.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    scans = read_hippocampus(given.data)
    rounds = make_rounds("kfold", scans.amounts, scans.people, folds=4, seed=0)[: given.rounds]
    fractions = given.fractions or [0.1, 0.25, 1.0]
    pretrained, seconds = pretrain_each(scans, rounds, given.pretraining)
    rows: list[dict[str, Any]] = []
    for share in fractions:
        rows += ask(scans, rounds, pretrained, share, given.steps)
        head = ["masks", "candidate", "Dice", "pretrained over it", "CPU seconds"]
        print_table(head, [as_cells(row) for row in rows])
        if given.write:
            settings = {
                "command": "python benchmarks/real_segmentation.py DATA "
                f"--steps {given.steps} --pretraining {given.pretraining} --rounds {len(rounds)} "
                "--write",
                "data": scans.name,
                "steps": given.steps,
                "batch": BATCH,
                "pretraining_steps": given.pretraining,
                "pretraining_cpu_s": round(seconds, 1),
                "rounds": [one.name for one in rounds],
                "participants": len(np.unique(scans.people)),
                "images": len(scans),
            }
            packages = ("oct-vjepa", "torch", "monai")
            write_results("real_hippocampus", packages, settings | {"rows": rows})


if __name__ == "__main__":
    main()
