"""Rows of scored scans: made in batches that survive a kill, joined, written as Parquet and CSV.

Finished batches lie in OUT/parts until all are there; the same command goes on behind them. Batches
are cut at the same scans each time, so that the result does not depend on how often it was killed.
"""

import csv
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from oct_io.cache.volumes import CachedVolumes
from oct_io.quarantine import Refusal
from oct_io.records.record import NOBODY
from oct_vjepa.finished.about import About
from oct_vjepa.finished.drawings import Drawings
from oct_vjepa.finished.located import Located
from oct_vjepa.finished.model import Model
from oct_vjepa.finished.predictions import Predictions
from oct_vjepa.saving import write_whole

PARTS, PLAN = "parts", "plan.json"
NOT_SCORED = "not_scored"
EVEN = "_even"  # scores that choices are made of; in the parts only
READ = "_read"  # what a member reads to join all volumes of a participant; in the parts only


def score_rows(model: Model, volumes: CachedVolumes, numbers: range) -> pa.Table:
    """A row for each of some volumes, and the columns that joining needs."""
    return rows_of(model.about, score(model, volumes, numbers), volumes, numbers)


def score_parts(
    model: Model,
    volumes: CachedVolumes,
    folder: Path,
    *,
    batch_size: int,
    rows: Callable[[Model, CachedVolumes, range], pa.Table] = score_rows,
) -> Iterator[int]:
    """Score all volumes, a file for each batch; gives the number that are done after each.

    Args:
        model: who scores.
        volumes: of a cache.
        folder: of the predictions.
        batch_size: volumes in one pass.
        rows: makes the rows of some volumes, in one pass.
    """
    parts = folder / PARTS
    plan = {
        "model": model.fingerprint,
        "volumes": hashlib.sha256(volumes.entries.hashes().tobytes()).hexdigest(),
        "scans": hashlib.sha256("\n".join(volumes.ids).encode()).hexdigest(),
        "batch_size": batch_size,  # a batch's size can change the last bit of a score
    }
    if _plan_of(parts) != plan:  # of other scans, or torn
        shutil.rmtree(parts, ignore_errors=True)
        parts.mkdir(parents=True)
        write_whole(parts / PLAN, lambda path: path.write_text(json.dumps(plan)))
    for first in range(0, len(volumes), batch_size):
        numbers = range(first, min(first + batch_size, len(volumes)))
        path = parts / f"part-{first:09d}.parquet"
        if not path.exists():
            write_whole(path, partial(pq.write_table, rows(model, volumes, numbers)))
        yield numbers.stop


def _plan_of(parts: Path) -> object:
    try:
        return json.loads((parts / PLAN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def score(model: Model, volumes: CachedVolumes, numbers: range) -> Predictions:
    """Score the volumes with these numbers, in one pass."""
    return model.predict([volumes[one] for one in numbers], **told_of(volumes, numbers))


def told_of(volumes: CachedVolumes, numbers: range) -> dict[str, Any]:
    """What a model wants to know of these volumes beside their voxels."""
    entries = volumes.entries.take(numbers)
    return {
        "spacing": entries.triples("spacing"),
        "devices": entries.coded("device").texts().tolist(),
        "protocols": entries.coded("protocol").texts().tolist(),
        "regions": entries.coded("region").texts().tolist(),
        "scan_flags": entries.coded("flags").texts().tolist(),
        "scan_spacing": entries.triples("source_spacing"),
        "batch_size": len(numbers),
    }


def rows_of(about: About, said: Predictions, volumes: CachedVolumes, numbers: range) -> pa.Table:
    """A row for each volume, and the columns that joining needs."""
    columns = whose(volumes, numbers) | answers_of(about, said) | marks_of(volumes, numbers)
    columns |= {f"{EVEN}{one}": said.even[:, one] for one in range(said.even.shape[1])}
    columns |= {f"{READ}{one}": _rows(features) for one, features in enumerate(said.features)}
    return pa.table(columns)


def _rows(features_ND: NDArray[Any]) -> pa.Array:
    """A list of features a row."""
    flat = pa.array(np.ascontiguousarray(features_ND, np.float32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, features_ND.shape[1])


def whose(volumes: CachedVolumes, numbers: range) -> dict[str, Any]:
    """The columns that say which scan it is, in hashes."""
    entries = volumes.entries.take(numbers)
    eyes = entries.coded("laterality").texts()
    return {
        "scan": list(entries.column("key").to_pylist()),
        "participant": entries.coded("participant").texts().tolist(),
        "eye": np.where(eyes == "unknown", "", eyes).tolist(),
        "device": entries.coded("device").texts().tolist(),
    }


def marks_of(volumes: CachedVolumes, numbers: range) -> dict[str, Any]:
    """What reading found suspicious."""
    return {"scan_flags": volumes.entries.take(numbers).coded("flags").texts().tolist()}


def measured_rows(
    said: Drawings | Located,
    names: Sequence[str],
    measured: Sequence[Mapping[str, float]],
    volumes: CachedVolumes,
    numbers: range,
) -> pa.Table:
    """A row for each volume: what was measured in what is said of it; empty where it is unknown.

    Args:
        said: of the volumes, in their order.
        names: of the columns.
        measured: by name, of each volume.
        volumes: of a cache.
        numbers: which of them.
    """
    columns = {
        name: _known(np.array([one.get(name, np.nan) for one in measured], np.float64))
        for name in names
    }
    flags = [" ".join(one) for one in said.flags]
    beside = {"novelty": _known(said.novelty), "flags": flags}
    return pa.table(whose(volumes, numbers) | columns | beside | marks_of(volumes, numbers))


def write_arrays(path: Path, **arrays: Any) -> None:
    """Write an .npz, whole or not at all."""

    def write(draft: Path) -> None:
        with draft.open("wb") as file:
            np.savez_compressed(file, **arrays)

    write_whole(path, write)


def answers_of(about: About, said: Predictions) -> dict[str, Any]:
    """The columns of what is said, for scans and for participants alike."""
    columns: dict[str, Any] = {
        name: said.scores[:, one] for one, name in enumerate(score_columns(about))
    }
    if about.kind in ("nominal", "ordinal", "multilabel"):
        columns["decided"] = list(said.decided)
    names = np.array(about.names)
    if said.sets is not None:
        columns["set"] = ["|".join(names[row]) for row in said.sets]
    if said.certain is not None:
        columns["certain"] = ["|".join(names[row]) for row in said.certain]
    if said.ranges is not None:
        columns |= {name: _known(said.ranges[:, one]) for one, name in enumerate(("low", "high"))}
    columns["novelty"] = _known(said.novelty)
    columns["flags"] = [" ".join(one) for one in said.flags]
    return columns


def score_columns(about: About) -> list[str]:
    """Names of the columns of scores."""
    if about.kind in ("nominal", "ordinal", "multilabel"):
        return [f"p_{one}" for one in about.names]
    return ["risk" if about.kind == "survival" else "predicted"]


def _known(values: NDArray[np.float64]) -> pa.Array:
    """Empty where not a number."""
    return pa.array(values, pa.float64(), mask=~np.isfinite(values))


def read_parts(folder: Path) -> pa.Table:
    """All parts, in the order of the scans."""
    paths = sorted((folder / PARTS).glob("part-*.parquet"))
    return pa.concat_tables([pq.read_table(path) for path in paths])


def participants_of(model: Model, table: pa.Table) -> pa.Table:
    """A row for each participant, by the model's rule; for each scan of whom nobody is said."""
    about = model.about
    count, read = (
        sum(name.startswith(start) for name in table.column_names) for start in (EVEN, READ)
    )
    flags = table.column("flags").to_pylist()
    rows = Predictions(
        names=about.names,
        scores=_columns(table, score_columns(about)),
        even=_columns(table, [f"{EVEN}{one}" for one in range(count)]),
        decided=("",) * len(table),
        sets=None,
        ranges=None,
        novelty=_columns(table, ["novelty"])[:, 0],
        flags=tuple(tuple(one.split()) for one in flags),
        features=tuple(_features(table, f"{READ}{one}") for one in range(read)),
    )
    people, eyes, scans = (table.column(name).to_pylist() for name in (*WHOSE, "scan"))
    people = [scan if one == NOBODY else one for one, scan in zip(people, scans, strict=True)]
    names, counts, said = model.join(rows, people, eyes)
    return pa.table({"participant": names.tolist(), "scans": counts} | answers_of(about, said))


WHOSE = ("participant", "eye")


def _columns(table: pa.Table, names: Sequence[str]) -> NDArray[np.float64]:
    """(N, columns); NaN where empty."""
    found = [
        [np.nan if one is None else one for one in table.column(name).to_pylist()] for name in names
    ]
    return np.array(found, np.float64).T


def _features(table: pa.Table, name: str) -> NDArray[np.float32]:
    """(N, D) of a column of lists."""
    column = table.column(name).combine_chunks()
    found: NDArray[np.float32] = column.flatten().to_numpy().reshape(len(table), -1)
    return found


def with_refused(
    table: pa.Table, refusals: Sequence[Refusal], paths: Mapping[str, str] | None
) -> pa.Table:
    """Without the columns that joining needed; scans that could not be read come last.

    Args:
        table: of the scored scans.
        refusals: scans that were not scored; they get a stage and a reason.
        paths: hash of a scan to its path; None: no path is written.
    """
    shown = [name for name in table.column_names if not name.startswith((EVEN, READ))]
    table = table.select(shown)
    table = table.append_column("stage", pa.array([""] * len(table), pa.string()))
    table = table.append_column("reason", pa.array([""] * len(table), pa.string()))
    rows = [
        {
            "scan": one.key,
            "flags": NOT_SCORED,
            "stage": one.stage,
            "reason": one.reason,
            **{name: "" for name in ("participant", "eye", "device", "scan_flags")},
        }
        for one in refusals
    ]
    if rows:
        table = pa.concat_tables([table, pa.Table.from_pylist(rows, schema=table.schema)])
    if paths is None:
        return table
    named = dict(paths) | {one.key: one.path for one in refusals}
    column = [named.get(key, "") for key in table.column("scan").to_pylist()]
    return table.add_column(1, "path", pa.array(column, pa.string()))


def write_tables(folder: Path, name: str, table: pa.Table) -> None:
    """NAME.parquet and NAME.csv, each whole or not at all."""
    write_whole(folder / f"{name}.parquet", lambda path: pq.write_table(table, path))

    def write_csv(path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(table.column_names)
            for row in table.to_pylist():
                writer.writerow(["" if one is None else one for one in row.values()])

    write_whole(folder / f"{name}.csv", write_csv)
