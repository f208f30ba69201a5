"""The work of a build: which parts are missing, what an older cache holds of them, making the rest.

It stops when too much is bad.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Protocol

from oct_io.cache.decoding import Decoded, Outcome, Refused, decode_in_order
from oct_io.cache.index import CacheIndex
from oct_io.cache.parts import Part, PartFolder, Plan, make_part
from oct_io.cache.volumes import CachedVolumes
from oct_io.errors import TreeError
from oct_io.quarantine import QUARANTINE, Refusal, check_share, read_quarantine, refuse, was_outage
from oct_io.storage.together import ask_together

TOGETHER = 256  # parts of a bucket that are asked for at once, and so in memory

Seen = Callable[[int, Sequence[Refusal]], None]
"""Takes how many more scans are done, and which of them are refused."""

MakeParts = Callable[[Plan, Sequence[int], Seen], None]
"""Writes the parts with the given numbers, wherever it wants to; `ray_cache` has one."""


class Progress(Protocol):
    """Called after each scan, in order."""

    def __call__(self, done: int, total: int, bad: int, /) -> None:
        """Take the number of scans done so far, of all, and of those refused."""


class Tally:
    """How far a build has come; stops it when too many scans are bad."""

    def __init__(self, total: int, progress: Progress | None, max_bad_fraction: float) -> None:
        self.total, self.progress, self.max_bad_fraction = total, progress, max_bad_fraction
        self.done = 0
        self.refusals: list[Refusal] = []

    def see(self, scans: int, refusals: Sequence[Refusal]) -> None:
        """Count `scans` more, of which some are refused.

        Raises:
            TreeError: too many are.
        """
        self.done += scans
        self.refusals += refusals
        if self.progress is not None:
            self.progress(self.done, self.total, len(self.refusals))
        check_share(self.refusals, self.total, self.max_bad_fraction)


class Kept:
    """What a standing cache knows about scans, by the hash of their state."""

    def __init__(self, folder: Path, old: CacheIndex | None, plan: Plan) -> None:
        self._volumes: CachedVolumes | None = None
        self._numbers: dict[str, int] = {}
        self._refused: dict[str, Refused] = {}
        if old is None or (old.window, old.annotations) != (plan.window, plan.annotations):
            return
        self._volumes = CachedVolumes(folder, old)
        sources = old.entries.column("source").to_pylist()
        self._numbers = {source: n for n, source in enumerate(sources) if source}
        for refusal in read_quarantine(folder / QUARANTINE):
            if refusal.source and refusal.key not in plan.again and not was_outage(refusal):
                self._refused[refusal.source] = Refused(refusal.stage, refusal.reason)

    def __contains__(self, source: str) -> bool:
        return source in self._numbers or source in self._refused

    def outcome(self, source: str) -> Outcome | None:
        """What became of the scan; None if the volume is not what was written."""
        if source in self._refused:
            return self._refused[source]
        if self._volumes is None or source not in self._numbers:
            return None
        number = self._numbers[source]
        entry = self._volumes.entries[number]
        voxels = self._volumes[number].tobytes()
        if hashlib.sha256(voxels).hexdigest() != entry.sha256:
            return None
        annotations = self._volumes.annotation_bytes(number)
        if annotations and hashlib.sha256(annotations).hexdigest() != entry.annotation_sha256:
            return None
        return Decoded(voxels, entry, annotations)


def require_same(folder: Path, old: CacheIndex | None, sources: Mapping[str, str]) -> None:
    """Make sure that volumes of a cache will be taken over.

    Raises:
        TreeError: its scans have changed, or are listed in another way than it was built with.
    """
    if old is None:
        return
    held = zip(*(old.entries.column(one).to_pylist() for one in ("key", "source")), strict=True)
    others = [key for key, source in held if source and sources.get(key) != source]
    if others:
        raise TreeError(
            f"{folder}: {len(others)} of its {len(old.entries)} volumes are of scans that have "
            "changed, or are now listed as something else; give --kind and --manifest as it was "
            "built with, or release the refused scans and build it again by its own command"
        )


def find_missing(plan: Plan, folder: PartFolder, seen: Seen) -> list[int]:
    """Numbers of the parts that are still to be made; counts the others."""
    missing, scans, numbers = [], 0, plan.numbers()
    refusals: list[Refusal] = []

    def read(number: int) -> Part | None:
        return folder.read(number, plan.record_bytes)

    for first in range(0, len(numbers), TOGETHER):
        some = numbers[first : first + TOGETHER]
        for number, part in zip(some, ask_together(folder.url, read, some), strict=True):
            if part is None:
                missing.append(number)
                continue
            scans += len(part.entries) + len(part.refusals)
            refusals += part.refusals
    if scans:
        seen(scans, refusals)
    return missing


def make_here(plan: Plan, numbers: Sequence[int], seen: Seen, *, kept: Kept, jobs: int) -> None:
    """Make parts with processes of this machine, taking over what an older cache holds."""
    folder = PartFolder(plan.parts)
    fresh = [n for number in numbers for n in _indices(plan, number) if plan.sources[n] not in kept]
    records = [plan.records[n] for n in fresh]
    wanted = plan.annotations
    with closing(
        decode_in_order(records, plan.root, plan.window, jobs=jobs, annotations=wanted)
    ) as decoded:
        for number in numbers:
            outcomes = []
            for n in _indices(plan, number):
                outcome = _kept(plan, kept, n) if plan.sources[n] in kept else next(decoded)
                outcomes.append(outcome)
                seen(1, _refusals(plan, n, outcome))
            scans = plan.scans_of(number)
            part, content = make_part(plan.records[scans], plan.sources[scans], outcomes)
            folder.write(number, part, content)


def _indices(plan: Plan, number: int) -> range:
    return range(len(plan.records))[plan.scans_of(number)]


def _kept(plan: Plan, kept: Kept, n: int) -> Outcome:
    outcome = kept.outcome(plan.sources[n])
    if outcome is None:  # the old volume is damaged
        one = [plan.records[n]]
        (outcome,) = decode_in_order(one, plan.root, plan.window, annotations=plan.annotations)
    return outcome


def _refusals(plan: Plan, n: int, outcome: Outcome) -> list[Refusal]:
    record = plan.records[n]
    if isinstance(outcome, Refused):
        return [refuse(record.key, record.path, *outcome, source=plan.sources[n])]
    return []
