"""Building a cache: decode each scan once, resample it, and write raw voxels that training maps.

A cache is a folder of `shard-00000.u8` files (records of Z x Y x X bytes), `quarantine.jsonl`,
`entries.arrow` and `index.json`, and of `shard-00000.ann` files if annotations were asked for. It
appears whole under its name or not at all. Beside it, as `.NAME.building`, lie the parts of a build
that is under way or was killed; the next build of the same scans goes on there.
"""

import fcntl
import hashlib
import json
import logging
import math
import os
import platform
import shutil
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

from oct_io.cache.assembly import assemble
from oct_io.cache.bucket import fetch_index
from oct_io.cache.decoding import NO_GUARD
from oct_io.cache.index import INDEX, CacheIndex, find_spoilt_shard, read_index, write_index
from oct_io.cache.making import (
    Kept,
    MakeParts,
    Progress,
    Tally,
    find_missing,
    make_here,
    require_same,
)
from oct_io.cache.parts import MAX_PART_SCANS, PartFolder, Plan, tell_of_others
from oct_io.cache.publishing import OTHER, claim, seal, withdraw
from oct_io.catalog.manifest import ScanRecord
from oct_io.errors import TreeError
from oct_io.quarantine import (
    QUARANTINE,
    TooManyBadError,
    read_quarantine,
    was_outage,
    write_quarantine,
)
from oct_io.records.opening import check_annotations, find_companion
from oct_io.saving import sync
from oct_io.space.resample import Window
from oct_io.storage.files import change_tokens, join, redact

SHARD_BYTES = 64 << 20
SIDECAR = (".json",)
STATE = 1  # how the state of a scan is hashed; another number, and every scan is decoded again
SAY_S, SAY_AGAIN_S = 2.0, 60.0  # when a wait for another process is said, and said again
LOOK_S = 0.1  # between two looks whether that one is done
FLATTENED = "1, flattened past white padding"  # likewise, of windows that are flattened

logger = logging.getLogger("oct_io.cache")


def build_cache(
    records: Sequence[ScanRecord],
    root: str | Path,
    window: Window,
    out: str | Path,
    *,
    jobs: int = 1,
    progress: Progress | None = None,
    max_bad_fraction: float = 0.5,
    shard_bytes: int = SHARD_BYTES,
    make_parts: MakeParts | None = None,
    parts: str | Path | None = None,
    again: Collection[str] = (),
    tokens: Mapping[str, str] | None = None,
    annotations: Collection[str] = (),
) -> CacheIndex:
    """Resample every scan of `records` into the cache folder `out`, and return its index.

    Returns at once what lies in `out` if that was built from the same scans (path, size, time of
    change), records and window. Otherwise builds beside `out` and renames when all is on disk; a
    killed build leaves `out` as it was, and the next one goes on after its last whole part (at most
    16 scans). Volumes and refusals of scans that `out` holds already, unchanged, are taken over.
    Two builds of one cache wait for each other. The result depends neither on `jobs`, nor on who
    makes the parts, nor on how often the build was killed.

    With `out` in a bucket, the parts lie there as well and become its shards: of this machine's
    disk it takes the table of entries alone. Such a cache is built once and never replaced.

    Args:
        records: as from `read_manifest(root)`, or some of them.
        root: what the records' paths are relative to.
        window: what to cut out, and how finely to sample it.
        out: local folder; created, or replaced if it holds a cache of something else. Or the URL
            of a folder in a bucket, for this cache alone.
        jobs: processes that decode; 0 for one a CPU.
        progress: called after each scan, and once for all that were done before.
        max_bad_fraction: share of refused scans above which the data set itself is at fault.
        shard_bytes: about the size of one shard file.
        make_parts: does the work instead of processes of this machine.
        parts: folder or URL for the parts, one that all who make them can write to, and that other
            builds may use as well: nothing in it is touched but a folder of this build's own. None
            puts them beside `out`.
        again: keys of scans that `out` refused and that are tried again, though nothing changed;
            all others must be what they were when it was built.
        tokens: what changes when a file does, by path, as `list_scans` just found it; None asks.
        annotations: of "layers" and "mask", what is kept beside the voxels of scans that have it.

    Raises:
        TreeError: nothing to cache, too many bad scans, which then stand in a file beside `out`, no
            room, or `out` is something else.
        StoreError: a store stayed out of reach; the parts that are done are kept, and the same call
            goes on after them.
    """
    folder, wanted = Path(out), check_annotations(annotations, "annotations")
    records = [_without_others(record, wanted) for record in records]
    if not records:
        raise TreeError(f"{out}: no scans to cache")
    per_shard = max(1, shard_bytes // math.prod(window.require_fixed_shape()))
    tally = Tally(len(records), progress, max_bad_fraction)
    state = FLATTENED if window.flattened else STATE

    def plan_of(sources: tuple[str, ...], parts: str) -> Plan:
        return Plan(
            records=tuple(records),
            sources=sources,
            root=str(root),
            window=window,
            part_scans=min(per_shard, MAX_PART_SCANS),
            parts=parts,
            again=tuple(sorted(again)),
            annotations=wanted,
        )

    if "://" in str(out):
        plan = plan_of(_hash_sources(records, root, tokens, state), "")
        plan = plan.within(join(out, "parts"), out)
        return _build_in_bucket(plan, str(out), tally, jobs, make_parts)
    with locked(folder):
        building = folder.with_name(f".{folder.name}.building")
        sources = _hash_sources(records, root, tokens, state)
        inputs = _hash_all(window, sorted(sources), wanted)
        old = _standing(folder)
        if old is not None and old.inputs == inputs and not again and _is_final(folder):
            if not old.entries.digest:  # they stand in an index as it was before there was a table
                write_index(folder, old)
                return read_index(folder)
            return old
        if again:
            require_same(folder, old, dict(zip((r.key for r in records), sources, strict=True)))
        plan = plan_of(sources, str(building.resolve() / "parts"))
        if parts:
            plan = plan.within(str(parts), folder.resolve())
        ready = _finished(building)
        if ready is not None and ready.inputs == inputs and not again and _is_final(building):
            PartFolder(plan.parts).remove()
            _put_in_place(building, folder)
            return ready
        if parts:
            tell_of_others(str(parts), plan.parts)
        refused = folder.with_name(f"{folder.name}-{QUARANTINE}")
        try:
            place = _make(plan, building, Kept(folder, old, plan), tally, jobs, make_parts)
        except TooManyBadError as error:
            write_quarantine(refused, tally.refusals)
            raise TooManyBadError(f"{error}; their paths: {refused}") from error
        refused.unlink(missing_ok=True)
        each = per_shard // plan.part_scans
        index = assemble(plan, place, building, parts_per_shard=each, inputs=inputs)
        place.remove()
        _put_in_place(building, folder)
        return index


def _build_in_bucket(
    plan: Plan, url: str, tally: Tally, jobs: int, make_parts: MakeParts | None
) -> CacheIndex:
    """Make the parts in the bucket, let each become a shard there, and the index come last.

    Raises:
        TreeError: another cache lies there, or a part of one, or is being built there.
    """
    inputs = _hash_all(plan.window, sorted(plan.sources), plan.annotations)
    with TemporaryDirectory() as name:
        building = Path(name)
        there = fetch_index(url, building)
        if there is not None:
            if there.inputs != inputs:
                raise TreeError(f"{redact(url)}: {OTHER}")
            return there
        about = {"inputs": inputs, "plan": plan.name}
        claim(url, about)  # before anything is decoded
        place = PartFolder(plan.parts)
        place.start(plan)
        try:
            missing = find_missing(plan, place, tally.see)
            if make_parts is not None:
                make_parts(plan, missing, tally.see)
            else:
                make_here(plan, missing, tally.see, kept=Kept(building, None, plan), jobs=jobs)
        except TooManyBadError:
            place.remove()
            withdraw(url, about)
            raise
        claim(url, about)  # of two that began in the same moment, one goes on
        index = assemble(plan, place, building, parts_per_shard=1, inputs=inputs, bucket=url)
        seal(url, building)
        PartFolder(join(url, "parts")).remove()  # those too of who was refused after making some
        return index


def _make(
    plan: Plan,
    building: Path,
    kept: Kept,
    tally: Tally,
    jobs: int,
    make_parts: MakeParts | None,
) -> PartFolder:
    """Make the parts that are missing; what an old cache holds is taken over on this machine."""
    place = PartFolder(plan.parts)
    building.mkdir(mode=0o700, exist_ok=True)
    place.start(plan)
    try:
        here = missing = find_missing(plan, place, tally.see)
        _check_room(building, len(missing) * plan.part_scans * plan.record_bytes)
        if make_parts is not None:
            here = [n for n in missing if all(s in kept for s in plan.sources[plan.scans_of(n)])]
            make_parts(plan, sorted(set(missing) - set(here)), tally.see)
        make_here(plan, here, tally.see, kept=kept, jobs=jobs)
    except TooManyBadError:
        place.remove()  # what is wrong with the data set may be mended; the next build asks again
        shutil.rmtree(building, ignore_errors=True)
        raise
    return place


def _standing(folder: Path) -> CacheIndex | None:
    """Index of the whole cache that lies in `folder`; None if there is nothing worth keeping.

    Raises:
        TreeError: something lies there that is no cache.
    """
    if not (folder / INDEX).exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise TreeError(f"{folder}: exists and is not a cache; give another place for it")
        return None
    return _finished(folder)


def _finished(folder: Path) -> CacheIndex | None:
    """Index of a folder that holds all of a cache; None if it holds less."""
    try:
        index = read_index(folder)
    except TreeError:
        return None  # damaged, or of another version: what a build is for
    return index if find_spoilt_shard(folder, index) is None else None


def _is_final(folder: Path) -> bool:
    """Whether no scan was refused for an outage, as older versions did; see `was_outage`."""
    path = folder / QUARANTINE
    return not (path.exists() and any(map(was_outage, read_quarantine(path))))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder`; the system frees it however the process ends.

    Who has to wait for another process says so, and for which. Folders above are made.

    Raises:
        TreeError: no file can be written there, or the file system has no locks.
        RuntimeError: the lock is held by the process that started this one as its worker. A script
            that builds a cache outside of `if __name__ == "__main__":` runs again in each worker.
    """
    began, said_s = time.monotonic(), -SAY_AGAIN_S
    with _lock_file(folder) as file:
        while not _took(file, folder):
            process, machine = _holder(file)
            here = machine == platform.node()
            if "__mp_main__" in sys.modules and here and process == str(os.getppid()):
                raise RuntimeError(NO_GUARD)
            waited_s = time.monotonic() - began
            if waited_s >= SAY_S and waited_s - said_s >= SAY_AGAIN_S:
                said_s = waited_s
                whom = f"process {process}{'' if here else f' of {machine}'}"
                logger.warning(
                    f"oct-io: waiting for {folder} for {waited_s:.0f} s ({whom} is building it)"
                )
            time.sleep(LOOK_S)
        file.truncate(0)
        file.write(f"{os.getpid()} {platform.node()}".encode())
        file.flush()
        yield


def _lock_file(folder: Path) -> BinaryIO:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        return (folder.parent / f".{folder.name}.lock").open("a+b")
    except OSError as error:
        raise TreeError(
            f"{folder}: no cache can be written here: {error.strerror}; give another place for it"
        ) from error


def _took(file: BinaryIO, folder: Path) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise TreeError(
            f"{folder}: cannot be locked: {error.strerror}; give the cache a place on a file "
            "system with locks"
        ) from error
    return True


def _holder(file: BinaryIO) -> tuple[str, str]:
    """Number and machine of the process that holds a lock; empty while it is writing them."""
    file.seek(0)
    process, _, machine = file.read().decode(errors="replace").partition(" ")
    return process, machine


def _without_others(record: ScanRecord, wanted: Collection[str]) -> ScanRecord:
    """The record without files that nobody asked for, so that no cache depends on them."""
    mask = record.mask if "mask" in wanted else ""
    layers = record.layers if "layers" in wanted else ""
    if (mask, layers) == (record.mask, record.layers):
        return record
    return replace(record, mask=mask, layers=layers)


def _hash_sources(
    records: Sequence[ScanRecord],
    root: str | Path,
    tokens: Mapping[str, str] | None,
    version: int | str = STATE,
) -> tuple[str, ...]:
    """Hash of each record, and of the state of its file and of what lies there for it."""
    whole = [record for record in records if not record.refused]
    beside = {record.path: one for record in whole if (one := find_companion(record)) is not None}
    extra = [path for one in whole for path in (one.mask, one.layers) if path]
    paths = [*(record.path for record in whole), *beside.values(), *extra]
    states = _states(paths, root, tokens)
    found = []
    for record in records:
        state = [version, record.to_tree(), states.get(record.path, "")]
        other = states.get(beside[record.path], "absent") if record.path in beside else "absent"
        state += [] if other == "absent" else [other]
        state += [states.get(path, "") for path in (record.mask, record.layers) if path]
        content = json.dumps(state)
        found.append(hashlib.sha256(content.encode()).hexdigest()[:32])
    return tuple(found)


def _states(
    paths: Sequence[str], root: str | Path, tokens: Mapping[str, str] | None
) -> dict[str, str]:
    """What changes when a file or folder does; asked for where a listing does not tell."""
    listed = tokens or {}
    states = {path: listed[path] for path in paths if path in listed}
    absent = SIDECAR if listed else ()  # a listing has all files, and no folders
    unasked = dict.fromkeys(p for p in paths if p not in states and not p.endswith(absent))
    return states | change_tokens(root, list(unasked)) if unasked else states


def _hash_all(window: Window, sources: Sequence[str], annotations: tuple[str, ...]) -> str:
    content = [STATE, asdict(window), list(sources), *([annotations] if annotations else [])]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _check_room(building: Path, wanted: int) -> None:
    free = shutil.disk_usage(building).free
    if wanted > free:
        raise TreeError(f"{building}: the cache takes {wanted:,} bytes, the disk has {free:,} free")


def _put_in_place(building: Path, folder: Path) -> None:
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    building.rename(folder)
    sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)
