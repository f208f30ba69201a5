"""What a data set is like before it is cached: how many scans, how large, how finely sampled.

The headers of some scans, evenly spread, say it; of images their first bytes do.
"""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from oct_io.cache.build import build_cache
from oct_io.cache.volumes import CachedVolumes, open_cache
from oct_io.catalog.manifest import ScanRecord
from oct_io.errors import ScanError, TreeError
from oct_io.records.opening import open_scan
from oct_io.source import Looked, Report, look_at
from oct_io.source_config import SourceConfig
from oct_io.space.windows import WINDOWS

LOOKED_AT = 48
"""Scans whose headers are read; their medians settle a window."""
PLANE_VOXELS = {False: 96 * 256, True: 384 * 768}
"""Of a B-scan without millimetres, on a CPU and on an accelerator: the default's, and 16 times as
many patches of 16 x 16."""
DEEP = (64, 384, 384)
ROWS, COLUMNS = 16, 16
"""Steps in which rows and columns are chosen, so that patches divide them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """The fingerprint of a data set.

    Attributes:
        scans: all that the selection asks for.
        training: those of participants that pretraining may see.
        participants: of the scans for training.
        devices: scans by device, of all.
        shapes: (n, 3) voxels of the scans that were looked at.
        spacings: (n, 3) millimetres, NaN where nobody knows them.
        refused: scans among them that cannot be read.
        images: whether scans are single B-scans.
    """

    scans: int
    training: int
    participants: int
    devices: Mapping[str, int]
    shapes: NDArray[np.int64]
    spacings: NDArray[np.float64]
    refused: int
    images: bool

    @property
    def measured(self) -> bool:
        """Whether the millimetres of all scans are known, but for what single B-scans lack."""
        known = self.spacings[:, 1:] if self.images else self.spacings
        return bool(len(known) and np.isfinite(known).all())

    @property
    def shape(self) -> tuple[int, int, int]:
        """Median number of voxels along each axis."""
        bscans, rows, columns = np.median(self.shapes, axis=0).astype(int).tolist()
        return bscans, rows, columns

    @property
    def extent_mm(self) -> tuple[float, float, float]:
        """Median size in millimetres; NaN where nobody knows it."""
        bscans, rows, columns = np.median(self.shapes * self.spacings, axis=0).tolist()
        return bscans, rows, columns

    def describe(self) -> list[str]:
        """Lines for a person."""
        size = " x ".join(map(str, self.shape))
        wide = "millimetres not known"
        if self.measured:
            axes = self.extent_mm[1:] if self.images else self.extent_mm
            wide = " x ".join(f"{mm:.3g}" for mm in axes) + " mm"
        devices = ", ".join(f"{name} {count:,}" for name, count in self.devices.items())
        kind = "single B-scans" if self.images else "volumes"
        return [
            f"{self.scans:,} {kind}, {self.training:,} of {self.participants:,} participants for "
            "training",
            f"median {size} voxels, {wide}, of {len(self.shapes)} that were looked at"
            + (f"; {self.refused} more cannot be read" if self.refused else ""),
            f"devices: {devices}",
        ]


class WindowChoice(NamedTuple):
    """A window that fits a data set, and why."""

    name: str
    reason: str


class Sampled(NamedTuple):
    """Some scans of a data set in a window, and what it took to read one."""

    volumes: CachedVolumes
    seconds: float


def survey(config: SourceConfig, report: Report | None = None) -> tuple[Survey, Looked]:
    """Look at a data set; also returns its scans, for `sample_cache`.

    Raises:
        TreeError: as `look_at`, or none of the scans can be read.
    """
    looked = look_at(config, report)
    records = [one for one in looked.records if one.refused is None]
    if not records:
        raise TreeError("none of the scans can be read; oct-io audit says why")
    outside = looked.split.participants(config.excluded_splits) if looked.split else set[str]()
    training = [one for one in records if one.participant not in outside]
    shapes, spacings, refused = [], [], len(looked.records) - len(records)
    for record in _spread(records, LOOKED_AT):
        try:
            scan = open_scan(config.root, record)
        except ScanError:
            refused += 1
            continue
        shapes.append(scan.shape)
        header = scan.header
        spacings.append(scan.spacing or (np.nan, header.row_mm, header.column_mm))
    if not shapes:
        raise TreeError("none of the scans that were looked at can be read; oct-io audit says why")
    found = Survey(
        scans=len(records),
        training=len(training),
        participants=len({one.participant for one in training}),
        devices=dict(Counter(one.device for one in records).most_common()),
        shapes=np.array(shapes, np.int64),
        spacings=np.array(spacings, np.float64),
        refused=refused,
        images=all(one.bscan for one in records),
    )
    return found, looked


def choose_window(found: Survey, *, accelerated: bool) -> WindowChoice:
    """A window for these scans: in millimetres where they are known, else in voxels.

    Args:
        found: the data set.
        accelerated: whether the machine can train on large windows.
    """
    if found.images:
        return _choose_plane(found, accelerated)
    name = "macula6" if accelerated else "tiny"
    across = min(found.extent_mm[0], found.extent_mm[2]) if found.measured else np.nan
    wanted = min(WINDOWS[name].extent_mm[0], WINDOWS[name].extent_mm[2])
    if found.measured and across >= 0.9 * wanted:
        extent = " x ".join(f"{mm:g}" for mm in WINDOWS[name].extent_mm)
        reason = f"{extent} mm: the scans reach {across:.3g} mm across, so hardly any is padded"
        return WindowChoice(name, reason)
    deep = DEEP if accelerated else WINDOWS["tiny"].shape
    bscans, rows, columns = (
        max(step, min(most, have // step * step))
        for most, have, step in zip(deep, found.shape, (2, ROWS, COLUMNS), strict=True)
    )
    why = "nobody knows their millimetres"
    if found.measured:
        why = f"they reach {across:.3g} mm across, less than the {wanted:g} mm of {name}"
    reason = f"all of each scan in voxels: {why}"
    return WindowChoice(f"{bscans}x{rows}x{columns}", reason)


def _choose_plane(found: Survey, accelerated: bool) -> WindowChoice:
    """Rows and columns in the proportions of the images, as many as the machine can take."""
    _, rows, columns = found.shape
    if found.measured and not accelerated and found.extent_mm[2] >= 5.4:
        return WindowChoice("bscan", "2 x 6 mm about the retina: millimetres are known for all")
    budget = min(PLANE_VOXELS[accelerated], rows * columns)
    wide = (budget * columns / rows) ** 0.5
    across = max(COLUMNS, round(wide / COLUMNS) * COLUMNS)
    down = max(ROWS, round(budget / wide / ROWS) * ROWS)
    reason = (
        f"all of each image, in the proportions of the median one ({rows} x {columns}) and as many "
        f"voxels as {'an accelerator' if accelerated else 'a CPU'} trains on"
    )
    return WindowChoice(f"{down}x{across}", reason)


def sample_cache(
    config: SourceConfig, looked: Looked, window: str, folder: Path, count: int
) -> Sampled:
    """Cache some scans, evenly spread, in `folder`, with one process.

    Raises:
        TreeError: more than half of them cannot be used.
    """
    records = _spread([one for one in looked.records if one.refused is None], count)
    before = time.perf_counter()
    wanted = replace(config, window=window).cut()
    build_cache(records, config.root, wanted, folder, jobs=1, tokens=looked.tokens)
    return Sampled(open_cache(folder), (time.perf_counter() - before) / len(records))


def _spread(records: list[ScanRecord], count: int) -> list[ScanRecord]:
    """At most `count` of the records, at even distances."""
    places = np.linspace(0, len(records) - 1, min(count, len(records)))
    return [records[int(place)] for place in places]
