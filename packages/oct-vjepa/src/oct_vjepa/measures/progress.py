"""Numbers for a training log and for early stopping: what `measure` says of rows as they are.

What a result is reported with is the same arithmetic on participants, with intervals.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oct_vjepa.measures.measure import measure
from oct_vjepa.measures.target import Target
from oct_vjepa.measures.units import Units

SMALLER_IS_BETTER = ("log_loss", "mae", "rmse")

_OF_CLASSES = {
    "auroc": "auroc",
    "balanced_accuracy": "balanced_accuracy",
    "macro_f1": "f1_macro",
    "accuracy": "accuracy",
    "log_loss": "nll",
}
WATCHED: dict[str, Mapping[str, str]] = {
    "nominal": _OF_CLASSES,
    "ordinal": _OF_CLASSES,
    "multilabel": {name: _OF_CLASSES[name] for name in ("auroc", "balanced_accuracy", "log_loss")},
    "regression": {name: name for name in ("r2", "mae", "rmse")},
    "survival": {"concordance": "concordance"},
}
"""Kind of a question to the names of its numbers in a log, and what `measure` calls each."""


def watch_scores(scores_NK: NDArray[Any], target: Target) -> dict[str, float]:
    """The numbers of `WATCHED` for rows that are all labelled, each row by itself.

    NaN where the rows do not allow one.

    Args:
        scores_NK: in the shape that `Target` tells.
        target: the answers.
    """
    rows = np.arange(len(target))
    units = Units(np.asarray(scores_NK, dtype=np.float64), target.values, rows)
    found = measure(target.kind, units)
    return {name: float(found[one][0]) for name, one in WATCHED[target.kind].items()}
