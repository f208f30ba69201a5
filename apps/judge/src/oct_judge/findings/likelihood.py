"""How probabilities of the encoder came true, in bins, for each class or label."""

from typing import Any

import numpy as np
from oct_vjepa.measures.target import UNKNOWN, Target
from oct_vjepa.measures.units import Units
from oct_vjepa.scores.calibration import reliability
from oct_vjepa.scores.resampling import Runs


def reliability_of(runs: Runs, target: Target) -> dict[str, list[dict[str, Any]]]:
    """Class or label to its bins; participants of all rounds together, each as often as asked."""
    if not target.is_counted:
        return {}
    units = [one for rounds in runs for one in rounds]
    return {name: _bins(units, target, number) for number, name in enumerate(target.names)}


def _bins(units: list[Units], target: Target, number: int) -> list[dict[str, Any]]:
    chance = np.concatenate([one.scores_NC[:, number] for one in units])
    if target.is_classes:
        true = np.concatenate([one.labels_N == number for one in units])
        known = np.ones(len(true), bool)
    else:
        answers = np.concatenate([one.labels_N[:, number] for one in units])
        true, known = answers == 1, answers != UNKNOWN
    if not known.any():
        return []
    people = np.concatenate([one.groups_N for one in units])[known]
    times = len(people) / len(np.unique(people))  # by several seeds, or in several rounds
    found = reliability(chance[known], true[known])
    return [
        {"chance": float(mean), "came_true": float(share), "participants": round(rows / times)}
        for mean, share, rows in zip(found.chance_P, found.came_true_P, found.rows_P, strict=True)
        if rows
    ]
