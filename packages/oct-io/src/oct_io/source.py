"""From a configured folder or bucket to volumes of one shape with their label table.

The one path that pretraining and fine-tuning share, so that both see the same voxels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import fsspec

from oct_io.cache import build_cache
from oct_io.dataset import CachedVolumes
from oct_io.errors import TreeError
from oct_io.manifest import hash_participant, read_manifest
from oct_io.participants import read_participants
from oct_io.phantom import PhantomTree, write_phantom_tree
from oct_io.resample import WINDOWS

Report = Callable[[str, int, int], None]
"""Called with what is being done, how many are done, and how many there are."""


@dataclass(kw_only=True, slots=True)
class SourceConfig:
    """Where scans lie, and how they become volumes of one shape."""

    root: str = ""
    """Folder or URL of a tree like AI-READI's, or of any folder of scans."""

    window: str = "macula6"
    """What is cut out of each scan and how finely: a name in `oct_io.WINDOWS`."""

    cache: str = ""
    """Local folder for the resampled volumes; made once, used by every later run."""

    labels: str = ""
    """Label table, one participant a row; empty: `participants.tsv` under the root, if there."""

    excluded_splits: list[str] = field(default_factory=lambda: ["test"])
    """Values of `recommended_split` whose participants pretraining never sees."""

    jobs: int = 0
    """Processes that decode and resample; 0 means one for each core."""

    max_bad_fraction: float = 0.5
    """Stop if more than this share of the scans is refused; a few bad ones are normal."""

    phantom: PhantomTree | None = None
    """Draw this made-up data set at the root first."""

    def __post_init__(self) -> None:
        if self.window not in WINDOWS:
            raise ValueError(f"data.window ({self.window}) must be one of {', '.join(WINDOWS)}")
        if not 0 <= self.max_bad_fraction <= 1:
            raise ValueError(f"data.max_bad_fraction ({self.max_bad_fraction}) must be 0 to 1")


@dataclass(frozen=True, slots=True)
class Source:
    """Volumes of one shape and what is known about their participants.

    Attributes:
        volumes: every usable scan of the root, resampled.
        table: hashed participant to the columns of the label table; empty without a table.
        made_up: true for phantoms.
    """

    volumes: CachedVolumes
    table: Mapping[str, Mapping[str, str]]
    made_up: bool

    def split_of(self, index: int) -> str:
        """The recommended split of the participant of volume `index`; "" where unknown."""
        row = self.table.get(self.volumes.entries[index].participant, {})
        return row.get("recommended_split", "").strip().lower()

    def outside(self, splits: Sequence[str]) -> list[int]:
        """Indices of the volumes whose participant is in none of `splits`."""
        kept = [i for i in range(len(self.volumes)) if self.split_of(i) not in splits]
        if not kept:
            raise TreeError(
                f"all {len(self.volumes)} volumes belong to the excluded splits "
                f"{', '.join(splits)}; set data.excluded_splits=[]"
            )
        return kept

    def excluded_participants(self, splits: Sequence[str]) -> list[str]:
        """Hashed participants that `outside` leaves out, sorted."""
        indices = range(len(self.volumes))
        return sorted({self.volumes.entries[i].participant for i in indices if self.split_of(i) in splits})


def open_source(config: SourceConfig, report: Report | None = None) -> Source:
    """Draw the phantom if one is asked for, read the manifest, and build or open the cache.

    Raises:
        TreeError: no root, no scans, too many unreadable scans, or a label table that is not one.
    """
    if not config.root:
        raise TreeError("data.root is not set: give a folder or URL, such as data.root=/path/to/scans")
    if not config.cache:
        raise TreeError("data.cache is not set: give a local folder for the resampled volumes")
    tell = report or (lambda what, done, total: None)
    if config.phantom is not None:
        write_phantom_tree(
            Path(config.root), config.phantom, lambda done, total: tell("drawing phantoms", done, total)
        )
    records = read_manifest(config.root)
    volumes = build_cache(
        records,
        config.root,
        WINDOWS[config.window],
        Path(config.cache),
        jobs=config.jobs,
        progress=lambda done, total, bad: tell("resampling scans", done, total),
        max_bad_fraction=config.max_bad_fraction,
    )
    return Source(volumes=volumes, table=_read_table(config), made_up=config.phantom is not None)


def _read_table(config: SourceConfig) -> dict[str, Mapping[str, str]]:
    """Read the label table by hashed participant; without one, nothing."""
    place = config.labels or f"{config.root.rstrip('/')}/participants.tsv"
    if not config.labels:
        filesystem, path = fsspec.core.url_to_fs(place)
        if not filesystem.exists(path):
            return {}
    return {hash_participant(key): row for key, row in read_participants(place).items()}
