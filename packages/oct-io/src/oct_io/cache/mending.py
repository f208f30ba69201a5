"""Trying refused scans of a cache again, after a file was mended or a reader was put right."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from oct_io.cache.build import build_cache, locked
from oct_io.cache.index import CacheIndex, read_index, write_index
from oct_io.cache.making import Progress
from oct_io.catalog.manifest import ScanRecord
from oct_io.errors import TreeError
from oct_io.quarantine import QUARANTINE, Refusal, read_quarantine, write_quarantine

RELEASED = "released"  # instead of the hash of a build's inputs, so that no build takes it for done


def list_refused(cache: str | Path) -> tuple[Refusal, ...]:
    """Refused scans of a cache, in the order of their paths.

    Raises:
        TreeError: no cache there.
    """
    path = Path(cache) / QUARANTINE
    if not path.exists():
        raise TreeError(f"{path}: no quarantine here; give the folder of a cache")
    return read_quarantine(path)


def release(cache: str | Path, keys: Sequence[str]) -> int:
    """Forget that these scans were refused, so that the next build of the cache tries them again.

    What the cache holds stays as it is, and stays readable.

    Args:
        cache: folder of the cache.
        keys: of refused scans, as `list_refused` has them.

    Returns:
        How many are still refused.

    Raises:
        TreeError: no cache there, or a key that is not in its quarantine.
    """
    folder = Path(cache)
    list_refused(folder)  # before a lock is put beside what is no cache
    with locked(folder):
        refusals = list_refused(folder)
        wanted = _known(refusals, keys)
        left = [refusal for refusal in refusals if refusal.key not in wanted]
        index = replace(read_index(folder), inputs=RELEASED, refused=len(left))
        write_index(folder, index)  # first: a build in between would only look again
        write_quarantine(folder / QUARANTINE, left)
    return len(left)


def retry(
    cache: str | Path,
    records: Sequence[ScanRecord],
    root: str | Path,
    *,
    keys: Sequence[str] = (),
    jobs: int = 1,
    progress: Progress | None = None,
) -> CacheIndex:
    """Read refused scans again, and add those to the cache that now work.

    The result is what a new build of the same scans would give; volumes that the cache holds are
    taken over, not decoded again. Killed on its way, it leaves the cache as it was.

    Args:
        cache: folder of the cache.
        records: as those that it was built from; those that the cache never saw are left out.
        root: what the records' paths are relative to.
        keys: only these of the refused scans; all if empty.
        jobs: processes that decode; 0 for one a CPU.
        progress: called after each scan.

    Raises:
        TreeError: no cache there, a key that is not in its quarantine, none of its scans below
            `root`, or some of its volumes are of scans that have changed, or that `records` say
            other things of than those did that it was built from.
    """
    folder = Path(cache)
    refusals, index = list_refused(folder), read_index(folder)
    again = _known(refusals, keys) if keys else {refusal.key for refusal in refusals}
    if not again:
        return index
    seen = set(index.entries.column("key").to_pylist()) | {refusal.key for refusal in refusals}
    chosen = [record for record in records if record.key in seen]
    if not chosen:
        raise TreeError(f"{folder}: none of its {len(seen)} scans lies below the root given")
    return build_cache(
        chosen,
        root,
        index.window,
        folder,
        jobs=jobs,
        progress=progress,
        max_bad_fraction=1.0,
        again=again,
        annotations=index.annotations,
    )


def _known(refusals: Sequence[Refusal], keys: Sequence[str]) -> set[str]:
    known = {refusal.key for refusal in refusals}
    unknown = sorted(set(keys) - known)
    if unknown:
        raise TreeError(f"'{unknown[0][:40]}' is not the key of a refused scan of this cache")
    return set(keys)
