"""Cheap probes for the log of a training run: no scikit-learn, no fitting loop, a second at most.

They rank checkpoints of one run; what goes into a report is asked by `oct_vjepa.trials.judging`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from oct_vjepa.evaluation.features import embed_volumes
from oct_vjepa.evaluation.readouts import block_numbers
from oct_vjepa.measures.measure import measure
from oct_vjepa.measures.target import Target
from oct_vjepa.measures.units import aggregate_units
from oct_vjepa.model.encoder import Encoder
from oct_vjepa.probes.neighbours import neighbour_votes

UNLABELLED = -1
"""Label of a volume that takes no part in a probe."""
SHRINKAGE = 0.1  # of the ridge, in units of the rows: 0.1 says "one tenth of the data is prior"
FOLDS = 5


class Volumes(Protocol):
    """An array of volumes, a list, or a cache that reads each when it is asked for."""

    def __len__(self) -> int:
        """Return how many there are."""

    def __iter__(self) -> Iterator[NDArray[Any]]:
        """Yield (Z, Y, X) or (C, Z, Y, X) each."""


class OnlineProbe:
    """A few labelled volumes that an encoder is asked about now and then.

    Every volume is scored by classifiers that have not seen its participant: folds by participant
    for the ridge, all other participants for the neighbours.

    Args:
        volumes: N volumes, (Z, Y, X) or (C, Z, Y, X) each.
        labels: N classes, numbers or strings; or columns of such, where `UNLABELLED` takes a volume
            out of that column. The volumes are embedded once for all columns.
        groups: participant of each volume; each its own if left out.
        pool: how tokens become features; that of the default knows most of what is small.
        blocks: whose tokens, as `ReadoutConfig.blocks` calls them; side by side all know what the
            last has let go, and cost no further pass.
        batch_size: volumes in one pass.
        seed: of the folds.
        spacing: as for `embed_volumes`; read by encoders whose positions are lengths.

    Raises:
        ValueError: sizes differ, one class only, or fewer than two participants.
    """

    def __init__(
        self,
        volumes: Volumes,
        labels: NDArray[Any] | Mapping[str, NDArray[Any]],
        groups: NDArray[Any] | None = None,
        *,
        pool: str = "tails",
        blocks: str = "all",
        batch_size: int = 32,
        seed: int = 0,
        spacing: Sequence[float] | NDArray[Any] | None = None,
    ) -> None:
        self.groups = np.arange(len(volumes)) if groups is None else np.asarray(groups)
        columns = labels if isinstance(labels, Mapping) else {"": labels}
        self.columns = {name: np.asarray(column) for name, column in columns.items()}
        for name, column in self.columns.items():
            if not len(volumes) == len(column) == len(self.groups):
                raise ValueError(
                    f"online probe: {len(volumes)} volumes, {len(column)} labels, "
                    f"{len(self.groups)} groups"
                )
            known = column != UNLABELLED
            check_sides(column[known], self.groups[known], name)
        self.volumes, self.spacing = volumes, spacing
        self.pool, self.blocks = pool, blocks
        self.batch_size, self.seed = batch_size, seed

    def __call__(self, encoder: Encoder) -> dict[str, float]:
        """Numbers for the log, as `online_scores`, with _COLUMN behind; waits for the device."""
        features = embed_volumes(
            encoder,
            self.volumes,
            batch_size=self.batch_size,
            pools=(self.pool,),
            spacing=self.spacing,
            layers=block_numbers(self.blocks, encoder.config.depth),
        )[self.pool]
        numbers: dict[str, float] = {}
        for column, labels in self.columns.items():
            known = labels != UNLABELLED
            found = online_scores(
                features[known], labels[known], self.groups[known], seed=self.seed
            )
            behind = f"_{column}" if column else ""
            numbers |= {f"{name}{behind}": value for name, value in found.items()}
        return numbers


def online_scores(
    features_ND: NDArray[Any] | Tensor,
    labels_N: NDArray[Any],
    groups_N: NDArray[Any] | None = None,
    *,
    seed: int = 0,
) -> dict[str, float]:
    """AUROC and balanced accuracy of ridge regression and of the nearest neighbours.

    Args:
        features_ND: of the volumes.
        labels_N: their classes.
        groups_N: their participants; each its own if left out.
        seed: of the folds.

    Returns:
        "probe_linear_auroc", "probe_linear_accuracy", "probe_knn_auroc" and "probe_knn_accuracy";
        the accuracies are balanced.

    Raises:
        ValueError: one class only, or fewer than two participants.
    """
    groups = np.arange(len(labels_N)) if groups_N is None else np.asarray(groups_N)
    check_sides(labels_N, groups)
    classes, y = np.unique(labels_N, return_inverse=True)
    y, member = y.reshape(-1), np.unique(groups, return_inverse=True)[1].reshape(-1)
    features = torch.as_tensor(features_ND).detach().cpu().double()
    label, group = torch.from_numpy(y), torch.from_numpy(member)
    votes = neighbour_votes(
        features, label, features, classes=len(classes), groups_N=group, query_groups_M=group
    )
    chances = {"linear": cross_ridge(features, label, member, len(classes), seed), "knn": votes}
    names = tuple(str(one) for one in classes.tolist())
    target, numbers = Target(kind="nominal", values=y, names=names), {}
    for name, chance in chances.items():
        found = measure("nominal", aggregate_units(chance.numpy(), target, member))
        numbers[f"probe_{name}_auroc"] = float(found["auroc"][0])
        numbers[f"probe_{name}_accuracy"] = float(found["balanced_accuracy"][0])
    return numbers


def cross_ridge(
    features_ND: Tensor, label_N: Tensor, member_N: NDArray[Any], classes: int, seed: int
) -> Tensor:
    """Scores (N, classes) of ridge regressions that did not see the row's participant.

    Targets are one-hot with each class weighing alike; solved in closed form on whichever side is
    smaller, rows or features.
    """
    people = int(member_N.max()) + 1
    fold = np.random.default_rng(seed).permutation(people) % min(FOLDS, people)
    scores = torch.zeros(len(features_ND), classes, dtype=features_ND.dtype)
    for one in range(int(fold.max()) + 1):
        rest = torch.from_numpy(fold[member_N] == one)
        scores[rest] = ridge_scores(features_ND[~rest], label_N[~rest], features_ND[rest], classes)
    return scores


def ridge_scores(fit_ND: Tensor, label_N: Tensor, test_MD: Tensor, classes: int) -> Tensor:
    """Scores (M, classes) of a ridge regression on one-hot labels."""
    counts = torch.bincount(label_N, minlength=classes).clamp_min(1).to(fit_ND.dtype)
    weight = (len(label_N) / (classes * counts))[label_N]
    spread = fit_ND.std(dim=0, correction=0)
    scale = torch.where(spread > 1e-12, spread, torch.ones_like(spread))
    share = weight / weight.sum()
    middle = (share.unsqueeze(1) * fit_ND).sum(dim=0)
    hot = functional.one_hot(label_N, classes).to(fit_ND.dtype)
    target_mean = (share.unsqueeze(1) * hot).sum(dim=0)
    root = weight.sqrt().unsqueeze(1)
    x, y = root * (fit_ND - middle) / scale, root * (hot - target_mean)
    strength = SHRINKAGE * len(x)
    if x.shape[1] <= x.shape[0]:
        gram = x.T @ x + strength * torch.eye(x.shape[1], dtype=x.dtype)
        beta = torch.linalg.solve(gram, x.T @ y)
    else:  # the same solution, through the rows
        gram = x @ x.T + strength * torch.eye(x.shape[0], dtype=x.dtype)
        beta = x.T @ torch.linalg.solve(gram, y)
    return (test_MD - middle) / scale @ beta + target_mean


def check_sides(labels_N: NDArray[Any], groups_N: NDArray[Any], column: str = "") -> None:
    """Refuse labels that no probe can be asked about.

    Raises:
        ValueError: one class only, or fewer than two participants.
    """
    where = f"online probe for {column}" if column else "online probe"
    if len(np.unique(labels_N)) < 2:
        raise ValueError(f"{where}: the labels are of one class only; it needs two or more")
    if len(np.unique(groups_N)) < 2:
        raise ValueError(f"{where}: it needs two participants or more")
