"""Several data sets as one, each with its weight: again a pure function of (index, epoch)."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

from oct_xla.errors import FeedError
from oct_xla.feeding.order import Order, sample_seed, subset_of, subset_seed


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

    With `subsets` every part is divided into as many, and each subset of the feed is a mixture, of
    the same weights, of one subset of each part: its samples come from no other.

    Args:
        parts: the data sets.
        length: samples of one epoch; None takes the sum of the parts'.
        seed: names the orders within the parts.
        subsets: that of the feed, `feed.subsets`.

    Raises:
        FeedError: if a length or a weight is not positive, a part has fewer samples than there are
            subsets, or gets no sample in an epoch.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        *,
        length: int | None = None,
        seed: int = 0,
        subsets: int = 1,
    ) -> None:
        for part in parts:
            if part.length < 1 or not 0 < part.weight < float("inf"):
                raise FeedError(
                    f"mixture: {part.name} has {part.length} samples and weight {part.weight};"
                    " both must be positive"
                )
            if part.length < subsets:
                raise FeedError(
                    f"mixture: {part.name} has {part.length} samples, fewer than feed.subsets"
                    f" ({subsets}); lower that"
                )
        if not parts:
            raise FeedError("mixture: it has no parts; give it one data set at least")
        self.parts, self.seed, self.subsets = tuple(parts), seed, subsets
        self._length = length or sum(part.length for part in parts)
        weights = [part.weight for part in parts]
        # Of a subset, whose length is one of two: that of the first and the last.
        self._counts = {size: _shares(weights, size) for size in map(self._size, (0, subsets - 1))}
        for size, counts in self._counts.items():
            if 0 in counts:
                of = " and subset" if subsets > 1 else ""
                raise FeedError(
                    f"mixture: {parts[counts.index(0)].name} gets no sample of the {size} of an"
                    f" epoch{of}; raise its weight or the length"
                )

    def __len__(self) -> int:
        return self._length

    def _size(self, subset: int) -> int:
        return len(subset_of(self._length, self.subsets, subset))

    @property
    def counts(self) -> list[int]:
        """Samples of each part in an epoch."""
        every = (self._counts[self._size(subset)] for subset in range(self.subsets))
        return [sum(of_part) for of_part in zip(*every, strict=True)]

    def draw(self, index: int, epoch: int) -> Draw:
        """Return which sample of which part `index` of `epoch` is."""
        subset = ((index + 1) * self.subsets - 1) // self._length
        place = index - subset_of(self._length, self.subsets, subset).start
        counts = self._counts[self._size(subset)]
        part = bisect_right(list(accumulate(counts)), place)
        held = subset_of(self.parts[part].length, self.subsets, subset)
        # The how manieth sample of this part since the beginning of the run.
        number = epoch * counts[part] + place - sum(counts[:part])
        turn, position = divmod(number, len(held))
        seed = subset_seed(sample_seed(self.seed, 0, part), self.subsets, subset)
        return Draw(part, held[Order(len(held), seed=seed, epoch=turn)[position]], turn)

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
            "mixture.counts": self.counts,
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
