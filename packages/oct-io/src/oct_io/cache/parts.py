"""A cache under construction: a part for every few scans, each written whole or not at all.

A part is a pair of files named by its place in the list of scans: `part-000007.u8` with the voxels
of its usable scans, and `part-000007.json` that says what they are; `part-000007.ann` has the
annotations of those with any. The .json is written last and is what makes a part count. Equal scans
give equal parts, so that it does no harm when two workers write the same one: the work is done at
least once, the result is there exactly once. This needs no more of the place than that a file
appears whole under its name, which a rename on a (shared) file system and an upload to a bucket
both promise.
"""

import hashlib
import json
import logging
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from oct_io.cache.decoding import Decoded, Outcome
from oct_io.cache.entries import CacheEntry, entry_from_tree
from oct_io.catalog.manifest import ScanRecord
from oct_io.errors import TreeError
from oct_io.quarantine import Refusal, refuse, was_outage
from oct_io.space.resample import Window
from oct_io.storage.buckets import open_filesystem, redact, schemes_of
from oct_io.storage.files import (
    copy_file,
    file_size,
    join,
    list_subfolders,
    read_if_there,
    remove_folder,
    write_bytes,
)

PLAN = "plan.txt"
OWN = "oct-io-parts-"  # how folders of parts begin in a place that others may use as well
GONE = "a part of the cache has gone while it was built; build it again"
MAX_PART_SCANS = 16
"""What a killed worker has to do again, at most."""

logger = logging.getLogger("oct_io.cache")


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What is to be built, and cut into which parts; equal plans have equal parts.

    Attributes:
        records: scans in the order of the cache.
        sources: hash of each record and of the state of its file, in the same order.
        root: what the records' paths are relative to.
        window: what to cut out of each scan.
        part_scans: scans of one part; the last may have fewer.
        parts: folder or URL of the parts, of this plan alone.
        again: keys of scans that are tried again although an older cache refused them.
        annotations: what is wanted along with voxels: layers, mask.
    """

    records: tuple[ScanRecord, ...]
    sources: tuple[str, ...]
    root: str
    window: Window
    part_scans: int
    parts: str
    again: tuple[str, ...] = ()
    annotations: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Hash of all that the parts depend on."""
        content = [asdict(self.window), self.part_scans, self.sources, self.again]
        content += [self.annotations] if self.annotations else []
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def within(self, place: str, out: str | Path) -> "Plan":
        """The plan with its parts in a folder of `place` for this build of `out` alone."""
        named = hashlib.sha256(json.dumps([self.name, str(out)]).encode()).hexdigest()
        return replace(self, parts=join(place, f"{OWN}{named[:16]}"))

    @property
    def record_bytes(self) -> int:
        """Bytes of one resampled scan."""
        return math.prod(self.window.shape)

    def numbers(self) -> range:
        """Numbers of all parts."""
        return range(-(-len(self.records) // self.part_scans))

    def scans_of(self, number: int) -> slice:
        """Which of the records a part is made of."""
        return slice(number * self.part_scans, (number + 1) * self.part_scans)


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """What a part holds, in the order of its scans.

    Attributes:
        entries: usable scans; shard and slot are not known yet.
        refusals: the others.
        histogram: how often each of the 256 grey levels occurs.
        annotation_bytes: of the boundaries and masks of its entries.
    """

    entries: tuple[CacheEntry, ...]
    refusals: tuple[Refusal, ...]
    histogram: tuple[int, ...]
    annotation_bytes: int = 0


class PartBytes(NamedTuple):
    """What the entries of a part hold, a scan after the other."""

    voxels: list[bytes]
    annotations: list[bytes]


class PartFolder:
    """The folder or bucket in which the parts of one plan gather."""

    def __init__(self, url: str | Path) -> None:
        self.url = str(url).rstrip("/")
        filesystem, self.path = open_filesystem(self.url)
        self.local = "file" in schemes_of(filesystem)

    def start(self, plan: Plan) -> None:
        """Keep the parts of this very plan, remove those of any other."""
        if read_if_there(join(self.url, PLAN)) == plan.name.encode():
            return
        self.remove()
        if self.local:
            os.makedirs(self.path, mode=0o700)
        self._write(PLAN, plan.name.encode())

    def check(self, name: str) -> None:
        """Make sure that this process sees the place where the plan `name` is worked on.

        Raises:
            TreeError: it does not.
        """
        if read_if_there(join(self.url, PLAN)) != name.encode():
            raise TreeError(
                f"{redact(self.url)}: not the parts of this build as seen by a worker; give "
                "--parts a folder or bucket that all machines share"
            )

    def remove(self) -> None:
        """Remove all parts."""
        remove_folder(self.url)

    def write(self, number: int, part: Part, content: PartBytes) -> None:
        """Write a part; the description that makes it count comes last."""
        self._write(f"{_name(number)}.u8", b"".join(content.voxels))
        if part.annotation_bytes:
            self._write(f"{_name(number)}.ann", b"".join(content.annotations))
        self._write(f"{_name(number)}.json", json.dumps(asdict(part), sort_keys=True).encode())

    def read(self, number: int, record_bytes: int) -> Part | None:
        """Read what a part holds; None if it is not whole, or if an outage took scans from it."""
        text = read_if_there(join(self.url, f"{_name(number)}.json"))
        if text is None:
            return None
        part = _part_from_tree(json.loads(text))
        if any(map(was_outage, part.refusals)):
            return None
        size = file_size(join(self.url, f"{_name(number)}.u8"))
        if part.annotation_bytes:
            beside = file_size(join(self.url, f"{_name(number)}.ann"))
            size = size if beside == part.annotation_bytes else None
        return part if size == len(part.entries) * record_bytes else None

    def content(self, number: int, ending: str) -> bytes:
        """Voxels (`u8`) or annotations (`ann`) of a part's entries, one after the other.

        Raises:
            TreeError: they have gone.
        """
        content = read_if_there(join(self.url, f"{_name(number)}.{ending}"))
        if content is None:
            raise TreeError(f"{redact(self.url)}: {GONE}")
        return content

    def local_content(self, number: int, ending: str) -> Path | None:
        """File of a part's voxels or annotations; None in a bucket."""
        return Path(self.path, f"{_name(number)}.{ending}") if self.local else None

    def copy(self, number: int, ending: str, url: str) -> None:
        """Let voxels or annotations of a part lie at `url` of the same bucket, too."""
        copy_file(join(self.url, f"{_name(number)}.{ending}"), url)

    def begin(self, number: int) -> bool:
        """Note that a part is begun; true if that had been noted before, and nothing came of it."""
        name = f"{_name(number)}.begun"
        before = read_if_there(join(self.url, name)) is not None
        if not before:
            self._write(name, b"1")
        return before

    def _write(self, name: str, content: bytes) -> None:
        write_bytes(join(self.url, name), content)


def _name(number: int) -> str:
    return f"part-{number:06d}"


def tell_of_others(place: str, own: str) -> None:
    """Say which folders of parts lie in `place` beside `own`: nobody else would remove them."""
    found = [join(place, name) for name in list_subfolders(place) if name.startswith(OWN)]
    others = [one for one in found if one != own]
    if others:
        shown = ", ".join(map(redact, others[:3])) + (", ..." if len(others) > 3 else "")
        logger.warning(
            f"oct-io: parts of {len(others)} other builds lie in {redact(place)}, which go on or "
            f"were interrupted; remove what nobody will finish: {shown}"
        )


def make_part(
    records: Sequence[ScanRecord], sources: Sequence[str], outcomes: Sequence[Outcome]
) -> tuple[Part, PartBytes]:
    """Describe the outcomes of a part's scans, and give what those hold that are usable."""
    entries: list[CacheEntry] = []
    refusals, content, length = [], PartBytes([], []), 0
    histogram = np.zeros(256, dtype=np.int64)
    for record, source, outcome in zip(records, sources, outcomes, strict=True):
        if isinstance(outcome, Decoded):
            at = length if outcome.annotations else None
            entries.append(replace(outcome.entry.from_source(source), annotation_at=at))
            content.voxels.append(outcome.voxels)
            content.annotations.append(outcome.annotations)
            length += len(outcome.annotations)
            grey = np.frombuffer(outcome.voxels, dtype=np.uint8)
            histogram += np.bincount(grey, minlength=256)
        else:
            refusals.append(refuse(record.key, record.path, *outcome, source=source))
    part = Part(
        entries=tuple(entries),
        refusals=tuple(refusals),
        histogram=tuple(map(int, histogram)),
        annotation_bytes=length,
    )
    return part, content


def _part_from_tree(tree: dict[str, Any]) -> Part:
    return Part(
        entries=tuple(entry_from_tree(entry) for entry in tree["entries"]),
        refusals=tuple(Refusal(**refusal) for refusal in tree["refusals"]),
        histogram=tuple(tree["histogram"]),
        annotation_bytes=tree.get("annotation_bytes", 0),
    )
