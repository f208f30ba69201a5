"""Masks that are drawn as grey images: which grey level is which class."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from oct_io.boundaries import BACKGROUND
from oct_io.errors import ScanError
from oct_io.scan.masks import Mask, Shape, times
from oct_io.volume import UNLABELLED

CLASSES = "data.bscans.mask_classes"
LEVELS = "mask_levels"  # what the JSON of a record calls them
UNKNOWN = "unlabelled"
"""Name of levels of which nothing is known."""
HIGHEST = 65535  # of an image of 16 bits
PLAIN = 15  # levels up to here are numbers of classes, if nobody names them
WHITE = 255
ITS_MASK = "its mask"
"""How every refusal of a B-scan begins that is its mask's fault."""

Levels = Mapping[str, tuple[int, int]]
"""First and last grey level of each class."""


def read_levels(said: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    """First and last level of each class, of words such as 3 and 1-255.

    Raises:
        ValueError: no level, one that two classes have, or too many classes.
    """
    found: dict[str, tuple[int, int]] = {}
    for name, words in said.items():
        first, _, last = str(words).partition("-")
        if not (first.strip().isdecimal() and (last or first).strip().isdecimal()):
            raise ValueError(
                f"{CLASSES} ({name}: {words}) must be a grey level, or two as in 1-255"
            )
        low, high = int(first), int(last or first)
        if not 0 < low <= high <= HIGHEST:
            raise ValueError(
                f"{CLASSES} ({name}: {words}) must lie from 1 to {HIGHEST}; 0 is the background"
            )
        for other, (start, end) in found.items():
            if low <= end and start <= high:
                raise ValueError(f"{CLASSES}: {name} and {other} have grey levels in common")
        found[name] = low, high
    if BACKGROUND in found or len(found) >= UNLABELLED:
        raise ValueError(f"{CLASSES} names at most {UNLABELLED - 1} classes, no {BACKGROUND}")
    return found


def mask_of_levels(
    drawn: NDArray[np.uint8] | NDArray[np.uint16], levels: Levels, shape: Shape, where: str
) -> Mask:
    """The mask of one B-scan that a grey image is; level 0 is the background.

    Args:
        drawn: (rows, columns).
        levels: of each class. Without any, 1 to 15 are "class 1" to "class 15", and 255 alone is
            "class 255".
        shape: of the B-scan, (1, rows, columns).
        where: for messages.

    Raises:
        ScanError: stage `parse`: another size than the B-scan's, or a level without a class.
    """
    if (1, *drawn.shape) != shape:
        reason = (
            f"it has {times(drawn.shape)} pixels (rows x columns), the image {times(shape[1:])}; "
            "draw or export it at the size of the image"
        )
        raise ScanError(where, "parse", reason)
    there: list[int] = np.unique(drawn).tolist()
    levels = levels or _unnamed([one for one in there if one])
    names = [name for name in levels if name != UNKNOWN]
    labels = np.full(HIGHEST + 1, -1, np.int16)
    labels[0] = 0
    for name, (low, high) in levels.items():
        labels[low : high + 1] = UNLABELLED if name == UNKNOWN else names.index(name) + 1
    if lost := [one for one in there if labels[one] < 0]:
        reason = (
            f"it has grey level {lost[0]}, for which no class is named; "
            f"{CLASSES}={{NAME: {lost[0]}}} names one, {{NAME: 1-255}} takes all above 0"
        )
        raise ScanError(where, "parse", reason)
    return Mask(labels[drawn].astype(np.uint8)[None], (BACKGROUND, *names))


def _unnamed(there: list[int]) -> dict[str, tuple[int, int]]:
    """Classes by number, where the levels look like numbers of classes."""
    taken = there if there == [WHITE] else [one for one in there if one <= PLAIN]
    return {f"class {one}": (one, one) for one in taken}
