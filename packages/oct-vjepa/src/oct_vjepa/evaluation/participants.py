"""One answer from all volumes of a participant, by a learned pool on kept features.

Where `trials.verdict.Panel` averages what is said of single volumes, this fits
`heads.multivolume.ParticipantModel`: attention over the volumes of a side, then over the sides, and
volumes left out at random while it trains. Validation chooses the epoch and the weight decay.
Neither knows how two volumes differ; a probe on what `pair_up` makes of features does.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
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
from oct_vjepa.saving import write_whole

Floats = NDArray[np.float64]
SCALING = "scaling.safetensors"
SIDE_OF_EYE = {"R": 0, "L": 1}


def sides_of(eyes_N: Sequence[str]) -> NDArray[np.int64]:
    """Side of each volume as the pool takes it: 0 right, 1 left, 2 unknown."""
    return np.array([SIDE_OF_EYE.get(eye, SIDES - 1) for eye in eyes_N], np.int64)


@dataclass(frozen=True, kw_only=True, slots=True)
class FittedPool:
    """A pool over volumes that was fitted and chosen: it answers for participants.

    Attributes:
        head: in evaluation mode.
        mean_D: of the features of the fit rows.
        scale_D: their standard deviation, 1 where they do not vary.
    """

    head: MultiVolumeHead
    mean_D: Floats
    scale_D: Floats

    def predict(
        self, features_ND: NDArray[Any], people_N: NDArray[Any], sides_N: NDArray[np.int64]
    ) -> Floats:
        """Scores of each participant, (P, K), in the order of `np.unique(people_N)`.

        Args:
            features_ND: of all their volumes.
            people_N: whose each is.
            sides_N: see `sides_of`.

        Raises:
            ValueError: features of another width.
        """
        if features_ND.ndim != 2 or features_ND.shape[1] != len(self.mean_D):
            raise ValueError(
                f"pool: features must be (N, {len(self.mean_D)}), not {features_ND.shape}"
            )
        owners = np.unique(people_N, return_inverse=True)[1].reshape(-1)
        scaled = (features_ND - self.mean_D) / self.scale_D
        x, there, side = _filled(scaled, sides_N, _members(owners))
        with torch.no_grad():
            scores = self.head.answer.scores(self.head(x, there, side))
        return scores.double().numpy()

    def save(self, folder: str | Path) -> None:
        """Write the head and scaling.safetensors to `folder`, each whole or not at all."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.head.save_pretrained(folder)
        arrays = {"mean": self.mean_D, "scale": self.scale_D}
        whole = {name: np.ascontiguousarray(one, np.float64) for name, one in arrays.items()}
        write_whole(folder / SCALING, lambda path: save_file(whole, path))

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            ValueError: no pool there, or one that is damaged.
        """
        folder = Path(folder)
        head = MultiVolumeHead.from_pretrained(folder)
        try:
            arrays = load_file(folder / SCALING)
            mean, scale = arrays["mean"], arrays["scale"]
        except (OSError, KeyError, SafetensorError) as error:
            raise ValueError(f"{folder}: no pool over volumes: {error}") from error
        if mean.shape != scale.shape or mean.shape != (head.settings()["width"],):
            raise ValueError(f"{folder}: {SCALING} is of another pool than the weights")
        return cls(head=head.eval(), mean_D=mean, scale_D=scale)


class Pooled(NamedTuple):
    """What the pool says.

    Attributes:
        scores_NK: of each row that is tested or validates what is said of its participant, as
            `Target` tells; NaN for others.
        chosen: weight decay and epoch, with the headline on validation.
        candidates: the same of all strengths.
        pool: what was fitted.
    """

    scores_NK: Floats
    chosen: dict[str, Any]
    candidates: list[dict[str, Any]]
    pool: FittedPool


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
    fitted = features_ND[one.fit].astype(np.float64)
    mean, spread = fitted.mean(axis=0), fitted.std(axis=0)
    scale = np.where(spread > 1e-12, spread, 1.0)
    scaled = (features_ND - mean) / scale
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
    pool = FittedPool(head=found.model.head.eval(), mean_D=mean, scale_D=scale)
    return Pooled(scores, found.chosen, [trained.chosen for trained in tried], pool)


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
    members = [rows[own] for own in _members(which.reshape(-1))]
    x, there, side = _filled(features_ND, sides_N, members)
    labels = torch.as_tensor(np.stack([target.values[own[0]] for own in members]))
    labels = labels.float() if labels.is_floating_point() else labels.long()
    return _Sets(members, ParticipantBatch(x, there, side, labels))


def _members(owner_N: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Rows of each of the owners, who are numbered."""
    ordered = np.argsort(owner_N, kind="stable")
    return np.split(ordered, np.cumsum(np.bincount(owner_N))[:-1])


def _filled(
    features_ND: NDArray[Any], sides_N: NDArray[np.int64], members: list[NDArray[np.int64]]
) -> tuple[Tensor, Tensor, Tensor]:
    """Features, which are there, and sides of the volumes of each participant."""
    return fill_up(
        [torch.as_tensor(features_ND[own], dtype=torch.float32) for own in members],
        [np.clip(sides_N[own], 0, SIDES - 1).tolist() for own in members],
        max(len(own) for own in members),
    )


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
