"""What the headers of a data set said, kept from one start to the next beside the cache made of it.

The file `.NAME.headers.arrow` beside the cache `NAME` has a row a scan: its path, what changes when
the file does, and its header; and likewise a row for each file that had to be looked into to know
whether it is a scan. It names paths and participants in clear, as `quarantine.jsonl` and a written
manifest do, and its owner alone may read it.
"""

import json
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from functools import cache as remember
from hashlib import sha256
from pathlib import Path
from typing import Any

from oct_io.catalog.header_file import HeaderFile, Known, Row, add_rows, read_rows, write_rows
from oct_io.catalog.headers import read_headers
from oct_io.errors import ScanError
from oct_io.records.discovery import as_text
from oct_io.records.opening import find_companion
from oct_io.records.record import ScanRecord
from oct_io.scan.header import ScanHeader
from oct_io.storage.files import folder_token
from oct_io.volume import Spacing

LONGEST_STATE = 200  # letters; with a long sidecar it is hashed
LOOK = "\0"  # before the path of a file that was looked into; no path has one
AT_ONCE = 1 << 14  # headers that are in memory as text before they are written
ALIKE = (
    *("shape", "spacing_source", "spacing_confidence", "pattern", "pattern_note"),
    *("order", "laterality", "device", "protocol", "region", "transfer_syntax", "kind"),
)
"""Fields of a header in which many of a data set are equal."""


def index_path(cache: str | Path) -> Path:
    """Where the headers are kept of the scans that a cache is, or will be, made of."""
    folder = Path(cache)
    return folder.with_name(f".{folder.name}.headers.arrow")


def read_known_headers(
    root: str | Path,
    records: Sequence[ScanRecord],
    tokens: Mapping[str, str],
    *,
    cache: str | Path | None = None,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[ScanHeader | ScanError]:
    """Headers of scans, in their order; only of new and changed ones are files read.

    What was read is kept after every few thousand, when the last one is taken, and when the caller
    stops before. Errors are not: what was missing may be installed, and what was refused read by a
    later version. Of any number of headers that are kept, one block of the file is in memory.

    Args:
        root: local folder or fsspec URL.
        records: the scans.
        tokens: what changes when a file does, by path; of all files below `root`, where some of
            the scans are folders or no DICOM.
        cache: folder of the cache beside which headers are kept; None reads all and keeps nothing.
        jobs: as in `read_headers`.
        progress: called with the number of headers known and of all.
    """
    path = None if cache is None else index_path(cache)
    states = scan_states(tokens, records)
    read, once = dict[str, Known](), dict[tuple[str, Any], Any]()
    with closing(_Kept(path, records, states)) as kept:
        missing = [record for n, record in enumerate(records) if n not in kept]
        try:
            with closing(read_headers(root, missing, jobs=jobs)) as fresh:
                for n, record in enumerate(records):
                    found = _from_text(kept.header(n)) if n in kept else next(fresh)
                    if isinstance(found, ScanHeader):
                        if path is not None and n not in kept:
                            read[_name(record)] = states[n], _to_text(found)
                        found = _shared(found, once)
                    if progress is not None:
                        progress(n + 1, len(records))
                    yield found
                    if path is not None and len(read) >= AT_ONCE:
                        add_rows(path, read)
                        read.clear()
        finally:
            if path is not None and read:
                add_rows(path, read)


def _shared(found: ScanHeader, once: dict[tuple[str, Any], Any]) -> ScanHeader:
    """The header, holding the first of equal values; those of 10^5 scans are a few in all."""
    alike = {name: getattr(found, name) for name in ALIKE}
    return replace(found, **{key: once.setdefault((key, one), one) for key, one in alike.items()})


class _Kept:
    """Which of some scans have a header in a file that is still theirs, and those headers.

    The file may be replaced meanwhile: this goes on with the one that it has opened.
    """

    def __init__(
        self, path: Path | None, records: Sequence[ScanRecord], states: Sequence[str]
    ) -> None:
        """Look into all rows of a file; None, or no file, keeps nothing."""
        self._blocks = array("i", [-1]) * len(records)
        self._names = [_name(record) for record in records]
        self._open, self._texts = -1, dict[str, str]()
        self._file = None if path is None else HeaderFile(path)
        if self._file is not None:
            numbers = {name: n for n, name in enumerate(self._names)}
            for block, (name, state, _) in self._file.rows():
                n = numbers.get(name, -1)
                if n >= 0 and states[n] == state:
                    self._blocks[n] = block

    def __contains__(self, n: int) -> bool:
        return self._blocks[n] >= 0

    def header(self, n: int) -> str:
        """Header of a scan by its number among the records; cheap in the order of the file."""
        assert self._file is not None
        if self._blocks[n] != self._open:
            self._open = self._blocks[n]
            self._texts = {name: text for name, _, text in self._file.block(self._open)}
        return self._texts[self._names[n]]

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def forget_headers(
    cache: str | Path, records: Sequence[ScanRecord], tokens: Mapping[str, str]
) -> None:
    """Keep the headers of these scans alone, and what was seen in files of `tokens`."""
    path, names = index_path(cache), set(map(_name, records))

    def lasts(row: Row) -> bool:
        return row[0][1:] in tokens if row[0].startswith(LOOK) else row[0] in names

    if not all(map(lasts, read_rows(path))):
        write_rows(path, filter(lasts, read_rows(path, aloud=False)))


def known_looks(cache: str | Path, tokens: Mapping[str, str]) -> dict[str, bool]:
    """Whether files are scans that were looked into by an earlier start and have not changed."""
    return {
        name[1:]: answer == "true"
        for name, state, answer in read_rows(index_path(cache))
        if name.startswith(LOOK) and tokens.get(name[1:]) == state
    }


def keep_looks(cache: str | Path, tokens: Mapping[str, str], looks: Mapping[str, bool]) -> None:
    """Keep what was seen in files, for the next start; a path that is no text cannot be kept."""
    rows = {
        LOOK + path: (tokens[path], json.dumps(found))
        for path, found in looks.items()
        if as_text(path) == path
    }
    if rows:
        add_rows(index_path(cache), rows)


def _name(record: ScanRecord) -> str:
    """What a scan is called here: its path, and its member where one is given."""
    return f"{record.path}\t{record.member}" if record.member else record.path


def scan_states(tokens: Mapping[str, str], records: Sequence[ScanRecord]) -> list[str]:
    """What changes when what is known about a scan does, for each of `records`.

    That is the token of its file, or those of all files in it if it is a folder; likewise of what
    lies beside it for it, such as a sidecar; and all that manifest and folders say of it.
    """
    folders: dict[str, dict[str, str]] = {}
    for path, token in tokens.items():
        folder, _, name = path.rpartition("/")
        folders.setdefault(folder, {})[name] = token

    @remember
    def state_of(path: str) -> str:
        if path in tokens:
            return tokens[path]
        return folder_token(folders[path]) if path in folders else ""

    states = []
    for record in records:
        said = [record.sidecar, str(record.spacing_mm or "")]
        beside = find_companion(record)
        parts = [state_of(record.path), *said, "" if beside is None else state_of(beside)]
        states.append(_short(" ".join(filter(None, parts))))
    return states


def _short(text: str) -> str:
    return text if len(text) < LONGEST_STATE else sha256(text.encode()).hexdigest()


def _to_text(found: ScanHeader) -> str:
    tree = asdict(found)
    if found.order == tuple(range(len(found.order))):
        tree["order"] = len(found.order)  # 512 numbers otherwise
    return json.dumps(tree)


def _from_text(text: str) -> ScanHeader:
    tree = json.loads(text)
    order = tree["order"]
    tree["order"] = tuple(range(order)) if isinstance(order, int) else tuple(order)
    tree["shape"] = tuple(tree["shape"])
    if tree["spacing"] is not None:
        tree["spacing"] = Spacing(*tree["spacing"])
    return ScanHeader(**tree)
