"""What the headers of a data set said, kept from one start to the next beside the cache made of it.

The file `.NAME.headers.arrow` beside the cache `NAME` has a row a scan: its path, what changes when
the file does, and its header or why it was refused. It names paths and participants in clear, as
`quarantine.jsonl` and a written manifest do, and its owner alone may read it.
"""

import json
import warnings
import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, fields
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any, cast

import pyarrow as pa

from oct_io.catalog.headers import DICOM, read_headers
from oct_io.errors import ScanError, Stage
from oct_io.readers.registry import suffix_of
from oct_io.saving import appearing
from oct_io.scan.header import ScanHeader
from oct_io.storage.files import join, redact
from oct_io.volume import Spacing

VERSION = "1"  # another number where readers see something else in the same file
COLUMNS = ("path", "state", "header", "check")
SIDECAR = ".json"
LONGEST_STATE = 200  # letters; of a folder of many files it is hashed
ROWS = 1 << 16  # of one block of the file

Known = tuple[str, str]
"""State of a file, and its header as text."""


def index_path(cache: str | Path) -> Path:
    """Where the headers are kept of the scans that a cache is, or will be, made of."""
    folder = Path(cache)
    return folder.with_name(f".{folder.name}.headers.arrow")


def read_known_headers(
    root: str | Path,
    states: Mapping[str, str],
    *,
    cache: str | Path | None = None,
    whole: bool = True,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[ScanHeader | ScanError]:
    """Headers of scans, in the order of `states`; only of new and changed files is it read.

    What was read is kept when the last one is taken, and when the caller stops before. Transport
    errors are not kept.

    Args:
        root: local folder or fsspec URL.
        states: relative path of each scan, and what changes when it does.
        cache: folder of the cache beside which headers are kept; None reads all and keeps nothing.
        whole: whether `states` has all scans below `root`; the others are then forgotten.
        jobs: as in `read_headers`.
        progress: called with the number of headers known and of all.
    """
    kept = _load(index_path(cache)) if cache is not None else {}
    missing = [path for path, state in states.items() if kept.get(path, ("",))[0] != state]
    unread, read = set(missing), dict[str, Known]()
    try:
        with closing(read_headers(root, missing, jobs=jobs)) as fresh:
            for done, (path, state) in enumerate(states.items(), start=1):
                if path in unread:
                    found = next(fresh)
                    if not (isinstance(found, ScanError) and found.stage == "fetch"):
                        read[path] = state, _to_text(found)
                else:
                    found = _from_text(kept[path][1], redact(join(root, path)))
                if progress is not None:
                    progress(done, len(states))
                yield found
    finally:
        gone = kept.keys() - states.keys() if whole else set()
        if cache is not None and (read or gone):
            rows = {path: known for path, known in kept.items() if path not in gone}
            _save(index_path(cache), rows | read)


def scan_states(tokens: Mapping[str, str], paths: Sequence[str]) -> dict[str, str]:
    """What changes when what is known about a scan does, for each of `paths`.

    That is the token of its file, or those of all files in it if it is a folder. What is known
    about a scan that is no DICOM file may stand in a JSON file as well: one of its name, or one
    that is nobody's in its folder or in a folder above.

    Args:
        tokens: of all files of the data set, by path.
        paths: of scans among them.
    """
    names = {_stem(path) for path in paths}
    shared: dict[str, list[str]] = {}
    for path, token in tokens.items():
        if path.endswith(SIDECAR) and path.removesuffix(SIDECAR) not in names:
            shared.setdefault(str(PurePosixPath(path).parent), []).append(f"{path}={token}")
    listed, states = sorted(tokens), {}
    for path in paths:
        found = [tokens[path]] if path in tokens else []
        if not found:
            first, end = (bisect_left(listed, path + mark) for mark in ("/", "0"))  # "0" follows
            found = [f"{one}={tokens[one]}" for one in listed[first:end]]
        if suffix_of(path) not in DICOM:
            found.append(tokens.get(_stem(path) + SIDECAR, ""))
            above = map(str, PurePosixPath(path).parents)
            found += [one for folder in above for one in sorted(shared.get(folder, ()))]
        states[path] = _short(" ".join(found))
    return states


def _short(text: str) -> str:
    return text if len(text) < LONGEST_STATE else sha256(text.encode()).hexdigest()


def _stem(path: str) -> str:
    """Path without its ending; of `a/scan.nii.gz` that is `a/scan`."""
    return path[: len(path) - len(suffix_of(path))]


def _to_text(found: ScanHeader | ScanError) -> str:
    if isinstance(found, ScanError):
        return json.dumps([found.stage, found.reason])
    tree = asdict(found)
    if found.order == tuple(range(len(found.order))):
        tree["order"] = len(found.order)  # 512 numbers otherwise
    return json.dumps(tree)


def _from_text(text: str, path: str) -> ScanHeader | ScanError:
    tree = json.loads(text)
    if isinstance(tree, list):
        return ScanError(path, cast(Stage, tree[0]), tree[1])
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
