"""Volumes and refusals that an older cache already holds and a new build need not make again."""

import hashlib
from pathlib import Path

from oct_io.cache.decoding import Decoded, Outcome, Refused
from oct_io.cache.index import CacheIndex
from oct_io.cache.parts import Plan
from oct_io.cache.volumes import CachedVolumes
from oct_io.quarantine import QUARANTINE, read_quarantine, was_outage


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
