"""Headers of many scans at a time: requests in flight to a bucket, processes on a disk."""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from pathlib import Path
from threading import BoundedSemaphore

from oct_io.errors import ScanError
from oct_io.interrupts import end_with_parent
from oct_io.readers.registry import DICOM, PEEKERS, READERS, suffix_of
from oct_io.records.opening import open_scan
from oct_io.records.record import ScanRecord
from oct_io.scan.header import ScanHeader
from oct_io.storage.buckets import (
    StorageConfig,
    configure_storage,
    current_storage,
    stays_in_process,
)
from oct_io.storage.readers import Readers
from oct_io.threads import usable_cpus
from oct_io.workers import Workers

AHEAD = 4  # files asked for per thread beyond the one that is waited for
WHOLE_AT_ONCE = 4  # volumes that are decoded at a time, where that is how a format is known
AT_ONCE = 16  # headers that a process reads between two answers; 1 of files that are decoded
WORTH = 400  # headers that take a process as long as to start; of a file that is decoded, 1 in 20
Found = ScanHeader | ScanError


def read_headers(
    root: str | Path,
    scans: Sequence[ScanRecord | str],
    *,
    concurrency: int | None = None,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Generator[Found, None, None]:
    """Headers of the `scans` below `root`, in their order; errors come as values.

    Of each DICOM file, one request fetches the first 256 kB; only where the header is longer does a
    second one fetch as much again. Formats that must be decoded to be known are, a few at a time.

    Args:
        root: local folder or fsspec URL.
        scans: records, or relative paths as in `ScanRecord.path`.
        concurrency: requests in flight; None for `StorageConfig.connections` in a bucket, and for
            one after another on a disk, where parsing takes longer than reading.
        jobs: processes that read from a disk, where there are enough files for that to gain; 0 for
            one a CPU. As in `build_cache`, a script needs its `__main__` guard for more than one.
        progress: called with the number of headers read and of all, in the caller's thread.
    """
    remote = "://" in str(root) or stays_in_process(root)
    if concurrency is None:
        concurrency = current_storage().connections if remote else 1
    if concurrency < 1:
        raise ValueError(f"concurrency ({concurrency}) must be at least 1")
    records = [ScanRecord(path=one) if isinstance(one, str) else one for one in scans]
    workers = 1 if remote else min(jobs or usable_cpus(), _work(records) // WORTH)
    found_in_order = (
        _in_processes(root, records, workers)
        if workers > 1
        else _in_order(root, records, concurrency)
    )
    for done, found in enumerate(found_in_order, start=1):
        if progress is not None:
            progress(done, len(records))
        yield found


def _work(records: Sequence[ScanRecord]) -> int:
    """How much there is to do, in headers."""
    return sum(20 if _is_decoded(suffix_of(one.path)) else 1 for one in records)


def _in_processes(root: str | Path, records: Sequence[ScanRecord], workers: int) -> Iterator[Found]:
    """Headers by spawned processes; if they do not live, this one reads what is left."""
    pool = Workers(workers, _start_worker, (current_storage(),))
    waiting: deque[Future[list[Found]]] = deque()
    done, at_once = 0, AT_ONCE if _work(records) == len(records) else 1
    try:
        for first in range(0, len(records), at_once):
            waiting.append(pool.begin(read_some, root, records[first : first + at_once]))
            if len(waiting) > workers * AHEAD:
                found = pool.answer(waiting.popleft())
                yield from found
                done += len(found)
        while waiting:
            found = pool.answer(waiting.popleft())
            yield from found
            done += len(found)
    except BrokenProcessPool:
        yield from _in_order(root, records[done:], 1)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker(config: StorageConfig) -> None:
    end_with_parent()
    configure_storage(config)  # a spawned process does not inherit it


def read_some(root: str | Path, records: Sequence[ScanRecord]) -> list[Found]:
    """Headers of a few scans, one after another."""
    return list(_in_order(root, records, 1))


def _in_order(root: str | Path, records: Sequence[ScanRecord], concurrency: int) -> Iterator[Found]:
    whole = BoundedSemaphore(WHOLE_AT_ONCE)
    if concurrency == 1:
        yield from (_read_one(root, record, whole) for record in records)
        return
    readers = Readers(concurrency, "oct-io-header")
    waiting: deque[Future[Found]] = deque()
    try:
        for record in records:
            waiting.append(readers.submit(_read_one, root, record, whole))
            if len(waiting) > concurrency * AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        # Not waited for: a caller that stops half-way may be collected by one of these threads.
        readers.close()


def _is_decoded(suffix: str) -> bool:
    """Whether files of this ending are decoded to be known."""
    return suffix in READERS and suffix not in (*PEEKERS, *DICOM)


def _read_one(root: str | Path, record: ScanRecord, whole: BoundedSemaphore) -> Found:
    with whole if _is_decoded(suffix_of(record.path)) else nullcontext():
        try:
            return open_scan(root, record).header
        except ScanError as error:
            return error
