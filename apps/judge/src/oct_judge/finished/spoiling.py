"""How the answers fall when the test volumes get worse: eight ways, five strengths.

results.json has it under "perturbations": null if it was not asked for, or

    {"metric": "auroc", "strengths": [0, 1, 2, 3, 4, 5],
     "candidates": {"pretrained": {"speckle": [[value, low, high], ... one a strength], ...},
                    "random init": {...}, "encoder MAE": {...}, "grey histogram": {...}}}

Strength 0 is the volumes as they are. `oct_report.plot_degradation` draws it. Nothing is fitted
again: the probes, temperatures and choices are those of the evaluation.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from oct_io.cache.entries import Entries
from oct_io.space.perturbations import PERTURBATIONS, STRENGTHS, perturb
from oct_launch import Stages
from oct_vjepa.finished.member import score_batch
from oct_vjepa.measures.measure import HEADLINE
from oct_vjepa.probes.answers import shift_priors
from oct_vjepa.probes.baselines import BASELINES
from oct_vjepa.scores.cards import as_plain
from oct_vjepa.scores.scorecard import headline_interval
from oct_vjepa.trials.judging import Answer, Answers, Readouts
from oct_vjepa.trials.verdict import units_of

from oct_judge.candidates import (
    PRETRAINED,
    RANDOM,
    Embedder,
    Rows,
    Volumes,
    iter_volumes,
    random_encoder,
    unlearned_readouts,
)
from oct_judge.finished.trained import fit_priors, open_network, open_trained
from oct_judge.question import FROZEN, NETWORK
from oct_judge.results import Found, best_baseline
from oct_judge.rivals.encoders import Named, candidate_name, features_of

Floats = NDArray[np.float64]
Answering = Callable[[Answer, int, Rows], tuple[Floats, Floats]]
"""An answer, the number of its round, and spoilt volumes, to its scores and choices there."""


class SpoiltVolumes:
    """Some volumes, each spoilt in one way.

    Args:
        volumes: all of them.
        rows: numbers of those that are wanted.
        seeds: of each; the same volume is spoilt alike whatever is asked beside.
        kind: see `perturb`.
        strength: likewise.
    """

    def __init__(
        self,
        volumes: Volumes,
        rows: NDArray[np.int64],
        seeds: Sequence[int],
        kind: str,
        strength: int,
    ) -> None:
        self._volumes, self._rows, self._seeds = volumes, rows, seeds
        self._kind, self._strength = kind, strength

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> NDArray[Any]:
        voxels = self._volumes[int(self._rows[number])]
        return self._spoil(voxels, number)

    def each(self, numbers: Sequence[int]) -> Iterator[NDArray[Any]]:
        """The volumes with these numbers, one after the other, read ahead from a bucket."""
        read = iter_volumes(self._volumes, self._rows[list(numbers)].tolist())
        return (self._spoil(one, number) for number, one in zip(numbers, read, strict=True))

    def _spoil(self, voxels: NDArray[Any], number: int) -> NDArray[Any]:
        return perturb(voxels, self._kind, self._strength, seed=self._seeds[number])


def seeds_of_rows(entries: Entries, rows: Sequence[int] | NDArray[np.int64]) -> list[int]:
    """What is drawn for each scan, the same whoever asks and in whatever order."""
    hashes = entries.take(np.asarray(rows, np.int64)).hashes()
    return [int.from_bytes(one[:4], "big") for one in hashes.tolist()]


@dataclass(frozen=True, slots=True)
class Spoiler:
    """Makes spoilt rows of the test rows of a study."""

    found: Found

    @property
    def tested(self) -> NDArray[np.int64]:
        """Numbers of the rows that any round tests."""
        return np.flatnonzero(np.any([one.test for one in self.found.study.rounds], axis=0))

    def rows(self, kind: str, strength: int) -> Rows:
        """The tested rows, spoilt."""
        study, tested = self.found.study, self.tested
        seeds = seeds_of_rows(study.examples.volumes.entries, tested)
        said = f"{kind} {strength} {study.rows.fingerprint} ".encode() + tested.tobytes()
        return Rows(
            SpoiltVolumes(study.rows.volumes, tested, seeds, kind, strength),
            hashlib.sha256(said).hexdigest(),
            study.rows.spacings[tested],
            study.rows.bscans,
        )


def spoil(
    found: Found, document: Mapping[str, Any], run_dir: Path, stages: Stages
) -> dict[str, Any] | None:
    """What results.json has of it; None if it was not asked for."""
    if not found.config.compare.perturbed:
        return None
    spoiler, askers = Spoiler(found), askers_of(found, best_baseline(document), run_dir)
    strengths = [0, *STRENGTHS]
    curves: dict[str, dict[str, list[Any]]] = {name: {} for name in askers}
    total = len(PERTURBATIONS) * len(STRENGTHS)
    for place, kind in enumerate(PERTURBATIONS):
        for name in askers:
            curves[name][kind] = [_headline(found, found.answers[name])]
        for strength in STRENGTHS:
            rows = spoiler.rows(kind, strength)
            for name, asker in askers.items():
                answers = _again(found.answers[name], spoiler.tested, rows, asker)
                curves[name][kind].append(_headline(found, answers))
            stages("spoiling volumes", place * len(STRENGTHS) + strength, total)
    metric = HEADLINE[found.study.target.kind]
    return {"metric": metric, "strengths": strengths, "candidates": as_plain(curves)}


def askers_of(found: Found, best: str, run_dir: Path) -> dict[str, Answering]:
    """Who is asked again: encoder, random init, `compare.encoders`, networks, a baseline."""
    cast, askers = found.cast, dict[str, Answering]()
    if found.config.mode in FROZEN:
        askers[PRETRAINED] = lambda answer, number, rows: _by_probe(
            answer, cast.embed(cast.family.of(answer.round, answer.seed), rows)
        )
        if RANDOM in found.answers:
            askers[RANDOM] = lambda answer, number, rows: _by_probe(
                answer, _random(found, answer, rows)
            )
    else:
        for who in (PRETRAINED, RANDOM):
            if who in found.answers:
                askers[who] = partial(_by_head, found, run_dir, who)
    for named in found.encoders:
        askers[candidate_name(named)] = partial(_by_encoder, cast.embed, named)
    for network in found.config.compare.networks:
        askers[f"{NETWORK}{network}"] = partial(_by_network, found, run_dir, network)
    if best in found.config.compare.baselines:
        askers[best] = lambda answer, number, rows: _by_probe(
            answer, _baseline(found, best, answer, number, rows)
        )
    return askers


def _by_probe(answer: Answer, readouts: Mapping[str, NDArray[Any]]) -> tuple[Floats, Floats]:
    probe = answer.probe
    assert probe is not None  # of a frozen mode, or a baseline
    own = {probe.readout: readouts[probe.readout]}
    return probe.predict(own, at_fit_priors=True), probe.predict(own)


def _by_encoder(
    embed: Embedder, named: Named, answer: Answer, number: int, rows: Rows
) -> tuple[Floats, Floats]:
    """Scores of the probe on an encoder of `compare.encoders`."""
    return _by_probe(answer, features_of(named.of(answer.round, answer.seed), embed, rows))


def _by_head(
    found: Found, run_dir: Path, who: str, answer: Answer, number: int, rows: Rows
) -> tuple[Floats, Floats]:
    """Scores of a trained encoder and head, before their temperature."""
    embed, member = found.cast.embed, open_trained(found, answer, number, run_dir, who)
    by_length = member.encoder.config.position_unit == "length"
    parts = []
    for batch, spacing in _batches(rows, embed.batch_size):
        steps = _steps(spacing) if by_length else None
        with embed.runtime.autocast():
            parts.append(score_batch([member], batch, steps))
    likely = np.concatenate([one.scores_NK for one in parts])
    return likely, np.concatenate([one.even_NK for one in parts])


def _by_network(
    found: Found, run_dir: Path, name: str, answer: Answer, number: int, rows: Rows
) -> tuple[Floats, Floats]:
    """Scores of a network from scratch, before their temperature."""
    embed, network = found.cast.embed, open_network(found, name, answer, number, run_dir)
    parts = []
    for batch, _ in _batches(rows, embed.batch_size):
        volume = torch.from_numpy(batch).unsqueeze(1).to(embed.runtime.device)
        with torch.no_grad(), embed.runtime.autocast():
            parts.append(network.predict(volume).cpu().double().numpy())
    even = np.concatenate(parts)
    priors = fit_priors(found, number)
    likely = shift_priors(found.study.target.kind, even, np.array(priors)) if priors else even
    return likely, even


def _batches(rows: Rows, size: int) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Some volumes, (B, Z, Y, X), and their spacings, (B, 3)."""
    for first in range(0, len(rows.volumes), size):
        numbers = range(first, min(first + size, len(rows.volumes)))
        batch = np.stack(list(iter_volumes(rows.volumes, numbers)))
        yield batch, rows.spacings[list(numbers)]


def _steps(spacings_B3: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(spacings_B3, np.float32))


def _baseline(found: Found, name: str, answer: Answer, number: int, rows: Rows) -> Readouts:
    """A baseline's features of spoilt volumes; what it learns it learns from whole fit rows."""
    fit = np.flatnonzero(found.study.rounds[number].fit).tolist()

    def features(part: str) -> NDArray[Any]:
        made = BASELINES[part](answer.seed).fit(iter_volumes(found.study.rows.volumes, fit))
        return made.transform(iter_volumes(rows.volumes))

    return unlearned_readouts(name, features, lambda: _random(found, answer, rows))


def _random(found: Found, answer: Answer, rows: Rows) -> Readouts:
    """Features of the answer's network with random weights."""
    config = found.cast.family.of(answer.round, answer.seed).config
    return found.cast.embed(random_encoder(config, answer.seed), rows)


def _again(answers: Answers, tested: NDArray[np.int64], rows: Rows, asker: Answering) -> Answers:
    """The same answers with other scores of the test rows."""
    asked: Answers = []
    for rounds in answers:
        asked.append([])
        for number, one in enumerate(rounds):
            likely, even = asker(one, number, rows)
            own = np.searchsorted(tested, one.test_rows)
            asked[-1].append(replace(one, test=likely[own], test_decided=even[own]))
    return asked


def _headline(found: Found, answers: Answers) -> list[float]:
    study, config = found.study, found.config
    runs = units_of(answers, study.panel)
    return list(
        headline_interval(runs, study.target.kind, seed=config.seed, bootstrap=config.bootstrap)
    )
