"""How Dice falls when the test volumes get worse: six ways that move nothing, five strengths.

results.json has it as of labels (`oct_judge.finished.spoiling`). Motion and a smaller field are
left out: they move what is to be drawn. Nothing is trained again.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from oct_io.space.perturbations import PERTURBATIONS, STRENGTHS, perturb
from oct_launch import Stages
from oct_vjepa import Encoder
from oct_vjepa.finished.about import SEGMENTATION, MemberAbout
from oct_vjepa.finished.drawings import draw_batch
from oct_vjepa.finished.member import Member
from oct_vjepa.heads.segmentation import SegmentationHead
from oct_vjepa.measures.segmentation import count_overlap, dice_of
from oct_vjepa.measures.shares import known_mean
from oct_vjepa.probes.protocol import Round
from oct_vjepa.scores.cards import as_plain
from oct_vjepa.scores.measured import Measured, by_participant, measure_card
from safetensors.torch import load_file

from oct_judge.finished.spoiling import seeds_of_rows
from oct_judge.masks.candidates import UNET, Draughtsmen, Drawn, Mask, drawing_folder
from oct_judge.masks.measuring import HEADLINE
from oct_judge.masks.results import FoundMasks

MOVING = ("motion", "crop")
STILL = tuple(kind for kind in PERTURBATIONS if kind not in MOVING)
Way = tuple[str, int]
WAYS: tuple[Way, ...] = tuple((kind, strength) for kind in STILL for strength in STRENGTHS)
Pen = Callable[[NDArray[np.uint8], torch.Tensor], Mask]
"""Volumes (B, Z, Y, X) and their spacing (B, 3) to the class of each voxel."""


def spoil_masks(
    found: FoundMasks, document: Mapping[str, Any], cast: Draughtsmen, stages: Stages
) -> dict[str, Any] | None:
    """What results.json has of it, of all that were trained; None if it was not asked for."""
    if not found.config.compare.perturbed:
        return None
    config = found.config
    draws = {"seed": config.seed, "bootstrap": config.bootstrap}
    cards = {one["name"]: one["card"]["metrics"] for one in document["candidates"]}
    names = list(cast.trained())
    curves: dict[str, dict[str, list[list[float]]]] = {}
    for place, name in enumerate(names):
        readings: dict[Way, list[list[Measured]]] = {way: [] for way in WAYS}
        for seed, rounds in enumerate(found.drawings[name]):
            for each in readings.values():
                each.append([])
            for number, one in enumerate(rounds):
                pen = pen_of(cast, name, one, number)  # one network at a time
                for way in WAYS:
                    readings[way][-1].append(measure(cast, one, pen, *way))
            stages("spoiling masks", place * config.seeds + seed + 1, len(names) * config.seeds)
        spoilt = {way: measure_card(each, [HEADLINE], **draws) for way, each in readings.items()}
        curves[name] = {
            kind: [cards[name][HEADLINE], *(list(spoilt[kind, one][HEADLINE]) for one in STRENGTHS)]
            for kind in STILL
        }
    return {"metric": HEADLINE, "strengths": [0, *STRENGTHS], "candidates": as_plain(curves)}


def pen_of(cast: Draughtsmen, name: str, one: Drawn, number: int) -> Pen:
    """What a training of a candidate has left, in the round of a number."""
    folder = drawing_folder(cast.folder, name, one.seed, number)
    if name == UNET:
        return unet_pen(cast, folder, cast.study.rounds[number], one.seed)
    return encoder_pen(cast, folder)


def encoder_pen(cast: Draughtsmen, folder: Path) -> Pen:
    """The encoder and the decoder of a folder."""
    device = cast.runtime.device
    encoder = Encoder.from_pretrained(folder / "encoder", device=device)
    member = Member(
        about=MemberAbout(encoder="encoder", head="head"),
        kind=SEGMENTATION,
        encoder=encoder,
        head=SegmentationHead.from_pretrained(folder / "head").to(device),
    )
    levels = tuple(cast.config.training.decoder.levels)
    by_length = encoder.config.position_unit == "length"

    def pen(volumes: NDArray[np.uint8], spacing_B3: torch.Tensor) -> Mask:
        return draw_batch([member], levels, volumes, spacing_B3 if by_length else None)[0]

    return pen


def unet_pen(cast: Draughtsmen, folder: Path, one: Round, seed: int) -> Pen:
    """The U-Net of a folder."""
    objective, _ = cast.unet(one, seed)
    objective.network.load_state_dict(load_file(folder / "network.safetensors"))
    objective.to(cast.runtime.device).eval()

    @torch.no_grad()
    def pen(volumes: NDArray[np.uint8], spacing_B3: torch.Tensor) -> Mask:
        batch = torch.from_numpy(volumes).unsqueeze(1).to(cast.runtime.device)
        classes: Mask = objective(batch).argmax(dim=1).cpu().numpy().astype(np.uint8)
        return classes

    return pen


def measure(cast: Draughtsmen, one: Drawn, pen: Pen, kind: str, strength: int) -> Measured:
    """Dice, mean of the counted classes, of each tested participant, once scans are spoilt."""
    study = cast.study
    dice = np.array(
        [
            dice_of(count_overlap(mask, np.asarray(study.masks[row]), len(study.names)))
            for row, mask in redraw(cast, one.rows, pen, kind, strength)
        ]
    )
    means = known_mean(dice[:, study.counted], 1)
    return by_participant(means[:, None], study.people[one.rows])


def redraw(
    cast: Draughtsmen, rows: Sequence[int], pen: Pen, kind: str, strength: int
) -> Iterator[tuple[int, Mask]]:
    """Rows and what is drawn of them once they are spoilt; strength 0 leaves them as they are."""
    volumes, size = cast.study.volumes, cast.config.training.batch_size
    seeds = seeds_of_rows(volumes.entries, rows)
    for first in range(0, len(rows), size):
        some = slice(first, first + size)
        batch = np.stack(
            [
                perturb(volumes[row], kind, strength, seed=seed)
                for row, seed in zip(rows[some], seeds[some], strict=True)
            ]
        )
        steps = np.ascontiguousarray(volumes.spacings[rows[some]], np.float32)
        with cast.runtime.autocast():
            yield from zip(rows[some], pen(batch, torch.from_numpy(steps)), strict=True)
