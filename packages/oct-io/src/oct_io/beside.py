"""Tables beside the scans of a source: what is known of whom, and who is for what."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from oct_io.cache.entries import Entries
from oct_io.catalog.manifest import ScanRecord
from oct_io.catalog.participants import find_participants, hash_ids, read_participants
from oct_io.catalog.releases import refuse_other_release
from oct_io.catalog.tables import Row
from oct_io.datasets.contents import Contents
from oct_io.errors import TreeError
from oct_io.labels.concepts import AI_READI, is_clinical, read_concepts
from oct_io.labels.omop import join_participants, read_omop
from oct_io.labels.splits import Split, read_split, recommended_parts
from oct_io.labels.tables import (
    LabelTable,
    LabelTables,
    finer_level,
    id_form,
    read_label_table,
)
from oct_io.records.record import NOBODY
from oct_io.source_config import SourceConfig


def _above(finer: dict[str, Row], people: dict[str, Row]) -> dict[str, Row]:
    """Rows of participants, those that follow from a finer table above those of the root."""
    if not finer or not people:
        return finer or people
    names = [*next(iter(people.values())), *next(iter(finer.values()))]
    blank = dict.fromkeys(names, "")
    both = dict.fromkeys((*people, *finer))
    return {one: blank | people.get(one, {}) | finer.get(one, {}) for one in both}


def check_split(split: Split | None, people: Collection[str], excluded: Sequence[str]) -> list[str]:
    """What a reader must know of a split and of those who have scans, a sentence each.

    Args:
        split: who is for what; None without any.
        people: hashed participants that have scans.
        excluded: parts that pretraining never sees.

    Raises:
        TreeError: the split is of other people, so that nobody would be left out.
    """
    if split is None or not people or not excluded:
        return []
    known = {one for part in split.parts.values() for one in part}
    if known.isdisjoint(people):
        raise TreeError(
            f"split ({split.rule}): none of its {len(known):,} participants has a scan here, and "
            f"none of the {len(people):,} who have is in it; take the split of these scans (its "
            "table has hashes, as oct-io split writes them), ids as the scans have them, or, in "
            "pretraining, data.excluded_splits=[] to leave nobody out"
        )
    if absent := sum(one not in known for one in people):
        return [
            f"{absent:,} of {len(people):,} participants with scans are in no part of the split "
            f"({split.rule}); they are learned from like those who train"
        ]
    return []


def check_owners(split: Split | None, entries: Entries, excluded: Sequence[str]) -> list[str]:
    """What a reader must know of those whose scans are cached, a sentence each.

    Whose a scan is may stand in its file alone, or nowhere, and neither is known before it is read.

    Args:
        split: who is for what; None without any.
        entries: of a cache.
        excluded: parts that pretraining never sees.

    Raises:
        TreeError: as `check_split`.
    """
    people = entries.coded("participant")
    said = check_split(split, set(people.words) - {NOBODY}, excluded)
    if split is not None and excluded and (count := np.count_nonzero(people.among([NOBODY]))):
        said.append(
            f"{count:,} of {len(entries):,} scans are of nobody that a manifest or their files "
            f"name, so that the split ({split.rule}) leaves none of them out; they are learned "
            "from like scans of those who train"
        )
    return said


def choose_split(
    config: SourceConfig, labels: LabelTables, contents: Contents | None
) -> Split | None:
    """The split that the configuration names, or a recipe, or a table; None without any."""
    if config.split:
        return read_split(config.split)
    if contents is not None and contents.split is not None:
        return contents.split
    return recommended_parts(labels.people.rows)


def _beside(root: str) -> str | None:
    """Table of participants of a root, if there is a root and it has one."""
    return find_participants(root) if root else None


def read_tables(
    config: SourceConfig, version: int | None, records: Sequence[ScanRecord]
) -> tuple[LabelTables, Mapping[str, str]]:
    """Label tables and the rules of their columns; empty if a root has none."""
    place, rules = config.labels or _beside(config.root), dict[str, str]()
    finer, table = None, dict[str, Row]()
    if config.labels and is_clinical(config.labels):
        concepts = read_concepts(config.label_concepts) if config.label_concepts else AI_READI
        clinical = read_omop(config.labels, concepts)
        place = _beside(config.root)
        people, rules = join_participants(clinical, place), dict(clinical.rules)
    elif config.label_concepts:
        raise TreeError("data.label_concepts needs data.labels=FOLDER, a folder of OMOP tables")
    elif place is None:
        return LabelTables(LabelTable()), {}
    elif (file := find_participants(place)) and (level := finer_level(file)) != "participant":
        finer, table = read_label_table(file, level, records)
        place = _beside(config.root)
        people = {} if place in (None, file) else read_participants(place)
    else:
        people = read_participants(place)
    scans = [one.participant_id for one in records]
    forms = id_form(people), id_form(scans)
    table = _above(table, hash_ids(people))
    known = LabelTable(rows=table, form=forms[0], scan_form=forms[1])
    mixes = config.mixed_releases or config.split or recommended_parts(table) is None
    if place is not None and not mixes:
        refuse_other_release(place, version)
    return LabelTables(known, finer), rules
