"""The run folder of an evaluation, opened for a page."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from oct_judge.candidates import PRETRAINED
from oct_judge.results import FORMAT, interval_of

YES_OR_NO = (("false", "true"), ("0", "1"), ("no", "yes"))
"""Classes of a question whose name says what the second is."""
LARGE = 100
"""Where three decimals are too many: an R2 of a model that is lost, such as -423.1."""
NOTHING = {"auroc": 0.5, "concordance": 0.5, "r2": 0.0, "dice": 0.0}
"""A headline that knows nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Results:
    """What the sections read.

    Attributes:
        folder: name of the run folder.
        document: results.json.
        predictions: the encoder's test rows, column to values, of all seeds and rounds.
        embedding: arrays of embedding.npz; empty without.
        cases: arrays of cases.npz; empty without.
        provenance: provenance.json.
    """

    folder: str
    document: Mapping[str, Any]
    predictions: Mapping[str, NDArray[Any]]
    embedding: Mapping[str, NDArray[Any]]
    cases: Mapping[str, NDArray[Any]]
    provenance: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """Of the question."""
        return str(self.document["question"]["kind"])

    @property
    def is_counted(self) -> bool:
        """Answers are classes or labels."""
        return self.kind in ("nominal", "ordinal", "multilabel")

    @property
    def headline(self) -> str:
        """Name of the headline metric."""
        return str(self.document["headline"])

    @property
    def own(self) -> Mapping[str, Any]:
        """The encoder's line."""
        return self.candidate(PRETRAINED) or self.document["candidates"][0]

    @property
    def card(self) -> Mapping[str, Any]:
        """The encoder's card."""
        card: Mapping[str, Any] = self.own["card"]
        return card

    @property
    def title(self) -> str:
        """Of the page."""
        return f"Evaluation {self.folder}"

    def candidate(self, name: str) -> Mapping[str, Any] | None:
        """The line of a candidate; None if nobody of that name was asked."""
        lines = (one for one in self.document["candidates"] if one["name"] == name)
        return next(lines, None)


def read_results(run_dir: Path) -> Results:
    """Open a run folder.

    Raises:
        ValueError: results.json is of another format.
        OSError: a file is not there.
    """
    document = json.loads((run_dir / "results.json").read_text(encoding="utf-8"))
    if document.get("format") != FORMAT:
        raise ValueError(
            f"{run_dir / 'results.json'}: format {document.get('format')}, this page reads {FORMAT}"
        )
    table = pq.read_table(run_dir / "predictions.parquet")
    name = document["candidates"][0]["name"]
    own = table.filter((pc.field("candidate") == name) & (pc.field("part") == "test"))
    return Results(
        folder=run_dir.resolve().name,
        document=document,
        predictions={one: np.asarray(own[one].to_pylist()) for one in own.column_names},
        embedding=_arrays(run_dir / "embedding.npz"),
        cases=_arrays(run_dir / "cases.npz"),
        provenance=json.loads((run_dir / "provenance.json").read_text(encoding="utf-8")),
    )


def text(plain: Sequence[float | None], sign: str = "") -> str:
    """`0.812 (0.751 to 0.866)`, in fewer decimals where numbers are large; "-" where not known."""
    found = interval_of(plain)
    if not math.isfinite(found.value) or max(abs(one) for one in found) < LARGE:
        return found.text(sign)
    return f"{found.value:{sign}.4g} ({found.low:{sign}.4g} to {found.high:{sign}.4g})"


def number(value: Any) -> str:
    """A number for a table: four figures that count, "-" where there is none."""
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:.4g}"


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    if not path.exists():
        return {}
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
