"""Tensors of a checkpoint's files, read where they are asked for and no further."""

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import EllipsisType
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from oct_xla.errors import CheckpointError

Index = slice | EllipsisType


class _Part(NamedTuple):
    """What one file has of a tensor: `slice_` reads it, by indices of its own."""

    slice_: Any
    offset: tuple[int, ...]
    size: tuple[int, ...]


class SavedTensor:
    """A tensor that lies in the files of a checkpoint; indexing reads, from its own files alone.

    Attributes:
        shape: of the whole tensor.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = torch.Size(shape)
        self._parts: list[_Part] = []

    def add(self, slice_: Any, offset: tuple[int, ...]) -> None:
        """Say that a part begins at `offset`; `slice_` is what safetensors has of it."""
        self._parts.append(_Part(slice_, offset, tuple(slice_.get_shape())))

    @property
    def complete(self) -> bool:
        """Whether the parts have as many numbers as the whole."""
        return sum(math.prod(part.size) for part in self._parts) == self.shape.numel()

    def __getitem__(self, index: Index) -> Tensor:
        """All of it for `...`, or some of its first dimension for a slice; host memory."""
        rows = index.indices(self.shape[0]) if isinstance(index, slice) else None
        first = (0,) * len(self.shape) if rows is None else (rows[0], *(0 for _ in self.shape[1:]))
        size = tuple(self.shape) if rows is None else (max(rows[1] - rows[0], 0), *self.shape[1:])
        wanted: Tensor | None = None
        for part in self._parts:
            own, there = _overlap(part, first, size)
            if own is None:
                continue
            found: Tensor = part.slice_[own if own else ...]
            if tuple(found.shape) == size:
                return found
            wanted = torch.empty(size, dtype=found.dtype) if wanted is None else wanted
            wanted[there] = found
        if wanted is None:  # no rows are wanted, or there are none
            wanted = torch.empty(size, dtype=self._parts[0].slice_[:0].dtype)
        return wanted


def _overlap(
    part: _Part, first: tuple[int, ...], size: tuple[int, ...]
) -> tuple[tuple[slice, ...] | None, tuple[slice, ...]]:
    """Where a part and what is wanted meet: in the part, None if nowhere, and in what is wanted."""
    own, there = [], []
    for offset, length, start, count in zip(part.offset, part.size, first, size, strict=True):
        low, high = max(offset, start), min(offset + length, start + count)
        if low >= high:
            return None, ()
        own.append(slice(low - offset, high - offset))
        there.append(slice(low - start, high - start))
    return tuple(own), tuple(there)


class SavedTensors(Mapping[str, Tensor]):
    """The tensors of a checkpoint by name, each put together at each asking, to hold one at a time.

    Args:
        folder: of the checkpoint.
        files: names of its files of tensors; they are opened, and stay so.
        cuts: of each file, offset and whole shape of those tensors that are a part.

    Raises:
        SafetensorError: if a file cannot be read.
        OSError: if it is not there.
        CheckpointError: if a tensor lacks a part.
    """

    def __init__(
        self, folder: Path, files: Iterable[str], cuts: Mapping[str, Mapping[str, Any]]
    ) -> None:
        self._found: dict[str, SavedTensor] = {}
        for file in files:
            opened: Any = safe_open(folder / file, framework="pt")
            for name in opened.keys():  # noqa: SIM118 - it is no mapping
                slice_, cut = opened.get_slice(name), cuts.get(file, {}).get(name)
                shape = tuple(slice_.get_shape() if cut is None else cut["shape"])
                offset = (0,) * len(shape) if cut is None else tuple(cut["offset"])
                self._found.setdefault(name, SavedTensor(shape)).add(slice_, offset)
        for name, one in self._found.items():
            if not one.complete:
                raise CheckpointError(f"{folder}: damaged: {name} lacks a piece")

    def unread(self, name: str) -> SavedTensor:
        """A tensor that is read where it is indexed.

        Raises:
            KeyError: if there is none of that name.
        """
        return self._found[name]

    def __getitem__(self, name: str) -> Tensor:
        return self._found[name][...]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)
