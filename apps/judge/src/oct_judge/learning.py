"""Trains an encoder with something on top by oct_xla's loop, and takes up the best epoch."""

import hashlib
import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import oct_xla
import torch
from numpy.typing import NDArray
from oct_vjepa import Encoder, EncoderConfig
from oct_vjepa.heads.adapters import add_lora, merge_lora
from oct_vjepa.heads.finetuning import FineTuned
from oct_vjepa.model.weights import weights_fingerprint
from oct_xla.folder.runfolder import keep_part
from torch import Tensor, nn

from oct_judge.examples import Taker, Volumes, stripe
from oct_judge.recipe import Plan, TrainingConfig

FREE = ("patience", "workers", "prefetch", "log_every", "accumulate")
"""Settings that a run may go on with changed; the others make it another run."""


Scored = Generator[None, None, NDArray[np.float64]]
"""Yields between batches, where a run may be left, and returns a row of numbers for each row."""


class Samples(Protocol):
    """Makes sample `index` of `epoch`."""

    def __len__(self) -> int: ...

    def __call__(self, index: int, epoch: int) -> Any:
        """One sample, without batch axis."""
        ...


class Head(Protocol):
    """What is saved beside the encoder."""

    def save_pretrained(self, folder: str | Path) -> None:
        """Write it to a folder."""
        ...


class Ending(NamedTuple):
    """How training ended.

    Attributes:
        reason: "done", "early", or "stopped", after which the same call goes on.
        step: optimiser steps that were taken.
        best_step: steps after which the weights were as they are now.
        best: the metric at that step; NaN without a validation part.
    """

    reason: str
    step: int
    best_step: int
    best: float


class Place(NamedTuple):
    """Where a run takes place and what names it."""

    runtime: oct_xla.Runtime
    """Where to train; all its processes train together."""
    run_dir: Path
    """The run's own folder; all processes must see it."""
    seed: int
    """Of what is new in the model, of the order, of dropout and of augmentation."""
    data: str = ""
    """Fingerprint of the volumes; a run goes on with equal ones only."""
    sinks: Sequence[oct_xla.Sink] = ()
    """Take the rows of metrics."""
    progress: bool = False
    """Whether to show how far it is."""


class Plain(NamedTuple):
    """What a network of others takes: volumes alone."""

    position_unit: str = "index"


def taken_by(objective: nn.Module) -> Taker:
    """What an objective wants to know of volumes."""
    return objective.encoder.config if isinstance(objective, FineTuned) else Plain()


def own_encoder(encoder: Encoder, config: TrainingConfig, seed: int) -> Encoder:
    """A copy to be trained, so that the encoder that was given stays as it is."""
    settings = replace(encoder.config, drop_path=config.drop_path)
    with torch.random.fork_rng(devices=[]):
        copy = Encoder(settings)
    copy.load_state_dict(encoder.state_dict())
    return add_lora(copy, config.lora, seed=seed) if config.mode == "lora" else copy


def learn(
    objective: nn.Module,
    samples: Samples,
    config: TrainingConfig,
    plan: Plan,
    place: Place,
    *,
    metric: str,
    evaluate: Callable[[int], Iterator[Mapping[str, float] | None]] | None,
    identity: Mapping[str, Any],
    start_counts: bool = False,
) -> Ending:
    """Train in the run folder, or go on, and give the objective the weights of its best epoch.

    Args:
        objective: trained in place.
        samples: what is trained on.
        config: the recipe.
        plan: what it comes to.
        place: where.
        metric: key of `evaluate`'s scores that chooses the epoch.
        evaluate: see `oct_xla.fit`; None: the last epoch is taken.
        identity: what else makes the run this one.
        start_counts: evaluate what the run begins with, too; it may be the best.

    Raises:
        CheckpointError: the folder holds another run.
    """
    watched = evaluate is not None
    loop = oct_xla.LoopConfig(
        steps=plan.steps,
        accumulate=config.accumulate,
        clip_norm=config.clip_norm,
        weight_decay=config.weight_decay,
        log_every=config.log_every or max(1, plan.per_epoch // 4),
        checkpoint_every=0 if watched else plan.per_epoch,
        keep_last=1,
        evaluate_every=config.evaluate_every * plan.per_epoch if watched else 0,
        evaluate_first=start_counts and watched,
        best_metric=metric if watched else "",
        best_mode="min" if config.smaller_is_better else "max",
        patience=config.patience if watched else 0,
        min_delta=config.min_delta,
    )
    feed = oct_xla.FeedConfig(
        batch_size=plan.batch_size,
        workers=config.workers,
        prefetch=config.prefetch,
        seed=place.seed,
    )
    recipe = {f"training.{key}": one for key, one in asdict(config).items() if key not in FREE}
    result = oct_xla.fit(
        objective,
        oct_xla.Feed(samples, len(samples), feed),
        loop,
        runtime=place.runtime,
        run_dir=place.run_dir,
        learning_rate=lambda step: config.rate(step, plan),
        seed=place.seed,
        sinks=place.sinks,
        evaluate=evaluate,
        progress=place.progress,
        identity={"data": place.data, **recipe, **identity},
    )
    keep_part(place.run_dir)
    if result.reason == "stopped":
        return Ending("stopped", result.step, result.step, float("nan"))
    step, best = take_best(objective, place.run_dir)
    return Ending(result.reason, result.step, step, best)


def take_best(objective: nn.Module, run_dir: Path) -> tuple[int, float]:
    """Give the objective the best checkpoint's weights, or the newest's where none is best.

    Returns its step and the value of its metric.
    """
    store = oct_xla.Checkpoints(run_dir / "checkpoints")
    marked = store.best()
    step = store.newest() if marked is None else int(marked["step"])
    assert step is not None  # a run that ended has saved
    objective.load_state_dict(oct_xla.objective_tensors(store.load(step).tensors))
    return step, float("nan") if marked is None else float(marked["value"])


def save(
    objective: FineTuned, head: Head, config: EncoderConfig, place: Place, *, lora: bool
) -> None:
    """Write encoder and head to the run folder, adapters merged; all processes call it."""
    encoder = objective.encoder
    if lora:
        merge_lora(encoder)
    encoder.config = config  # drop path was for training
    if place.runtime.rank == 0:
        encoder.save_pretrained(place.run_dir / "encoder")
        head.save_pretrained(place.run_dir / "head")
    place.runtime.agree(0)  # nobody reads before it is there


def each_batch(
    objective: nn.Module,
    forward: Callable[[Tensor, Tensor | None], Tensor],
    volumes: Volumes,
    rows: NDArray[Any],
    size: int,
    runtime: oct_xla.Runtime,
) -> Generator[tuple[list[int], Tensor] | None, None, None]:
    """Rows and what `forward` makes of them, on the host, batch by batch of this process.

    None comes between two batches, where a run may be left.
    """
    training = objective.training
    objective.eval()
    for batch in stripe(volumes, rows, size, runtime, taken_by(objective)):
        volume, spacing = runtime.put((batch.volume_BCZYX, batch.spacing_B3))
        with torch.no_grad(), runtime.autocast():
            outputs = forward(volume, spacing)
        runtime.cut()
        yield batch.rows, outputs.cpu()[: len(batch.rows)]
        yield None
    objective.train(training)


def gather(batches: Iterator[tuple[list[int], Tensor] | None], runtime: oct_xla.Runtime) -> Scored:
    """The outputs of all processes, by ascending number of the row, (rows, K)."""
    own: dict[int, list[float]] = {}
    for batch in batches:
        if batch is None:
            yield None
        else:
            own |= dict(zip(batch[0], batch[1].double().tolist(), strict=True))
    every = dict[str, list[float]]()
    for text in runtime.share(json.dumps(own)):
        every |= json.loads(text)
    return np.array([every[row] for row in sorted(every, key=int)])


def finish(scored: Scored) -> NDArray[np.float64]:
    """Go through all batches and take what is returned."""
    while True:
        try:
            next(scored)
        except StopIteration as end:
            return end.value


def identity_of(encoder: Encoder | str, **arrays: NDArray[Any]) -> dict[str, str]:
    """Fingerprints of what is trained, an encoder or a network by name, and of what it sees."""
    found = {"encoder": encoder if isinstance(encoder, str) else weights_fingerprint(encoder)}
    return found | {name: digest_of([values]) for name, values in arrays.items()}


def digest_of(arrays: Iterable[NDArray[Any]]) -> str:
    """A short fingerprint of arrays, one after the other."""
    found = hashlib.sha256()
    for one in arrays:
        found.update(one.tobytes())
    return found.hexdigest()[:16]
