"""Training a network from scratch on a question, by the recipe and the loop of the judge."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from oct_vjepa.heads.supervised import VolumeNetwork
from oct_vjepa.measures.target import Target
from safetensors.torch import save_file
from torch import nn

from oct_judge.examples import LabelledSamples, Parts, Volumes
from oct_judge.learning import Place, Plain, each_batch, gather
from oct_judge.recipe import TrainingConfig
from oct_judge.rivals.networks import make_classifier
from oct_judge.training import Trained, learn_answers, loss_of, meaning_of, rows_to_fit

NETWORK_FILE = "network.safetensors"
MEASURED = 64  # volumes whose grey levels say how a network's input is scaled


def train_network(
    config: TrainingConfig,
    name: str,
    volumes: Volumes,
    target: Target,
    round: Parts,
    place: Place,
) -> Trained:
    """As `oct_judge.training.train_mode`, for a network of `compare.networks` from scratch.

    All of it learns, at the head's learning rate.

    Args:
        config: the recipe; what says which part of an encoder learns is not read.
        name: of the network.
        volumes: N of them.
        target: N answers.
        round: which rows are for what.
        place: where, with which seed.

    Raises:
        ValueError: as `train_mode`.
        Mistake: no MONAI, or no timm.
    """
    runtime, seed = place.runtime, place.seed
    fit = rows_to_fit(config, target, round)
    plan = config.plan(len(fit), runtime.devices)
    objective = make_objective(config, name, volumes, target.take(fit), fit, seed)
    runtime.prepare(objective)
    samples = LabelledSamples(
        volumes, fit, config, encoder=Plain(), seed=seed, labels=target.values[fit]
    )

    def ask(rows: NDArray[Any]) -> Any:
        batches = each_batch(objective, objective.predict, volumes, rows, plan.batch_size, runtime)
        return gather(batches, runtime)

    trained = learn_answers(
        config, objective, samples, ask, target, round, plan=plan, place=place, who=name
    )
    if trained.ending.reason != "stopped":
        save_network(objective.network, place)
    return trained


def make_objective(
    config: TrainingConfig,
    name: str,
    volumes: Volumes,
    target: Target,
    fit: NDArray[np.int64],
    seed: int,
) -> VolumeNetwork:
    """The network with the loss for these answers, its input scaled by the rows to fit."""
    mean, std = grey_levels(volumes, fit)
    make = partial(VolumeNetwork, classes=target.names, answer=meaning_of(target))
    shape = volumes[int(fit[0])].shape
    network = make_classifier(name, len(target.names), seed, shape=shape)
    return make(network, config=loss_of(config, target), mean=mean, std=std)


def network_folder(folder: Path, name: str, seed: int, number: int) -> Path:
    """Where a network is trained in the round of a number, and left.

    Args:
        folder: of the evaluation.
        name: of the network.
        seed: of its weights.
        number: of the round.
    """
    return folder / "training" / f"{name}-seed{seed}-round{number}"


def grey_levels(volumes: Volumes, rows: NDArray[np.int64]) -> tuple[float, float]:
    """Mean and standard deviation of the voxels of some of the rows."""
    chosen = rows[:: max(1, len(rows) // MEASURED)]
    parts = [np.asarray(volumes[int(row)], np.float64) for row in chosen]
    mean = float(np.mean([part.mean() for part in parts]))
    square = float(np.mean([(part**2).mean() for part in parts]))
    return mean, max(float(np.sqrt(max(square - mean**2, 0.0))), 1.0)


def save_network(network: nn.Module, place: Place) -> None:
    """Write network.safetensors to the run folder; all processes call it."""
    if place.runtime.rank == 0:
        tensors = {name: one.detach().cpu() for name, one in network.state_dict().items()}
        save_file(
            {name: one.contiguous() for name, one in tensors.items()},
            place.run_dir / NETWORK_FILE,
        )
    place.runtime.agree(0)  # nobody reads before it is there
