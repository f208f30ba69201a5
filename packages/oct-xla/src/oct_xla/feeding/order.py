"""Where a sample stands in an epoch, and what it draws: pure functions that hold no list.

The order is a Feistel network over a rectangle of numbers a little larger than the samples, walked
until it lands on one of them (Black and Rogaway 2002, "Ciphers with arbitrary finite domains"). It
is a bijection whatever its rounds compute, so each sample has one place in each epoch, and the
place of one is found without those of the others: a billion samples cost as much memory as ten.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Places = NDArray[np.uint64]

_ROUNDS = 8  # of two suffice for large domains; small ones, of some ten numbers, need the rest
_MASK64 = (1 << 64) - 1
_ORDER_SALT = 0x6F72646572  # keeps the order's stream apart from the samples' streams
_LARGEST = 1 << 62  # beyond, a sum of two numbers would not fit 64 bits
_WEYL, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """Mix three integers into a 63-bit seed; neighbours give unrelated seeds.

    Source: the finaliser of SplitMix64 (Steele, Lea, Flood 2014), applied once per integer.
    """
    state = 0
    for part in (seed, epoch, index):
        state = (state + (part & _MASK64) + _WEYL) & _MASK64
        state = ((state ^ (state >> 30)) * _FIRST) & _MASK64
        state = ((state ^ (state >> 27)) * _SECOND) & _MASK64
        state ^= state >> 31
    return state >> 1


def subset_of(length: int, subsets: int, number: int) -> range:
    """Return which of `length` samples subset `number` holds; no two differ by more than one."""
    return range(length * number // subsets, length * (number + 1) // subsets)


def subset_seed(seed: int, subsets: int, number: int) -> int:
    """Return the seed of the order within one subset; all samples in one keep the seed itself."""
    return seed if subsets == 1 else sample_seed(seed, subsets, number)


class Order:
    """One permutation of `range(length)`, named by (seed, epoch); holds eight numbers.

    Args:
        length: number of samples, 1 to 2^62.
        seed: names the order of the whole run.
        epoch: names the permutation in it.

    Raises:
        ValueError: if there are no samples, or too many to count.
    """

    def __init__(self, length: int, *, seed: int, epoch: int) -> None:
        if not 0 < length <= _LARGEST:
            raise ValueError(f"length ({length}) must be from 1 to 2^62")
        self.length = length
        self._width = math.isqrt(length - 1) + 1
        self._height = -(-length // self._width)  # so that fewer than `width` places are too many
        own = sample_seed(seed, epoch, _ORDER_SALT)
        self._keys = [np.uint64(sample_seed(own, 0, turn)) for turn in range(_ROUNDS)]

    def __getitem__(self, position: int) -> int:
        """Return the sample that stands at one position."""
        return int(self.take([position])[0])

    def take(self, positions: ArrayLike) -> Places:
        """Return the samples at these positions of the epoch, each in [0, length)."""
        places = self._permute(np.asarray(positions, dtype=np.uint64))
        while (outside := places >= self.length).any():
            places[outside] = self._permute(places[outside])
        return places

    def _permute(self, places: Places) -> Places:
        """Map the rectangle of `width * height` numbers onto itself."""
        width, height = np.uint64(self._width), np.uint64(self._height)
        column, row = places % width, places // width
        for turn, key in enumerate(self._keys):
            if turn % 2:
                row = (row + _mix(column, key) % height) % height
            else:
                column = (column + _mix(row, key) % width) % width
        return row * width + column


def _mix(values: Places, key: np.uint64) -> Places:
    """Return numbers that have nothing to do with `values` any more; SplitMix64 once more."""
    mixed = (values + np.uint64(1)) * np.uint64(_WEYL) + key
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(_FIRST)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(_SECOND)
    return mixed ^ (mixed >> np.uint64(31))
