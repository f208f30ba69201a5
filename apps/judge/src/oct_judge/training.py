"""Training an encoder on one question: fit, choose the epoch on validation rows, score, save."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import oct_xla
import torch
from numpy.typing import NDArray
from oct_vjepa import Encoder
from oct_vjepa.heads.answer import Answer
from oct_vjepa.heads.build import build_head
from oct_vjepa.heads.configuration import LossConfig
from oct_vjepa.heads.head import Head, PooledHead
from oct_vjepa.heads.linear import LinearHead
from oct_vjepa.heads.losses import balanced_weights, positive_weights
from oct_vjepa.heads.supervised import Supervised
from oct_vjepa.measures.measure import HEADLINE
from oct_vjepa.measures.progress import WATCHED, watch_scores
from oct_vjepa.measures.target import Target
from oct_vjepa.model.pooling import class_tokens_of
from oct_vjepa.probes.answers import priors_of
from torch import Tensor, nn

from oct_judge.examples import LabelledSamples, Parts, Volumes
from oct_judge.learning import (
    Ending,
    Place,
    Scored,
    each_batch,
    finish,
    gather,
    identity_of,
    learn,
    own_encoder,
    save,
)
from oct_judge.recipe import Plan, TrainingConfig

STANDARDISED = 512  # training rows whose features say where a head's inputs lie


class Trained(NamedTuple):
    """What training came to.

    Attributes:
        scores_NK: of all rows, in the shape that `Target` tells; NaN for rows that were only
            trained on, and for all of them if the run was stopped.
        ending: how it ended.
        metric: what the epoch was chosen by.
        validation: the numbers of the validation rows with the weights of that epoch.
        folder: where `encoder` and `head` lie; not yet there if the run was stopped.
        chosen: of several candidates the one that validation chose.
        candidates: all of them, each with its value on validation.
    """

    scores_NK: NDArray[np.float64]
    ending: Ending
    metric: str
    validation: dict[str, float]
    folder: Path
    chosen: Mapping[str, Any] = {}
    candidates: Sequence[Mapping[str, Any]] = ()


class Start(NamedTuple):
    """A head that was fitted before anything is trained; see `oct_judge.starting`."""

    head: LinearHead
    told: Mapping[str, Any]  # what it was fitted with


def train_mode(
    config: TrainingConfig,
    encoder: Encoder,
    volumes: Volumes,
    target: Target,
    round: Parts,
    place: Place,
    start: Start | None = None,
) -> Trained:
    """Train on the rows to fit, take the epoch that is best on validation, score, and save.

    The same call goes on where a killed or stopped one was, and after the end repeats its result.
    Rows without an answer are not trained on; they are scored if they are asked for.

    Args:
        config: the recipe.
        encoder: to start from; a copy is trained.
        volumes: N of them.
        target: N answers.
        round: which rows are for what.
        place: where, with which seed.
        start: the head to begin with, trained in place; None: a fresh one.

    Raises:
        ValueError: a setting that does not fit the question, no row to train on, or a class that
            no training row has while class weights are "auto".
        CheckpointError: the folder holds another run.
    """
    runtime, seed = place.runtime, place.seed
    fit = rows_to_fit(config, target, round)
    plan = config.plan(len(fit), runtime.devices)
    head = None if start is None else start.head
    objective = make_objective(config, encoder, target.take(fit), plan.per_epoch, seed, head)
    runtime.prepare(objective)
    if start is None:
        place_inputs(objective, volumes, fit, plan.batch_size, runtime)
    samples = LabelledSamples(
        volumes, fit, config, encoder=encoder.config, seed=seed, labels=target.values[fit]
    )
    ask = partial(predict, objective, volumes, size=plan.batch_size, runtime=runtime)
    told = {} if start is None else dict(start.told)
    trained = learn_answers(
        config, objective, samples, ask, target, round, plan=plan, place=place, who=encoder,
        start=told,
    )  # fmt: skip
    if trained.ending.reason != "stopped":
        save(objective, objective.head, encoder.config, place, lora=config.mode == "lora")
    if told:
        return trained._replace(chosen={**told, "steps": trained.ending.best_step})
    return trained


def rows_to_fit(config: TrainingConfig, target: Target, round: Parts) -> NDArray[np.int64]:
    """Numbers of the rows to train on.

    Raises:
        ValueError: there is none with an answer, or a setting that does not fit the question.
    """
    if target.kind == "survival" and config.accumulate > 1:
        raise ValueError(
            f"training.accumulate ({config.accumulate}) must be 1 for survival: the rows of a "
            "batch are compared with each other"
        )
    fit = np.flatnonzero(round.fit & target.known)
    if not len(fit):
        raise ValueError("no row to train on has an answer")
    return fit


def learn_answers(
    config: TrainingConfig,
    objective: nn.Module,
    samples: LabelledSamples,
    ask: Callable[[NDArray[np.int64]], Any],
    target: Target,
    round: Parts,
    *,
    plan: Plan,
    place: Place,
    who: Encoder | str,
    start: Mapping[str, Any] = MappingProxyType({}),
) -> Trained:
    """Train an objective in place, take the epoch that is best on validation, and score.

    Args:
        config: the recipe.
        objective: what learns.
        samples: of the rows to fit.
        ask: scores of rows by number, in steps, as `learning.gather` gives them.
        target: N answers.
        round: which rows are for what.
        plan: what the recipe comes to.
        place: where, with which seed.
        who: the encoder that it starts from, or what names the network.
        start: what the head was fitted with, which then counts as epoch 0; nothing: it is fresh.
    """
    fit, watched = (np.flatnonzero(part & target.known) for part in (round.fit, round.validation))
    config.check_metric(WATCHED[target.kind])
    metric = HEADLINE[target.kind] if config.metric == "auto" else config.metric

    def evaluate(step: int) -> Iterator[Mapping[str, float] | None]:
        scores = yield from ask(watched)
        yield watch_scores(scores, target.take(watched))

    ending = learn(
        objective,
        samples,
        config,
        plan,
        place,
        metric=metric,
        evaluate=evaluate if len(watched) else None,
        identity=identity_of(
            who,
            rows=fit,
            answers=target.values[fit],
            watched=watched,
            watched_answers=target.values[watched],
            question=np.array([target.kind, *target.names]),
        )
        | {f"start.{name}": one for name, one in start.items()},
        start_counts=bool(start),
    )
    scores_NK = np.full((len(target), len(target.names)), np.nan)
    if ending.reason == "stopped":
        return Trained(scores_NK, ending, metric, {}, place.run_dir)
    asked = np.flatnonzero(round.validation | round.calibrating | round.test)
    scores_NK[asked] = finish(ask(asked))
    validation = watch_scores(scores_NK[watched], target.take(watched)) if len(watched) else {}
    return Trained(scores_NK, ending, metric, validation, place.run_dir)


def meaning_of(target: Target) -> Answer:
    """What the outputs of a model for these answers mean; a quantity about its mean."""
    if target.kind != "regression":
        return Answer(kind=target.kind, unit=target.unit)
    spread = float(target.values.std())
    return Answer(
        kind=target.kind,
        unit=target.unit,
        mean=float(target.values.mean()),
        scale=spread if spread > 0 else 1.0,
    )


def loss_of(config: TrainingConfig, target: Target) -> LossConfig:
    """The loss that the recipe asks for, with weights counted on these answers."""
    return LossConfig(
        kind=target.kind,
        label_smoothing=config.label_smoothing,
        class_weights=class_weights(config, target),
        distance=config.distance,
    )


def make_objective(
    config: TrainingConfig,
    encoder: Encoder,
    target: Target,
    per_epoch: int,
    seed: int,
    head: Head | None = None,
) -> Supervised:
    """A copy of the encoder with a head, fresh if none is given, and the loss for these answers.

    Raises:
        ValueError: a setting that does not fit the question.
    """
    if head is None:
        head = build_head(
            config.head,
            width=encoder.config.width,
            names=target.names,
            answer=meaning_of(target),
            seed=seed,
        )
    loss = loss_of(config, target)
    own = own_encoder(encoder, config, seed)
    return Supervised(own, head, loss, config.finetuning(per_epoch))


def class_weights(config: TrainingConfig, target: Target) -> list[float] | None:
    """Weights of the classes, or of the rows that have a label, counted on these answers.

    Raises:
        ValueError: "auto", and a class that no row has; or not a number a class.
    """
    if config.class_weights == "none":
        return None
    if config.class_weights != "auto":
        if len(config.class_weights) != len(target.names):
            raise ValueError(
                f"training.class_weights ({config.class_weights}) must be a number for each of "
                f"{', '.join(target.names)}"
            )
        return [float(weight) for weight in config.class_weights]
    if target.kind == "multilabel":
        return positive_weights(target.values)
    return balanced_weights(target.values, len(target.names)) if target.is_classes else None


def shares_in_fit(config: TrainingConfig, target: Target) -> NDArray[np.float64] | None:
    """What undoes the weights of the classes, as `shift_priors` takes it; None: they had none.

    A class of twice the weight is learned as if twice as many were of it; one of none is not.

    Args:
        config: the recipe.
        target: answers of the fit rows.
    """
    if not target.is_counted or config.class_weights == "none":
        return None
    if config.class_weights == "auto":
        return priors_of(target)
    weights = np.array(config.class_weights, dtype=np.float64)
    shares = np.divide(1, weights, out=np.zeros_like(weights), where=weights > 0)
    return shares / (1 + shares) if target.kind == "multilabel" else shares / shares.sum()


def place_inputs(
    objective: Supervised,
    volumes: Volumes,
    rows: NDArray[Any],
    size: int,
    runtime: oct_xla.Runtime,
) -> None:
    """Tell a head on pooled features where those of the encoder lie before training.

    Every process looks at the same rows: some hundreds at even distances.
    """
    head = objective.head
    if not isinstance(head, PooledHead):
        return
    class_tokens = class_tokens_of(objective.encoder)

    def pooled(volume: Tensor, spacing: Tensor | None) -> Tensor:
        tokens = objective.tokens(volume, spacing, layers=head.levels).float()
        return head.pooled(tokens, class_tokens=class_tokens)

    chosen = rows[:: max(1, len(rows) // STANDARDISED)]
    found = finish(gather(each_batch(objective, pooled, volumes, chosen, size, runtime), runtime))
    head.standardise(torch.from_numpy(found).to(head.mean))


def predict(
    objective: Supervised,
    volumes: Volumes,
    rows: NDArray[Any],
    *,
    size: int,
    runtime: oct_xla.Runtime,
) -> Scored:
    """Scores of the rows, ascending, (len(rows), K)."""
    return gather(each_batch(objective, objective.predict, volumes, rows, size, runtime), runtime)
