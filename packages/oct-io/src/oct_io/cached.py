"""A cache as a source takes it: one that was published, as it lies there, and what is left out."""

from collections.abc import Sequence

from oct_io.cache.volumes import CachedVolumes, open_cache
from oct_io.catalog.manifest import ScanRecord
from oct_io.catalog.selection import Selection, select_scans
from oct_io.errors import TreeError
from oct_io.source_config import SourceConfig
from oct_io.storage.files import redact


def is_published(config: SourceConfig) -> bool:
    """Whether the cache lies in a bucket, from which it is read and in which none is built."""
    return "://" in config.cache


def open_published(config: SourceConfig) -> CachedVolumes:
    """Volumes of a cache in a bucket; no scan is looked at.

    Raises:
        TreeError: no cache there, one of another window or without the annotations that are asked
            for, or nothing that the selection asks for.
    """
    volumes = open_cache(config.cache, kept=config.kept, kept_gb=config.kept_gb)
    wanted = config.cut()
    if volumes.window != wanted:
        raise TreeError(
            f"{redact(config.cache)}: was cut out by {volumes.window}, and data.window="
            f"{config.window} is {wanted}; set data.window, data.mirror_left and "
            "data.flatten to the cache's"
        )
    missing = sorted(set(config.annotations) - set(volumes.index.annotations))
    if missing:
        raise TreeError(
            f"{redact(config.cache)}: was built without {' and '.join(missing)}; build it with "
            f"--annotations {' '.join(config.annotations)}, and publish that"
        )
    return _select(volumes, config.selection())


def _select(volumes: CachedVolumes, selection: Selection) -> CachedVolumes:
    """Volumes of the devices, regions and eyes that are asked for."""
    if selection == Selection():
        return volumes
    names = ("device", "region", "laterality")
    columns = [volumes.entries.coded(name).texts().tolist() for name in names]
    records = [
        ScanRecord(path=str(number), device=device, region=region, laterality=eye)
        for number, (device, region, eye) in enumerate(zip(*columns, strict=True))
    ]
    return volumes.select(int(one.path) for one in select_scans(records, selection))


def without_flags(volumes: CachedVolumes, flags: Sequence[str]) -> CachedVolumes:
    """Volumes of scans that have none of these flags.

    Raises:
        TreeError: the cache is older than flags, or none is left.
    """
    if not flags:
        return volumes
    if volumes.entries.column("signal_db").null_count:
        raise TreeError(
            f"{volumes.folder}: made before scans had flags; delete it, and data.flags works"
        )
    kept = volumes.select(volumes.entries.without_flags(flags))
    if not len(kept):
        raise TreeError(f"all {len(volumes)} scans have a flag of data.flags ({', '.join(flags)})")
    return kept
