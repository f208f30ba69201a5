"""The order of samples and their batches, as pure functions of (seed, epoch, index)."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from oct_xla.errors import FeedError
from oct_xla.feeding.ahead import Ahead
from oct_xla.feeding.order import Order, Places, subset_of, subset_seed
from oct_xla.feeding.workers import Failure, start_worker, worker_context
from oct_xla.settings import FeedConfig
from oct_xla.tree import stack_samples

Key = tuple[int, int]
"""(index, epoch) of one sample."""

_AHEAD = 4096  # positions looked up at once: one call of numpy for many small batches


class Feed:
    """Endless batches of `length` samples in an order that a step number alone determines.

    Step `t` takes the slice `[t * batch_size, (t + 1) * batch_size)` of the epoch's permutation; a
    process takes every `world`-th sample of it. The last incomplete batch of an epoch is left out,
    so that every batch has one shape; the next epoch is permuted anew.

    With `config.subsets` above 1 the samples are divided once for all, and each subset is permuted
    in itself: step `t` takes an equal slice of each, and a process takes whole subsets.

    Args:
        sample: makes sample `index` for `epoch`: a tensor, array, or nested tuple, NamedTuple or
            dict of them. With workers it must be picklable: a module-level function, a
            `functools.partial` of one, or an object with `__call__`. Augmentation draws from
            `sample_seed(seed, epoch, index)`, never from a global generator. If it has a method
            `ahead(keys)`, that is told the (index, epoch) of each micro-batch before its samples
            are asked for, so that what lies far away is on its way together.
        length: number of samples.
        config: batch size, workers, seed, subsets.

    Raises:
        FeedError: if there are fewer samples than one batch takes, or `sample` is a mixture of
            another number of subsets.
    """

    def __init__(
        self, sample: Callable[[int, int], Any], length: int, config: FeedConfig | None = None
    ) -> None:
        self.sample, self.length = sample, length
        self.config = FeedConfig() if config is None else config
        if length < self.config.batch_size:
            raise FeedError(
                f"feed: {length} samples are fewer than feed.batch_size"
                f" ({self.config.batch_size}); lower it or add samples"
            )
        mixed = getattr(sample, "subsets", self.config.subsets)
        if mixed != self.config.subsets:
            raise FeedError(
                f"feed.subsets ({self.config.subsets}) must be those of the mixture ({mixed})"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in one pass over the samples."""
        return self.length // self.config.batch_size

    def epoch(self, step: int) -> int:
        """Return the epoch that `step`, counted from 0, belongs to."""
        return step // self.steps_per_epoch

    def order(self, epoch: int, subset: int = 0) -> Order:
        """Return the permutation of a subset in one epoch; it holds no list."""
        subsets = self.config.subsets
        seed = subset_seed(self.config.seed, subsets, subset)
        return Order(len(subset_of(self.length, subsets, subset)), seed=seed, epoch=epoch)

    def keys(
        self, start_step: int, *, rank: int = 0, world: int = 1, micro_batches: int = 1
    ) -> Iterator[list[Key]]:
        """Yield (index, epoch) of each micro-batch of one process, for ever.

        Raises:
            FeedError: if the batch does not divide into `world * micro_batches` equal parts, or the
                subsets by `world`.
        """
        size, parts = self.config.batch_size, world * micro_batches
        if size % parts:
            raise FeedError(
                f"feed.batch_size ({size}) must be a multiple of processes x loop.accumulate"
                f" ({world} x {micro_batches})"
            )
        if self.config.subsets > 1 and self.config.subsets % world:
            raise FeedError(
                f"feed.subsets ({self.config.subsets}) must be a multiple of the processes"
                f" ({world}), each of which takes whole ones; or 1, for none"
            )
        return self._walk(start_step, rank, world, micro_batches)

    def _walk(self, step: int, rank: int, world: int, micro_batches: int) -> Iterator[list[Key]]:
        ahead = max(1, _AHEAD // self.config.batch_size)
        while True:
            epoch, first = divmod(step, self.steps_per_epoch)
            steps = min(ahead, self.steps_per_epoch - first)
            taken = self._take(epoch, range(first, first + steps), rank, world)
            for part in taken.reshape(steps * micro_batches, -1).tolist():
                yield [(index, epoch) for index in part]
            step += steps

    def _take(self, epoch: int, steps: range, rank: int, world: int) -> Places:
        """Samples of one process in some steps of an epoch, step after step."""
        subsets = self.config.subsets
        share = self.config.batch_size // subsets
        first, end = steps.start * share, steps.stop * share
        if subsets == 1:
            return self.order(epoch).take(np.arange(first + rank, end, world))
        own = range(rank * subsets // world, (rank + 1) * subsets // world)
        taken = [
            self.order(epoch, subset).take(np.arange(first, end))
            + np.uint64(subset_of(self.length, subsets, subset).start)
            for subset in own
        ]
        return np.stack(taken, axis=1).ravel()  # one of each in turn: micro-batches are mixed alike

    def batches(
        self,
        start_step: int = 0,
        *,
        rank: int = 0,
        world: int = 1,
        micro_batches: int = 1,
        pinned: bool = False,
    ) -> Iterator[Any]:
        """Yield micro-batches for ever, `micro_batches` of them a step, beginning at `start_step`.

        With workers a thread takes the next one over from them, while something is done with this.

        Args:
            start_step: first optimiser step; this number is the whole state of the loader.
            rank: this process.
            world: number of processes.
            micro_batches: parts of one optimiser step on this process.
            pinned: page-locked memory, for copies to a GPU that overlap with work.

        Raises:
            FeedError: if a sample fails; the text names it.
        """
        keys = self.keys(start_step, rank=rank, world=world, micro_batches=micro_batches)
        batches = _checked(self._loader(keys, pinned))
        return Ahead(batches) if self.config.workers else batches

    def _loader(self, keys: Iterator[list[Key]], pinned: bool) -> "DataLoader[Any]":
        workers = self.config.workers
        return DataLoader(
            _Samples(self.sample, self.length),
            batch_sampler=_Keys(keys),
            collate_fn=_collate,
            num_workers=workers,
            prefetch_factor=self.config.prefetch if workers else None,
            multiprocessing_context=worker_context() if workers else None,
            worker_init_fn=start_worker if workers else None,
            pin_memory=pinned,
            # Without one the loader draws a seed from the global generator.
            generator=torch.Generator().manual_seed(self.config.seed),
        )


class _Samples(Dataset[Any]):
    """Calls `sample`; a failure travels back as a value, so that its text stays one line."""

    def __init__(self, sample: Callable[[int, int], Any], length: int) -> None:
        self.sample, self.length = sample, length

    def __len__(self) -> int:
        return self.length

    def __getitems__(self, keys: list[Key]) -> list[Any]:
        """Samples of one micro-batch, which is how the loader asks."""
        ahead = getattr(self.sample, "ahead", None)
        if ahead is not None:
            ahead(keys)
        return [self[key] for key in keys]

    def __getitem__(self, key: Key) -> Any:
        index, epoch = key
        try:
            return self.sample(index, epoch)
        except Exception as error:
            return Failure(f"feed: sample {index} of epoch {epoch}", error)


class _Keys(Sampler[list[Key]]):
    """Hands an endless iterator to the DataLoader."""

    def __init__(self, keys: Iterator[list[Key]]) -> None:
        self.keys = keys

    def __iter__(self) -> Iterator[list[Key]]:
        return self.keys


def _collate(samples: list[Any]) -> Any:
    for sample in samples:
        if isinstance(sample, Failure):
            return sample
    try:
        return stack_samples(samples)
    except (FeedError, KeyError, TypeError, ValueError) as error:
        return Failure("feed: samples do not stack", error)


def _checked(loader: "DataLoader[Any]") -> Iterator[Any]:
    try:
        for batch in loader:
            if isinstance(batch, Failure):
                raise FeedError(batch.text) from batch.error
            yield batch
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        text = str(error).splitlines()[0]
        raise FeedError(f"feed: {text}; lower feed.workers if memory ran out") from error
