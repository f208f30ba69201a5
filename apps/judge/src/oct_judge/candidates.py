"""Who answers: encoders, baselines, and both side by side, each as features of the rows."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import oct_vjepa
import oct_xla
import torch
from numpy.typing import NDArray
from oct_io import CachedVolumes
from oct_vjepa.evaluation.features import Features, load_or_embed
from oct_vjepa.evaluation.readouts import ReadoutConfig, read_out
from oct_vjepa.evaluation.sliced import SlicedEncoder, over_volumes
from oct_vjepa.finished.member import HEAD_POOL
from oct_vjepa.probes.baselines import BASELINES, rank_normalise
from oct_vjepa.probes.protocol import Round
from oct_vjepa.trials.judging import Candidate, Readouts

from oct_judge.family import Family

PRETRAINED, RANDOM, RANKED = "pretrained", "random init", ", grey ranks"
OWN = "own"  # encoders that are asked
MAJORITY, MEAN, EQUAL = "majority class", "mean answer", "equal risk"
UNSEEING = (MAJORITY, MEAN, EQUAL)
"""What those are called who say the same of everybody: of classes, quantities and times."""


class Volumes(Protocol):
    """Volumes by number."""

    def __len__(self) -> int:
        """How many there are."""

    def __getitem__(self, number: int, /) -> NDArray[Any]:
        """(Z, Y, X)."""


@dataclass(slots=True)
class Rows:
    """The volumes of the question, as encoders and baselines want them.

    Attributes:
        volumes: (Z, Y, X) each.
        fingerprint: stands for them and their order.
        spacings: (N, 3) along (Z, Y, X).
        bscans: Z of each; an encoder that takes fewer goes through them stack by stack.
    """

    volumes: Volumes
    fingerprint: str
    spacings: NDArray[Any]
    bscans: int

    @classmethod
    def of(cls, volumes: CachedVolumes, fingerprint: str) -> "Rows":
        """All volumes of a cache, or of a part of it."""
        return cls(volumes, fingerprint, volumes.spacings, volumes.shape[0])


class RankedVolumes:
    """The same volumes with the grey levels of each replaced by their ranks."""

    def __init__(self, volumes: Volumes) -> None:
        self._volumes = volumes

    def __len__(self) -> int:
        return len(self._volumes)

    def __getitem__(self, number: int, /) -> NDArray[Any]:
        return rank_normalise(self._volumes[number])

    def each(self, numbers: Sequence[int]) -> Iterator[NDArray[Any]]:
        """The volumes with these numbers, one after the other, read ahead from a bucket."""
        return map(rank_normalise, iter_volumes(self._volumes, numbers))


@dataclass(slots=True)
class Embedder:
    """Finds the features of an encoder, from disk where they are kept in this precision.

    Attributes:
        folder: where features are kept.
        runtime: where to compute.
        readout: which blocks and pools.
        batch_size: volumes in one pass.
    """

    folder: Path
    runtime: oct_xla.Runtime
    readout: ReadoutConfig
    batch_size: int

    def __call__(self, encoder: oct_vjepa.Encoder | SlicedEncoder, rows: Rows) -> Readouts:
        """Readouts of all rows."""
        depth = encoder.config.depth
        features = self.features(encoder, rows, self.readout.pools, range(depth))
        return read_out(features, self.readout, depth)

    def features(
        self, encoder: Any, rows: Rows, pools: Sequence[str], layers: Sequence[int] | None
    ) -> Features:
        """Pooled features of all rows, kept apart by precision; `encoder` as `load_or_embed`."""
        if isinstance(encoder, oct_vjepa.Encoder):
            encoder = over_volumes(encoder, rows.bscans)
        precision = self.runtime.precision
        with self.runtime.autocast():
            return load_or_embed(
                encoder,
                lambda done: iter_volumes(rows.volumes, range(done, len(rows.volumes))),
                volumes_fingerprint=rows.fingerprint,
                folder=self.folder if precision == "fp32" else self.folder / precision,
                batch_size=self.batch_size,
                device=self.runtime.device,
                pools=pools,
                spacing=rows.spacings,
                layers=layers,
            )

    def last(self, encoder: oct_vjepa.Encoder, rows: Rows) -> NDArray[np.float32]:
        """Mean of the last tokens of every row, by which an encoder that learned is looked at."""
        return self.features(encoder, rows, [HEAD_POOL], None)[HEAD_POOL]


def unseeing(kind: str) -> str:
    """What they are called who answer a question of this kind without looking."""
    return {"regression": MEAN, "survival": EQUAL}.get(kind, MAJORITY)


def random_encoder(config: oct_vjepa.EncoderConfig, seed: int) -> oct_vjepa.Encoder:
    """The network as it is before any training; the generator of the process stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return oct_vjepa.Encoder(config).eval()


@dataclass(slots=True)
class Cast:
    """Makes the candidates of an evaluation; features are computed once and remembered.

    Attributes:
        family: who is asked.
        embed: finds features.
        rows: of the question.
        chosen: readout that validation chose for the encoder, by round and seed; it is what stands
            beside a baseline.
    """

    family: Family
    embed: Embedder
    rows: Rows
    chosen: dict[tuple[str, int], str] = field(default_factory=dict)
    _kept: dict[tuple[Any, ...], NDArray[Any]] = field(default_factory=dict)
    _fit: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    _read: dict[tuple[tuple[Any, ...], str], Readouts] = field(default_factory=dict)

    def pretrained(self) -> Candidate:
        """The encoder that is asked."""
        return Candidate(name=PRETRAINED, readouts=lambda one, seed: self.own(one.name, seed))

    def random(self) -> Candidate:
        """Its network with random weights, others for each seed."""
        return Candidate(
            name=RANDOM, readouts=lambda one, seed: self._random(one.name, seed, self.rows)
        )

    def baseline(self, name: str) -> Candidate:
        """Features that nobody learned.

        Raises:
            ValueError: no such baseline.
        """
        check_baseline(name)
        return Candidate(
            name=name, readouts=lambda one, seed: self._unlearned(name, one, seed, self.rows)
        )

    def beside(self, name: str) -> Candidate:
        """The encoder's features as chosen, and a baseline's, side by side."""

        def readouts(one: Round, seed: int) -> Readouts:
            readout = self.chosen[one.name, seed]
            own = self.own(one.name, seed)[readout]
            other = self._baseline(name, one, seed, self.rows)
            return {f"{readout} + {name}": np.concatenate([own, other], axis=1)}

        return Candidate(name=f"{PRETRAINED} + {name}", readouts=readouts)

    def ranked(self, name: str) -> Candidate:
        """The encoder, or a baseline, on volumes whose grey levels are ranks."""
        rows = replace(
            self.rows,
            volumes=RankedVolumes(self.rows.volumes),
            fingerprint=f"ranked{self.rows.fingerprint}",
        )
        if name == PRETRAINED:
            return Candidate(
                name=name + RANKED, readouts=lambda one, seed: self.own(one.name, seed, rows)
            )
        if name == RANDOM:
            return Candidate(
                name=name + RANKED, readouts=lambda one, seed: self._random(one.name, seed, rows)
            )
        return Candidate(
            name=name + RANKED,
            readouts=lambda one, seed: self._unlearned(name, one, seed, rows),
        )

    def forget_fitted(self, rounds: Sequence[Round]) -> None:
        """Drop what baselines learned from the fit rows of rounds that fit others from now on."""
        fit = {one.name: one.fit for one in rounds}
        same = {name for name, rows in self._fit.items() if np.array_equal(rows, fit.get(name, ()))}
        self._kept = {
            key: found for key, found in self._kept.items() if not key[-1] or key[-1][0] in same
        }
        self._fit = fit

    def own(self, round_name: str, seed: int, rows: Rows | None = None) -> Readouts:
        """Readouts of the encoder that is asked in a round with a seed; of the question's rows."""
        encoder = self.family.of(round_name, seed)
        return self._remembered(
            (OWN, id(encoder)), self.rows if rows is None else rows, lambda: encoder
        )

    def _random(self, round_name: str, seed: int, rows: Rows) -> Readouts:
        config = self.family.of(round_name, seed).config
        key = (RANDOM, seed, config.input_mean, config.input_std)
        return self._remembered(key, rows, lambda: random_encoder(config, seed))

    def _remembered(
        self, who: tuple[Any, ...], rows: Rows, make: Callable[[], oct_vjepa.Encoder]
    ) -> Readouts:
        """Readouts of an encoder on volumes.

        Those of the encoders that are asked, on the volumes as they are, stay; of all others the
        last does, since the rounds of a seed follow one another.
        """
        key = (who, rows.fingerprint)
        if key not in self._read:
            self._read = {
                (one, where): found
                for (one, where), found in self._read.items()
                if one[0] == OWN and where == self.rows.fingerprint
            }
            self._read[key] = self.embed(make(), rows)
        return self._read[key]

    def _unlearned(self, name: str, one: Round, seed: int, rows: Rows) -> Readouts:
        return unlearned_readouts(
            name,
            lambda part: self._part(part, one, seed, rows),
            lambda: self._random(one.name, seed, rows),
        )

    def _baseline(self, name: str, one: Round, seed: int, rows: Rows) -> NDArray[Any]:
        """Features of all rows; what learns anything learns it from the round's fit rows.

        From all of them where few have a label, as pretraining does: it needs none. Of several that
        are joined by " + " all features stand side by side; random init, where it stands beside the
        encoder itself, is read out as that is.
        """
        return side_by_side(name, lambda part: self._part(part, one, seed, rows))

    def _part(self, name: str, one: Round, seed: int, rows: Rows) -> NDArray[Any]:
        if name == RANDOM:
            return self._random(one.name, seed, rows)[self.chosen[one.name, seed]]
        made = BASELINES[name](seed)
        fitted = (one.name, seed) if made.learns else ()
        key = (name, rows.fingerprint, fitted)
        if key not in self._kept:
            if made.learns:
                made = made.fit(iter_volumes(rows.volumes, np.flatnonzero(one.fit).tolist()))
            self._kept[key] = made.transform(iter_volumes(rows.volumes))
        return self._kept[key]


def parts_of(name: str) -> list[str]:
    """What a baseline is made of: "random layer + grey histogram" of two."""
    return name.split(" + ")


def side_by_side(name: str, features: Callable[[str], NDArray[Any]]) -> NDArray[Any]:
    """The features of all that a baseline is made of."""
    each = [features(part) for part in parts_of(name)]
    return each[0] if len(each) == 1 else np.concatenate(each, axis=1)


def unlearned_readouts(
    name: str, features: Callable[[str], NDArray[Any]], random: Callable[[], Readouts]
) -> Readouts:
    """Readouts of a baseline: one, or those of random init with the rest beside each."""
    rest = {part: features(part) for part in parts_of(name) if part != RANDOM}
    if RANDOM not in parts_of(name):
        return {"": side_by_side(name, rest.__getitem__)}
    return {
        readout: side_by_side(name, {**rest, RANDOM: own}.__getitem__)
        for readout, own in random().items()
    }


def check_baseline(name: str) -> None:
    """Refuse a baseline that there is not.

    Raises:
        ValueError: names what there is.
    """
    parts = parts_of(name)
    known = (*BASELINES, *((RANDOM,) if len(parts) > 1 else ()))
    if lost := [part for part in parts if part not in known]:
        raise ValueError(f"compare.baselines ({lost[0]}) must be among {', '.join(known)}")


def iter_volumes(volumes: Volumes, numbers: Sequence[int] | None = None) -> Iterator[NDArray[Any]]:
    """One after the other, so that they are never in memory together; read ahead from a bucket.

    Args:
        volumes: to read.
        numbers: of those that are wanted; None for all.
    """
    wanted = range(len(volumes)) if numbers is None else numbers
    each = getattr(volumes, "each", None)
    return (volumes[number] for number in wanted) if each is None else each(wanted)
