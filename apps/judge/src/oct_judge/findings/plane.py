"""The encoder's features of all volumes on two axes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from oct_vjepa.measures.target import Target
from oct_vjepa.trials.projection import project_rows

from oct_judge.study import Study


def plane_of(
    study: Study, features: NDArray[Any], readout: str
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Facts for results.json, and arrays for embedding.npz; participants appear as hashes."""
    try:
        found = project_rows(features)
    except ValueError as error:
        return {"why_not": str(error)}, {}
    part = np.full(len(features), "", dtype="<U11")
    for name, rows in study.rounds[0].parts.items():
        part[rows] = name
    columns: Mapping[str, NDArray[Any]] = {
        name: study.examples.columns[name]
        for name in study.examples.columns
        if name.startswith("@")
    }
    arrays = {
        "places": found.places_N2.astype(np.float32),
        "answer": answers_of(study.target),
        "part": part,
        "participant": study.examples.participants,
        **{f"column {name}": values for name, values in columns.items()},
    }
    facts = {
        "method": "PCA",
        "readout": readout,
        "rows": len(features),
        "shares": found.shares_2.tolist(),
        "columns": list(columns),
    }
    return facts, arrays


def answers_of(target: Target) -> NDArray[Any]:
    """A class, a combination of labels, or a number, for each row; times without their event."""
    if target.is_classes:
        return np.array([*target.names, "unknown"])[target.values]
    if target.kind == "multilabel":
        sets = [
            " + ".join(name for name, has in zip(target.names, row, strict=True) if has == 1)
            for row in target.values
        ]
        return np.array([one or "none" for one in sets])
    values: NDArray[Any] = target.values if target.kind == "regression" else target.values[:, 0]
    return values
