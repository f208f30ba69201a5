"""From a configured folder or bucket to volumes of one shape with their label table.

The one path that pretraining and fine-tuning share, so that both see the same voxels.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from oct_io.cache import build_cache
from oct_io.dataset import CachedVolumes, open_cache
from oct_io.errors import TreeError
from oct_io.labels import class_names, load_labels
from oct_io.manifest import hash_participant, read_manifest
from oct_io.participants import find_participants, read_participants, recommended_split
from oct_io.phantom.tree import PhantomTree, write_phantom_tree
from oct_io.quarantine import write_quarantine
from oct_io.resample import WINDOWS
from oct_io.tables import Row

TEST_FRACTION = 0.3  # of the participants of a table that recommends no split
MEASURED_VOLUMES = 256  # settle a mean grey level to well under one level

Report = Callable[[str, int, int], None]
"""Called with what is being done, how many are done, and how many there are."""


@dataclass(kw_only=True, slots=True)
class SourceConfig:
    """Where scans lie, and how they become volumes of one shape."""

    name: str = "scans"
    """Short name of the data set; runs are named after it."""

    root: str = ""
    """Folder or URL of a tree like AI-READI's, or of any folder of scans."""

    window: str = "macula6"
    """What is cut out of each scan and how finely: a name in `oct_io.WINDOWS`."""

    cache: str = ""
    """Local folder for the resampled volumes; made once, used by every later run."""

    labels: str = ""
    """Label table, one participant a row; empty: `participants.tsv` under the root, if there."""

    label_columns: list[str] = field(default_factory=list)
    """Columns of the label table that are worth a probe."""

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


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledVolumes:
    """The volumes of a source that have a label, and which of them are held out.

    Attributes:
        volumes: (bscan, row, column) uint8 each.
        labels: class of each volume, from 0.
        participants: hashed participant of each volume.
        held_out: true for the volumes of test participants.
        classes: name of each class.
        split_rule: how the test participants were chosen.
    """

    volumes: CachedVolumes
    labels: NDArray[np.int64]
    participants: NDArray[np.str_]
    held_out: NDArray[np.bool_]
    classes: tuple[str, ...]
    split_rule: str

    @property
    def fingerprint(self) -> str:
        """Hash of the volumes in their order."""
        digest = hashlib.sha256("".join(one.sha256 for one in self.volumes.entries).encode())
        return digest.hexdigest()

    def describe(self) -> str:
        """One line for a log: how many volumes and participants on each side."""
        sides = []
        for name, side in (("train", ~self.held_out), ("test", self.held_out)):
            people = len(np.unique(self.participants[side]))
            sides.append(f"{name} {int(side.sum())} volumes of {people} participants")
        return f"{', '.join(sides)} ({self.split_rule})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Volumes of one shape and what is known about their participants.

    Attributes:
        volumes: every usable scan of the root, resampled.
        table: hashed participant to the columns of the label table; empty without a table.
        made_up: true for phantoms.
    """

    volumes: CachedVolumes
    table: Mapping[str, Row]
    made_up: bool

    def outside(self, splits: Sequence[str]) -> list[int]:
        """Numbers of the volumes whose participant is in none of the recommended `splits`.

        Raises:
            TreeError: none is left.
        """
        inside = self._participants_in(splits)
        entries = self.volumes.entries
        kept = [i for i, entry in enumerate(entries) if entry.participant not in inside]
        if not kept:
            raise TreeError(
                f"all {len(entries)} volumes belong to the excluded splits {', '.join(splits)}; "
                "set data.excluded_splits=[]"
            )
        return kept

    def measure_intensity(self, numbers: Sequence[int]) -> tuple[float, float]:
        """Mean and standard deviation of the voxels of these volumes, 0 to 255.

        At most `MEASURED_VOLUMES` of them are read, evenly spread over `numbers`.
        """
        stride = max(1, len(numbers) // MEASURED_VOLUMES)
        counts = np.zeros(256, dtype=np.int64)
        for number in numbers[::stride][:MEASURED_VOLUMES]:
            counts += np.bincount(self.volumes[number].ravel(), minlength=256)
        levels, share = np.arange(256), counts / counts.sum()
        mean = float((share * levels).sum())
        return mean, float(np.sqrt((share * (levels - mean) ** 2).sum()))

    def excluded_participants(self, splits: Sequence[str]) -> list[str]:
        """Hashed participants that have volumes and that `outside` leaves out, sorted."""
        present = {entry.participant for entry in self.volumes.entries}
        return sorted(present & self._participants_in(splits))

    def write_quarantine(self, path: Path) -> None:
        """Copy the list of refused scans to `path`: a line each, with path, stage and reason."""
        write_quarantine(path, self.volumes.quarantined)

    def labelled(self, column: str, *, test_split: str = "test") -> LabelledVolumes:
        """Volumes with a label in `column`; all volumes of a participant are on one side.

        The test participants are those whose recommended split is `test_split`. A table without
        recommended splits is split here: within each class, in the order of their hashes, the first
        30 % of the participants are held out.

        Raises:
            TreeError: no table, no such column, or no labelled volume on one of the sides.
        """
        if not self.table:
            raise TreeError(
                "no label table: give data.labels=FILE, a CSV or TSV with a column "
                "participant_id and one column a label"
            )
        labels = load_labels(self.table, column)
        entries = self.volumes.entries
        chosen = [i for i, entry in enumerate(entries) if entry.participant in labels]
        people = np.array([entries[i].participant for i in chosen], dtype=np.str_)
        test, rule = self._test_participants(labels, set(people.tolist()), test_split)
        held_out = np.array([one in test for one in people], dtype=bool)
        if held_out.all() or not held_out.any():
            raise TreeError(
                f"label column '{column}': {len(chosen)} labelled volumes, {int(held_out.sum())} "
                f"of them in the test split '{test_split}'; both sides need some"
            )
        values = {one: row[column] for one, row in self.table.items() if one in labels}
        return LabelledVolumes(
            volumes=self.volumes.select(chosen),
            labels=np.array([labels[one] for one in people], dtype=np.int64),
            participants=people,
            held_out=held_out,
            classes=class_names(values, column),
            split_rule=rule,
        )

    def _participants_in(self, splits: Sequence[str]) -> set[str]:
        if not any(row.get("recommended_split") for row in self.table.values()):
            return set()
        found = recommended_split(self.table)
        return {one for one, split in found.items() if split in splits}

    def _test_participants(
        self, labels: Mapping[str, int], present: set[str], test_split: str
    ) -> tuple[set[str], str]:
        if any(row.get("recommended_split") for row in self.table.values()):
            return self._participants_in([test_split]), f"recommended_split {test_split}"
        test: set[str] = set()
        for wanted in set(labels.values()):
            members = sorted(one for one in present if labels[one] == wanted)
            test.update(members[: round(TEST_FRACTION * len(members))])
        return test, f"{TEST_FRACTION:.0%} of the participants of each class, by hash"


def open_source(config: SourceConfig, report: Report | None = None) -> Source:
    """Draw the phantom if one is asked for, read the manifest, and build or open the cache.

    Raises:
        TreeError: no root, no scans, too many unreadable scans, or a label table that is not one.
    """
    if not config.root:
        raise TreeError("data.root is not set: give a folder or URL, data.root=/path/to/scans")
    if not config.cache:
        raise TreeError("data.cache is not set: give a local folder for the resampled volumes")
    tell = report or _say_nothing
    if config.phantom is not None:
        drawn = partial(tell, "drawing phantoms")
        write_phantom_tree(Path(config.root), config.phantom, drawn)
    build_cache(
        read_manifest(config.root),
        config.root,
        WINDOWS[config.window],
        config.cache,
        jobs=config.jobs,
        progress=lambda done, total, bad: tell("resampling scans", done, total),
        max_bad_fraction=config.max_bad_fraction,
    )
    volumes = open_cache(config.cache)
    return Source(volumes=volumes, table=_read_table(config), made_up=config.phantom is not None)


def _say_nothing(what: str, done: int, total: int) -> None:
    """Default report."""


def _read_table(config: SourceConfig) -> dict[str, Row]:
    """Read the label table by hashed participant; a root without one gives nothing."""
    place = config.labels or find_participants(config.root)
    if place is None:
        return {}
    return {hash_participant(key): row for key, row in read_participants(place).items()}
