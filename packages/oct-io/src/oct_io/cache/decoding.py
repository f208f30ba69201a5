"""From record to resampled voxels, in this process or in several, in the order of the records."""

import hashlib
import math
import multiprocessing
import os
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from oct_io.cache.annotations import pack_annotations
from oct_io.cache.entries import CacheEntry
from oct_io.catalog.manifest import ScanRecord, hash_participant
from oct_io.catalog.tables import may_be_same, normal_id
from oct_io.errors import ScanError, TreeError
from oct_io.records.opening import read_scan
from oct_io.scan.flags import find_flags
from oct_io.space.resample import Window, resample
from oct_io.storage.buckets import current_storage, stays_in_process
from oct_io.storage.outages import start_decoder
from oct_io.threads import one_thread, usable_cpus
from oct_io.volume import OctVolume
from oct_io.workers import Workers

NO_GUARD = 'put the call under `if __name__ == "__main__":`, or use jobs=1'
AHEAD = 2  # scans in flight per process: enough to keep all busy, few enough to hold in memory


class Decoded(NamedTuple):
    """A resampled scan on its way to a shard."""

    voxels: bytes
    entry: CacheEntry  # shard and slot are still 0
    annotations: bytes = b""  # of its boundaries and its mask, if they were asked for


class Refused(NamedTuple):
    """Why a scan was left out."""

    stage: str
    reason: str


Outcome = Decoded | Refused
Task = tuple[ScanRecord, str, Window, tuple[str, ...]]


def decode_in_order(
    records: Sequence[ScanRecord],
    root: str | Path,
    window: Window,
    *,
    jobs: int = 1,
    apart: bool = False,
    annotations: tuple[str, ...] = (),
) -> Generator[Outcome, None, None]:
    """Read and resample `records`; outcomes come in their order, whatever `jobs` is.

    With more than one job, or `apart`, processes are spawned (filesystems of buckets do not survive
    a fork), and a decoder that crashes its process costs the scan it crashed on and nothing else.
    `annotations` are read and resampled along with voxels; a scan whose mask cannot be used is
    refused like one whose voxels cannot.

    Raises:
        TreeError: no process can be started.
        StoreError: see `decode`.
    """
    if jobs < 0:
        raise ValueError(f"jobs ({jobs}) must be 0, for one a CPU, or more")
    jobs = jobs or usable_cpus()
    tasks: list[Task] = [(record, str(root), window, annotations) for record in records]
    if stays_in_process(root) or (not apart and (jobs == 1 or len(tasks) <= 1)):
        yield from map(decode, tasks)
    else:
        yield from _in_processes(tasks, jobs)


def _in_processes(tasks: list[Task], jobs: int) -> Iterator[Outcome]:
    done = 0
    while done < len(tasks):
        with _pool(jobs) as pool:
            try:
                for outcome in _through(pool, tasks[done:], jobs * AHEAD):
                    yield outcome
                    done += 1
                continue
            except BrokenProcessPool:
                pass  # someone among those in flight crashed: decode the next one apart
        yield _alone(tasks[done])
        done += 1


def _through(pool: Workers, tasks: list[Task], ahead: int) -> Iterator[Outcome]:
    waiting: deque[Future[Outcome]] = deque()
    try:
        for task in tasks:
            waiting.append(pool.begin(decode, task))
            if len(waiting) >= ahead:
                yield pool.answer(waiting.popleft())
        while waiting:
            yield pool.answer(waiting.popleft())
    finally:
        for future in waiting:  # who stops early does not wait for what nobody takes
            future.cancel()


def _alone(task: Task) -> Outcome:
    with _pool(1) as pool:
        try:
            return pool.answer(pool.begin(decode, task))
        except BrokenProcessPool:
            pass
    with _pool(1) as pool:
        try:
            pool.answer(pool.begin(os.getpid))
        except BrokenProcessPool as error:
            raise TreeError(f"worker processes do not start: {NO_GUARD}") from error
    return Refused("decode", "the decoder crashed on it")


@contextmanager
def _pool(jobs: int) -> Iterator[Workers]:
    """Processes that decode; who leaves early does not wait for a store."""
    context = multiprocessing.get_context("spawn")
    spoken = context.Value("d", -math.inf)  # so that of all who wait one says so
    over = context.Value("b", 0, lock=False)  # a process that is killed holds no lock of it
    # A spawned process inherits no configuration.
    pool = Workers(jobs, start_decoder, (current_storage(), spoken, over))
    try:
        yield pool
    finally:
        over.value = 1
        pool.shutdown(cancel_futures=True)  # nobody starts on what is left


def decode(task: Task) -> Outcome:
    """Read and resample one scan.

    Raises:
        StoreError: its bytes do not come, which says nothing about the scan.
    """
    record, root, window, annotations = task
    if record.refused is not None:
        return Refused(*record.refused)
    try:
        volume = read_scan(root, record, annotations=annotations)
        _check_identity(record, volume)
        with one_thread():
            return _resampled(record, volume, window, annotations)
    except ScanError as error:
        return Refused(error.stage, error.reason)
    except MemoryError:
        return Refused("decode", "not enough memory")


def _check_identity(record: ScanRecord, volume: OctVolume) -> None:
    """Refuse a file of someone else than the manifest says: its label would be wrong."""
    if not may_be_same(record.participant_id, volume.participant_id):
        reason = "the file and the manifest name different participants"
        raise ScanError("", "content", reason)


def _resampled(
    record: ScanRecord, volume: OctVolume, window: Window, annotations: tuple[str, ...]
) -> Decoded:
    cut = resample(volume, window)
    voxels = cut.voxels.tobytes()
    bscans, rows, columns = volume.voxels.shape
    flags = find_flags(volume)

    def first_known(*choices: str) -> str:
        return next((one for one in choices if one != "unknown"), "unknown")

    entry = CacheEntry(
        participant=hash_participant(record.participant_id or normal_id(volume.participant_id)),
        key=record.key,
        device=first_known(volume.device, record.device),
        laterality=first_known(volume.laterality, record.laterality),
        region=first_known(record.region, volume.region),
        protocol=first_known(volume.protocol, record.protocol),
        spacing=(cut.spacing.bscan, cut.spacing.row, cut.spacing.column),
        spacing_source=volume.spacing_source,
        origin_mm=cut.origin_mm,
        source_shape=(bscans, rows, columns),
        source_spacing=(volume.spacing.bscan, volume.spacing.row, volume.spacing.column),
        sha256=hashlib.sha256(voxels).hexdigest(),
        shard=0,
        slot=0,
        mirrored=cut.mirrored,
        flags=flags.names,
        signal_db=round(flags.signal_db, 1),
        white=cut.white,
        white_rule=cut.white_rule,
    )
    if not annotations:
        return Decoded(voxels, entry)
    entry, content = pack_annotations(entry, volume, window, annotations)
    return Decoded(voxels, entry, content)
