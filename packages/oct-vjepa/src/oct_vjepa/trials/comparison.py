"""Features side by side: the same probe on each, trivial baselines too, with paired differences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oct_vjepa.measures.units import Interval
from oct_vjepa.probes.linear import BOOTSTRAP, ProbeResult, paired_difference, probe_sides

UNLABELLED = -1
"""Label of a volume that takes no part in a probe."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeRow:
    """One line of the comparison."""

    column: str
    features: str
    """Whose features: an encoder's name, or that of a baseline."""
    pool: str
    """Empty for features that are not pooled from tokens."""
    result: ProbeResult
    gain: Interval | None = None
    """AUROC minus that of the reference with the same pool, on the same resampled participants."""

    @property
    def point(self) -> tuple[str, str, str, float, float, float]:
        """Label, features, pool, AUROC, and the ends of its interval: what a plot takes."""
        return self.column, self.features, self.pool, *self.result.auroc_interval


def compare_features(
    features: Mapping[str, Mapping[str, NDArray[np.float32]]],
    labels: Mapping[str, NDArray[np.int64]],
    participants: NDArray[np.str_],
    held_out: NDArray[np.bool_],
    *,
    reference: str,
    seed: int,
    bootstrap: int = BOOTSTRAP,
) -> list[ProbeRow]:
    """Probe every kind of features for every label column.

    Args:
        features: name to pool to (N, D); a baseline has the single pool "".
        labels: column to N classes, `UNLABELLED` where unknown.
        participants: N names; a participant is one unit of the test.
        held_out: N; true for the volumes of test participants.
        reference: name of the features that gains are measured against, usually random init.
        seed: of folds and bootstrap.
        bootstrap: number of bootstrap samples.

    Raises:
        ValueError: a column without two classes on both sides, or a participant on both sides.
    """
    rows = []
    for column, y in labels.items():
        known = y != UNLABELLED
        fit, test = known & ~held_out, known & held_out
        results = {
            (name, pool): probe_sides(
                values, y, participants, fit, test, seed=seed, bootstrap=bootstrap
            )
            for name, pools in features.items()
            for pool, values in pools.items()
        }
        for (name, pool), result in results.items():
            other = results.get((reference, pool)) if name != reference else None
            gain = None
            if other is not None:
                gain = paired_difference(result, other, seed=seed, bootstrap=bootstrap)
            rows.append(ProbeRow(column=column, features=name, pool=pool, result=result, gain=gain))
    return rows


COLUMNS = ("label", "features", "pool", "AUROC", "balanced accuracy", "AUROC over reference")
"""Headings of `as_cells`."""


def as_cells(rows: Sequence[ProbeRow]) -> list[list[str]]:
    """The rows as text for a table, each value with its 95 % interval."""
    return [
        [
            row.column,
            row.features,
            row.pool or "-",
            row.result.auroc_interval.text(),
            row.result.balanced_accuracy_interval.text(),
            row.gain.text("+") if row.gain else "",
        ]
        for row in rows
    ]


def as_json(row: ProbeRow) -> dict[str, object]:
    """One row as plain values; triples are a value and the ends of its 95 % interval."""
    result = row.result
    return {
        "label": row.column,
        "features": row.features,
        "pool": row.pool,
        "auroc": list(result.auroc_interval),
        "balanced_accuracy": list(result.balanced_accuracy_interval),
        "auroc_over_reference": list(row.gain) if row.gain else None,
        "participants_test": result.participants_test,
        "strength": result.strength,
    }
