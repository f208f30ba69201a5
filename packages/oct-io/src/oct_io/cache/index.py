"""The index of a cache: what each record is, where it lies, and what all of them add up to."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from oct_io.errors import TreeError
from oct_io.saving import appearing
from oct_io.space.resample import Window

INDEX = "index.json"
FORMAT, VERSION = "oct-io-cache", 1

Triple = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheEntry:
    """One resampled scan of a cache; identities are hashed.

    Attributes:
        participant: hashed participant, `hash_participant`.
        key: hashed path of the scan, `ScanRecord.key`.
        device: normalised device name.
        laterality: "R", "L" or "unknown".
        region: anatomic region.
        protocol: normalised protocol token.
        spacing: millimetres between voxel centres of the record.
        spacing_source: where the distance between the scan's B-scans came from.
        origin_mm: from the scan's outer corner to the record's; negative where padded.
        source_shape: (bscans, rows, columns) of the scan.
        source_spacing: millimetres between voxel centres of the scan.
        sha256: of the record's bytes.
        shard: number of the file that holds it.
        slot: position within that file, in records.
        mirrored: columns run from the scan's last to its first.
        source: hash of the scan's record and of the state of its file; "" if not known.
        flags: what is suspicious about the scan, of `oct_io.scan.flags.FLAGS`.
        signal_db: how far its tissue stands out from noise; None in a cache older than flags.
        white: grey level of the scan that became 255; None likewise.
    """

    participant: str
    key: str
    device: str
    laterality: str
    region: str
    protocol: str
    spacing: Triple
    spacing_source: str
    origin_mm: Triple
    source_shape: tuple[int, int, int]
    source_spacing: Triple
    sha256: str
    shard: int
    slot: int
    mirrored: bool = False
    source: str = ""
    flags: tuple[str, ...] = ()
    signal_db: float | None = None
    white: int | None = None

    def placed(self, shard: int, slot: int) -> "CacheEntry":
        """Return the same entry at its place in the cache."""
        return replace(self, shard=shard, slot=slot)

    def from_source(self, source: str) -> "CacheEntry":
        """Return the same entry, not yet placed, of a scan in the given state."""
        return replace(self, source=source, shard=0, slot=0)


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
    """

    window: Window
    entries: tuple[CacheEntry, ...]
    shards: tuple[int, ...]
    mean: float
    std: float
    percentiles: Triple
    inputs: str
    fingerprint: str
    refused: int

    @property
    def record_bytes(self) -> int:
        """Bytes of one record."""
        bscans, rows, columns = self.window.shape
        return bscans * rows * columns


def fingerprint(window: Window, hashes: Iterable[str]) -> str:
    """Hash of the window and the sorted hashes of the records."""
    content = json.dumps([asdict(window), sorted(hashes)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"shard-{number:05d}.u8"


def write_index(path: Path, index: CacheIndex) -> None:
    """Write `index` as JSON; an older one stays whole until the new one is."""
    tree = {"format": FORMAT, "version": VERSION, **asdict(index)}
    with appearing(path, durable=True) as part:
        part.write_text(json.dumps(tree, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def read_index(folder: Path) -> CacheIndex:
    """Read the index of the cache in `folder`.

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
    if version != VERSION:
        raise TreeError(f"{path}: version {version}, this reads {VERSION}; build it again")
    try:
        return _from_tree(tree)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise TreeError(f"{path}: the index is damaged; build it again") from error


def entry_from_tree(tree: dict[str, Any]) -> CacheEntry:
    """Turn the JSON form of an entry back into one."""
    values: dict[str, Any] = {
        key: tuple(one) if isinstance(one, list) else one for key, one in tree.items()
    }
    return CacheEntry(**values)


def _from_tree(tree: dict[str, Any]) -> CacheIndex:
    window = Window(**tree.pop("window"))
    entries = tuple(map(entry_from_tree, tree.pop("entries")))
    shards, percentiles = tuple(tree.pop("shards")), tuple(tree.pop("percentiles"))
    return CacheIndex(
        window=window, entries=entries, shards=shards, percentiles=percentiles, **tree
    )
