"""`open_source(config)`: from a folder or bucket to volumes of one shape with their label table.

The one path that pretraining and fine-tuning share, so that both see the same voxels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from oct_io.answers import SCAN_COLUMNS, read_attributes
from oct_io.cache.build import build_cache
from oct_io.cache.volumes import CachedVolumes, open_cache
from oct_io.catalog.concepts import AI_READI, is_clinical, read_concepts
from oct_io.catalog.label_tables import (
    LabelTable,
    LabelTables,
    finer_level,
    id_form,
    read_label_table,
)
from oct_io.catalog.manifest import ScanRecord, list_scans
from oct_io.catalog.omop import join_participants, read_omop
from oct_io.catalog.participants import (
    SITE,
    find_participants,
    hash_ids,
    read_participants,
)
from oct_io.catalog.questions import LabelQuestion
from oct_io.catalog.releases import dataset_version, refuse_other_release
from oct_io.catalog.selection import Selection, select_scans
from oct_io.catalog.splits import Split, read_split, recommended_parts
from oct_io.catalog.tables import Row
from oct_io.errors import TreeError
from oct_io.labelled import LabelledVolumes as LabelledVolumes
from oct_io.labelled import make_labelled
from oct_io.phantom.specification import PhantomTree
from oct_io.phantom.tree import write_phantom_tree
from oct_io.quarantine import write_quarantine
from oct_io.records.opening import check_annotations
from oct_io.scan.flags import check_flag_names
from oct_io.space.resample import WINDOWS
from oct_io.storage.buckets import StorageConfig, configure_storage

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

    manifest: str = ""
    """Table of the scans to take, such as `oct-io manifest` writes, anywhere; empty: the one of the
    tree, or all scans that are found below the root."""

    window: str = "macula6"
    """What is cut out of each scan and how finely: a name in `oct_io.WINDOWS`."""

    mirror_left: bool = False
    """Mirror left eyes, so that nasal is on one side for all; depth stays."""

    devices: list[str] = field(default_factory=list)
    """Scanners to take, by normalised name; empty takes all. One is a single domain, several are a
    multi-domain data set."""

    regions: list[str] = field(default_factory=list)
    """Anatomic regions to take, in the manifest's words; empty takes all, and mixes anatomies."""

    lateralities: list[str] = field(default_factory=list)
    """Eyes to take, R or L; empty takes both."""

    flags: list[str] = field(default_factory=list)
    """Flags that a scan must not have: of motion, lost_bytes, saturation, low_signal,
    clipped_retina, blink, mirrored_depth. Empty leaves none out; what suggests a fault is no proof
    of it, and who leaves out the poor scans of ill eyes changes what is learned."""

    annotations: list[str] = field(default_factory=list)
    """What is cached along with the voxels of scans that have it: `layers` (rows of their layer
    boundaries), `mask` (classes of their voxels). Empty takes neither, and costs nothing."""

    cache: str = ""
    """Local folder for the resampled volumes; made once, used by every later run."""

    labels: str = ""
    """Label table, one participant a row; empty: `participants.tsv` under the root, if there. Or a
    folder of OMOP tables, such as AI-READI's `clinical_data`, that are joined with that table."""

    label_concepts: str = ""
    """Table of the columns to make of OMOP tables, as `read_concepts` takes it; empty: the HbA1c,
    age, years of diabetes and others in `oct_io.catalog.concepts.AI_READI`."""

    label_columns: list[str] = field(default_factory=list)
    """Columns of the label table that are worth a probe, presets such as `healthy_vs_rest`, or
    what a shortcut could rest on: @device, @site, @eye, @region, @protocol."""

    split: str = ""
    """Table that `oct-io split` wrote; empty: the label table's `recommended_split`, if there."""

    excluded_splits: list[str] = field(default_factory=lambda: ["test"])
    """Parts of the split whose participants pretraining never sees."""

    mixed_releases: bool = False
    """Take a label table with a recommended split of another release than the scans. Who is in the
    test split differs between releases, so this can test on people who were trained on."""

    jobs: int = 0
    """Processes that decode and resample; 0 means one for each core."""

    max_bad_fraction: float = 0.5
    """Stop if more than this share of the scans is refused; a few bad ones are normal."""

    storage: StorageConfig = field(default_factory=StorageConfig)
    """How buckets are reached, and whether fetched files are kept; the defaults leave in place what
    `configure_storage` was given."""

    phantom: PhantomTree | None = None
    """Draw this made-up data set at the root first."""

    def __post_init__(self) -> None:
        if self.window not in WINDOWS:
            raise ValueError(f"data.window ({self.window}) must be one of {', '.join(WINDOWS)}")
        WINDOWS[self.window].require_fixed_shape()
        self.selection()
        if "://" in self.cache:
            raise ValueError(f"data.cache ({self.cache}) must be a local folder, not a URL")
        check_flag_names(self.flags, "data.flags")
        check_annotations(self.annotations, "data.annotations")
        if not 0 <= self.max_bad_fraction <= 1:
            raise ValueError(f"data.max_bad_fraction ({self.max_bad_fraction}) must be 0 to 1")

    def selection(self) -> Selection:
        """Scans to take."""
        return Selection(devices=self.devices, regions=self.regions, lateralities=self.lateralities)


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
        label_rules: of columns that were made of clinical tables, their rule and what went in.
    """

    volumes: CachedVolumes
    labels: LabelTables
    made_up: bool
    split: Split | None = None
    version: int | None = None
    flags: Mapping[str, int] = field(default_factory=dict)
    flagged_out: int = 0
    label_rules: Mapping[str, str] = field(default_factory=dict)

    def outside(self, splits: Sequence[str]) -> list[int]:
        """Numbers of the volumes whose participant is in none of the recommended `splits`.

        Raises:
            TreeError: none is left.
        """
        people = self.volumes.entries.coded("participant")
        kept: list[int] = np.flatnonzero(~people.among(self._participants_in(splits))).tolist()
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
        stride = max(1, len(numbers) // MEASURED_VOLUMES)
        counts = np.zeros(256, dtype=np.int64)
        for number in numbers[::stride][:MEASURED_VOLUMES]:
            counts += np.bincount(self.volumes[number].ravel(), minlength=256)
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
        }

    def write_quarantine(self, path: Path) -> None:
        """Copy the list of refused scans to `path`: a line each, with path, stage and reason."""
        write_quarantine(path, self.volumes.quarantined)

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
    if not config.root:
        raise TreeError("data.root is not set: give a folder or URL, data.root=/path/to/scans")
    if not config.cache:
        raise TreeError("data.cache is not set: give a local folder for the resampled volumes")
    if config.storage != StorageConfig():
        configure_storage(config.storage)  # and not for this call only: labels lie there as well
    tell = report or _say_nothing
    if config.phantom is not None:
        drawn = partial(tell, "drawing phantoms")
        write_phantom_tree(Path(config.root), config.phantom, drawn)
    listing = list_scans(
        config.root,
        manifest=config.manifest or None,
        cache=config.cache,
        jobs=config.jobs,
        progress=lambda done, total: tell("reading headers", done, total),
    )
    records = select_scans(listing.records, config.selection())
    version = dataset_version(config.root, mixed=config.mixed_releases)
    labels, rules = _read_tables(config, version, records)
    split = read_split(config.split) if config.split else recommended_parts(labels.people.rows)
    build_cache(
        records,
        config.root,
        replace(WINDOWS[config.window], mirror_left=config.mirror_left),
        config.cache,
        jobs=config.jobs,
        progress=lambda done, total, bad: tell("resampling scans", done, total),
        max_bad_fraction=config.max_bad_fraction,
        tokens=listing.tokens,
        annotations=config.annotations,
    )
    every = open_cache(config.cache)
    volumes = _without_flags(every, config.flags)
    return Source(
        volumes=volumes,
        labels=labels,
        made_up=config.phantom is not None,
        split=split,
        version=version,
        flags=every.entries.count_flags(),
        flagged_out=len(every) - len(volumes),
        label_rules=rules,
    )


def _without_flags(volumes: CachedVolumes, flags: Sequence[str]) -> CachedVolumes:
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


def _say_nothing(what: str, done: int, total: int) -> None:
    """Default report."""


def _read_tables(
    config: SourceConfig, version: int | None, records: Sequence[ScanRecord]
) -> tuple[LabelTables, Mapping[str, str]]:
    """Label tables and the rules of their columns; empty if a root has none."""
    place, rules = config.labels or find_participants(config.root), dict[str, str]()
    finer, table = None, dict[str, Row]()
    if config.labels and is_clinical(config.labels):
        concepts = read_concepts(config.label_concepts) if config.label_concepts else AI_READI
        clinical = read_omop(config.labels, concepts)
        place = find_participants(config.root)
        people, rules = join_participants(clinical, place), dict(clinical.rules)
    elif config.label_concepts:
        raise TreeError("data.label_concepts needs data.labels=FOLDER, a folder of OMOP tables")
    elif place is None:
        return LabelTables(LabelTable()), {}
    elif (file := find_participants(place)) and (level := finer_level(file)) != "participant":
        finer, table = read_label_table(file, level, records)
        place = find_participants(config.root)
        people = {} if place in (None, file) else read_participants(place)
    else:
        people = read_participants(place)
    scans = [one.participant_id for one in records]
    forms = id_form(people), id_form(scans)
    table = hash_ids(people) or table
    known = LabelTable(rows=table, form=forms[0], scan_form=forms[1])
    mixes = config.mixed_releases or config.split or recommended_parts(table) is None
    if place is not None and not mixes:
        refuse_other_release(place, version)
    return LabelTables(known, finer), rules
