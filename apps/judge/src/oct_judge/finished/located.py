"""New scans located by a model of patches: a map a scan, and what it comes to.

Nothing is summed up of a scan with a flag: its map is there to be looked at.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from oct_io.cache.volumes import CachedVolumes
from oct_vjepa.finished.about import About
from oct_vjepa.finished.model import Model

from oct_judge.finished.scored import measured_rows, told_of, write_arrays

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
    measured: list[Mapping[str, float]] = []
    for chances, number, flags in zip(said.chances, numbers, said.flags, strict=True):
        entry = volumes.entries[number]
        parts = np.divide(model.about.shape, chances.shape[1:])
        step_mm = np.asarray(entry.spacing, np.float64) * parts
        path = map_path(folder, entry.key)
        write_arrays(path, chance=chances, names=np.array(said.names), spacing_mm=step_mm)
        measured.append({} if flags else sum_up(model.about, chances))
    return measured_rows(said, summed_in(model.about), measured, volumes, numbers)


def map_path(folder: Path, key: str) -> Path:
    """Where the map of a scan lies."""
    return folder / MAPS / f"{key}.npz"


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
