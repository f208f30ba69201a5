"""Which scans of a data set have layer boundaries and masks, counted by name and class."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from oct_io.errors import ScanError
from oct_io.quarantine import without_name
from oct_io.records.annotations import peek_classes, read_layers
from oct_io.records.opening import annotation_files, scan_file
from oct_io.records.record import ScanRecord
from oct_io.scan.header import ScanHeader


@dataclass(kw_only=True, slots=True)
class AnnotationCounts:
    """Counts over usable scans.

    Attributes:
        with_layers: scans that have any boundary.
        with_mask: scans that have a mask.
        layers: boundary to the number of scans that have it.
        classes: class of a mask to the number of scans whose mask knows it.
        unusable: files with boundaries or a mask that cannot be read.
        reason: of the first of them.
    """

    with_layers: int = 0
    with_mask: int = 0
    layers: Counter[str] = field(default_factory=Counter)
    classes: Counter[str] = field(default_factory=Counter)
    unusable: int = 0
    reason: str = ""
    _shares: dict[str, float] = field(default_factory=dict, repr=False)

    @property
    def coverage(self) -> dict[str, float]:
        """Share of A-scans for which a boundary is known, in the mean of the scans that have it."""
        return {name: self._shares[name] / number for name, number in self.layers.items()}

    def to_tree(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "with_layers": self.with_layers,
            "with_mask": self.with_mask,
            "layers": dict(self.layers),
            "coverage": {name: round(share, 4) for name, share in self.coverage.items()},
            "classes": dict(self.classes),
            "unusable": self.unusable,
            "reason": self.reason,
        }

    def see(self, root: str | Path, record: ScanRecord, header: ScanHeader) -> None:
        """Count one scan: what its header says, and what files of its own hold.

        Files of boundaries are read, which are small; of masks only what names their classes.
        """
        known = dict(header.layers)
        mask, layers = annotation_files(root, record)
        try:
            if layers is not None:
                found = read_layers(layers, (header.shape[0], header.shape[2]))
                known |= {name: float(np.isfinite(rows).mean()) for name, rows in found.items()}
            if mask is not None:
                names = peek_classes(mask, scan_file(root, record))
                self.classes.update(names[1:])  # the first one is the background
                self.with_mask += 1
        except ScanError as error:
            self.unusable += 1
            self.reason = self.reason or f"{error.stage}: {without_name(error.reason, record.path)}"
        self.with_layers += bool(known)
        self.layers.update(known.keys())
        for name, share in known.items():
            self._shares[name] = self._shares.get(name, 0.0) + share
