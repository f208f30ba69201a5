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
from oct_vjepa.scores.cards import as_plain
from oct_vjepa.scores.measured import Measured, measure_card
from safetensors.torch import load_file

from oct_judge.candidates import PRETRAINED, RANDOM
from oct_judge.finished.spoiling import seeds_of_rows
from oct_judge.masks.candidates import UNET, Draughtsmen, Drawn, drawing_folder
from oct_judge.masks.measuring import HEADLINE, Ruler
from oct_judge.masks.results import FoundMasks
from oct_judge.masks.study import MaskStudy
from oct_judge.segmenting import score_volume

MOVING = ("motion", "crop")
STILL = tuple(kind for kind in PERTURBATIONS if kind not in MOVING)
Mask = NDArray[np.uint8]
Pen = Callable[[NDArray[np.uint8], torch.Tensor], Mask]
"""Volumes (B, Z, Y, X) and their spacing (B, 3) to the class of each voxel."""


def spoil_masks(found: FoundMasks, cast: Draughtsmen, stages: Stages) -> dict[str, Any] | None:
    """What results.json has of it, of all that were trained; None if it was not asked for."""
    if not found.config.compare.perturbed:
        return None
    config, ruler = found.config, Ruler(found.study, found.config)
    draws = {"seed": config.seed, "bootstrap": config.bootstrap}

    def headline(readings: Sequence[Sequence[Measured]]) -> list[float]:
        return list(measure_card(readings, ruler.metrics, **draws)[HEADLINE])

    names = [name for name in (PRETRAINED, RANDOM, UNET) if name in found.drawings]
    curves: dict[str, dict[str, list[list[float]]]] = {}
    for place, name in enumerate(names):
        drawings = found.drawings[name]
        whole = headline(ruler.read(drawings))
        curves[name] = {kind: [whole] for kind in STILL}
        pens = pens_of(cast, name, drawings)
        for number, kind in enumerate(STILL):
            for strength in STRENGTHS:
                readings = [
                    [
                        ruler.measure(redraw(cast, one, pen, kind, strength))
                        for one, pen in zip(rounds, own, strict=True)
                    ]
                    for rounds, own in zip(drawings, pens, strict=True)
                ]
                curves[name][kind].append(headline(readings))
            stages("spoiling volumes", place * len(STILL) + number + 1, len(names) * len(STILL))
    return {"metric": HEADLINE, "strengths": [0, *STRENGTHS], "candidates": as_plain(curves)}


def pens_of(cast: Draughtsmen, name: str, drawings: Sequence[Sequence[Drawn]]) -> list[list[Pen]]:
    """What each training of a candidate has left, by seed and round."""
    return [
        [
            (unet_pen if name == UNET else encoder_pen)(
                cast, drawing_folder(cast.folder, name, one.seed, number), number, one.seed
            )
            for number, one in enumerate(rounds)
        ]
        for rounds in drawings
    ]


def encoder_pen(cast: Draughtsmen, folder: Path, number: int, seed: int) -> Pen:
    """The encoder and the decoder of a folder."""
    device = cast.runtime.device
    encoder = Encoder.from_pretrained(folder / "encoder", device=device)
    member = Member(
        about=MemberAbout(encoder="encoder", head="head", seed=seed),
        kind=SEGMENTATION,
        encoder=encoder,
        head=SegmentationHead.from_pretrained(folder / "head").to(device),
    )
    levels = tuple(cast.config.training.decoder.levels)
    by_length = encoder.config.position_unit == "length"

    def pen(volumes: NDArray[np.uint8], spacing_B3: torch.Tensor) -> Mask:
        return draw_batch([member], levels, volumes, spacing_B3 if by_length else None)[0]

    return pen


def unet_pen(cast: Draughtsmen, folder: Path, number: int, seed: int) -> Pen:
    """The U-Net of a folder."""
    objective, _ = cast.unet(cast.study.rounds[number], seed)
    objective.network.load_state_dict(load_file(folder / "network.safetensors"))
    objective.to(cast.runtime.device).eval()

    @torch.no_grad()
    def pen(volumes: NDArray[np.uint8], spacing_B3: torch.Tensor) -> Mask:
        batch = torch.from_numpy(volumes).unsqueeze(1).to(cast.runtime.device)
        classes: Mask = objective(batch).argmax(dim=1).cpu().numpy().astype(np.uint8)
        return classes

    return pen


def redraw(cast: Draughtsmen, one: Drawn, pen: Pen, kind: str, strength: int) -> Drawn:
    """What is drawn of the same rows once they are spoilt, with Dice, without distances."""
    masks = dict(_redrawn(cast, one.rows, pen, kind, strength))
    table = [
        {"row": row, **score}
        for row, mask in masks.items()
        for score in _dice(cast.study, row, mask)
    ]
    return one._replace(draw=masks.__getitem__, table=table)


def _redrawn(
    cast: Draughtsmen, rows: Sequence[int], pen: Pen, kind: str, strength: int
) -> Iterator[tuple[int, Mask]]:
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


def _dice(study: MaskStudy, row: int, mask: Mask) -> list[Mapping[str, Any]]:
    """Distances are not measured: without millimetres nobody asks for them."""
    nowhere = np.full(3, np.nan)
    return list(score_volume(mask, study.masks[row], study.names, nowhere))
