"""Shares of devices, sites or any other column in what a run sees, in place of their numbers."""

from collections.abc import Sequence

import numpy as np
from gathering import DataSet
from numpy.typing import NDArray
from oct_vjepa import JepaBatch
from oct_vjepa.objectives.objective import PairBatch
from oct_xla.feeding.mixture import Mixture, Part
from samples import PretrainSamples
from settings import MixtureConfig

UNKNOWN = "unknown"
SET = "@set"
"""Column of the name of the set that a volume is from, where there are several."""


class Some:
    """Those of the samples that one part of a mixture holds.

    Args:
        samples: of each set.
        owners: the set of each.
        indices: its number there.
    """

    def __init__(
        self,
        samples: Sequence[PretrainSamples],
        owners: NDArray[np.uint8],
        indices: NDArray[np.int64],
    ) -> None:
        self._samples, self._owners, self._indices = samples, owners, indices

    def __call__(self, index: int, epoch: int) -> JepaBatch | PairBatch:
        """The sample, whose masks and augmentation are those of its how manieth visit."""
        return self._samples[self._owners[index]](int(self._indices[index]), epoch)

    def ahead(self, keys: Sequence[tuple[int, int]]) -> None:
        """Say which (index, epoch) will be asked for next."""
        for number, own in enumerate(self._samples):
            asked = [key for key in keys if self._owners[key[0]] == number]
            own.ahead([(int(self._indices[index]), epoch) for index, epoch in asked])


def mix(
    config: MixtureConfig,
    sets: Sequence[DataSet],
    samples: Sequence[PretrainSamples],
    *,
    seed: int,
    subsets: int = 1,
) -> Mixture | None:
    """Divide the samples by the values of a column; None for one set that is not to be divided.

    Args:
        config: which column, and the weights of its values; several sets without a column are
            divided by set.
        sets: where volumes come from.
        samples: of each of them, to divide.
        seed: of the orders within the parts.
        subsets: those of the feed.

    Raises:
        ValueError: a weight of a value that no volume has.
        TreeError: no such column.
        FeedError: a part gets no sample in an epoch.
    """
    by = config.by or (SET if len(sets) > 1 else "")
    if not by:
        return None
    values = np.concatenate([_values(one, by) for one in sets])
    lengths = [len(one.seen) for one in sets]
    owners = np.repeat(np.arange(len(sets), dtype=np.uint8), lengths)
    indices = np.concatenate([np.arange(length, dtype=np.int64) for length in lengths])
    found = sorted({str(value) for value in values})
    if strangers := sorted(config.weights.keys() - set(found)):
        raise ValueError(
            f"mixture.weights names {', '.join(strangers)}; mixture.by={by} has {', '.join(found)}"
        )
    parts = []
    for value in found:
        own = values == value
        part = Some(samples, owners[own], indices[own])
        weight = config.weight(value)
        parts.append(Part(name=value, sample=part, length=int(own.sum()), weight=weight))
    return Mixture(parts, seed=seed, subsets=subsets)


def _values(one: DataSet, by: str) -> NDArray[np.str_]:
    """The cell of a column of each volume that is seen."""
    if by == SET:
        return np.full(len(one.seen), one.name)
    cells = one.source.attributes([by])[by][np.asarray(one.seen, dtype=np.int64)]
    return np.where(cells == "", UNKNOWN, cells)


def tell_shares(mixture: Mixture) -> str:
    """One line: what each part has of an epoch, and how often each of its volumes comes in it."""
    shares = [
        f"{part.name} {count / len(mixture):.0%} of an epoch, each of its {part.length} volumes"
        f" {count / part.length:.2g} times"
        for part, count in zip(mixture.parts, mixture.counts, strict=True)
    ]
    return f"mixture: {'; '.join(shares)}"
