"""Who says which patches hold a class: tokens of encoders, and what nobody learned."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import oct_vjepa
import oct_xla
from numpy.typing import NDArray
from oct_launch import Mistake, Stages
from oct_vjepa.evaluation.patch_probe import (
    ask_patches,
    blocks_between,
    read_around,
    read_tokens,
)
from oct_vjepa.measures.shares import known_mean
from oct_vjepa.probes.patchwork import NeighbourPca, PatchFilters, PatchVoxels, RandomUnits
from oct_vjepa.probes.protocol import Round, few_labels
from oct_vjepa.scores.measured import Measured

from oct_judge.asking import seeds_of
from oct_judge.candidates import OWN, PRETRAINED, RANDOM, iter_volumes, random_encoder
from oct_judge.family import Family
from oct_judge.masks.patches import Patches
from oct_judge.question import FinetuneConfig
from oct_judge.rivals.encoders import Named, candidate_name

ROW, VOXELS = "row of the patch", "voxels of the patch"
NEIGHBOURS, UNITS = "PCA of patch and neighbours", "random layer"
UNITS_AROUND = "random layer of patch and neighbours"
FILTERS = "filter bank"
OTHER = "other"  # encoders of compare.encoders
COMPONENTS = 96
ATTEMPTS = 100  # draws of few participants until every class is there

Tokens = NDArray[np.floating]
Maker = PatchVoxels | NeighbourPca | RandomUnits | PatchFilters


class Said(NamedTuple):
    """What one candidate came to in one round with one seed.

    Attributes:
        reading: `Patches.metrics` of each test participant.
        rows: scans that were tested.
        scores: log-odds that a patch holds a class; (classes, rows, patches).
        chosen: strength of the regression for each class.
        weights: of the features, their means around and, last, the rows of the grid; (classes,
            features).
        bias: what is added for each class.
    """

    reading: Measured
    rows: NDArray[np.int64]
    scores: NDArray[np.float64]
    chosen: dict[str, float]
    weights: NDArray[np.float64]
    bias: NDArray[np.float64]


Sayings = list[list[Said]]
"""Of one candidate: a list over seeds of lists over rounds."""


class Source(NamedTuple):
    """Features of every patch, (scans, patches, features), not computed yet.

    Attributes:
        key: equal where they are; begins with whose they are.
        make: computes them.
    """

    key: tuple[Any, ...]
    make: Callable[[], Tokens]


Speak = Callable[[Round, int], Source]
"""Features in a round with a seed."""


@dataclass(kw_only=True, slots=True)
class Witnesses:
    """Makes the candidates; the tokens of an encoder are computed once.

    Attributes:
        config: of the evaluation.
        patches: the question.
        family: who is asked.
        runtime: where to compute.
        rivals: further encoders of ours, with as many patches.
    """

    config: FinetuneConfig
    patches: Patches
    family: Family
    runtime: oct_xla.Runtime
    rivals: Sequence[Named] = ()
    _kept: dict[tuple[Any, ...], Tokens] = field(default_factory=dict)
    _read: dict[tuple[Any, ...], Tokens] = field(default_factory=dict)
    _said: dict[tuple[Any, ...], Said] = field(default_factory=dict)

    def everyone(self) -> dict[str, Speak]:
        """Name to features; the encoder first."""
        found: dict[str, Speak] = {PRETRAINED: self._of(OWN, self.family)}
        if self.config.compare.random_init:
            found[RANDOM] = self._random
        found |= {
            candidate_name(one): self._of(OTHER, one.family) for one in self.rivals if one.family
        }
        if self.config.segment.trivial:
            found |= {ROW: self._nothing, VOXELS: self._voxels}
            found |= {NEIGHBOURS: self._neighbours}
            found |= {name: self._units(name) for name in (UNITS, UNITS_AROUND)}
            found |= {FILTERS: self._filters}
        if self.config.segment.trivial and self.config.compare.together:
            for name in (PRETRAINED, RANDOM):
                if name in found:
                    both = found[name], found[FILTERS]
                    found[f"{name} + {FILTERS}"] = self._together(*both)
        return found

    def ask(self, stages: Stages) -> dict[str, Sayings]:
        """Every candidate in every round with every seed.

        Raises:
            ValueError: blocks that the encoder lacks.
        """
        everyone, found = self.everyone(), {}
        for number, (name, speak) in enumerate(everyone.items()):
            stages("asking", number, len(everyone))
            found[name] = [
                [self._ask(speak, one, seed) for one in self.patches.study.rounds]
                for seed in seeds_of(self.config)
            ]
        stages("asking", len(everyone), len(everyone))
        return found

    def ask_with_few_masks(self) -> list[tuple[str, float, Sayings]]:
        """Candidate, share of the participants with masks, sayings; of each seed every subset.

        All candidates and seeds see the same subsets.
        """
        found, config = list[tuple[str, float, Sayings]](), self.config
        drawn = {fraction: self.subsets(fraction) for fraction in config.compare.fractions}
        for name, speak in self.everyone().items():
            for fraction, subsets in drawn.items():
                sayings = [
                    [self._ask(speak, one, seed) for one in rounds]
                    for seed in seeds_of(config)
                    for rounds in subsets
                ]
                found.append((name, fraction, sayings))
        return sorted(found, key=lambda one: one[1])

    def subsets(self, fraction: float) -> list[list[Round]]:
        """The rounds with a share of those who have masks, in each turn another.

        Raises:
            Mistake: such a share was not found.
        """
        turns = range(self.config.compare.turns_of(fraction))
        rounds = self.patches.study.rounds
        return [[self._few(one, fraction, turn) for one in rounds] for turn in turns]

    def _few(self, one: Round, fraction: float, turn: int) -> Round:
        """The round with a share of those who have masks.

        Every class is among those to fit and, where all of validation has it, those who choose.

        Raises:
            Mistake: such a share was not found.
        """
        study, config, lost = self.patches.study, self.config.compare, ""
        for attempt in range(ATTEMPTS):
            few = few_labels(
                *(one, study.amounts, study.people, fraction),
                seed=self.config.seed,
                turn=turn + attempt * config.turns,
                validation=config.few_validation,
            )
            if not (lost := self.patches.lacks(few.fit)) and (
                self.patches.lacks(few.validation) == self.patches.lacks(one.validation)
            ):
                return few
            lost = lost or self.patches.lacks(few.validation)
        hint = (
            "; compare.few_validation=false keeps all who choose" if config.few_validation else ""
        )
        raise Mistake(f"compare.fractions ({fraction:g}): too few participants have {lost}{hint}")

    def _ask(self, speak: Speak, one: Round, seed: int) -> Said:
        """What a candidate says; the same features in the same round say the same."""
        source = speak(one, seed)
        key = (source.key, one.name, one.fit.tobytes(), one.validation.tobytes())
        if key not in self._said:
            self._said[key] = self._probe(self._reading(source), one)
        return self._said[key]

    def _features(self, source: Source) -> Tokens:
        """Those of the encoders that are asked stay; of all others the last do."""
        if source.key not in self._kept:
            self._kept = {key: kept for key, kept in self._kept.items() if key[0] == OWN}
            self._kept[source.key] = source.make()
        return self._kept[source.key]

    def _reading(self, source: Source) -> Tokens:
        """What is read of each patch. The last stays: rounds and shares of one candidate follow."""
        if source.key not in self._read:
            features = self._features(source)
            around = self.config.segment.around
            self._read = {source.key: read_around(features, self.patches.grid, around)}
        return self._read[source.key]

    def _probe(self, read: Tokens, one: Round) -> Said:
        patches, study = self.patches, self.patches.study
        asked = [
            ask_patches(
                read,
                present,
                study.people,
                one,
                known_NT=patches.known,
                most=self.config.segment.patches,
                seed=self.config.seed,
            )
            for present in patches.present
        ]
        each = np.stack(
            [found.reading.values_NM for found in asked], axis=1
        )  # (people, classes, 2)
        values = np.concatenate([known_mean(each, 1), each.reshape(len(each), -1)], axis=1)
        return Said(
            reading=Measured(values, asked[0].reading.groups_N),
            rows=np.flatnonzero(one.test),
            scores=np.stack([found.scores_NT for found in asked]),
            chosen={n: found.strength for n, found in zip(patches.names, asked, strict=True)},
            weights=np.stack([found.weights_D for found in asked]),
            bias=np.array([found.bias for found in asked]),
        )

    def blocks(self) -> list[int]:
        """Blocks of the encoder that are read."""
        return self._blocks_of(self.family.config.depth)

    def _blocks_of(self, depth: int) -> list[int]:
        return sorted(self.config.segment.blocks) or blocks_between(depth)

    def tokens(self, one: Round, seed: int) -> Tokens:
        """Those of the encoder that is asked in a round with a seed, (scans, patches, features)."""
        return self._features(self._of(OWN, self.family)(one, seed))

    def _of(self, whose: str, family: Family) -> Speak:
        """The tokens of encoders of ours."""

        def speak(one: Round, seed: int) -> Source:
            encoder = family.of(one.name, seed)
            return Source((whose, id(encoder)), lambda: self._tokens(encoder))

        return speak

    def _random(self, one: Round, seed: int) -> Source:
        config = self.family.of(one.name, seed).config
        return Source(
            (RANDOM, seed, config.input_mean, config.input_std),
            lambda: self._tokens(random_encoder(config, seed)),
        )

    def _nothing(self, one: Round, seed: int) -> Source:
        """No feature but the place, which stands beside everybody."""
        shape = (*self.patches.known.shape, 0)
        return Source((ROW,), lambda: np.zeros(shape, np.float32))

    def _voxels(self, one: Round, seed: int) -> Source:
        maker = PatchVoxels(patch=self.family.config.patch_size)
        return Source((VOXELS,), lambda: self._fitted(maker, one))

    def _neighbours(self, one: Round, seed: int) -> Source:
        patch = self.family.config.patch_size
        maker = NeighbourPca(patch=patch, components=COMPONENTS, seed=self.config.seed)
        return Source((NEIGHBOURS, one.name), lambda: self._fitted(maker, one))

    def _units(self, name: str) -> Speak:
        config = self.family.config
        units = config.width * len(self.blocks())

        def speak(one: Round, seed: int) -> Source:
            around = name == UNITS_AROUND
            maker = RandomUnits(patch=config.patch_size, units=units, seed=seed, around=around)
            return Source((name, one.name, seed), lambda: self._fitted(maker, one))

        return speak

    def _filters(self, one: Round, seed: int) -> Source:
        maker = PatchFilters(patch=self.family.config.patch_size)
        return Source((FILTERS,), lambda: self._fitted(maker, one))

    def _together(self, first: Speak, second: Speak) -> Speak:
        """The features of both, side by side."""

        def speak(one: Round, seed: int) -> Source:
            sources = first(one, seed), second(one, seed)
            return Source(
                ("together", *(source.key for source in sources)),
                lambda: np.concatenate([self._features(source) for source in sources], axis=2),
            )

        return speak

    def _fitted(self, maker: Maker, one: Round) -> Tokens:
        """Fitted on the whole fit part, also where few have masks: labels are not looked at."""
        volumes = self.patches.study.volumes
        learnt = next(whole for whole in self.patches.study.rounds if whole.name == one.name)
        maker.fit(iter_volumes(volumes, np.flatnonzero(learnt.fit).tolist()))
        return maker.transform(iter_volumes(volumes))

    def _tokens(self, encoder: oct_vjepa.Encoder) -> Tokens:
        volumes = self.patches.study.volumes
        encoder.to(self.runtime.device)
        with self.runtime.autocast():
            return read_tokens(
                encoder,
                iter_volumes(volumes),
                blocks=self._blocks_of(encoder.config.depth),
                batch_size=self.config.batch_size,
                spacing_N3=volumes.spacings,
            )


def readings_of(sayings: Sequence[Sequence[Said]]) -> list[list[Measured]]:
    """Of one candidate, by seed and round."""
    return [[one.reading for one in rounds] for rounds in sayings]
