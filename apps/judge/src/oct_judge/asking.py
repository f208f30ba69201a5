"""Every candidate asked in every round with every seed, by frozen features or by training."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import oct_vjepa
import oct_xla
from numpy.typing import NDArray
from oct_launch import Stages
from oct_vjepa.measures.measure import HEADLINE
from oct_vjepa.measures.target import Target
from oct_vjepa.model.weights import weights_fingerprint
from oct_vjepa.probes.choice import ensemble
from oct_vjepa.probes.protocol import Round, few_labels
from oct_vjepa.trials.judging import (
    Answer,
    Answers,
    Candidate,
    answer_frozen,
    answer_of_scores,
    answer_unseen,
)

from oct_judge.candidates import PRETRAINED, RANDOM, Cast, Embedder, random_encoder, unseeing
from oct_judge.learning import Place
from oct_judge.pools import fit_pools
from oct_judge.question import FROZEN, FinetuneConfig
from oct_judge.starting import start_at_probe
from oct_judge.study import Study
from oct_judge.training import Start, Trained, shares_in_fit, train_mode

PARTS = ("test", "validation", "calibration")
"""Rows of a round whose scores are kept."""

Everyone = dict[str, Answers]
"""Name of a candidate to what it answers."""


def ask_everyone(
    config: FinetuneConfig,
    study: Study,
    cast: Cast,
    runtime: oct_xla.Runtime,
    folder: Path,
    stages: Stages,
) -> Everyone:
    """Ask the encoder first, then who stands beside it; the encoder comes first in the result."""
    compare, seeds = config.compare, seeds_of(config)
    askers = askers_of(config, study, cast, runtime, folder)
    candidates = [cast.beside(name) for name in compare.baselines] if compare.together else []
    if compare.ranked:
        probed = askers if config.mode in FROZEN else compare.baselines
        candidates += [cast.ranked(name) for name in probed]
    askers |= {one.name: probing(config, study, one) for one in candidates}
    tick = Ticks(stages, "asking", len(askers) * len(study.rounds) * len(seeds))
    found = {PRETRAINED: askers.pop(PRETRAINED)(PRETRAINED, study.rounds, seeds, tick)}
    remember(config, study, cast, found[PRETRAINED])
    found[unseeing(study.target.kind)] = [
        [answer_unseen(study.target, one, seed) for one in study.rounds] for seed in seeds
    ]
    for name, asker in askers.items():
        found[name] = asker(name, study.rounds, seeds, tick)
    if compare.ensemble and config.seeds > 1:
        found[f"{PRETRAINED}, seeds together"] = together(
            found[PRETRAINED], compare.ensemble, study.target.kind
        )
    return found


Tick = Callable[[], object]
"""Called after each answer."""
Asker = Callable[[str, Sequence[Round], Sequence[int], Tick], Answers]
"""What training in the rounds is called, the rounds and the seeds, to what is answered in them."""


class Ticks:
    """Tells how many of the answers of a stage are there.

    Args:
        stages: says it.
        what: the stage.
        total: answers: one for each candidate, seed and round.
    """

    def __init__(self, stages: Stages, what: str, total: int) -> None:
        self._say, self._done, self._total = partial(stages, what), 0, total
        self._say(0, total)

    def __call__(self) -> None:
        """One more."""
        self._done += 1
        self._say(self._done, self._total)


def askers_of(
    config: FinetuneConfig, study: Study, cast: Cast, runtime: oct_xla.Runtime, folder: Path
) -> dict[str, Asker]:
    """How the encoder is asked, its random init, if it is compared, and the baselines."""

    def trained(start: Callable[[str, int], oct_vjepa.Encoder]) -> Asker:
        return lambda label, rounds, seeds, tick: ask_trained(
            config, study, start, label, runtime, folder, rounds, seeds, cast.embed, tick
        )

    if config.mode in FROZEN:
        found = {
            one.name: probing(config, study, one) for one in (cast.pretrained(), cast.random())
        }
    else:
        found = {PRETRAINED: trained(cast.family.of), RANDOM: trained(partial(untrained, cast))}
    if not config.compare.random_init:
        del found[RANDOM]
    baselines = {name: cast.baseline(name) for name in config.compare.baselines}
    return found | {name: probing(config, study, one) for name, one in baselines.items()}


def probing(config: FinetuneConfig, study: Study, candidate: Candidate) -> Asker:
    """Ask a candidate by its features: in modes that train by a linear probe."""
    kind = config.mode if config.mode in FROZEN else "linear"
    return lambda _, rounds, seeds, tick: ask(config, study, candidate, kind, rounds, seeds, tick)


def untrained(cast: Cast, round_name: str, seed: int) -> oct_vjepa.Encoder:
    """The network of a round's encoder with random weights."""
    return random_encoder(cast.family.of(round_name, seed).config, seed)


def ask(
    config: FinetuneConfig,
    study: Study,
    candidate: Candidate,
    kind: str,
    rounds: Sequence[Round] | None = None,
    seeds: Sequence[int] | None = None,
    tick: Tick | None = None,
) -> Answers:
    """Fit a probe to a candidate's features in each round with each seed."""
    found: Answers = []
    for seed in seeds_of(config) if seeds is None else seeds:
        found.append([])
        for answer in answer_frozen(
            candidate,
            kind,
            study.target,
            study.panel.people,
            study.rounds if rounds is None else rounds,
            config.grid,
            seed=seed,
            balanced=config.balanced,
        ):
            found[-1].append(answer)
            if tick is not None:
                tick()
    return found


def seeds_of(config: FinetuneConfig) -> list[int]:
    """Seeds of the repeats."""
    return list(range(config.seed, config.seed + config.seeds))


def remember(config: FinetuneConfig, study: Study, cast: Cast, answers: Answers) -> None:
    """Note which readout stands beside a baseline: the chosen one, or of training the first."""
    first = next(iter(cast.embed.readout.names(cast.family.config.depth)))
    for seed, rounds in zip(seeds_of(config), answers, strict=True):
        for one in rounds:
            cast.chosen[one.round, seed] = str(one.chosen.get("readout", first))


def ask_trained(
    config: FinetuneConfig,
    study: Study,
    encoder_of: Callable[[str, int], oct_vjepa.Encoder],
    name: str,
    runtime: oct_xla.Runtime,
    folder: Path,
    rounds: Sequence[Round] | None = None,
    seeds: Sequence[int] | None = None,
    embed: Embedder | None = None,
    tick: Tick | None = None,
) -> Answers:
    """Train in each round with each seed; every run has a folder of its own and can be resumed.

    Args:
        config: of the evaluation.
        study: the question.
        encoder_of: encoder to start from in a round, by its name, with a seed.
        name: of the candidate; names its folder.
        runtime: where to train.
        folder: of the evaluation.
        rounds: None: those of the study.
        seeds: None: those of the evaluation.
        embed: finds features of what is not trained yet, for heads that start at a probe.
        tick: called after each answer.
    """
    found: Answers = []
    for seed in seeds_of(config) if seeds is None else seeds:
        found.append([])
        for number, one in enumerate(study.rounds if rounds is None else rounds):
            encoder = encoder_of(one.name, seed)
            run_dir = trained_folder(folder, name, encoder, seed, number)
            place = Place(runtime, run_dir, seed, study.rows.fingerprint, progress=True)
            volumes = study.examples.volumes
            if config.training.grid.asked:
                rows = study.panel.people, one, place, Path(config.features)
                trained = fit_pools(config.training, encoder, volumes, study.target, *rows)
            else:
                start = start_of(config, study, encoder, one, seed, embed)
                asked = encoder, volumes, study.target, one, place, start
                trained = train_mode(config.training, *asked)
            if trained.ending.reason == "stopped":
                raise Stopped(trained.ending.step)
            found[-1].append(answer_of(config, study, one, seed, trained))
            if tick is not None:
                tick()
    return found


def start_of(
    config: FinetuneConfig,
    study: Study,
    encoder: oct_vjepa.Encoder,
    one: Round,
    seed: int,
    embed: Embedder | None,
) -> Start | None:
    """The head to begin with in a round; None where it is a fresh one."""
    if not config.training.starts_at_probe:
        return None
    assert embed is not None  # whoever asks for it has features
    return start_at_probe(
        config.training,
        encoder.config,
        embed(encoder, study.rows),
        study.target,
        study.panel.people,
        one,
        readout=config.readout,
        grid=config.grid,
        seed=seed,
    )


def trained_folder(
    folder: Path, candidate: str, start: oct_vjepa.Encoder, seed: int, number: int
) -> Path:
    """Where training in a round happens, and leaves encoder and head.

    Args:
        folder: of the evaluation.
        candidate: its name.
        start: the encoder that training starts from; from another one nothing is resumed.
        seed: of the training.
        number: of the round.
    """
    mark = weights_fingerprint(start)[:8]
    return folder / "training" / f"{candidate.replace(' ', '-')}-{mark}-seed{seed}-round{number}"


class Stopped(Exception):
    """A run was told to stop, and has saved; the same command goes on."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped at step {step}; the same command goes on from there")


def answer_of(
    config: FinetuneConfig, study: Study, one: Round, seed: int, trained: Trained
) -> Answer:
    """What was trained with the weights of `training`, as an answer; seeds weigh by validation."""
    chosen = dict(trained.chosen) or {"steps": trained.ending.best_step}
    if trained.validation:
        chosen["validation"] = trained.validation[HEADLINE[study.target.kind]]
    return answer_of_scores(
        trained.scores_NK,
        study.target,
        one,
        seed,
        priors=shares_in_fit(config.training, study.target.take(np.flatnonzero(one.fit))),
        chosen=chosen,
        candidates=trained.candidates,
    )


def together(answers: Answers, how: str, kind: str) -> Answers:
    """What several answers to the same rounds say together: one whose scores are the ensemble's.

    Args:
        answers: of seeds, or of several candidates with one seed.
        how: mean, vote or weighted, by what each is worth on validation.
        kind: of the question.
    """
    joined = []
    for rounds in zip(*answers, strict=True):
        weights = None
        if how == "weighted":
            # Without validation all weigh alike; below 0, as R2 may be, one has no say.
            told = [one.chosen.get("validation", 1.0) for one in rounds]
            weights = [max(0.0, float(str(value))) for value in told]
        parts = [f"{part}{end}" for part in PARTS for end in ("", "_decided")]
        scores = {
            part: ensemble(
                [getattr(one, part) for one in rounds],
                how,
                weights=weights,
                apart=kind == "multilabel",
            )
            for part in parts
        }
        joined.append(replace(rounds[0], **scores, probe=None))
    return [joined]


def ask_with_few_labels(
    config: FinetuneConfig,
    study: Study,
    cast: Cast,
    runtime: oct_xla.Runtime,
    folder: Path,
    stages: Stages,
    further: Sequence[Candidate] = (),
) -> Iterator[tuple[str, float, Answers]]:
    """Candidate, share of the labels, answers: of each seed a turn for each subset that is drawn.

    All candidates and seeds see the same subsets. In modes that train, each is a training of its
    own, but for those of `further`, which are asked by their features.

    Raises:
        Stopped: training was told to stop.
    """
    if not config.compare.fractions:
        return
    askers = askers_of(config, study, cast, runtime, folder)
    askers |= {one.name: probing(config, study, one) for one in further}
    turns = sum(config.compare.turns_of(one) for one in config.compare.fractions)
    answers_each = len(study.rounds) * config.seeds * turns
    tick = Ticks(stages, "asking with few labels", len(askers) * answers_each)
    for fraction in sorted(config.compare.fractions):
        drawn = draw_subsets(config, study.rounds, study.target, study.panel.people, fraction)
        for name, asker in askers.items():
            answers: Answers = []
            for seed in seeds_of(config):
                for turn, rounds in enumerate(drawn):
                    answers += asker(f"{name} {fraction:g} turn {turn}", rounds, [seed], tick)
            yield name, fraction, answers


def draw_subsets(
    config: FinetuneConfig,
    rounds: Sequence[Round],
    target: Target,
    people: NDArray[np.int64],
    fraction: float,
) -> list[list[Round]]:
    """The rounds with a share of those who have labels, in each turn another."""
    draw = partial(few_labels, seed=config.seed, validation=config.compare.few_validation)
    return [
        [draw(one, target, people, fraction, turn=turn) for one in rounds]
        for turn in range(config.compare.turns_of(fraction))
    ]


def subset_sizes(drawn: Sequence[Sequence[Round]], people: NDArray[np.int64]) -> dict[str, int]:
    """Participants of a subset who fit, and who choose: the medians of those that were drawn."""

    def middle(part: str) -> int:
        counts = [len(np.unique(people[getattr(one, part)])) for rounds in drawn for one in rounds]
        return int(np.median(counts))

    return {part: middle(part) for part in ("fit", "validation")}
