"""Which parts of a volume an answer hangs on: cover one part after the other, and see it change.

What is found is where this model's answer comes from, not where a disease is. A part that matters
only together with another shows nothing, and a cover is itself something the model never saw.
"""

from collections.abc import Callable
from itertools import pairwise, product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
FRONT, ABOVE = (6, 6), (5, 5)
"""Parts along (Y, X) that go through all B-scans, and along (Z, X) that go through all depth: 61
volumes with the open one."""


class Occlusion(NamedTuple):
    """By how much a score falls when a part is covered; below 0 it rises."""

    score: float  # of the open volume
    front_YX: Floats  # parts of the B-scans' plane, each through all B-scans
    above_ZX: Floats  # parts of the plane that one looks down on, each through all depth


def cut(length: int, patch: int, parts: int) -> list[slice]:
    """At most `parts` pieces of an axis, all of whole patches and of about one length."""
    patches = length // patch
    edges = np.linspace(0, patches, min(parts, patches) + 1).round().astype(int) * patch
    return [slice(low, high) for low, high in pairwise(edges.tolist())]


def occlude(
    volume_ZYX: NDArray[Any],
    patch: tuple[int, int, int],
    score: Callable[[NDArray[Any]], Floats],
    *,
    batch: int = 16,
) -> Occlusion:
    """Cover each part with the mean of the volume.

    Args:
        volume_ZYX: the volume.
        patch: size of a patch of the encoder; no part cuts one in two.
        score: (B, Z, Y, X) to the score of each, (B,).
        batch: volumes that are scored at once.
    """
    z, y, x = volume_ZYX.shape
    columns = cut(x, patch[2], FRONT[1])
    rows, across = cut(y, patch[1], FRONT[0]), cut(x, patch[2], ABOVE[1])
    planes = cut(z, patch[0], ABOVE[0])
    everything = slice(None)
    parts = [(everything, row, column) for row, column in product(rows, columns)]
    parts += [(plane, everything, column) for plane, column in product(planes, across)]
    mean = np.asarray(volume_ZYX.mean()).astype(volume_ZYX.dtype)
    open_score = float(score(volume_ZYX[None])[0])
    scores = []
    for start in range(0, len(parts), batch):
        covered = np.stack([volume_ZYX] * len(parts[start : start + batch]))
        for number, part in enumerate(parts[start : start + batch]):
            covered[number][part] = mean
        scores.append(score(covered))
    drops = open_score - np.concatenate(scores)
    front, above = np.split(drops, [len(rows) * len(columns)])
    return Occlusion(
        open_score,
        front.reshape(len(rows), len(columns)),
        above.reshape(len(planes), len(across)),
    )
