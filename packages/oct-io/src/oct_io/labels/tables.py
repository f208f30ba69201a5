"""Whose labels a table holds: of participants, of eyes, or of scans; and which rows meet a scan."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

from oct_io.catalog.manifest import ScanRecord, hash_participant
from oct_io.catalog.participants import LINE, SPLITS, find_participants, read_participants
from oct_io.catalog.selection import EYES
from oct_io.catalog.tables import ID_COLUMNS, MISSING, Row, cell, id_column, normal_id, number_rows
from oct_io.errors import TreeError
from oct_io.labels.classes import PRESETS
from oct_io.storage.files import redact, safe_relative

Level = Literal["participant", "eye", "scan"]

SCAN_NAMES = ("filepath", "path", "scan")
EYE_NAMES = ("laterality", "eye")
SAMPLED = 1000  # ids that a form is told from
SAID_ELSEWHERE = (
    "whose a scan is must be said where scans are listed: data.bscans, volume.json "
    "(participant_from) or data.manifest"
)
RUNS = re.compile(r"[0-9]+|[A-Za-z]+|[^0-9A-Za-z]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelTable:
    """The rows of a label table by what they are of.

    Attributes:
        level: participant, eye or scan: what one row is of.
        rows: of participants by their hash; of eyes by hash and R or L, as "0123456789ab R"; of
            scans by `ScanRecord.key`.
        form: what its ids or paths look like, without any of them.
        scan_form: what those of the scans look like.
    """

    level: Level = "participant"
    rows: Mapping[str, Row] = field(default_factory=dict, repr=False)
    form: str = ""
    scan_form: str = ""

    def has(self, column: str) -> bool:
        """Whether its rows have such a column."""
        return any(column in row for row in islice(self.rows.values(), 1))

    def refuse_strangers(self) -> TreeError:
        """The error to raise where no row is of any scan."""
        what = {"scan": "path", "eye": "participant and eye", "participant": "participant"}
        cure = "write ids as the scans have them"
        if self.level == "scan":
            cure = "write paths relative to data.root"
        return TreeError(
            f"label table: no scan is of the {what[self.level]} of any of its {len(self.rows)} "
            f"rows; the table says {self.form}, the scans say {self.scan_form}; {cure}"
        )


class LabelTables(NamedTuple):
    """All that tables say: of participants, and of eyes or scans where there is such a table."""

    people: LabelTable
    finer: LabelTable | None = None

    def of(self, column: str) -> LabelTable:
        """The table that has this column, or what a preset of this name asks; the finer first."""
        if self.finer is None:
            return self.people
        asked = column
        if column in PRESETS and not self.finer.has(column) and not self.people.has(column):
            asked = "study_group"
        return self.finer if self.finer.has(asked) else self.people


def finer_level(url: str | Path) -> Level:
    """What the rows of a table are of, by its columns.

    A column filepath, path or scan makes them rows of scans; a column laterality or eye that says
    R or L (OD, OS, right, left) in each row, rows of eyes. One that says it in no row, such as the
    colour of eyes, means nothing.

    Raises:
        TreeError: as `read_table`, or it says R or L in some rows and not in others.
    """
    rows = number_rows(url)
    if not rows:
        return "participant"
    if _named(rows[0][1], SCAN_NAMES):
        return "scan"
    eye = _named(rows[0][1], EYE_NAMES)
    without = [line for line, row in rows if _eye(row.get(eye, "")) not in ("R", "L")]
    if without and len(without) < len(rows):
        raise TreeError(
            f"{redact(url)}: {len(without)} of {len(rows)} rows say no R or L in the column {eye}, "
            f"the first in line {without[0]}; labels of eyes need it in each row, and without that "
            "column a row is of a participant"
        )
    return "participant" if without else "eye"


def read_people(place: str | Path, column: str) -> dict[str, Row]:
    """Rows of a table by participant id, to make a split of, whatever its rows are of.

    Of several rows of a participant, eyes or scans, the one counts that has the rarest answer in
    `column`: a split that is alike in those has enough of them in each part.

    Args:
        place: a table, or a folder that holds one of participants.
        column: label that the split is balanced by.

    Raises:
        TreeError: as `read_participants` and `finer_level`, a row without a participant, or a
            participant in two parts of `recommended_split`.
    """
    url = find_participants(place)
    if url is None or finer_level(url) == "participant":
        return read_participants(place)
    where, found, owners = redact(url), dict[str, Row](), dict[str, str]()
    for line, row in number_rows(url):
        name = id_column(row, where)
        if not (owner := normal_id(cell(row, name))):
            raise TreeError(f"{where}: line {line} has no {name}")
        found[str(line)], owners[str(line)] = row | {LINE: str(line)}, owner
    _refuse_two_parts(found, owners, where)
    often = Counter(row.get(column, "") for row in found.values())
    rarest = sorted(
        found, key=lambda one: (not cell(found[one], column), often[found[one].get(column, "")])
    )
    people: dict[str, Row] = {}
    for one in rarest:
        people.setdefault(owners[one], found[one])
    return people


def read_label_table(
    url: str | Path, level: Level, records: Sequence[ScanRecord]
) -> tuple[LabelTable, dict[str, Row]]:
    """Rows of a table of eyes or of scans; and rows by hashed participant that follow from them.

    A scan is named by its path below the root, or by the last part of that, with or without its
    ending, where no other scan has the same. A participant has those columns in which all of its
    rows agree.

    Args:
        url: of the table.
        level: as from `finer_level`.
        records: the scans there are.

    Raises:
        TreeError: no column of ids, a row without one, two rows of one eye or scan, scans that the
            table says are of one participant and that are not, or a participant in two parts of
            `recommended_split`.
    """
    found: dict[str, Row] = {}
    owners: dict[str, str] = {}
    whose: dict[str, str] = {}
    said: list[str] = []
    where = redact(url)
    scans = _Paths(records) if level == "scan" else None
    for line, row in number_rows(url):
        if scans is not None:
            name = cell(row, _named(row, SCAN_NAMES))
            key, owner = _scan_of(row, name, scans, whose, f"{where}: line {line}")
        else:
            name = normal_id(cell(row, id_column(row, where)))
            owner = hash_participant(name)
            key = f"{owner} {_eye(row[_named(row, EYE_NAMES)])}"
        if not name:
            raise TreeError(f"{where}: line {line} does not say which {level} it is of")
        if key in found:
            raise TreeError(f"{where}: line {line} repeats the {level} of an earlier line")
        said.append(name)
        found[key] = row | {LINE: str(line)}
        if owner:
            owners[key] = owner
    form, scan_form = (path_form(said), path_form(one.path for one in records))
    if scans is None:
        form, scan_form = id_form(said), id_form(one.participant_id for one in records)
    table = LabelTable(level=level, rows=found, form=form, scan_form=scan_form)
    _refuse_two_parts(found, owners, where)
    return table, agree(found, owners)


def _scan_of(
    row: Row, name: str, scans: "_Paths", whose: dict[str, str], place: str
) -> tuple[str, str]:
    """Key of the scan of a row, and its hashed participant, "" if unknown.

    A table of labels cannot say whose a scan is, since pretraining must know it, too. So what it
    says of that must agree with the scans.

    Args:
        row: of a table of scans.
        name: what it calls the scan.
        scans: those there are.
        whose: participant as the table says it, to the one of its scans; added to.
        place: of the row, for messages.

    Raises:
        TreeError: scans that are of one participant here and not there, or a part of a split for a
            scan of which nobody says whose it is.
    """
    path, member = safe_relative(name) or name, cell(row, "member")
    record = scans.find(path, member)
    if record is None:
        return ScanRecord(path=path, member=member).key, ""
    owner = record.participant if record.participant_id else ""
    stated, counted = normal_id(cell(row, _named(row, ID_COLUMNS))), owner or record.key
    if stated and whose.setdefault(stated, counted) != counted:
        raise TreeError(
            f"{place} names the participant of an earlier line, and the scans of both count as of "
            f"two; {SAID_ELSEWHERE}"
        )
    if not owner and cell(row, "recommended_split"):
        raise TreeError(
            f"{place} says the recommended_split of a scan of which nobody says whose it is; "
            f"{SAID_ELSEWHERE}"
        )
    return record.key, owner


def _refuse_two_parts(rows: Mapping[str, Row], owners: Mapping[str, str], where: str) -> None:
    """Refuse a split that is none of participants: half of one would be learned from, unseen.

    Raises:
        TreeError: with the line of the row that puts its participant elsewhere.
    """
    part_of: dict[str, str] = {}
    for key, owner in owners.items():
        part = cell(rows[key], "recommended_split").lower()
        part = SPLITS.get(part, part)
        if part_of.setdefault(owner, part) != part:
            raise TreeError(
                f"{where}: line {rows[key][LINE]} puts its participant into another part of "
                "recommended_split than an earlier line; all rows of a participant must say the "
                "same"
            )


def agree(rows: Mapping[str, Row], owners: Mapping[str, str]) -> dict[str, Row]:
    """By participant, the cells that are the same in all of its rows.

    Args:
        rows: by the key of what they are of.
        owners: key to hashed participant.
    """
    found: dict[str, Row] = {}
    for key, owner in owners.items():
        row = rows[key]
        if owner in found:
            known = found[owner]
            found[owner] = {name: one for name, one in known.items() if row.get(name) == one}
        else:
            found[owner] = {name: one for name, one in row.items() if name != LINE}
    every = dict.fromkeys(name for row in found.values() for name in row)
    return {owner: dict.fromkeys(every, "") | row for owner, row in found.items()}


class _Paths:
    """The scans of a data set by all that a table may call them."""

    def __init__(self, records: Sequence[ScanRecord]) -> None:
        self.whole: dict[tuple[str, str], ScanRecord] = {}
        self.last: dict[tuple[str, str], ScanRecord | None] = {}
        for record in records:
            last = record.path.rsplit("/", 1)[-1]
            for name in {last, _stem(last)}:
                key = name, record.member
                self.last[key] = None if key in self.last else record
            self.whole.setdefault((_stem(record.path), record.member), record)
        self.whole |= {(record.path, record.member): record for record in records}

    def find(self, path: str, member: str) -> ScanRecord | None:
        """The scan that a path, made safe, or its last part means; None if none is."""
        record = self.whole.get((path, member))
        if record is None:
            alike = self.last.get((path.rsplit("/", 1)[-1], member))
            if alike is not None and _ends_alike(path, alike.path):
                record = alike
        return record


def _ends_alike(stated: str, path: str) -> bool:
    """Whether one of two paths is the other below some folder, with or without its ending."""
    one, whole, bare = f"/{stated}", f"/{path}", f"/{_stem(path)}"
    return whole.endswith(one) or bare.endswith(one) or one.endswith((whole, bare))


def _stem(name: str) -> str:
    return name.removesuffix(".gz").rsplit(".", 1)[0]


def _named(row: Row, names: Sequence[str]) -> str:
    """The column of `row` that has one of `names`, whatever its case; "" if it has none."""
    return next((one for one in row if one.lower().replace(" ", "_") in names), "")


def _eye(text: str) -> str:
    return EYES.get(text.lower(), "")


def id_form(ids: Iterable[str]) -> str:
    """What most of these ids look like, and none of them: "4 digits", "'P' and 3 digits".

    Letters and signs are quoted where all ids have the same.
    """
    some = list(islice((one for one in ids if one.lower() not in MISSING), SAMPLED))
    if not some:
        return "no participant"
    taken = [RUNS.findall(one) for one in some]
    shapes = Counter(tuple((_sort(run), len(run)) for run in runs) for runs in taken)
    shape, times = shapes.most_common(1)[0]
    alike = [runs for runs in taken if tuple((_sort(run), len(run)) for run in runs) == shape]
    parts = []
    for number, (sort, length) in enumerate(shape):
        words = {runs[number] for runs in alike}
        shared = sort != "digit" and len(alike) > 1 and len(words) == 1
        plural = "" if length == 1 else "s"
        parts.append(f"'{words.pop()[:12]}'" if shared else f"{length} {sort}{plural}")
    share = "" if times == len(some) else ", mostly"
    return f"ids of {' and '.join(parts)}{share}"


def _sort(run: str) -> str:
    return "digit" if run.isdigit() else "letter" if run.isalpha() else "sign"


def path_form(paths: Iterable[str]) -> str:
    """What most of these paths look like, and none of them: "paths of 2 parts ending in .npz"."""
    some = list(islice(paths, SAMPLED))
    if not some:
        return "no path"
    shapes = Counter((len(one.strip("/").split("/")), _ending(one)) for one in some)
    (count, ending), _ = shapes.most_common(1)[0]
    ends = f"ending in {ending}" if ending else "without an ending"
    return f"paths of {count} part{'' if count == 1 else 's'} {ends}"


def _ending(path: str) -> str:
    found = re.search(r"\.[A-Za-z][A-Za-z0-9]{0,7}$", path)
    return found[0] if found else ""
