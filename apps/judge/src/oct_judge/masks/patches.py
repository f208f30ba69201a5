"""Which patches of which scans hold a class: the question of `mode=patches`."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from oct_launch import Mistake
from oct_vjepa.evaluation.patch_probe import METRICS, mark_patches
from oct_vjepa.heads.segmentation import UNLABELLED_VOXEL
from oct_vjepa.probes.protocol import Round

from oct_judge.masks.study import MaskStudy
from oct_judge.question import FinetuneConfig

HALF_KNOWN = 0.5  # share of a patch's voxels whose class must be known


@dataclass(frozen=True, kw_only=True, slots=True)
class Patches:
    """What is true of every patch.

    Attributes:
        study: the scans and the rounds.
        grid: patches along (Z, Y, X).
        classes: numbers of the classes that are asked for.
        names: of these classes.
        present: whether a patch holds a class; (classes, scans, patches).
        known: whether that is known of a patch; (scans, patches).
    """

    study: MaskStudy
    grid: tuple[int, int, int]
    classes: list[int]
    names: list[str]
    present: NDArray[np.bool_]
    known: NDArray[np.bool_]

    @property
    def metrics(self) -> list[str]:
        """Means over the classes, then those of each class."""
        return [*METRICS, *(f"{metric}_{name}" for name in self.names for metric in METRICS)]

    def lacks(self, rows: NDArray[np.bool_]) -> str:
        """The first class that no patch of these scans holds, or that every one does; else ""."""
        for name, present in zip(self.names, self.present, strict=True):
            there = present[rows][self.known[rows]]
            if there.all() or not there.any():
                return name
        return ""


def mark(config: FinetuneConfig, study: MaskStudy, grid: tuple[int, int, int]) -> Patches:
    """Cut the masks into patches.

    Raises:
        Mistake: no such class, none left, or a round that lacks one where it fits or tests.
    """
    counted = {study.names[one]: one for one in study.counted}
    wanted = list(config.segment.classes) or list(counted)
    if lost := [name for name in wanted if name not in counted]:
        there = ", ".join(counted) or "none"
        raise Mistake(f"segment.classes ({lost[0]}) must be among {there}")
    if not wanted:
        raise Mistake("masks have no class but the background; there is nothing to look for")
    classes, rows = [counted[name] for name in wanted], range(len(study.masks))
    present = np.zeros((len(classes), len(rows), int(np.prod(grid))), bool)
    known = np.zeros(present.shape[1:], bool)
    for row in rows:
        mask = np.asarray(study.masks[row])[None]
        known[row] = mark_patches(mask != UNLABELLED_VOXEL, grid, least=HALF_KNOWN)[0]
        for number, one in enumerate(classes):
            present[number, row] = mark_patches(mask == one, grid)[0]
    found = Patches(
        study=study, grid=grid, classes=classes, names=wanted, present=present, known=known
    )
    check_rounds(found, study.rounds)
    return found


def check_rounds(patches: Patches, rounds: Sequence[Round]) -> None:
    """Refuse a class that cannot be learnt or tested.

    Raises:
        Mistake: names the class and the round.
    """
    for one in rounds:
        for part, rows in (("to fit", one.fit), ("tested", one.test)):
            if name := patches.lacks(rows):
                raise Mistake(
                    f"{name}: of the scans {part} in round {one.name!r} no patch holds it, or every"
                    " one does; segment.classes says which classes are asked for"
                )
