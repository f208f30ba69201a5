"""New scans drawn by a model of masks: a file a scan, and what is measured in it.

Nothing is measured in a scan with a flag: its mask is there to be looked at.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from oct_io import Spacing
from oct_io.cache.entries import CacheEntry
from oct_io.cache.volumes import CachedVolumes
from oct_io.space.layers import mask_to_layers
from oct_io.space.thickness import SECTORS, map_thickness, measure_etdrs
from oct_io.volume import Laterality
from oct_vjepa.finished.about import About
from oct_vjepa.finished.model import Model

from oct_judge.finished.scored import measured_rows, told_of, write_arrays

MASKS = "masks"
Mask = NDArray[np.uint8]


def draw_rows(folder: Path, model: Model, volumes: CachedVolumes, numbers: range) -> pa.Table:
    """Draw some volumes, write masks/KEY.npz of each, and give a row for each.

    Args:
        folder: of the predictions.
        model: who draws.
        volumes: of a cache.
        numbers: which of them.
    """
    said = model.draw([volumes[one] for one in numbers], **told_of(volumes, numbers))
    (folder / MASKS).mkdir(exist_ok=True)
    measured: list[Mapping[str, float]] = []
    for mask, number, flags in zip(said.masks, numbers, said.flags, strict=True):
        entry = volumes.entries[number]
        path = mask_path(folder, entry.key)
        write_arrays(path, mask=mask, names=np.array(said.names), spacing_mm=entry.spacing)
        measured.append({} if flags else measure(model.about, mask, entry))
    return measured_rows(said, measured_in(model.about), measured, volumes, numbers)


def mask_path(folder: Path, key: str) -> Path:
    """Where the mask of a scan lies."""
    return folder / MASKS / f"{key}.npz"


def measured_in(about: About) -> list[str]:
    """Names of the columns of what is measured in a mask."""
    found = [f"{kind}_{name}" for name in _told_apart(about) for kind in ("share", "mm3")]
    return found + [f"etdrs_um_{sector}" for sector in SECTORS if about.band]


def measure(about: About, mask: Mask, entry: CacheEntry) -> Mapping[str, float]:
    """What `measured_in` names, of one mask; NaN where millimetres are not known.

    Args:
        about: the model.
        mask: of the window.
        entry: the scan that the window was cut from.
    """
    spacing, found = Spacing(*entry.spacing), dict[str, Any]()
    for name in _told_apart(about):
        voxels = int((mask == about.names.index(name)).sum())
        found[f"share_{name}"] = voxels / mask.size
        found[f"mm3_{name}"] = voxels * float(np.prod(spacing))
    if not about.band or not np.isfinite(spacing).all():
        return found
    rows = mask_to_layers(mask, len(about.boundaries))
    upper, lower = (rows[about.boundaries.index(one)] * spacing.row for one in about.band)
    side = "R" if entry.mirrored else entry.laterality
    table = measure_etdrs(map_thickness(upper, lower), spacing, cast(Laterality, side))
    return found | {f"etdrs_um_{sector}": table.thickness_um[sector] for sector in SECTORS}


def _told_apart(about: About) -> tuple[str, ...]:
    """Classes that are measured: no background, and of layers what has two boundaries."""
    return about.names[1:-1] if len(about.boundaries) > 1 else about.names[1:]
