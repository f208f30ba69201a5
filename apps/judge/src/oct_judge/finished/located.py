"""New scans located by a model of patches: a map a scan, and what it comes to.

Nothing is summed up of a scan with a flag: its map is there to be looked at.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from oct_io.cache.volumes import CachedVolumes
from oct_vjepa.finished.about import About
from oct_vjepa.finished.model import Model
from oct_vjepa.saving import write_whole

from oct_judge.finished.scored import marks_of, told_of, whose

MAPS = "maps"
Chances = NDArray[np.float32]


def locate_rows(folder: Path, model: Model, volumes: CachedVolumes, numbers: range) -> pa.Table:
    """Say of some volumes which patches hold what, write maps/KEY.npz, and give a row for each.

    Args:
        folder: of the predictions.
        model: who says it.
        volumes: of a cache.
        numbers: which of them.
    """
    said = model.locate([volumes[one] for one in numbers], **told_of(volumes, numbers))
    (folder / MAPS).mkdir(exist_ok=True)
    entries = [volumes.entries[one] for one in numbers]
    columns: dict[str, list[float | None]] = {name: [] for name in summed_in(model.about)}
    for chances, entry, flags in zip(said.chances, entries, said.flags, strict=True):
        parts = np.divide(model.about.shape, chances.shape[1:])
        step = np.asarray(entry.spacing, np.float64) * parts
        write_whole(map_path(folder, entry.key), partial(_write_map, chances, said.names, step))
        found = {} if flags else sum_up(model.about, chances)
        for name, values in columns.items():
            values.append(found.get(name))
    novelty = [float(one) if np.isfinite(one) else None for one in said.novelty]
    return pa.table(
        whose(volumes, numbers)
        | {name: pa.array(values, pa.float64()) for name, values in columns.items()}
        | {"novelty": pa.array(novelty, pa.float64())}
        | {"flags": [" ".join(one) for one in said.flags]}
        | marks_of(volumes, numbers)
    )


def map_path(folder: Path, key: str) -> Path:
    """Where the map of a scan lies."""
    return folder / MAPS / f"{key}.npz"


def _write_map(
    chances: Chances, names: tuple[str, ...], step_mm: NDArray[np.float64], path: Path
) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, chance=chances, names=np.array(names), spacing_mm=step_mm)


def summed_in(about: About) -> list[str]:
    """Names of the columns of what a map comes to."""
    return [f"{kind}_{name}" for name in about.names for kind in ("mean", "max", "share")]


def sum_up(about: About, chances: Chances) -> Mapping[str, float]:
    """What `summed_in` names, of one map; no share of a class without a threshold.

    Args:
        about: the model; its cutoffs are the thresholds.
        chances: (classes, Z, Y, X).
    """
    found = dict[str, float]()
    for name, map_ZYX in zip(about.names, chances, strict=True):
        found |= {f"mean_{name}": float(map_ZYX.mean()), f"max_{name}": float(map_ZYX.max())}
        if name in about.cutoffs:
            found[f"share_{name}"] = float((map_ZYX >= about.cutoffs[name]).mean())
    return found
