"""Masks that nobody learned to draw: from where classes usually lie, or from grey levels alone.

Both look up how often each class has been at a place, or at a grey level, and take the class that
stands out most. They shame a network that they equal.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from oct_vjepa.measures.segmentation import UNLABELLED_VOXEL, Overlap, count_overlap, dice_of

LIFTS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Chances are divided by the class's share to this power: 0 takes the most frequent class, 1 the
one that stands out most above its share, without which rare classes would never be named."""
KINDS = ("mean mask", "grey levels")
GREYS = 256


class Arrays(Protocol):
    """Arrays by number."""

    def __getitem__(self, number: int, /) -> NDArray[Any]:
        """(Z, Y, X)."""


class VoxelRule:
    """A class for every voxel by one table of chances.

    Args:
        kind: "mean mask" reads the table by place, "grey levels" by the voxel's value, 0 to 255.
        classes: how many there are, background included.

    Raises:
        ValueError: no such kind.
    """

    def __init__(self, kind: str, classes: int) -> None:
        if kind not in KINDS:
            raise ValueError(f"kind ({kind}) must be one of {', '.join(KINDS)}")
        self.kind, self.classes, self.lift = kind, classes, 0.0
        self._chances = self._shares = np.empty(0)

    def fit(self, volumes: Arrays, masks: Arrays, rows: Iterable[int]) -> "VoxelRule":
        """Count classes in the rows; voxels without a class are left out."""
        counts: NDArray[np.float64] | None = None
        for row in rows:
            counts = self._count(volumes[row], masks[row], counts)
        if counts is None:
            raise ValueError("no row to count classes in")
        # One voxel of each class, by its share, everywhere: where nothing was seen it decides.
        self._shares = counts.reshape(self.classes, -1).sum(axis=1) + 1.0
        self._shares /= self._shares.sum()
        shares = self._shares.reshape(-1, *([1] * (counts.ndim - 1)))
        self._chances = (counts + shares) / (counts.sum(axis=0) + 1.0)
        return self

    def choose(
        self, volumes: Arrays, masks: Arrays, rows: Sequence[int], counted: Sequence[int]
    ) -> "VoxelRule":
        """Take the lift with the best mean Dice of the classes `counted` on these rows."""
        scores = []
        for lift in LIFTS:
            self.lift = lift
            both, sizes = np.zeros((2, self.classes), dtype=np.int64)
            for row in rows:
                found = count_overlap(self.predict(volumes[row]), masks[row], self.classes)
                both, sizes = both + found.both, sizes + found.sizes
            dice = dice_of(Overlap(both, sizes))[list(counted)]
            known = dice[np.isfinite(dice)]
            scores.append(float(known.mean()) if len(known) else 0.0)
        self.lift = LIFTS[int(np.argmax(scores))]
        return self

    def predict(self, volume: NDArray[Any]) -> NDArray[np.uint8]:
        """Class of each voxel, (Z, Y, X)."""
        shares = self._shares.reshape(-1, *([1] * (self._chances.ndim - 1)))
        chosen = (self._chances / shares**self.lift).argmax(axis=0).astype(np.uint8)
        return chosen if self.kind == "mean mask" else chosen[volume]

    def _count(
        self, volume: NDArray[Any], mask: NDArray[Any], counts: NDArray[np.float64] | None
    ) -> NDArray[np.float64]:
        known = mask != UNLABELLED_VOXEL
        if self.kind == "mean mask":
            own = np.stack([mask == one for one in range(self.classes)]).astype(np.float64)
        else:
            pairs = mask[known].astype(np.int64) * GREYS + volume[known]
            own = np.bincount(pairs, minlength=self.classes * GREYS).astype(np.float64)
            own = own.reshape(self.classes, GREYS)
        return own if counts is None else counts + own
