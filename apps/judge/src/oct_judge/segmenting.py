"""Training for a class of every voxel: fit, choose the epoch by Dice, save masks and scores."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import oct_xla
import torch
from numpy.typing import NDArray
from oct_vjepa import Encoder
from oct_vjepa.heads.segmentation import SegmentationHead, Segmenter, VoxelNetwork
from oct_vjepa.measures.segmentation import Overlap, count_overlap, dice_of, score_masks
from torch import Tensor

from oct_judge.examples import MaskedSamples, Masks, Parts, Volumes
from oct_judge.learning import (
    Ending,
    Place,
    digest_of,
    each_batch,
    identity_of,
    learn,
    own_encoder,
    save,
    taken_by,
)
from oct_judge.recipe import Plan, TrainingConfig

UM_PER_MM = 1000.0


class Segmented(NamedTuple):
    """What training came to.

    Attributes:
        ending: how it ended.
        validation: Dice of the validation rows together: `dice`, the mean of the classes that are
            there, and `dice_NAME` of each.
        test: likewise of the test rows.
        table: a row for each scored volume and class: `row`, `part`, `class`, `dice`,
            `surface_mean_um` and `surface_95_um`.
        folder: where `encoder`, `head` and `masks/NUMBER.npy` lie, one uint8 mask a scored volume;
            not yet there if the run was stopped.
    """

    ending: Ending
    validation: dict[str, float]
    test: dict[str, float]
    table: list[dict[str, Any]]
    folder: Path


def segment(
    config: TrainingConfig,
    encoder: Encoder,
    volumes: Volumes,
    masks: Masks,
    names: Sequence[str],
    round: Parts,
    place: Place,
) -> Segmented:
    """Train on the rows to fit, take the epoch with the best Dice on validation, predict, save.

    Args:
        config: the recipe; `decoder` is what stands on the encoder, `head` is not read.
        encoder: to start from; a copy is trained.
        volumes: N of them.
        masks: of all N volumes; those of rows that are in no part are not read.
        names: of the classes from 0, background included.
        round: which rows are for what.
        place: where, with which seed.

    Raises:
        ValueError: a setting that does not fit masks, or no row to train on.
        CheckpointError: the folder holds another run.
    """
    check_recipe(config)
    plan = plan_of(config, round, place.runtime)
    objective = make_segmenter(config, encoder, names, plan.per_epoch, place.seed)
    found = learn_masks(config, objective, volumes, masks, names, round, place, encoder)
    if found.ending.reason != "stopped":
        save(objective, objective.head, encoder.config, place, lora=config.mode == "lora")
    return found


def plan_of(config: TrainingConfig, round: Parts, runtime: oct_xla.Runtime) -> Plan:
    """What the recipe comes to for the rows to fit.

    Raises:
        ValueError: there is none.
    """
    if not round.fit.any():
        raise ValueError("no row to train on")
    return config.plan(int(round.fit.sum()), runtime.devices)


def learn_masks(
    config: TrainingConfig,
    objective: Segmenter | VoxelNetwork,
    volumes: Volumes,
    masks: Masks,
    names: Sequence[str],
    round: Parts,
    place: Place,
    who: Encoder | str,
) -> Segmented:
    """Train an objective of voxels in place, take its best epoch, and predict.

    Args:
        config: see `segment`.
        objective: an encoder with its decoder, or any network.
        volumes: see `segment`.
        masks: see `segment`.
        names: see `segment`.
        round: see `segment`.
        place: where, with which seed.
        who: the encoder that it starts from, or what names the network.
    """
    runtime, run_dir = place.runtime, place.run_dir
    config.check_metric(["dice", *(f"dice_{name}" for name in names)])
    plan = plan_of(config, round, runtime)
    fit, watched = np.flatnonzero(round.fit), np.flatnonzero(round.validation)
    runtime.prepare(objective)
    taken = taken_by(objective)
    samples = MaskedSamples(volumes, fit, config, encoder=taken, seed=place.seed, masks=masks)
    scorer = MaskScorer(objective, volumes, masks, names, plan.batch_size, runtime)

    def evaluate(step: int) -> Iterator[Mapping[str, float] | None]:
        scorer.clear()
        for _ in scorer.read(watched):
            yield None
        yield scorer.dice()

    ending = learn(
        objective,
        samples,
        config,
        plan,
        place,
        metric="dice" if config.metric == "auto" else config.metric,
        evaluate=evaluate if len(watched) else None,
        identity=identity_of(who, rows=fit, watched=watched, classes=np.array(names))
        | {"masks": digest_of(masks[row] for row in (*fit, *watched))},
    )
    if ending.reason == "stopped":
        return Segmented(ending, {}, {}, [], run_dir)
    (run_dir / "masks").mkdir(exist_ok=True)
    found, table = {}, []
    for part in ("validation", "test"):
        scorer.clear()
        for _ in scorer.read(np.flatnonzero(getattr(round, part)), folder=run_dir / "masks"):
            pass
        found[part] = scorer.dice()
        table += [{"part": part, **row} for row in scorer.table()]
    return Segmented(ending, found["validation"], found["test"], table, run_dir)


def check_recipe(config: TrainingConfig) -> None:
    """Refuse settings that do nothing for masks.

    Raises:
        ValueError: names the setting.
    """
    if config.class_weights not in ("none", "auto"):
        raise ValueError(
            f"training.class_weights ({config.class_weights}) must be none or auto for masks: their"
            " Dice loss weighs classes alike"
        )
    if config.label_smoothing:
        raise ValueError(f"training.label_smoothing ({config.label_smoothing}) must be 0 for masks")
    if config.scan_augmentation is not None:
        raise ValueError("training.scan_augmentation must be null for masks: it moves no mask")
    if config.mode == "attentive":
        raise ValueError("training.mode ('attentive') pools a volume; masks take frozen instead")


def make_segmenter(
    config: TrainingConfig, encoder: Encoder, names: Sequence[str], per_epoch: int, seed: int
) -> Segmenter:
    """A copy of the encoder with a fresh decoder."""
    levels = config.decoder.levels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = SegmentationHead(
            width=encoder.config.width * max(1, len(levels)),
            classes=names,
            patch_size=encoder.config.patch_size,
            hidden=config.decoder.hidden,
        )
    own = own_encoder(encoder, config, seed)
    return Segmenter(own, head, config.finetuning(per_epoch), levels=levels)


def score_volume(
    mask: NDArray[Any], truth: NDArray[Any], names: Sequence[str], spacing_mm: NDArray[Any]
) -> list[dict[str, Any]]:
    """Of each class `class`, `dice`, `surface_mean_um` and `surface_95_um`.

    Distances are NaN where nobody knows the millimetres; those between B-scans do not matter where
    there is one alone.
    """
    spacing = [UM_PER_MM * float(size) for size in spacing_mm]
    if len(mask) == 1:
        spacing[0] = 1.0
    if known := bool(np.isfinite(spacing).all()):
        scores = score_masks(mask, truth, names, spacing)
    else:
        dice = dice_of(count_overlap(mask, truth, len(names)))
        scores = [{"class": n, "dice": float(d)} for n, d in zip(names, dice, strict=True)]
    return [
        {
            "class": score["class"],
            "dice": score["dice"],
            "surface_mean_um": score["surface_mean"] if known else float("nan"),
            "surface_95_um": score["surface_95"] if known else float("nan"),
        }
        for score in scores
    ]


class MaskScorer:
    """Predicts masks of this process's share of rows, counts and keeps them.

    Args:
        objective: predicts.
        volumes: all of them.
        masks: the truth of all of them.
        names: of the classes.
        size: volumes of a batch over all devices.
        runtime: which share.
    """

    def __init__(
        self,
        objective: Segmenter | VoxelNetwork,
        volumes: Volumes,
        masks: Masks,
        names: Sequence[str],
        size: int,
        runtime: oct_xla.Runtime,
    ) -> None:
        self.objective, self.volumes, self.masks = objective, volumes, masks
        self.names, self.size, self.runtime = list(names), size, runtime
        self.clear()

    def clear(self) -> None:
        """Forget what was counted."""
        zeros = np.zeros(len(self.names), dtype=np.int64)
        self._overlap = Overlap(zeros, zeros)
        self._rows: list[dict[str, Any]] = []

    def read(self, rows: NDArray[Any], folder: Path | None = None) -> Iterator[None]:
        """Predict and count the rows; with a folder also keep each mask, and measure surfaces."""
        for batch in each_batch(
            self.objective, self._choose, self.volumes, rows, self.size, self.runtime
        ):
            if batch is None:
                yield None
                continue
            for row, mask in zip(batch[0], batch[1].numpy().astype(np.uint8), strict=True):
                self._count(row, mask, folder)

    def _choose(self, volume: Tensor, spacing: Tensor | None) -> Tensor:
        classes: Tensor = self.objective(volume, spacing).argmax(dim=1)
        return classes

    def _count(self, row: int, mask: NDArray[np.uint8], folder: Path | None) -> None:
        truth = np.asarray(self.masks[row])
        found = count_overlap(mask, truth, len(self.names))
        self._overlap = Overlap(*(a + b for a, b in zip(self._overlap, found, strict=True)))
        if folder is None:
            return
        np.save(folder / f"{row:06d}.npy", mask)
        scores = score_volume(mask, truth, self.names, self.volumes.spacings[row])
        self._rows += [{"row": row, **score} for score in scores]

    def dice(self) -> dict[str, float]:
        """Dice of all voxels that were counted, of all processes."""
        counts = [part.tolist() for part in self._overlap]
        every = [json.loads(text) for text in self.runtime.share(json.dumps(counts))]
        both, sizes = np.array(every, dtype=np.int64).sum(axis=0)
        scores = dice_of(Overlap(both, sizes))
        there = scores[np.isfinite(scores)]
        found = {"dice": float(there.mean()) if len(there) else float("nan")}
        return found | {
            f"dice_{name}": float(score) for name, score in zip(self.names, scores, strict=True)
        }

    def table(self) -> list[dict[str, Any]]:
        """The rows of all processes, by number of the volume."""
        every = [json.loads(text) for text in self.runtime.share(json.dumps(self._rows))]
        return sorted((row for part in every for row in part), key=lambda row: row["row"])
