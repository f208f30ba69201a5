"""The index of a cache: what each record is, where it lies, and what all of them add up to."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from oct_io.cache.entries import Entries, Triple, entry_from_tree
from oct_io.cache.table import ENTRIES, collect_entries, map_entries, write_entries
from oct_io.errors import TreeError
from oct_io.saving import appearing
from oct_io.space.resample import Window

INDEX = "index.json"
FORMAT, VERSION = "oct-io-cache", 2
ENTRIES_WITHIN = 1  # the version whose index.json held the entries as well; it is still read
ANNOTATED = 3  # the version of caches that were asked for annotations

HASHED_AT_ONCE = 1 << 14


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheIndex:
    """Everything about a cache but its voxels.

    Attributes:
        window: what was cut out of each scan.
        entries: one a record, in the order of the scans' paths.
        shards: number of records in each shard file.
        mean: of all voxels, padding included, 0 to 255.
        std: likewise.
        percentiles: grey level below which 1, 50 and 99 percent of the voxels lie.
        inputs: hash of what the cache was built from; the same inputs are not built again.
        fingerprint: hash of window and records, whatever their order.
        refused: number of scans in the quarantine.
        annotations: what was asked for along with voxels: layers, mask.
        whites: how many scans have which grey level as white, and by which rule.
        annotation_bytes: of each shard's file of annotations; 0 where there is none.
    """

    window: Window
    entries: Entries
    shards: tuple[int, ...]
    mean: float
    std: float
    percentiles: Triple
    inputs: str
    fingerprint: str
    refused: int
    annotations: tuple[str, ...] = ()
    annotation_bytes: tuple[int, ...] = ()
    whites: Mapping[str, int] = field(default_factory=dict)

    @property
    def record_bytes(self) -> int:
        """Bytes of one record."""
        bscans, rows, columns = self.window.shape
        return bscans * rows * columns


def fingerprint(
    window: Window, hashes: NDArray[np.bytes_], annotations: tuple[str, ...] = ()
) -> str:
    """Hash of the window and of the sorted hashes of the records, 32 bytes each.

    What was asked for along with voxels goes in as well, whether or not any scan had it.
    """
    asked = f"{json.dumps(annotations)}, " if annotations else ""
    digest = hashlib.sha256(f"[{json.dumps(asdict(window), sort_keys=True)}, {asked}[".encode())
    ordered = np.sort(hashes)
    for first in range(0, len(ordered), HASHED_AT_ONCE):
        part = ordered[first : first + HASHED_AT_ONCE].tobytes().hex()
        texts = (f'"{part[n : n + 64]}"' for n in range(0, len(part), 64))
        digest.update((", " if first else "").encode() + ", ".join(texts).encode())
    digest.update(b"]]")  # the JSON of both, never whole in memory
    return digest.hexdigest()


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"shard-{number:05d}.u8"


def annotation_name(number: int) -> str:
    """File name of the annotations of a shard."""
    return f"shard-{number:05d}.ann"


class Spoilt(NamedTuple):
    """A file of a cache that is not as long as the index says."""

    name: str
    size: int  # -1 if it is not there
    wanted: int


def find_spoilt_shard(folder: Path, index: CacheIndex) -> Spoilt | None:
    """The first file of voxels or annotations that is not as long as the index says."""
    wanted = {shard_name(n): records * index.record_bytes for n, records in enumerate(index.shards)}
    wanted |= {annotation_name(n): size for n, size in enumerate(index.annotation_bytes) if size}
    for name, right in wanted.items():
        try:
            size = os.stat(f"{folder}/{name}").st_size
        except OSError:
            size = -1
        if size != right:
            return Spoilt(name, size, right)
    return None


def write_index(folder: Path, index: CacheIndex) -> None:
    """Write `index` to a cache; an older one stays whole until the new one is.

    The entries are written first, unless the table that lies there is theirs.
    """
    table, entries = folder / ENTRIES, index.entries
    if not entries.digest:
        with appearing(table, durable=True) as part:
            write_entries(part, entries)
        entries = map_entries(table)
    about = {"count": len(entries), "bytes": table.stat().st_size, "sha256": entries.digest}
    tree = {one.name: getattr(index, one.name) for one in fields(index)}
    version = ANNOTATED if index.annotations else VERSION
    tree |= {"format": FORMAT, "version": version, "window": asdict(index.window)}
    if not index.annotations:  # such a cache is what it always was, byte for byte
        del tree["annotations"], tree["annotation_bytes"]
    with appearing(folder / INDEX, durable=True) as part:
        text = json.dumps(tree | {"entries": about}, indent=1, sort_keys=True)
        part.write_text(text + "\n", encoding="utf-8")


def read_index(folder: Path) -> CacheIndex:
    """Read the index of the cache in `folder`; its entries are read where they are asked for.

    Raises:
        TreeError: no cache there, a damaged index, or one of another version.
    """
    path = folder / INDEX
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise TreeError(f"{folder}: no cache here, it lacks {INDEX}") from error
    except (OSError, ValueError) as error:
        raise TreeError(f"{path}: not readable ({type(error).__name__}); build it again") from error
    if not isinstance(tree, dict) or tree.pop("format", "") != FORMAT:
        raise TreeError(f"{path}: not the index of an oct-io cache")
    version = tree.pop("version", None)
    if version not in (ENTRIES_WITHIN, VERSION, ANNOTATED):
        reads = f"{VERSION} and {ANNOTATED}"
        raise TreeError(f"{path}: version {version}, this reads {reads}; build it again")
    try:
        entries = _entries(folder, tree.pop("entries"), within=version == ENTRIES_WITHIN)
        return _from_tree(tree, entries)
    except (OSError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise TreeError(f"{path}: the index is damaged; build it again") from error


def _entries(folder: Path, about: Any, *, within: bool) -> Entries:
    if within:
        return collect_entries(map(entry_from_tree, about))
    path = folder / ENTRIES
    if path.stat().st_size != about["bytes"]:
        raise ValueError(f"{path} is cut off")
    entries = map_entries(path, about["sha256"])
    if len(entries) != about["count"]:
        raise ValueError(f"{path} has {len(entries)} entries")
    return entries


def _from_tree(tree: dict[str, Any], entries: Entries) -> CacheIndex:
    window = Window(**tree.pop("window"))
    shards, percentiles = tuple(tree.pop("shards")), tuple(tree.pop("percentiles"))
    for name in ("annotations", "annotation_bytes"):
        tree[name] = tuple(tree.get(name, ()))
    return CacheIndex(
        window=window, entries=entries, shards=shards, percentiles=percentiles, **tree
    )
