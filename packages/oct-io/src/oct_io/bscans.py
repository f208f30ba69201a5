"""Folders of single B-scans: every image is a scan of its own, and names or a table say whose."""

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from oct_io.catalog.manifest import Listing, ScanRecord
from oct_io.catalog.selection import EYES
from oct_io.catalog.tables import ID_COLUMNS, Row, cell, normal_id, number_rows
from oct_io.errors import ScanError, TreeError
from oct_io.quarantine import Refusal
from oct_io.readers.stacks import IMAGES, count_pages
from oct_io.records.discovery import LOG, TABLES, TIFF, describe_skipped
from oct_io.records.drawings import MaskFolder, by_name, stem_of
from oct_io.scan.file import ScanFile
from oct_io.scan.levels import ITS_MASK, LEVELS, read_levels
from oct_io.scan.protocols import stated_device
from oct_io.storage.files import exists, join, list_tokens, redact, safe_relative
from oct_io.volume import Laterality

GROUPS = ("participant", "eye", "visit", "number")
IMAGE_NAMES = ("filepath", "path", "scan", "filename", "file", "image", "name")
EYE_NAMES = ("laterality", "eye")
WORDS: Mapping[str, Laterality] = {"od": "R", "os": "L", "oi": "L", "og": "L", "re": "R", "le": "L"}
"""Beside those of `EYES`: Latin, Spanish, French and English short forms."""

ALONE = "each image counts as a participant of its own: neither names nor a table say whose it is"
UNMATCHED = ("parse", "its path does not match data.bscans.pattern")
UNLISTED = ("parse", "the table of data.bscans.table does not list it")


@dataclass(kw_only=True, slots=True)
class BscanConfig:
    """Whose the images are, and how large their voxels."""

    pattern: str = ""
    """Regular expression for the last parts of each path, without its ending, with the groups
    participant and, if names say it, eye; groups visit and number may mark the rest, as in
    (?P<participant>[0-9]+)_(?P<eye>O[DI])_o_(?P<number>[0-9]+). Empty, and without a table: each
    image counts as a participant of its own."""

    masks: str = ""
    """Folder of masks, images of the size of their B-scans with a grey level for each class and 0
    for the background, read with data.annotations=[mask]. A mask lies there as its image lies below
    the root, or has its file name, with or without _mask at the end; or the table names it. Where
    it is the root itself, images whose names end in _mask are the masks. An image without one is
    unlabelled."""

    mask_classes: dict[str, str] = field(default_factory=dict)
    """Class to its grey level in the masks, or to its first and last, as in {IRF: 1, SRF: 2} and
    {fluid: 1-255}; the class "unlabelled" is of pixels of which nothing is known. Empty: 1 to 15
    are "class 1" to "class 15", and 255 alone, of black and white masks, is "class 255"."""

    table: str = ""
    """CSV or TSV with a row an image: its path below the root or its file name (column filepath,
    path, scan, filename, file, image or name), with or without its ending, and any of
    participant_id, laterality or eye, device, region, spacing_mm (millimetres of row and column),
    mask (path below `masks`, or file name).
    Empty cells leave it to the pattern."""

    eye_words: dict[str, str] = field(default_factory=dict)
    """Further words for the eye, to R or L; known are R, L, OD, OS, OI, OG, RE, LE, right, left."""

    spacing_mm: list[float] = field(default_factory=list)
    """Millimetres between voxels of all images, [row, column]; empty where nobody knows them. Then
    windows count voxels, and positions count patches."""

    def __post_init__(self) -> None:
        groups = _compiled(self.pattern).groupindex if self.pattern else {}
        if unknown := sorted(set(groups) - set(GROUPS)):
            raise ValueError(
                f"data.bscans.pattern has a group {unknown[0]}; there are {', '.join(GROUPS)}"
            )
        if self.pattern and "participant" not in groups and not self.table:
            raise ValueError("data.bscans.pattern must have a group (?P<participant>...)")
        if read_levels(self.mask_classes) and not self.masks:
            raise ValueError("data.bscans.mask_classes are those of data.bscans.masks, which is ''")
        for word, eye in self.eye_words.items():
            if eye not in ("R", "L"):
                raise ValueError(f"data.bscans.eye_words ({word}: {eye}) must be R or L")
        if self.spacing_mm and not _is_pair(self.spacing_mm):
            raise ValueError(
                f"data.bscans.spacing_mm ({self.spacing_mm}) must be [row, column] above 0"
            )

    def check_beside(
        self, window: str, window_bscans: int, manifest: str, annotations: Collection[str]
    ) -> None:
        """Refuse settings of a source that do not go with single B-scans.

        Raises:
            ValueError: a window of several B-scans, or a manifest or masks that nobody would read.
        """
        if window_bscans > 1:
            raise ValueError(
                f"data.window={window} takes {window_bscans} B-scans, and data.bscans gives one at "
                "a time; take one such as 96x256, or bscan where millimetres are known"
            )
        if manifest:
            raise ValueError("data.manifest does nothing with data.bscans; data.bscans.table does")
        if self.masks and "mask" not in annotations:
            raise ValueError("data.bscans.masks is read with data.annotations=[mask] alone")

    def eye(self, word: str) -> Laterality:
        """The eye that a word means; "unknown" for no word.

        Raises:
            TreeError: nobody said what it means.
        """
        lower = word.strip().lower()
        own = {name.lower(): eye for name, eye in self.eye_words.items()}
        found = own.get(lower) or EYES.get(lower) or WORDS.get(lower)
        if found is None and lower:
            raise TreeError(
                f"'{word[:20]}' is no eye that is known; say what it means, such as "
                f"data.bscans.eye_words={{{word[:20]}: R}}"
            )
        return "R" if found == "R" else "L" if found == "L" else "unknown"


def list_bscans(
    root: str | Path,
    config: BscanConfig,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Listing:
    """List the images below `root`, a local folder or an fsspec URL, sorted by path.

    Of images only TIFFs are opened, to count their pages: each page is a B-scan. Those of which the
    pattern or the table say nothing are kept with `refused` set.

    Args:
        root: what paths are relative to.
        config: whose they are.
        progress: called after each TIFF with the number of images seen so far and of all.

    Raises:
        TreeError: no such folder, no images, none that matches, or a table that cannot be used.
    """
    base, where = str(root).rstrip("/"), redact(root)
    if not exists(base):
        raise TreeError(f"{where}: no such folder")
    tokens = list_tokens(base)
    images, skipped = _images(tokens)
    if not images:
        raise TreeError(f"{where}: no images; looked for {', '.join(IMAGES)}")
    if skipped:
        LOG.warning("%s", describe_skipped(skipped))
    folder = MaskFolder(config.masks, base) if config.masks else None
    images = images if folder is None else folder.without(images)
    rows = _rows_of(config.table, images) if config.table else None
    masks = {} if folder is None else folder.pair(images, _masks_said(rows or {}))
    levels = read_levels(config.mask_classes)
    said = json.dumps({LEVELS: levels}) if levels else ""
    pattern = _compiled(config.pattern) if config.pattern else None
    records: list[ScanRecord] = []
    for done, path in enumerate(images, start=1):
        record = _record(path, config, pattern, rows)
        if path in masks:
            record = replace(record, mask=masks[path], sidecar=said)
        records += [record] if record.refused else _pages(base, record)
        if progress is not None and _is_tiff(path):  # no other image is opened
            progress(done, len(images))
    if all(one.refused in (UNMATCHED, UNLISTED) for one in records):
        what = "data.bscans.table lists" if pattern is None else "data.bscans.pattern matches"
        raise TreeError(
            f"{where}: {what} none of {len(images):,} images; paths count from the root, and the "
            "pattern is for their last parts as a whole, without the ending"
        )
    if pattern is None and rows is None:
        LOG.warning("%s", ALONE)
    return Listing(records, tokens if folder is None else {**tokens, **folder.tokens})


def check_masks(config: BscanConfig | None, refused: Sequence[Refusal], quarantine: Path) -> None:
    """Refuse B-scans whose masks cannot be used: left out, they would be missing in every score.

    Args:
        config: of the B-scans; None for other scans.
        refused: of a cache.
        quarantine: where the paths of what was refused stand.

    Raises:
        TreeError: how many masks, and what is wrong with the first one.
    """
    wrong = [one for one in refused if one.reason.startswith(ITS_MASK)]
    if config is not None and config.masks and wrong:
        raise TreeError(
            f"{redact(config.masks)} (data.bscans.masks): {len(wrong):,} cannot be used; the "
            f"first: {wrong[0].reason}; {quarantine} has the paths of their images"
        )


def remarks_on(config: BscanConfig | None, spacings: NDArray[np.float64]) -> tuple[str, ...]:
    """What a reader of results must know, a sentence each.

    Args:
        config: of the B-scans; None for other scans.
        spacings: of the cached scans, (N, 3).
    """
    said = []
    if config is not None and not (config.pattern or config.table):
        said.append(ALONE)
    if unknown := int(np.isnan(spacings[:, 1:]).any(axis=1).sum()):
        said.append(
            f"positions count patches: of {unknown:,} of {len(spacings):,} scans nobody knows how "
            "far apart their voxels are"
        )
    return tuple(said)


def _compiled(pattern: str) -> re.Pattern[str]:
    """The pattern for a whole path, any folders before it.

    Raises:
        ValueError: it is no regular expression.
    """
    try:
        re.compile(pattern)
        return re.compile(f"(?:.*/)?(?:{pattern})")
    except re.error as error:
        raise ValueError(f"data.bscans.pattern is no regular expression ({error})") from error


def _images(paths: Mapping[str, str]) -> tuple[list[str], Counter[str]]:
    """Paths of images, and counts of what else lies there."""
    images: list[str] = []
    skipped: Counter[str] = Counter()
    for path in sorted(paths):
        if any(part.startswith(".") for part in path.split("/")):
            skipped["hidden"] += 1
        elif path.lower().endswith(IMAGES):
            images.append(path)
        elif path.rpartition("/")[2] not in TABLES:
            skipped[PurePosixPath(path).suffix.lower() or "without an ending"] += 1
    return images, skipped


def _record(
    path: str,
    config: BscanConfig,
    pattern: re.Pattern[str] | None,
    rows: Mapping[str, Row] | None,
) -> ScanRecord:
    """What pattern and table say of an image; the table's cells stand above."""
    row = {} if rows is None else rows.get(path, {})
    found = None if pattern is None else pattern.fullmatch(stem_of(path))
    named = {} if found is None else found.groupdict()
    owner = normal_id(cell(row, *_named(row, ID_COLUMNS)) or named.get("participant") or "")
    refused = None
    if not owner and pattern is not None:
        refused = UNMATCHED
    elif not owner and rows is not None:
        refused = UNLISTED
    device = cell(row, "device")
    return ScanRecord(
        path=path,
        participant_id=owner or stem_of(path),
        laterality=config.eye(cell(row, *_named(row, EYE_NAMES)) or named.get("eye") or ""),
        device=stated_device(device) if device else "unknown",
        region=cell(row, "region") or "unknown",
        spacing_mm=_spacing(cell(row, "spacing_mm")) or _across(config.spacing_mm),
        bscan=True,
        refused=refused,
    )


def _masks_said(rows: Mapping[str, Row]) -> dict[str, str]:
    """Image to what its row says of its mask."""
    found = {path: cell(row, "mask") for path, row in rows.items()}
    return {path: safe_relative(said) or said for path, said in found.items() if said}


def _pages(base: str, record: ScanRecord) -> list[ScanRecord]:
    """The record, or one a page of a TIFF with several."""
    if not _is_tiff(record.path):
        return [record]
    try:
        pages = count_pages(ScanFile(url=join(base, record.path)))
    except ScanError as error:
        return [replace(record, refused=(error.stage, error.reason))]
    if pages == 1:
        return [record]
    return [replace(record, member=str(number + 1)) for number in range(pages)]


def _is_tiff(path: str) -> bool:
    return path.lower().endswith(TIFF)


def _rows_of(table: str, images: Sequence[str]) -> dict[str, Row]:
    """Rows of the table by the path of their image.

    Raises:
        TreeError: no column of images, a row whose name several images have, two rows of one image,
            or a cell that is no spacing.
    """
    where, known = redact(table), by_name(images)
    found: dict[str, Row] = {}
    for line, row in number_rows(table):
        column = _named(row, IMAGE_NAMES)
        if not column:
            named = ", ".join(row)[:200]
            raise TreeError(f"{where}: needs a column such as filepath; it has: {named}")
        stated = cell(row, *column)
        paths = known.get(safe_relative(stated) or stated, [])
        if len(paths) > 1:
            raise TreeError(f"{where}: line {line} names {len(paths)} images; write their paths")
        if any(path in found for path in paths):
            raise TreeError(f"{where}: line {line} repeats the image of an earlier line")
        if cell(row, "spacing_mm") and _spacing(cell(row, "spacing_mm")) is None:
            raise TreeError(f"{where}: line {line}: spacing_mm is not two numbers above 0")
        found |= dict.fromkeys(paths, row)
    return found


def _named(row: Row, names: Sequence[str]) -> tuple[str, ...]:
    """Columns of a row that have one of these names, whatever their case."""
    return tuple(one for name in names for one in row if one.lower().replace(" ", "_") == name)


def _spacing(text: str) -> tuple[float, float, float] | None:
    """(NaN, row, column) of "0.0039 0.0117" or of a JSON list; None if it is not two of them."""
    try:
        return _across([float(one) for one in text.strip("[]").replace(",", " ").split()])
    except ValueError:
        return None


def _across(pair: Sequence[float]) -> tuple[float, float, float] | None:
    return (float("nan"), float(pair[0]), float(pair[1])) if _is_pair(pair) else None


def _is_pair(numbers: Sequence[float]) -> bool:
    return len(numbers) == 2 and all(0 < one < float("inf") for one in numbers)
