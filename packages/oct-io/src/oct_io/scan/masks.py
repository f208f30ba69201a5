"""A mask on its way to its scan: what the classes of voxels are, and how they are numbered."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from oct_io.boundaries import BACKGROUND
from oct_io.errors import ScanError
from oct_io.volume import UNLABELLED

Shape = tuple[int, int, int]


class Mask(NamedTuple):
    """Labels of voxels, and names of the classes."""

    labels: NDArray[np.uint8]  # (bscans, rows, columns); places in `names`, or UNLABELLED
    names: tuple[str, ...]  # the first one is the background


def number_classes(array: NDArray[Any], names: Sequence[str], shape: Shape, where: str) -> Mask:
    """The mask that an array of whole numbers is.

    Args:
        array: labels, of any numeric type.
        names: of labels 0, 1, ...; without any, they are called by their number.
        shape: of the scan.
        where: for messages.

    Raises:
        ScanError: stage `parse`: another shape than the scan's, values that are no labels, or more
            of them than names.
    """
    if array.shape != shape:
        reason = f"the mask has {times(array.shape)} voxels, its scan {times(shape)}"
        raise ScanError(where, "parse", reason)
    whole = array.dtype.kind in "biu" or (array.dtype.kind == "f" and bool((array % 1 == 0).all()))
    if not whole or array.min() < 0 or array.max() > UNLABELLED:
        reason = f"a mask has whole numbers from 0 to {UNLABELLED}, one a class"
        raise ScanError(where, "parse", reason)
    labels = np.ascontiguousarray(array.astype(np.uint8))
    highest = int(labels.max(where=labels != UNLABELLED, initial=0))
    if not names:
        names = (BACKGROUND, *(f"class {number}" for number in range(1, highest + 1)))
    if highest >= len(names):
        reason = f"the mask has label {highest}, and {len(names)} classes have names"
        raise ScanError(where, "parse", reason)
    return Mask(labels, tuple(names))


def times(shape: Sequence[int]) -> str:
    """A shape in words: 8 x 64 x 64."""
    return " x ".join(map(str, shape))
