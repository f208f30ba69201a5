"""Batches are nested tuples, NamedTuples, lists and dicts of tensors: map over them, stack them."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from oct_xla.errors import FeedError


def map_tensors(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """Return the same tree with `function` applied to each tensor; other leaves stay."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, dict):
        return {key: map_tensors(function, value) for key, value in tree.items()}
    if isinstance(tree, tuple | list):
        return _rebuild(tree, [map_tensors(function, value) for value in tree])
    return tree


def tensors_of(tree: Any) -> list[Tensor]:
    """List the tensors of a tree from left to right."""
    found: list[Tensor] = []
    map_tensors(lambda tensor: found.append(tensor) or tensor, tree)  # type: ignore[func-returns-value]
    return found


def named_tensors(tree: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a tree with their places, such as "masks.0"."""
    if isinstance(tree, Tensor):
        yield name or "batch", tree
    elif isinstance(tree, dict | tuple | list):
        keys = tree if isinstance(tree, dict) else getattr(tree, "_fields", range(len(tree)))
        values = tree.values() if isinstance(tree, dict) else tree
        for key, value in zip(keys, values, strict=True):
            yield from named_tensors(value, f"{name}.{key}" if name else str(key))


def stack_samples(samples: Sequence[Any]) -> Any:
    """Stack equal trees into one whose tensors gain a first dimension, the batch.

    Leaves may be tensors, numpy arrays and numbers; strings become a list, and what is None in all
    samples stays None.

    Raises:
        FeedError: if the samples do not have one structure and one shape.
    """
    first = samples[0]
    if isinstance(first, dict):
        return {key: stack_samples([sample[key] for sample in samples]) for key in first}
    if isinstance(first, tuple | list):
        if any(len(sample) != len(first) for sample in samples):
            raise FeedError(
                f"samples of one batch have {_lengths(samples)} parts; all need as many"
            )
        return _rebuild(first, [stack_samples(parts) for parts in zip(*samples, strict=True)])
    if isinstance(first, str):
        return list(samples)
    if all(sample is None for sample in samples):
        return None
    if any(sample is None for sample in samples):
        raise FeedError("some samples of one batch lack a part that others have; give it to all")
    return _stack_leaves(samples)


def _stack_leaves(leaves: Sequence[Any]) -> Tensor:
    tensors = [_as_tensor(leaf) for leaf in leaves]
    shapes = sorted({tuple(tensor.shape) for tensor in tensors})
    if len(shapes) > 1:
        raise FeedError(f"samples of one batch differ in shape: {shapes}; resample or crop to one")
    return torch.stack(tensors)


def _as_tensor(leaf: Any) -> Tensor:
    if isinstance(leaf, np.ndarray):
        # Memory-mapped caches are read-only; torch warns of those, and would write through others.
        return torch.from_numpy(np.array(leaf))
    return torch.as_tensor(leaf)


def _rebuild(like: Any, values: list[Any]) -> Any:
    if hasattr(like, "_fields"):
        return type(like)(*values)
    return type(like)(values)


def _lengths(samples: Sequence[Any]) -> list[int]:
    return sorted({len(sample) for sample in samples})
