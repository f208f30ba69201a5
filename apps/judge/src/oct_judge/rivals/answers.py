"""Asking those who stand beside the encoder and the baselines, for the same table."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import oct_xla
from numpy.typing import NDArray
from oct_launch import Stages, mistakes
from oct_vjepa.evaluation.participants import pair_up
from oct_vjepa.finished.about import ATTENTION, PAIRS
from oct_vjepa.probes.protocol import Round
from oct_vjepa.trials.judging import Answers, Candidate, Readouts

from oct_judge.asking import Everyone, Stopped, answer_of, ask, seeds_of, together
from oct_judge.candidates import PRETRAINED, RANDOM, Cast, check_baseline
from oct_judge.learning import Place
from oct_judge.question import FROZEN, JOINED, NETWORK, FinetuneConfig
from oct_judge.rivals.encoders import Named, candidate, candidate_name
from oct_judge.rivals.networks import check_network
from oct_judge.rivals.pooling import Pooling
from oct_judge.rivals.training import network_folder, train_network
from oct_judge.study import Study

TOGETHER = f"{PRETRAINED}, encoders together"
"""What the encoder that is asked and those of `compare.encoders` say together, seed by seed."""


def check_rivals(config: FinetuneConfig, shape: Sequence[int]) -> None:
    """Refuse rivals that are not there before anybody is asked, which may take hours.

    Encoders are refused as they are opened (`beginning.open_rivals`).

    Args:
        config: of the evaluation.
        shape: (Z, Y, X) of its volumes.

    Raises:
        Mistake: names the setting.
    """
    compare = config.compare
    with mistakes(ValueError):
        for one in compare.baselines:
            check_baseline(one)
    for network in compare.networks:
        check_network(network, shape)


def ask_rivals(
    config: FinetuneConfig,
    study: Study,
    cast: Cast,
    runtime: oct_xla.Runtime,
    folder: Path,
    stages: Stages,
    asked: Mapping[str, Answers],
    encoders: Sequence[Named],
) -> Everyone:
    """Answers of volumes together, of further encoders, and of networks from scratch.

    Args:
        config: of the evaluation.
        study: the question.
        cast: makes the encoder's features.
        runtime: where to compute.
        folder: of the evaluation.
        stages: says how far it is.
        asked: what the encoder and its random init answered.
        encoders: those of `compare.encoders`.

    Raises:
        Stopped: training was told to stop.
    """
    kind = config.mode if config.mode in FROZEN else "linear"
    askers: dict[str, Callable[[], Answers]] = {}
    if config.join == ATTENTION and config.mode in FROZEN:
        own = {PRETRAINED: cast.pretrained, RANDOM: cast.random}
        for name in (one for one in own if one in asked):
            askers[joined_name(name, ATTENTION)] = partial(
                pool, config, study, own[name], asked[name]
            )
    if config.join == PAIRS and config.mode in FROZEN:
        makers = {PRETRAINED: cast.pretrained, RANDOM: cast.random}
        makers |= {name: partial(cast.baseline, name) for name in config.compare.baselines}
        for name in (one for one in makers if one in asked):
            both = paired(makers[name](), study.panel.people)
            askers[both.name] = partial(ask, config, study, both, kind)
    for named in encoders:
        one = candidate(named, cast.embed, cast.rows)
        askers[one.name] = partial(ask, config, study, one, kind)
    for name in config.compare.networks:
        askers[f"{NETWORK}{name}"] = partial(ask_network, config, study, name, runtime, folder)
    everyone: Everyone = {}
    for number, (name, asker) in enumerate(askers.items()):
        stages("asking rivals", number, len(askers))
        everyone[name] = asker()
    if askers:
        stages("asking rivals", len(askers), len(askers))
    if config.compare.ensemble and encoders:
        each = [asked[PRETRAINED], *(everyone[candidate_name(one)] for one in encoders)]
        everyone[TOGETHER] = [
            together(seeds, config.compare.ensemble, study.target.kind)[0]
            for seeds in map(list, zip(*each, strict=True))
        ]
    return everyone


def paired(candidate: Candidate, people: NDArray[np.int64]) -> Candidate:
    """The candidate with mean and spread over the volumes of each participant as its features."""

    def readouts(one: Round, seed: int) -> Readouts:
        found = candidate.readouts(one, seed)
        return {name: pair_up(features, people) for name, features in found.items()}

    return Candidate(name=joined_name(candidate.name, PAIRS), readouts=readouts)


def joined_name(name: str, how: str) -> str:
    """Of a candidate where it reads all volumes of a participant at once."""
    return f"{name}, {JOINED[how]}"


def pool(
    config: FinetuneConfig, study: Study, make: Callable[[], Candidate], probed: Answers
) -> Answers:
    """The pool over volumes in each round with each seed, on the readouts that the probe chose."""
    pooling = Pooling(study=study, config=config.attention, balanced=config.balanced)
    who = make()
    return [
        list(
            pooling.answers(
                who, {one.round: str(one.chosen.get("readout", "")) for one in rounds}, seed
            )
        )
        for seed, rounds in zip(seeds_of(config), probed, strict=True)
    ]


def ask_network(
    config: FinetuneConfig, study: Study, name: str, runtime: oct_xla.Runtime, folder: Path
) -> Answers:
    """Train a network from scratch in each round with each seed; every run can be resumed.

    Raises:
        Stopped: it was told to stop.
    """
    found: Answers = []
    for seed in seeds_of(config):
        found.append([])
        for number, one in enumerate(study.rounds):
            run_dir = network_folder(folder, name, seed, number)
            place = Place(runtime, run_dir, seed, study.rows.fingerprint, progress=True)
            volumes = study.examples.volumes
            trained = train_network(config.training, name, volumes, study.target, one, place)
            if trained.ending.reason == "stopped":
                raise Stopped(trained.ending.step)
            found[-1].append(answer_of(config, study, one, seed, trained))
    return found
