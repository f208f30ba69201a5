"""Several data sets as one, each with its weight: again a pure function of (index, epoch)."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

from oct_xla.errors import FeedError
from oct_xla.feeding.order import Order, sample_seed


@dataclass(kw_only=True, frozen=True, slots=True)
class Part:
    """One data set of a mixture."""

    name: str
    """Stands in errors."""

    sample: Callable[[int, int], Any]
    """Makes sample `index` for `epoch`, as that of a feed."""

    length: int
    """Number of its samples."""

    weight: float
    """Its share of all samples, after division by the sum of all weights."""


class Draw(NamedTuple):
    """What one index of a mixture stands for.

    Attributes:
        part: which data set.
        sample: which of its samples.
        epoch: how often the data set was gone through before.
    """

    part: int
    sample: int
    epoch: int


class Mixture:
    """Data sets as the one that a feed asks for: `Feed(mixture, len(mixture))`.

    An epoch holds as many samples of each part as its weight says, rounded to whole ones. A part is
    gone through from end to end, each time in a new order, before any of its samples comes again:
    in a small part with a large weight that is several times an epoch, in a large part with a small
    weight once in several epochs. The epoch that `sample` is given counts these passes, so that a
    sample that comes twice in one epoch is augmented in two ways.

    Args:
        parts: the data sets.
        length: samples of one epoch; None takes the sum of the parts'.
        seed: names the orders within the parts.

    Raises:
        FeedError: if a length or a weight is not positive, or a part gets no sample in an epoch.
    """

    def __init__(self, parts: Sequence[Part], *, length: int | None = None, seed: int = 0) -> None:
        for part in parts:
            if part.length < 1 or not 0 < part.weight < float("inf"):
                raise FeedError(
                    f"mixture: {part.name} has {part.length} samples and weight {part.weight};"
                    " both must be positive"
                )
        if not parts:
            raise FeedError("mixture: it has no parts; give it one data set at least")
        self.parts, self.seed = tuple(parts), seed
        self._counts = _shares(
            [part.weight for part in parts], length or sum(part.length for part in parts)
        )
        self._ends = list(accumulate(self._counts))
        if 0 in self._counts:
            raise FeedError(
                f"mixture: {parts[self._counts.index(0)].name} gets no sample of the {len(self)}"
                " of an epoch; raise its weight or the length"
            )

    def __len__(self) -> int:
        return self._ends[-1]

    @property
    def counts(self) -> list[int]:
        """Samples of each part in an epoch."""
        return list(self._counts)

    def draw(self, index: int, epoch: int) -> Draw:
        """Return which sample of which part `index` of `epoch` is."""
        part = bisect_right(self._ends, index)
        count, length = self._counts[part], self.parts[part].length
        # The how manieth sample of this part since the beginning of the run.
        number = epoch * count + index - (self._ends[part] - count)
        turn, position = divmod(number, length)
        order = Order(length, seed=sample_seed(self.seed, 0, part), epoch=turn)
        return Draw(part, order[position], turn)

    def __call__(self, index: int, epoch: int) -> Any:
        """Make the sample.

        Raises:
            FeedError: if its data set fails; the text names both.
        """
        part, own, turn = self.draw(index, epoch)
        try:
            return self.parts[part].sample(own, turn)
        except Exception as error:
            reason = " ".join(str(error).split())
            raise FeedError(
                f"sample {own} of {self.parts[part].name}: {type(error).__name__}: {reason}"
            ) from error

    def ahead(self, keys: Sequence[tuple[int, int]]) -> None:
        """Tell each data set that wants to know which of its samples will be asked for next."""
        drawn = [self.draw(index, epoch) for index, epoch in keys]
        for number, part in enumerate(self.parts):
            ahead = getattr(part.sample, "ahead", None)
            if ahead is not None:
                ahead([(one.sample, one.epoch) for one in drawn if one.part == number])

    @property
    def facts(self) -> dict[str, Any]:
        """What makes two mixtures one, for `fit(identity=...)`."""
        return {
            "mixture.seed": self.seed,
            "mixture.counts": list(self._counts),
            "mixture.lengths": [part.length for part in self.parts],
        }


def _shares(weights: Sequence[float], length: int) -> list[int]:
    """Divide `length` by weight into whole numbers; the largest remainders are rounded up."""
    exact = [weight / sum(weights) * length for weight in weights]
    counts = [int(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda part: (counts[part] - exact[part], part))
    for part in by_remainder[: length - sum(counts)]:
        counts[part] += 1
    return counts
