"""`open_source(config)`: from a folder or bucket to volumes of one shape with their label table.

The one path that pretraining and fine-tuning share, so that both see the same voxels.
"""

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from oct_io.answers import SCAN_COLUMNS, read_attributes
from oct_io.beside import check_owners, check_split, choose_split, read_tables
from oct_io.bscans import check_masks, list_bscans, remarks_on
from oct_io.cache.build import build_cache
from oct_io.cache.volumes import CachedVolumes, open_cache
from oct_io.cached import is_published, open_published, without_flags
from oct_io.catalog.manifest import Listing, ScanRecord, list_scans
from oct_io.catalog.participants import (
    SITE,
)
from oct_io.catalog.releases import dataset_version
from oct_io.catalog.selection import select_scans
from oct_io.catalog.tables import Row
from oct_io.datasets.contents import Contents, open_dataset
from oct_io.errors import TreeError
from oct_io.labelled import LabelledVolumes as LabelledVolumes
from oct_io.labelled import make_labelled
from oct_io.labels.questions import LabelQuestion
from oct_io.labels.splits import Split
from oct_io.labels.tables import (
    LabelTables,
)
from oct_io.phantom.tree import write_phantom_tree
from oct_io.quarantine import QUARANTINE, write_quarantine
from oct_io.source_config import SourceConfig as SourceConfig
from oct_io.storage.buckets import StorageConfig, configure_storage

MEASURED_VOLUMES = 256  # settle a mean grey level to well under one level

ALONE = (
    "each volume counts as a participant of its own: if some are of one, say whose they are "
    "(participant_from or participant_id of volume.json, or a manifest)"
)

Report = Callable[[str, int, int], None]
"""Called with what is being done, how many are done, and how many there are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Volumes of one shape and what is known about their participants.

    Attributes:
        volumes: every usable scan of the root, resampled.
        labels: what the label table says, of participants and of eyes or scans.
        made_up: true for phantoms.
        split: who is for what, as a table says; None if none says it.
        version: release of the data set, 2 or 3; None without tables.
        flags: how many cached scans have each flag, those that were left out included.
        flagged_out: how many scans were left out for a flag.
        unselected: how many listed scans the selection did not ask for.
        label_rules: of columns that were made of clinical tables, their rule and what went in.
        remarks: what a reader of results must know of the data, a sentence each.
    """

    volumes: CachedVolumes
    labels: LabelTables
    made_up: bool
    split: Split | None = None
    version: int | None = None
    flags: Mapping[str, int] = field(default_factory=dict)
    flagged_out: int = 0
    unselected: int = 0
    label_rules: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    def outside(self, splits: Sequence[str]) -> Sequence[int]:
        """Numbers of the volumes whose participant is in none of the recommended `splits`.

        An array of four bytes each, equal to no list: one of 10^8 would have 36, and be sent to
        each data worker.

        Raises:
            TreeError: none is left.
        """
        people = self.volumes.entries.coded("participant")
        outside = np.flatnonzero(~people.among(self._participants_in(splits)))
        kept = array("I", outside.astype(np.uint32).tobytes())
        if not kept:
            raise TreeError(
                f"all {len(people.codes)} volumes belong to the excluded splits "
                f"{', '.join(splits)}; "
                "set data.excluded_splits=[]"
            )
        return kept

    def measure_intensity(self, numbers: Sequence[int]) -> tuple[float, float]:
        """Mean and standard deviation of the voxels of these volumes, 0 to 255.

        At most `MEASURED_VOLUMES` of them are read, evenly spread over `numbers`.
        """
        many = min(len(numbers), MEASURED_VOLUMES)
        spread = [numbers[turn * len(numbers) // many] for turn in range(many)]
        counts = np.zeros(256, dtype=np.int64)
        for volume in self.volumes.each(spread):
            counts += np.bincount(volume.ravel(), minlength=256)
        levels, share = np.arange(256), counts / counts.sum()
        mean = float((share * levels).sum())
        return mean, float(np.sqrt((share * (levels - mean) ** 2).sum()))

    def participants(self, numbers: Sequence[int]) -> list[str]:
        """Hashed participants of the volumes with these numbers, sorted."""
        return sorted(self.volumes.entries.take(numbers).coded("participant").words)

    def excluded_participants(self, splits: Sequence[str]) -> list[str]:
        """Hashed participants that have volumes and that `outside` leaves out, sorted."""
        present = self.volumes.entries.coded("participant").words
        return sorted(self._participants_in(splits).intersection(present))

    def describe(self, seen: Sequence[int], splits: Sequence[str]) -> dict[str, object]:
        """What a run that trains on the volumes `seen`, outside of `splits`, puts on record.

        Plain values; participants appear as hashes, and no path.
        """
        return {
            "dataset_fingerprint": self.volumes.fingerprint,
            "made_up_data": self.made_up,
            "volumes": len(self.volumes),
            "volumes_in_training": len(seen),
            "scans_refused": len(self.volumes.quarantined),
            "scans_by_flag": dict(self.flags),
            "scans_by_white_level": self.volumes.entries.count_whites(),
            "scans_left_out_for_flags": self.flagged_out,
            "excluded_splits": list(splits),
            "excluded_participants": self.excluded_participants(splits),
            "participants_in_training": self.participants(seen),
            "dataset_version": self.version,
            "label_rules": dict(self.label_rules),
            "remarks": list(self.remarks),
        }

    def write_quarantine(self, path: Path) -> None:
        """Copy the list of refused scans to `path`: a line each, with path, stage and reason."""
        write_quarantine(path, self.volumes.quarantined)

    @property
    def advice(self) -> tuple[str, ...]:
        """What the scans suggest to set otherwise, a sentence each; the settings are no mistake.

        Of participants with both eyes, left ones as they were scanned: nasal is on either side.
        """
        if self.volumes.index.window.mirror_left:
            return ()
        people, eyes = (self.volumes.entries.coded(name) for name in ("participant", "laterality"))
        seen = np.zeros((2, len(people.words)), bool)
        for number, side in enumerate("RL"):
            seen[number, people.codes[eyes.among([side])]] = True
        if not (both := np.count_nonzero(seen.all(axis=0))):
            return ()
        return (
            f"both eyes of {both:,} participants are here, left ones not mirrored: what lies "
            "towards the nose is on either side of the image; data.mirror_left=true puts it on "
            "one, unless the export did",
        )

    @property
    def table(self) -> Mapping[str, Row]:
        """Hashed participant to the columns of the label table; empty without a table."""
        return self.labels.people.rows

    def labelled(
        self,
        question: LabelQuestion | str,
        *,
        test_split: str = "test",
        attributes: Sequence[str] = (),
    ) -> LabelledVolumes:
        """Volumes with an answer to `question`; all volumes of a participant are on one side.

        The test participants are those in the part `test_split` of the split. Without a split, the
        labelled participants are put in four folds balanced by class and site, and the first is
        held out; `test_split=""` holds nobody out.

        Args:
            question: what is asked; a column or preset alone must hold classes.
            test_split: part of the split that is held out.
            attributes: further columns to have beside, such as @device, @site, sex or age.

        Raises:
            TreeError: no table, no such column, cells that are no such answers, or no labelled
                volume on one of the sides.
        """
        return make_labelled(
            self.volumes,
            self.labels,
            question,
            split=self.split,
            test_split=test_split,
            attributes=attributes,
        )

    def attributes(self, columns: Sequence[str]) -> dict[str, NDArray[np.str_]]:
        """The cells of `columns`, a text for each volume; "" where nothing is known.

        Raises:
            TreeError: no table or no such column.
        """
        return read_attributes(self.volumes.entries, self.labels, columns)

    def columns(self) -> tuple[str, ...]:
        """All that `attributes` can be asked for."""
        tables = [one for one in self.labels if one is not None]
        named = dict.fromkeys(name for one in tables for row in one.rows.values() for name in row)
        return (*SCAN_COLUMNS, *(name for name in named if name[:1] != "@" or name == SITE))

    def _participants_in(self, splits: Sequence[str]) -> set[str]:
        """Participants in these parts of the split; nobody without a split.

        Raises:
            TreeError: a part that the split does not have.
        """
        if self.split is None:
            return set()
        for name in splits:
            if name not in self.split.parts:
                known = ", ".join(self.split.parts)
                raise TreeError(f"data.excluded_splits: '{name}' is none of {known}")
        return self.split.participants(splits)


def open_source(config: SourceConfig, report: Report | None = None) -> Source:
    """Draw the phantom if one is asked for, read the manifest, and build or open the cache.

    Raises:
        TreeError: no root, no scans, too many unreadable scans, a label table that is not one, or
            tables of different releases.
    """
    tell = report or _say_nothing
    if config.root and not config.cache:
        raise TreeError("data.cache is not set: give a local folder for the resampled volumes")
    if is_published(config):
        looked, every = _look_beside(config), open_published(config)
        people = every.index.entries.coded("participant").words
        check_split(looked.split, people, config.excluded_splits)
        looked = looked._replace(unselected=every.index.entries.table.num_rows - len(every))
    else:
        looked = look_at(config, tell)
        every = _build(config, looked, tell)
    said = check_owners(looked.split, every.index.entries, config.excluded_splits)
    volumes = without_flags(every, config.flags)
    remarks = remarks_on(config.bscans, volumes.spacings)
    if config.kind == "volume" and len(volumes.entries.coded("participant").words) == len(volumes):
        remarks = (*remarks, ALONE)
    return Source(
        volumes=volumes,
        labels=looked.labels,
        made_up=config.phantom is not None,
        split=looked.split,
        version=looked.version,
        flags=every.entries.count_flags(),
        flagged_out=len(every) - len(volumes),
        unselected=looked.unselected,
        label_rules=looked.label_rules,
        remarks=(*looked.remarks, *said, *remarks),
    )


def _build(config: SourceConfig, looked: "Looked", tell: Report) -> CachedVolumes:
    build_cache(
        looked.records,
        config.root,
        config.cut(),
        config.cache,
        jobs=config.jobs,
        progress=lambda done, total, bad: tell("resampling scans", done, total),
        max_bad_fraction=config.max_bad_fraction,
        tokens=looked.tokens,
        annotations=config.annotations,
    )
    built = open_cache(config.cache)
    check_masks(config.bscans, built.quarantined, Path(config.cache) / QUARANTINE)
    return built


class Looked(NamedTuple):
    """What is known of a source before a scan is decoded."""

    records: list[ScanRecord]  # that the selection asks for
    tokens: Mapping[str, str] | None  # what changes when a file does, as in `Listing`
    labels: LabelTables
    split: Split | None
    version: int | None
    unselected: int
    label_rules: Mapping[str, str]
    remarks: tuple[str, ...]


def look_at(config: SourceConfig, report: Report | None = None) -> Looked:
    """Draw the phantom if one is asked for, list the scans, and read the tables.

    Raises:
        TreeError: as `open_source`, but for what is wrong with voxels.
    """
    tell = report or _say_nothing
    if not config.root:
        raise TreeError("data.root is not set: give a folder or URL, data.root=/path/to/scans")
    _reach(config)
    if config.phantom is not None:
        drawn = partial(tell, "drawing phantoms")
        write_phantom_tree(Path(config.root), config.phantom, drawn)
    contents = open_dataset(config.recipe, config.root) if config.recipe else None
    listing = _list(config, tell) if contents is None else _measured(contents, config.spacing_mm)
    records = select_scans(listing.records, config.selection())
    version = dataset_version(config.root, mixed=config.mixed_releases)
    if contents is None or config.labels:
        labels, rules = read_tables(config, version, records)
    else:
        labels, rules = contents.labels, {}
    split = choose_split(config, labels, contents)
    people = {one.participant for one in records if one.participant_id and not one.refused}
    check_split(split, people, config.excluded_splits)
    return Looked(
        records=records,
        tokens=listing.tokens,
        labels=labels,
        split=split,
        version=version,
        unselected=len(listing.records) - len(records),
        label_rules=rules,
        remarks=() if contents is None else contents.remarks,
    )


def _look_beside(config: SourceConfig) -> Looked:
    """Read the tables of a cache in a bucket, which holds no label; no scan is listed."""
    _reach(config)
    version = dataset_version(config.root, mixed=config.mixed_releases) if config.root else None
    labels, rules = read_tables(config, version, ())
    split = choose_split(config, labels, None)
    if split is None and labels.finer is not None and labels.finer.has("recommended_split"):
        raise TreeError(
            "data.labels says the recommended_split of scans, and a cache in a bucket does not say "
            "which participant a path is of; write one with oct-io split, and name it in data.split"
        )
    unsplit = (
        f"no table says who of the cache is for {' or '.join(config.excluded_splits)}, so that "
        "everybody takes part; data.labels and data.split name tables",
    )
    return Looked(
        records=[],
        tokens=None,
        labels=labels,
        split=split,
        version=version,
        unselected=0,
        label_rules=rules,
        remarks=unsplit if split is None and config.excluded_splits else (),
    )


def _reach(config: SourceConfig) -> None:
    """Reach buckets as configured, and not for this call only: labels lie there as well."""
    if config.storage != StorageConfig():
        configure_storage(config.storage)


def _measured(contents: Contents, spacing_mm: Sequence[float]) -> Listing:
    """Scans of a recipe, those without millimetres with the ones that the settings give."""
    if not spacing_mm:
        return contents.listing
    said = (spacing_mm[0], spacing_mm[1], spacing_mm[2])
    records = [
        replace(one, spacing_mm=said) if one.bscan or one.spacing_mm is not None else one
        for one in contents.listing.records
    ]
    return contents.listing._replace(records=records)


def _list(config: SourceConfig, tell: Report) -> Listing:
    if config.bscans is not None:
        return list_bscans(
            config.root, config.bscans, progress=lambda n, of: tell("looking at images", n, of)
        )
    return list_scans(
        config.root,
        manifest=config.manifest or None,
        cache=config.cache,
        jobs=config.jobs,
        progress=lambda done, total: tell("reading headers", done, total),
        kind=config.scan_kind,
    )


def _say_nothing(what: str, done: int, total: int) -> None:
    """Default report."""
