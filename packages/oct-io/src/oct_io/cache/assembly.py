"""From the parts of a build to the files of a cache: shards, quarantine, and the index last."""

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from oct_io.cache.index import CacheIndex, annotation_name, fingerprint, shard_name, write_index
from oct_io.cache.parts import GONE, Part, PartFolder, Plan
from oct_io.cache.table import ENTRIES, EntryWriter, map_entries
from oct_io.errors import TreeError
from oct_io.quarantine import QUARANTINE, Refusal, write_quarantine
from oct_io.saving import sync
from oct_io.storage.files import join


def assemble(
    plan: Plan,
    folder: PartFolder,
    building: Path,
    *,
    parts_per_shard: int,
    inputs: str,
    bucket: str = "",
) -> CacheIndex:
    """Write the cache that the parts in `folder` add up to into `building`, and sync it to disk.

    Where a shard is one part of a local folder it becomes that shard by a second name for the same
    file, so that a cache larger than half of the disk can be finished. Entries are written as they
    come: of any number of them, a few thousand are held at a time.

    With `bucket`, the URL of a folder in the bucket of the parts, each part becomes a shard there,
    copied by the store itself, and `building` gets the rest of the cache.

    Raises:
        TreeError: a part has gone.
    """
    refusals: list[Refusal] = []
    histogram = np.zeros(256, dtype=np.int64)
    shards: list[int] = []
    annotated: list[int] = []
    for left in building.glob("*.*"):  # by a build that was killed while it wrote them
        left.unlink()
    numbers = plan.numbers()
    with EntryWriter(building / ENTRIES, annotated=bool(plan.annotations)) as table:
        for first in range(0, len(numbers), parts_per_shard):
            chosen = numbers[first : first + parts_per_shard]
            parts = [_whole_part(plan, folder, number) for number in chosen]
            place = bucket or building
            _write_shard(folder, chosen, place, shard_name(len(shards)), "u8")
            begins = list(accumulate((part.annotation_bytes for part in parts), initial=0))
            if begins[-1]:
                some = [n for n, part in zip(chosen, parts, strict=True) if part.annotation_bytes]
                _write_shard(folder, some, place, annotation_name(len(shards)), "ann")
            annotated.append(begins[-1])
            held = [
                (entry, begin)
                for part, begin in zip(parts, begins, strict=False)
                for entry in part.entries
            ]
            table.add(e.placed(len(shards), slot, begin) for slot, (e, begin) in enumerate(held))
            refusals += [refusal for part in parts for refusal in part.refusals]
            histogram += np.sum([part.histogram for part in parts], axis=0, dtype=np.int64)
            shards.append(len(held))
    sync(building / ENTRIES)
    entries = map_entries(building / ENTRIES)
    mean, std, percentiles = _statistics(histogram)
    index = CacheIndex(
        window=plan.window,
        entries=entries,
        shards=tuple(shards),
        mean=mean,
        std=std,
        percentiles=percentiles,
        inputs=inputs,
        fingerprint=fingerprint(plan.window, entries.hashes(), plan.annotations),
        refused=len(refusals),
        annotations=plan.annotations,
        annotation_bytes=tuple(annotated) if plan.annotations else (),
        whites=entries.count_whites(),
    )
    write_quarantine(building / QUARANTINE, refusals)
    sync(building)
    write_index(building, index)
    sync(building)
    return index


def _whole_part(plan: Plan, folder: PartFolder, number: int) -> Part:
    part = folder.read(number, plan.record_bytes)
    if part is None:
        raise TreeError(GONE)
    return part


def _write_shard(
    folder: PartFolder, numbers: Sequence[int], place: Path | str, name: str, ending: str
) -> None:
    """Join the files of one ending that some parts have; in a bucket, the one file of one part."""
    if isinstance(place, str):
        (number,) = numbers
        folder.copy(number, ending, join(place, name))
        return
    shard = place / name
    only = folder.local_content(numbers[0], ending) if len(numbers) == 1 else None
    if only is not None:
        with suppress(OSError):  # another file system, or one without second names
            os.link(only, shard)
            return
    with shard.open("wb") as file:
        for number in numbers:
            source = folder.local_content(number, ending)
            if source is None:
                file.write(folder.content(number, ending))
                continue
            with source.open("rb") as part:
                shutil.copyfileobj(part, file, 8 << 20)
    sync(shard)


def _statistics(histogram: NDArray[np.int64]) -> tuple[float, float, tuple[float, float, float]]:
    levels, share = np.arange(256), histogram / max(1, histogram.sum())
    mean = float((share * levels).sum())
    std = float(np.sqrt((share * (levels - mean) ** 2).sum()))
    below = np.cumsum(share)
    low, middle, high = (float(np.searchsorted(below, part)) for part in (0.01, 0.5, 0.99))
    return mean, std, (low, middle, high)
