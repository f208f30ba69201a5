"""Some of the scans of a data set, by device, region, eye and number of B-scans."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from oct_io.catalog.manifest import ScanRecord
from oct_io.errors import TreeError
from oct_io.scan.protocols import DEVICES

REGIONS = (
    "Macula",
    "Macula, 6 x 6",
    "Macula, 12 x 12",
    "Macula, 20 x 20",  # third release
    "Wide Field",
    "Optic Disc",
    "Optic Disc, 6 x 6",
)
"""Words of AI-READI's manifests for anatomic regions, of all releases."""

EYES = {"r": "R", "od": "R", "right": "R", "l": "L", "os": "L", "left": "L", "unknown": "unknown"}


@dataclass(kw_only=True, slots=True)
class Selection:
    """Which scans to keep; an empty list keeps all."""

    devices: list[str] = field(default_factory=list)
    """Normalised names, such as "topcon_triton". One is the predecessor's single domain."""

    regions: list[str] = field(default_factory=list)
    """Regions in the manifest's words, such as "Macula, 6 x 6"; case and spaces do not matter.
    "Macula" alone is a region of its own, and does not stand for the sizes of it."""

    lateralities: list[str] = field(default_factory=list)
    """R or L; also OD, OS, right, left."""

    min_bscans: int = 0
    """Fewest B-scans; scans of unknown shape are then left out."""

    max_bscans: int = 0
    """Most B-scans; 0 sets no limit."""

    def __post_init__(self) -> None:
        for name in self.lateralities:
            if _plain(name) not in EYES:
                raise ValueError(f"data.lateralities ({name}) must be R or L")
        if self.max_bscans and self.max_bscans < self.min_bscans:
            raise ValueError(
                f"max_bscans ({self.max_bscans}) must be at least min_bscans ({self.min_bscans})"
            )


def select_scans(records: Sequence[ScanRecord], selection: Selection) -> list[ScanRecord]:
    """Records that `selection` keeps, in their order.

    A known device or region that the data set does not have is no mistake, so that one list goes
    with every release.

    Raises:
        TreeError: a device or region that nobody knows, with those there are; or nothing is left.
    """
    kept = list(records)
    eyes = [EYES[_plain(one)] for one in selection.lateralities]
    kept = _keep(kept, records, "device", selection.devices, DEVICES)
    kept = _keep(kept, records, "region", selection.regions, REGIONS)
    kept = _keep(kept, records, "laterality", eyes, EYES.values())
    if selection.min_bscans or selection.max_bscans:
        kept = [one for one in kept if one.shape and _has_bscans(one.shape[0], selection)]
    if not kept:
        raise TreeError(
            f"none of {len(records)} scans is of the devices, regions, eyes and numbers of B-scans "
            "that are asked for together"
        )
    return kept


def _has_bscans(count: int, selection: Selection) -> bool:
    return count >= selection.min_bscans and (
        count <= selection.max_bscans or not selection.max_bscans
    )


def _keep(
    kept: list[ScanRecord],
    records: Sequence[ScanRecord],
    what: str,
    wanted: Sequence[str],
    known: Iterable[str] = (),
) -> list[ScanRecord]:
    if not wanted:
        return kept
    present = {getattr(record, what) for record in records}
    names = {_plain(one) for one in wanted}
    for name in wanted:
        if _plain(name) not in {_plain(one) for one in (*present, *known)}:
            listed = ", ".join(f"'{one}'" for one in sorted(present))
            raise TreeError(f"no scan has {what} '{name}'; there are {listed}")
    return [record for record in kept if _plain(getattr(record, what)) in names]


def _plain(text: str) -> str:
    """Letters, digits and commas alone, in lower case."""
    return re.sub(r"[^a-z0-9,]+", "", text.lower())
