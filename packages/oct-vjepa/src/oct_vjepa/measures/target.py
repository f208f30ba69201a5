"""What is asked of each row: a class, steps of severity, several labels, a quantity, or a time."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

KINDS = ("nominal", "ordinal", "multilabel", "regression", "survival")
UNKNOWN = -1
"""Class, or one of several labels, of a row that nobody labelled."""
STRATA = 5  # parts of about equal size into which quantities are cut where strata are needed


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """The answers to one question, a row each; rows without an answer are allowed.

    Attributes:
        kind: one of `KINDS`; it decides the shapes of `values` and of predicted scores:
            nominal, ordinal: values (N,) int64, a class from 0, or `UNKNOWN`; scores (N, classes),
            probabilities that sum to 1, classes of ordinal in their order.
            multilabel: values (N, labels) int64, 0, 1 or `UNKNOWN`; scores (N, labels), the
            probability of each label by itself.
            regression: values (N,) float64, NaN where unknown; scores (N, 1), the quantity.
            survival: values (N, 2) float64, time and 1 for an event or 0 for the end of
            observation, NaN where unknown; scores (N, 1), a risk: the higher the sooner.
        values: see above.
        names: of the classes or labels; of the quantity alone for regression and survival.
        unit: of the quantity or the time, such as "years".
    """

    kind: str
    values: NDArray[Any]
    names: tuple[str, ...]
    unit: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"task.kind ({self.kind}) must be one of {', '.join(KINDS)}")
        widths = {"multilabel": (len(self.names),), "survival": (2,)}
        if self.values.shape[1:] != widths.get(self.kind, ()):
            raise ValueError(f"values of a {self.kind} target cannot be {self.values.shape}")
        if self.kind in ("nominal", "ordinal") and len(self.names) < 2:
            raise ValueError(f"a {self.kind} target needs two classes, not {list(self.names)}")
        if self.is_counted and self.values.max(initial=0) >= self.counts:
            raise ValueError(f"values go up to {self.values.max()}; names are {list(self.names)}")

    def __len__(self) -> int:
        return len(self.values)

    @property
    def is_classes(self) -> bool:
        """Each row is of one class."""
        return self.kind in ("nominal", "ordinal")

    @property
    def is_counted(self) -> bool:
        """Values are whole numbers: classes, or several labels."""
        return self.is_classes or self.kind == "multilabel"

    @property
    def counts(self) -> int:
        """How many different whole numbers a value may be."""
        return 2 if self.kind == "multilabel" else len(self.names)

    @property
    def known(self) -> NDArray[np.bool_]:
        """(N,); true for rows with an answer, of several labels at least one."""
        if self.kind == "multilabel":
            return (self.values != UNKNOWN).any(axis=1)
        if self.is_classes:
            return self.values != UNKNOWN
        return np.isfinite(self.values).reshape(len(self), -1).all(axis=1)

    def take(self, rows: NDArray[Any]) -> "Target":
        """The answers of these rows, by number or by truth."""
        return Target(kind=self.kind, values=self.values[rows], names=self.names, unit=self.unit)

    def strata(self) -> NDArray[np.int64]:
        """(N,) numbers from 0 of rows that are alike, for folds and resampling.

        The class; the combination of labels; `STRATA` parts of a quantity by rank; events and
        others apart, each in parts by time. Unknown rows form a stratum of their own.
        """
        known = self.known
        if self.is_counted:
            rows = self.values.reshape(len(self), -1)
        else:
            rows = np.zeros((len(self), 2))
            quantity = self.values[:, 0] if self.kind == "survival" else self.values
            ranks = np.argsort(np.argsort(quantity[known], kind="stable"), kind="stable")
            rows[known, 0] = ranks * STRATA // max(1, len(ranks))
            if self.kind == "survival":
                rows[known, 1] = self.values[known, 1]
            rows[~known] = UNKNOWN
        return np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
