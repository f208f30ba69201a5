"""Embeddings on disk: one Parquet or safetensors file with a row for each volume."""

import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from oct_vjepa.saving import write_whole

FORMATS = ("parquet", "safetensors")
_GROUP_BYTES = 64 * 2**20  # of a Parquet row group; fixed, so that equal rows give equal files
_KEY = "oct_vjepa"


class TableError(Exception):
    """A table that cannot be written here; the text is one line that says what to install."""


Block = Mapping[str, NDArray[np.float32]]
"""Some rows of each column."""


class Column(NamedTuple):
    """One kind of features: its name, and the shape of a row."""

    name: str
    shape: tuple[int, ...]


class Embeddings(NamedTuple):
    """What `read_embeddings` finds."""

    ids: list[str]
    columns: dict[str, NDArray[np.float32]]  # pool to (N, D); "tokens" to (N, T, D)
    about: dict[str, Any]  # the job that made them


def format_of(path: Path, wanted: str = "") -> str:
    """Format by name, or else by the suffix of the file.

    Raises:
        ValueError: neither says which.
    """
    chosen = wanted or path.suffix.removeprefix(".")
    if chosen not in FORMATS:
        raise ValueError(f"{path}: say --format {' or '.join(FORMATS)}, or end its name so")
    return chosen


def write_table(
    path: Path,
    form: str,
    *,
    ids: Sequence[str],
    columns: Sequence[Column],
    blocks: Iterator[Block],
    about: Mapping[str, Any],
) -> None:
    """Write the rows of `blocks`, in order, to `path`; it appears whole or not at all.

    Equal rows give equal bytes, however they are cut into blocks. Holds one block, or one Parquet
    row group, in memory.

    Args:
        path: the file.
        form: one of `FORMATS`.
        ids: name of each row.
        columns: what each row holds.
        blocks: rows of all columns, together as many as ids.
        about: JSON values kept with the rows.
    """
    text = json.dumps(dict(about), sort_keys=True)
    write = _write_parquet if form == "parquet" else _write_safetensors
    write_whole(path, lambda draft: write(draft, list(ids), columns, blocks, text))


def read_embeddings(path: str | Path, form: str = "") -> Embeddings:
    """Read a file that `write_table` wrote, whole."""
    path = Path(path)
    if format_of(path, form) == "safetensors":
        with safe_open(path, framework="numpy") as file:
            about = json.loads(file.metadata()[_KEY])
            names = list(file.keys())
            columns = {name: file.get_tensor(name) for name in names}
            return Embeddings(json.loads(file.metadata()["ids"]), columns, about)
    table = _arrow("pyarrow.parquet").read_table(path)
    about = json.loads(table.schema.metadata[_KEY.encode()])
    columns = {}
    for name, shape in about["columns"].items():
        flat = table.column(name).combine_chunks().flatten().to_numpy()
        columns[name] = flat.reshape(len(table), *shape)
    return Embeddings(table.column("id").to_pylist(), columns, about)


def read_about(path: Path, form: str) -> dict[str, Any]:
    """What job made the file; empty if it is not a file of embeddings."""
    try:
        if form == "safetensors":
            with safe_open(path, framework="numpy") as file:
                return json.loads((file.metadata() or {}).get(_KEY, "{}"))
        metadata = _arrow("pyarrow.parquet").read_schema(path).metadata or {}
        return json.loads(metadata.get(_KEY.encode(), b"{}"))
    except TableError:  # pyarrow is missing: that is not about the file
        raise
    except Exception:  # whatever is there, it is not ours
        return {}


def check_format(form: str) -> None:
    """Load what the format needs, before hours of work.

    Raises:
        TableError: Parquet without pyarrow.
    """
    if form == "parquet":
        _arrow("pyarrow.parquet")


def _write_parquet(
    draft: Path, ids: list[str], columns: Sequence[Column], blocks: Iterator[Block], about: str
) -> None:
    arrow, parquet = _arrow("pyarrow"), _arrow("pyarrow.parquet")
    sizes = {one.name: int(np.prod(one.shape)) for one in columns}
    fields = [arrow.field("id", arrow.string())]
    fields += [arrow.field(name, arrow.list_(arrow.float32(), n)) for name, n in sizes.items()]
    schema = arrow.schema(fields, metadata={_KEY: about})
    group = max(1, _GROUP_BYTES // (4 * sum(sizes.values())))
    start = 0
    with parquet.ParquetWriter(draft, schema) as writer:
        for block in _regroup(blocks, group):
            rows = len(next(iter(block.values())))
            arrays = [arrow.array(ids[start : start + rows], arrow.string())]
            for name, size in sizes.items():
                flat = arrow.array(block[name].reshape(-1))
                arrays.append(arrow.FixedSizeListArray.from_arrays(flat, size))
            writer.write_table(arrow.Table.from_arrays(arrays, schema=schema), row_group_size=group)
            start += rows


def _write_safetensors(
    draft: Path, ids: list[str], columns: Sequence[Column], blocks: Iterator[Block], about: str
) -> None:
    """Header first, then each column in its place, so that no column need fit into memory."""
    header: dict[str, Any] = {"__metadata__": {"ids": json.dumps(ids), _KEY: about}}
    at, places = 0, {}
    for one in columns:
        size = 4 * len(ids) * int(np.prod(one.shape))
        shape = [len(ids), *one.shape]
        header[one.name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        places[one.name], at = at, at + size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the format wants the data aligned
    with draft.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at)
        start = 0
        for block in blocks:
            for one in columns:
                row = 4 * int(np.prod(one.shape))
                file.seek(8 + len(text) + places[one.name] + start * row)
                file.write(np.ascontiguousarray(block[one.name], dtype="<f4").tobytes())
            start += len(block[columns[0].name])


def _regroup(blocks: Iterator[Block], rows: int) -> Iterator[Block]:
    """The same rows in blocks of `rows`; the last may be smaller."""
    held: dict[str, NDArray[np.float32]] = {}
    for block in blocks:
        held = {
            name: np.concatenate([held[name], part]) if held else part
            for name, part in block.items()
        }
        while len(next(iter(held.values()))) >= rows:
            yield {name: part[:rows] for name, part in held.items()}
            held = {name: part[rows:] for name, part in held.items()}
    if held and len(next(iter(held.values()))):
        yield held


def _arrow(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise TableError(
            "Parquet needs pyarrow: install oct-vjepa[parquet], or use --format safetensors"
        ) from error
