"""Shares of devices, sites or any other column in what a run sees, in place of their numbers."""

from collections.abc import Sequence

import numpy as np
import oct_io
from numpy.typing import NDArray
from oct_vjepa import JepaBatch
from oct_vjepa.objectives.objective import PairBatch
from oct_xla.feeding.mixture import Mixture, Part
from samples import PretrainSamples
from settings import MixtureConfig

UNKNOWN = "unknown"


class Some:
    """Those of the samples that one part of a mixture holds.

    Args:
        samples: of all parts.
        indices: which of them.
    """

    def __init__(self, samples: PretrainSamples, indices: NDArray[np.int64]) -> None:
        self._samples, self._indices = samples, indices

    def __call__(self, index: int, epoch: int) -> JepaBatch | PairBatch:
        """The sample, whose masks and augmentation are those of its how manieth visit."""
        return self._samples(int(self._indices[index]), epoch)

    def ahead(self, keys: Sequence[tuple[int, int]]) -> None:
        """Say which (index, epoch) will be asked for next."""
        self._samples.ahead([(int(self._indices[index]), epoch) for index, epoch in keys])


def mix(
    config: MixtureConfig,
    source: oct_io.Source,
    seen: Sequence[int],
    samples: PretrainSamples,
    *,
    seed: int,
) -> Mixture | None:
    """Divide the samples by the values of a column; None if none is asked for.

    Args:
        config: which column, and the weights of its values.
        source: whose column it is.
        seen: the volume of each sample.
        samples: to divide.
        seed: of the orders within the parts.

    Raises:
        ValueError: a weight of a value that no volume has.
        TreeError: no such column.
        FeedError: a part gets no sample in an epoch.
    """
    if not config.by:
        return None
    cells = source.attributes([config.by])[config.by][np.asarray(seen, dtype=np.int64)]
    values = np.where(cells == "", UNKNOWN, cells)
    found = sorted({str(value) for value in values})
    if strangers := sorted(config.weights.keys() - set(found)):
        raise ValueError(
            f"mixture.weights names {', '.join(strangers)}; mixture.by={config.by} has"
            f" {', '.join(found)}"
        )
    parts = []
    for value in found:
        own = np.flatnonzero(values == value).astype(np.int64)
        part = Some(samples, own)
        parts.append(Part(name=value, sample=part, length=len(own), weight=config.weight(value)))
    return Mixture(parts, seed=seed)


def tell_shares(mixture: Mixture) -> str:
    """One line: what each part has of an epoch, and how often each of its volumes comes in it."""
    shares = [
        f"{part.name} {count / len(mixture):.0%} of an epoch, each of its {part.length} volumes"
        f" {count / part.length:.2g} times"
        for part, count in zip(mixture.parts, mixture.counts, strict=True)
    ]
    return f"mixture: {'; '.join(shares)}"
