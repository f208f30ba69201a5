"""Does a probe read the label, or where the scan came from?

Any column that should not matter, such as the device or the site, can be a shortcut: features that
tell it, and a label that goes along with it, give a good score for nothing.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oct_vjepa.measures.units import Scores
from oct_vjepa.probes.linear import BOOTSTRAP, probe_sides


@dataclass(frozen=True, kw_only=True, slots=True)
class ShortcutReport:
    """Four probes that belong together; read them side by side."""

    column: Scores
    """The column from the features: how well the features tell it; 0.5 is not at all."""
    label: Scores
    """The label from the features: the usual probe."""
    label_from_column: Scores
    """The label from the column alone: what the shortcut is worth."""
    label_without_column: Scores
    """The label from features whose mean within each value of the column was taken out."""


def probe_shortcut(
    features: NDArray[Any],
    column: NDArray[Any],
    labels: NDArray[Any],
    participants: NDArray[Any],
    held_out: NDArray[np.bool_],
    *,
    seed: int,
    bootstrap: int = BOOTSTRAP,
) -> ShortcutReport:
    """Probe for the column, for the label, and for the label with the column taken out.

    The mean of each value is taken from the training rows. A device of which only the test side has
    volumes has no mean, so it is refused.

    Args:
        features: (N, D).
        column: N values of the column that should not matter, numbers or strings.
        labels: N labels.
        participants: N; a participant is one unit.
        held_out: N; true for test participants.
        seed: of folds and bootstrap.
        bootstrap: number of bootstrap samples.

    Raises:
        ValueError: as `probe`; among others a column whose values are not on both sides.
    """
    fit, test = ~np.asarray(held_out), np.asarray(held_out)
    column, labels = np.asarray(column), np.asarray(labels)
    if lost := sorted({str(one) for one in set(column[test]) - set(column[fit])}):
        raise ValueError(f"column: the values {lost} are on the test side only; none to compare")
    values, kind = np.unique(column, return_inverse=True)
    hot = np.eye(len(values))[kind.reshape(-1)]

    def ask(rows: NDArray[Any], y: NDArray[Any]) -> Scores:
        return probe_sides(rows, y, participants, fit, test, seed=seed, bootstrap=bootstrap)

    means = hot[fit].T @ features[fit] / hot[fit].sum(axis=0)[:, None]
    return ShortcutReport(
        column=ask(features, column),
        label=ask(features, labels),
        label_from_column=ask(hot, labels),
        label_without_column=ask(features - hot @ means, labels),
    )
