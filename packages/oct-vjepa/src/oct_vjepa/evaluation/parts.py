"""Features of the first rows of many, kept while the rest is made, so that a kill costs seconds.

Parts lie in a folder, each named by the rows that it holds, and appear whole or not at all.
"""

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from oct_vjepa.saving import write_whole

Chain = list[tuple[int, int, Path]]
"""Parts that follow one another from row 0: first row, row behind the last, file."""
BYTES = 256 * 2**20  # a part is written at this size, even if it is not time yet


@dataclass(slots=True)
class Parts:
    """The parts of one job.

    Attributes:
        folder: of the parts; made with the first of them.
        names: arrays that each part has; others count as not there.
        every_s: seconds of work that a kill may cost.
    """

    folder: Path
    names: Sequence[str]
    every_s: float
    _held: list[Mapping[str, NDArray[Any]]] = field(default_factory=list)
    _size: int = 0
    _first: int = 0
    _since: float = field(default_factory=time.monotonic)

    def chain(self) -> Chain:
        """What is on disk from row 0 on."""
        found: dict[int, tuple[int, Path]] = {}
        for path in self.folder.glob("part-*.safetensors"):
            start, stop = (int(number) for number in path.stem.split("-")[1:])
            if stop > found.get(start, (0, path))[0] and set(self.names) <= _names_in(path):
                found[start] = (stop, path)
        chain, at = Chain(), 0
        while at in found:
            chain.append((at, *found[at]))
            at = found[at][0]
        return chain

    def begin(self, done: int) -> None:
        """Begin to add rows behind the first `done`, of which the chain has all."""
        self._held, self._size, self._first, self._since = [], 0, done, time.monotonic()

    def add(self, rows: Mapping[str, NDArray[Any]], stop: int, *, last: bool = False) -> None:
        """Take the rows before `stop`, and write what is held when it is time.

        Raises:
            OSError: the disk does not take it.
        """
        self._held.append(rows)
        self._size += sum(array.nbytes for array in rows.values())
        if not (last or self._size >= BYTES or time.monotonic() - self._since >= self.every_s):
            return
        arrays = {name: np.concatenate([one[name] for one in self._held]) for name in self.names}
        path = self.folder / f"part-{self._first:09d}-{stop:09d}.safetensors"
        self.begin(stop)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda draft: save_file(arrays, draft), shared=True)

    def clear(self) -> None:
        """Remove them."""
        shutil.rmtree(self.folder, ignore_errors=True)


def read_parts(chain: Chain) -> Iterator[dict[str, NDArray[Any]]]:
    """The arrays of each part of a chain."""
    return (load_file(path) for _, _, path in chain)


def rows_in(chain: Chain) -> int:
    """How many rows a chain has."""
    return chain[-1][1] if chain else 0


def row_shape(path: Path, name: str) -> tuple[int, ...]:
    """Shape of a row of one array of a part."""
    with safe_open(path, framework="numpy") as file:
        return tuple(file.get_slice(name).get_shape()[1:])


def _names_in(path: Path) -> set[str]:
    """Arrays of a part; none if it cannot be read: a power cut loses what was not flushed."""
    try:
        with safe_open(path, framework="numpy") as file:
            return set(file.keys())
    except (OSError, SafetensorError):
        return set()
