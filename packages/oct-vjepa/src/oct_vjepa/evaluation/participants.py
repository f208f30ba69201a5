"""One answer from all volumes of a participant, by a learned pool on kept features.

Where `trials.verdict.Panel` averages what is said of single volumes, this fits
`heads.multivolume.ParticipantModel`: attention over the volumes of a side, then over the sides, and
volumes left out at random while it trains. Validation chooses the epoch and the weight decay.
Neither knows how two volumes differ; a probe on what `pair_up` makes of features does.
"""

import copy
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oct_vjepa.heads.answer import Answer
from oct_vjepa.heads.configuration import AttentionConfig, LossConfig
from oct_vjepa.heads.losses import balanced_weights, positive_weights
from oct_vjepa.heads.multivolume import (
    SIDES,
    MultiVolumeHead,
    ParticipantBatch,
    ParticipantModel,
    fill_up,
)
from oct_vjepa.measures.target import Target
from oct_vjepa.probes.choice import Validation, best_of, validate_all
from oct_vjepa.probes.protocol import Round

Floats = NDArray[np.float64]


class Pooled(NamedTuple):
    """What the pool says.

    Attributes:
        scores_NK: of each row that is tested or validates what is said of its participant, as
            `Target` tells; NaN for others.
        chosen: weight decay and epoch, with the headline on validation.
        candidates: the same of all strengths.
    """

    scores_NK: Floats
    chosen: dict[str, Any]
    candidates: list[dict[str, Any]]


def pair_up(features_ND: NDArray[Any], people_N: NDArray[np.int64]) -> NDArray[np.float32]:
    """Mean and spread of the features of all volumes of a participant, for each volume, (N, 2 D).

    Of two volumes, such as two eyes or two visits, the spread is half of their distance; of one it
    is 0. All volumes of a participant get the same.
    """
    features = features_ND.astype(np.float64)
    owners = np.unique(people_N, return_inverse=True)[1].reshape(-1)
    counts = np.bincount(owners)[:, None]
    mean, square = (np.zeros((len(counts), features.shape[1])) for _ in range(2))
    np.add.at(mean, owners, features)
    mean /= counts
    np.add.at(square, owners, (features - mean[owners]) ** 2)
    both = np.concatenate([mean, np.sqrt(square / counts)], axis=1)
    return both.astype(np.float32)[owners]


def pool_volumes(
    features_ND: NDArray[Any],
    target: Target,
    people_N: NDArray[np.int64],
    sides_N: NDArray[np.int64],
    one: Round,
    config: AttentionConfig,
    *,
    seed: int,
    balanced: bool = True,
) -> Pooled:
    """Fit the pool on the rows to fit, choose on validation, and say what it thinks of the rest.

    Rows of one participant with one answer go together; whoever has two answers, such as of two
    eyes, is two.

    Args:
        features_ND: of all rows.
        target: answers of all rows.
        people_N: number of the participant of each row.
        sides_N: 0 right, 1 left, 2 unknown.
        one: who is fitted on, who chooses, who is tested.
        config: see `AttentionConfig`.
        seed: of weights, order and dropout; torch's generator stays where it is.
        balanced: classes weigh alike.
    """
    rows = np.flatnonzero(one.fit | one.validation | one.calibrating | one.test)
    centre, spread = features_ND[one.fit].mean(axis=0), features_ND[one.fit].std(axis=0)
    scaled = (features_ND - centre) / np.where(spread > 1e-12, spread, 1.0)
    sets = _sets(scaled, target, people_N, sides_N, rows)
    parts = {
        name: np.array([getattr(one, name)[members[0]] for members in sets.members])
        for name in ("fit", "validation", "test")
    }
    loss = _loss(target.take(np.flatnonzero(one.fit)), balanced)
    tried = []
    with torch.random.fork_rng(devices=[]):
        for decay in config.weight_decay:
            torch.manual_seed(seed)
            tried.append(_train(sets, target, parts, loss, config, decay, people_N, seed))
    found = tried[best_of([trained.validation for trained in tried])]
    scores = np.full((len(target), len(target.names)), np.nan)
    for members, said in zip(sets.members, _say(found.model, sets), strict=True):
        if not one.fit[members[0]]:
            scores[members] = said
    return Pooled(scores, found.chosen, [trained.chosen for trained in tried])


class _Sets(NamedTuple):
    """Participants, each with the rows of one answer."""

    members: list[NDArray[np.int64]]
    batch: ParticipantBatch

    def take(self, numbers: NDArray[Any]) -> ParticipantBatch:
        """Some of them."""
        chosen = torch.as_tensor(numbers)
        return ParticipantBatch(*(part[chosen] for part in self.batch))


class _Trained(NamedTuple):
    model: ParticipantModel
    validation: Validation
    chosen: dict[str, Any]


def _sets(
    features_ND: NDArray[Any],
    target: Target,
    people_N: NDArray[np.int64],
    sides_N: NDArray[np.int64],
    rows: NDArray[np.int64],
) -> _Sets:
    keys = np.column_stack([people_N[rows], target.values[rows].reshape(len(rows), -1)])
    _, which = np.unique(keys, axis=0, return_inverse=True)
    which = which.reshape(-1)
    members = [rows[which == number] for number in range(int(which.max()) + 1)]
    most = max(len(own) for own in members)
    x, there, side = fill_up(
        [torch.as_tensor(features_ND[own], dtype=torch.float32) for own in members],
        [np.clip(sides_N[own], 0, SIDES - 1).tolist() for own in members],
        most,
    )
    labels = torch.as_tensor(np.stack([target.values[own[0]] for own in members]))
    labels = labels.float() if labels.is_floating_point() else labels.long()
    return _Sets(members, ParticipantBatch(x, there, side, labels))


def _loss(fit: Target, balanced: bool) -> LossConfig:
    weights = None
    if balanced and fit.is_classes:
        weights = balanced_weights(fit.values, len(fit.names))
    elif balanced and fit.kind == "multilabel":
        weights = positive_weights(fit.values)
    return LossConfig(kind=fit.kind, class_weights=weights)


def _train(
    sets: _Sets,
    target: Target,
    parts: dict[str, NDArray[np.bool_]],
    loss: LossConfig,
    config: AttentionConfig,
    decay: float,
    people_N: NDArray[np.int64],
    seed: int,
) -> _Trained:
    answer: dict[str, Any] = {"kind": target.kind, "unit": target.unit}
    fit, watched = np.flatnonzero(parts["fit"]), np.flatnonzero(parts["validation"])
    if target.kind == "regression":
        goal = sets.take(fit).label_B
        answer |= {"mean": float(goal.mean()), "scale": float(goal.std(correction=0)) or 1.0}
    head = MultiVolumeHead(
        width=sets.batch.x_BVD.shape[2],
        classes=target.names,
        inner=config.inner,
        heads=config.heads,
        view_dropout=config.view_dropout,
    )
    head.answer = Answer(**answer)
    model = ParticipantModel(head, loss)
    optimiser = torch.optim.AdamW(model.parameter_groups(decay), lr=config.lr)
    firsts = [sets.members[number][0] for number in watched]
    asked, owners = target.take(np.array(firsts)), people_N[firsts]
    draw = np.random.default_rng(seed)
    seen: list[Validation] = []
    kept: list[dict[str, Tensor]] = []
    for epoch in range(config.epochs):
        model.train()
        order = draw.permutation(fit)
        whole = target.kind == "survival"  # whose rows are compared with each other
        for some in [order] if whole else _cut(order, config.batch_size):
            optimiser.zero_grad()
            model.loss(sets.take(some))["loss"].backward()
            optimiser.step()
        seen += validate_all(asked, [_say(model, sets)[watched]], owners)
        kept.append(copy.deepcopy(model.state_dict()))
        best = best_of(seen)
        kept = [state if number == best else {} for number, state in enumerate(kept)]
        if epoch - best >= config.patience:
            break
    model.load_state_dict(kept[best])
    chosen = {
        "readout": "attention over volumes",
        "weight_decay": decay,
        "epoch": best + 1,
        "headline": seen[best].headline,
    }
    return _Trained(model, seen[best], chosen)


def _cut(order: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    """Batches of about equal size."""
    return np.array_split(order, max(1, round(len(order) / size)))


@torch.no_grad()
def _say(model: ParticipantModel, sets: _Sets) -> Floats:
    model.eval()
    x, there, side, _ = sets.batch
    return model.predict(x, there, side).double().numpy()
