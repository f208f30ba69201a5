"""Boundaries and masks of a cache: bytes of one scan's, which lie in a file of their shard.

Beside `shard-00000.u8` lies `shard-00000.ann`, if a scan of it has any: of one scan after another
its boundaries, (Z, X) float32 each, and then its mask, (Z, Y, X) uint8. The entry of a scan says
where its bytes begin, what they are and their hash. Caches that were asked for none have no such
file, and the bytes that they always had.
"""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from oct_io.boundaries import BACKGROUND, join_classes
from oct_io.cache.entries import CacheEntry
from oct_io.space.layers import resample_layers, resample_mask
from oct_io.space.resample import Window
from oct_io.volume import UNLABELLED, OctVolume

Shape = tuple[int, int, int]


class Layout(NamedTuple):
    """How long the two kinds are."""

    plane: int  # bytes of one boundary
    mask: int

    @classmethod
    def of(cls, shape: Shape) -> "Layout":
        """That of volumes of one shape."""
        bscans, rows, columns = shape
        return cls(4 * bscans * columns, bscans * rows * columns)

    def size(self, entry: CacheEntry) -> int:
        """Bytes of what an entry has."""
        return self.plane * len(entry.layers) + (self.mask if entry.mask else 0)


def pack_annotations(
    entry: CacheEntry, volume: OctVolume, window: Window, wanted: Collection[str]
) -> tuple[CacheEntry, bytes]:
    """Resample what is wanted of a scan's annotations; its entry says what there is."""
    layers = resample_layers(volume, window) if "layers" in wanted else {}
    layers = {name: rows for name, rows in layers.items() if np.isfinite(rows).any()}
    mask = resample_mask(volume, window) if "mask" in wanted else None
    if not layers and mask is None:
        return entry, b""
    parts = [rows.astype("<f4").tobytes() for rows in layers.values()]
    content = b"".join(parts + ([] if mask is None else [mask.tobytes()]))
    names = () if mask is None else volume.mask_names
    digest = hashlib.sha256(content).hexdigest()
    entry = replace(
        entry, layers=tuple(layers), mask=names, annotation_at=0, annotation_sha256=digest
    )
    return entry, content


def split_layers(
    entry: CacheEntry, content: NDArray[np.uint8], shape: Shape
) -> dict[str, NDArray[np.float32]]:
    """Boundaries by name, of the bytes that an entry's annotations begin with."""
    bscans, _, columns = shape
    rows = content[: Layout.of(shape).plane * len(entry.layers)].view("<f4")
    planes = rows.reshape(len(entry.layers), bscans, columns).astype(np.float32, copy=False)
    return dict(zip(entry.layers, planes, strict=True))


def renumber(
    labels: NDArray[np.uint8], names: Sequence[str], classes: Sequence[str]
) -> NDArray[np.uint8]:
    """Labels of one mask as labels of all masks of a cache; those without a class stay so."""
    table = np.full(256, UNLABELLED, np.uint8)
    table[: len(names)] = [0, *(classes.index(name) for name in names[1:])]
    if np.array_equal(table[: len(names)], np.arange(len(names))):
        return labels
    return table[labels]


def all_classes(lists: Collection[Sequence[str]]) -> tuple[str, ...]:
    """Classes of all masks; whatever a mask calls its first class is the background."""
    return join_classes([BACKGROUND, *names[1:]] for names in lists if names)
