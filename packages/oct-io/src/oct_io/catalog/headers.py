"""Headers of many scans at a time: one small request a file, many of them in flight."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from threading import BoundedSemaphore, Event

from oct_io.errors import ScanError
from oct_io.readers.registry import DICOM, PEEKERS, READERS, suffix_of
from oct_io.records.opening import open_scan
from oct_io.records.record import ScanRecord
from oct_io.scan.header import ScanHeader
from oct_io.storage.buckets import current_storage
from oct_io.storage.outages import start_reader

AHEAD = 4  # files asked for per thread beyond the one that is waited for
WHOLE_AT_ONCE = 4  # volumes that are decoded at a time, where that is how a format is known


def read_headers(
    root: str | Path,
    scans: Sequence[ScanRecord | str],
    *,
    concurrency: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[ScanHeader | ScanError]:
    """Headers of the `scans` below `root`, in their order; errors come as values.

    Of each DICOM file, one request fetches the first 256 kB; only where the header is longer does a
    second one fetch as much again. Formats that must be decoded to be known are, a few at a time.

    Args:
        root: local folder or fsspec URL.
        scans: records, or relative paths as in `ScanRecord.path`.
        concurrency: requests in flight; None for `StorageConfig.connections` in a bucket, and for
            one after another on a disk, where parsing takes longer than reading.
        progress: called with the number of headers read and of all, in the caller's thread.
    """
    if concurrency is None:
        concurrency = current_storage().connections if "://" in str(root) else 1
    if concurrency < 1:
        raise ValueError(f"concurrency ({concurrency}) must be at least 1")
    records = [ScanRecord(path=one) if isinstance(one, str) else one for one in scans]
    for done, found in enumerate(_in_order(root, records, concurrency), start=1):
        if progress is not None:
            progress(done, len(records))
        yield found


def _in_order(
    root: str | Path, records: Sequence[ScanRecord], concurrency: int
) -> Iterator[ScanHeader | ScanError]:
    whole = BoundedSemaphore(WHOLE_AT_ONCE)
    if concurrency == 1:
        yield from (_read_one(root, record, whole) for record in records)
        return
    stop = Event()
    pool = ThreadPoolExecutor(
        concurrency, "oct-io-header", initializer=start_reader, initargs=(stop,)
    )
    waiting: deque[Future[ScanHeader | ScanError]] = deque()
    try:
        for record in records:
            waiting.append(pool.submit(_read_one, root, record, whole))
            if len(waiting) > concurrency * AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        # Not waited for: a caller that stops half-way may be collected by one of these threads.
        stop.set()
        pool.shutdown(wait=False, cancel_futures=True)


def _read_one(
    root: str | Path, record: ScanRecord, whole: BoundedSemaphore
) -> ScanHeader | ScanError:
    suffix = suffix_of(record.path)
    decoded = suffix in READERS and suffix not in (*PEEKERS, *DICOM)
    with whole if decoded else nullcontext():
        try:
            return open_scan(root, record).header
        except ScanError as error:
            return error
