"""What the headers of a data set said, kept from one start to the next beside the cache made of it.

The file `.NAME.headers.arrow` beside the cache `NAME` has a row a scan: its path, what changes when
the file does, and its header; and likewise a row for each file that had to be looked into to know
whether it is a scan. It names paths and participants in clear, as `quarantine.jsonl` and a written
manifest do, and its owner alone may read it.
"""

import json
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, fields
from functools import cache as remember
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa

from oct_io.catalog.headers import read_headers
from oct_io.errors import ScanError
from oct_io.records.discovery import as_text
from oct_io.records.opening import find_companion
from oct_io.records.record import ScanRecord
from oct_io.saving import appearing
from oct_io.scan.header import ScanHeader
from oct_io.storage.files import folder_token
from oct_io.volume import Spacing

VERSION = "2"  # another number where readers see something else in the same file
COLUMNS = ("path", "state", "header", "check")
LONGEST_STATE = 200  # letters; with a long sidecar it is hashed
LOOK = "\0"  # before the path of a file that was looked into; no path has one
ROWS = 1 << 16  # of one block of the file

Known = tuple[str, str]
"""State of a file, and its header as text, or whether it is a scan."""


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

    What was read is kept when the last one is taken, and when the caller stops before. Errors are
    not: what was missing may be installed, and what was refused read by a later version.

    Args:
        root: local folder or fsspec URL.
        records: the scans.
        tokens: what changes when a file does, by path; of all files below `root`, where some of
            the scans are folders or no DICOM.
        cache: folder of the cache beside which headers are kept; None reads all and keeps nothing.
        jobs: as in `read_headers`.
        progress: called with the number of headers known and of all.
    """
    kept = _load(index_path(cache)) if cache is not None else {}
    states = dict(zip(map(_name, records), scan_states(tokens, records), strict=True))
    missing = [one for one in records if not _is_known(kept, _name(one), states[_name(one)])]
    unread, read = set(map(_name, missing)), dict[str, Known]()
    try:
        with closing(read_headers(root, missing, jobs=jobs)) as fresh:
            for done, record in enumerate(records, start=1):
                name = _name(record)
                if name in unread:
                    found = next(fresh)
                    if isinstance(found, ScanHeader):
                        read[name] = states[name], _to_text(found)
                else:
                    found = _from_text(kept[name][1])
                if progress is not None:
                    progress(done, len(records))
                yield found
    finally:
        if cache is not None and read:
            _save(index_path(cache), kept | read)


def _is_known(kept: Mapping[str, Known], name: str, state: str) -> bool:
    return name in kept and kept[name][0] == state


def forget_headers(
    cache: str | Path, records: Sequence[ScanRecord], tokens: Mapping[str, str]
) -> None:
    """Keep the headers of these scans alone, and what was seen in files of `tokens`."""
    kept, names = _load(index_path(cache)), set(map(_name, records))
    rows = {
        name: known
        for name, known in kept.items()
        if (name[1:] in tokens if name.startswith(LOOK) else name in names)
    }
    if len(rows) < len(kept):
        _save(index_path(cache), rows)


def known_looks(cache: str | Path, tokens: Mapping[str, str]) -> dict[str, bool]:
    """Whether files are scans that were looked into by an earlier start and have not changed."""
    return {
        name[1:]: answer == "true"
        for name, (state, answer) in _load(index_path(cache)).items()
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
        _save(index_path(cache), _load(index_path(cache)) | rows)


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


def _about() -> dict[bytes, bytes]:
    """What a file must say of itself to be used: its version, and the fields that a header has."""
    names = " ".join(one.name for one in fields(ScanHeader))
    return {b"oct-io-headers": VERSION.encode(), b"fields": names.encode()}


def _check(*cells: str) -> int:
    return zlib.crc32("\0".join(cells).encode())


def _load(path: Path) -> dict[str, Known]:
    """Rows of a file; none if there is no file, or another version's, and a warning if damaged."""
    try:
        with pa.OSFile(str(path)) as file:
            table = pa.ipc.open_file(file).read_all()
        table.validate(full=True)
        if table.schema.metadata != _about():
            return {}
        rows = list(zip(*(table.column(name).to_pylist() for name in COLUMNS), strict=True))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        return _damaged(path, type(error).__name__)
    kept = {row[0]: (row[1], row[2]) for row in rows if _check(*row[:3]) == row[3]}
    if len(kept) < len(rows):
        _damaged(path, f"{len(rows) - len(kept)} rows")
    return kept


def _damaged(path: Path, what: str) -> dict[str, Any]:
    reason = f"{path}: damaged ({what}); those headers are read again"
    warnings.warn(reason, stacklevel=2)
    return {}


def _save(path: Path, rows: Mapping[str, Known]) -> None:
    """Write all rows, sorted by path, to a file that appears whole; a full disk costs a warning."""
    paths = sorted(rows)
    columns = {
        "path": pa.array(paths, pa.string()),
        "state": pa.array([rows[one][0] for one in paths], pa.string()),
        "header": pa.array([rows[one][1] for one in paths], pa.large_string()),
        "check": pa.array([_check(one, *rows[one]) for one in paths], pa.uint32()),
    }
    table = pa.table(columns).replace_schema_metadata(_about())
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with appearing(path, durable=True) as part:
            part.touch(mode=0o600)
            file = pa.OSFile(str(part), "wb")
            with file, pa.ipc.new_file(file, table.schema, options=options) as out:
                out.write_table(table, max_chunksize=ROWS)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        warnings.warn(f"{path}: headers are not kept ({reason})", stacklevel=2)
